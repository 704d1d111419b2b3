package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/examples/plugin-http/target"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The built plugin, in the agent's own plugin host, against the real service.
func TestConformance(t *testing.T) {
	const first = "a first password"
	admin := password("the administrator's own")
	srv := httptest.NewTLSServer(target.New(admin.Secret.Expose()))
	t.Cleanup(srv.Close)

	// ask is the judge: it shares no code with the plugin.
	ask := func(t *testing.T, method, path, name string, c sdk.Credential, body any) int {
		t.Helper()
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(name, c.Secret.ExposeString())
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	conformance.Run(t, conformance.Harness{
		Binary: conformance.Build(t, "."),
		Name:   "http-users",
		Resource: sdk.Resource{
			Address: srv.Listener.Addr().String(),
			TLS:     sdk.TLS{Mode: sdk.TLSPin},
		},
		Pins:    [][32]byte{sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)},
		Admin:   admin,
		AdminAs: sdk.Account{Name: target.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			if status := ask(t, "POST", "/users/"+url.PathEscape(name), target.Admin, admin, map[string]string{"password": first}); status != http.StatusCreated {
				t.Fatalf("make the user %q: status %d", name, status)
			}
			return sdk.Account{Name: name}, password(first)
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			return ask(t, "GET", "/me", a.Name, c, nil) == http.StatusOK
		},
		Refused: func(*testing.T) sdk.Credential { return password("too short"[:target.MinLength-4]) },
	})
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(strings.Clone(s)))}
}
