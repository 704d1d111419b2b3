package conformance_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/examples/plugin-http/target"
	"github.com/rotunda-pam/rotunda/sdk"
)

// flaws are what a plugin may do wrong, and the test that must find it.
var flaws = []struct{ flaw, found string }{
	{"a lost reply is unchanged", "LostReplyIsUnknown"},
	{"nothing was ever sent", "LostReplyIsUnknown"},
	{"a lost reply is changed", "LostReplyIsUnknown"},
	{"everything else is rejected", "RejectedIsProven"},
	{"rejects without asking", "FirstChange"},
	{"believes itself", "VerifyIsFresh"},
	{"takes characters away", "Printable"},
	{"pastes names", "HostileNames"},
	{"open does not look", "WrongAdminIsAuth"},
	{"no answer is a refusal", "DownIsUnreachable"},
	{"policy is unknown", "PolicyIsUnchanged"},
	{"a missing account is policy", "MissingIsNotFound"},
	{"reasons are sentences", "MissingIsNotFound"},
	{"", "ReadbackAgrees"},
}

const chosen = "ROTUNDA_CONFORMANCE_FLAW"

// Each flaw is found by the test that is there for it. The kit fails its test, so it
// runs in a process of its own.
func TestFlawsAreFound(t *testing.T) {
	binary := conformance.Build(t, "./internal/flawed")
	for _, f := range flaws {
		t.Run(f.flaw, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFlawed$", "-test.v")
			cmd.Env = append(os.Environ(), chosen+"="+f.flaw+"!"+binary)
			out, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("--- FAIL: TestFlawed/"+f.found+" ")) {
				t.Errorf("%s does not fail (%v):\n%s", f.found, err, out)
			}
			if f.flaw == "" && bytes.Count(out, []byte("--- FAIL: TestFlawed/")) != 1 {
				t.Errorf("without a further flaw more than %s fails:\n%s", f.found, out)
			}
		})
	}
}

// TestFlawed is what TestFlawsAreFound runs.
func TestFlawed(t *testing.T) {
	flaw, binary, ok := strings.Cut(os.Getenv(chosen), "!")
	if !ok {
		t.Skip("only TestFlawsAreFound runs this")
	}
	settings, err := json.Marshal(map[string]string{"flaw": flaw})
	if err != nil {
		t.Fatal(err)
	}
	admin := password("the administrator's own")
	service := target.New(admin.Secret.Expose())
	srv := httptest.NewServer(service)
	t.Cleanup(srv.Close)
	ask := func(method, path, name string, c sdk.Credential, pw string) int {
		body, err := json.Marshal(map[string]string{"password": pw})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(body))
		r.SetBasicAuth(name, c.Secret.ExposeString())
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w.Code
	}
	conformance.Run(t, conformance.Harness{
		Binary: binary, Name: "flawed",
		Resource: sdk.Resource{Address: srv.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}, Config: settings},
		Admin:    admin, AdminAs: sdk.Account{Name: target.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			if status := ask("POST", "/users/"+url.PathEscape(name), target.Admin, admin, "a first password"); status != http.StatusCreated {
				t.Fatalf("make the user %q: status %d", name, status)
			}
			return sdk.Account{Name: name}, password("a first password")
		},
		Accepts: func(_ *testing.T, a sdk.Account, c sdk.Credential) bool {
			return ask("GET", "/me", a.Name, c, "") == http.StatusOK
		},
		Refused: func(*testing.T) sdk.Credential { return password("short") },
	})
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}
