package conformance_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/conformance/obligation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/sdktest"
)

// needOverlap are the tests for targets where old and new both work for a while.
var needOverlap = []string{"OverlapKeepsCurrent", "RetireTouchesOnlyOld", "RetireTwice"}

// ofMint says whether a fault is one of secrets that the target makes.
func ofMint(fault string) bool {
	return strings.HasPrefix(fault, "mint-") || strings.HasPrefix(fault, "list-") || strings.HasPrefix(fault, "sweep-")
}

const chosen = "ROTUNDA_CONFORMANCE_FAULT"

// Each fault of the plugin that has them is found by the test that is named beside it.
// The kit fails its test, so it runs in a process of its own.
func TestFaultsAreFound(t *testing.T) {
	binary := conformance.Build(t, "../plugins/fault")
	text, err := os.ReadFile("../plugins/fault/faults.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`fault = "([a-z-]+)" +// ([A-Za-z]+)`).FindAllStringSubmatch(string(text), -1)
	if n := strings.Count(string(text), " fault = "); len(rows) != n || n < 30 {
		t.Fatalf("%d of %d faults name the test that finds them", len(rows), n)
	}
	for _, o := range obligation.All {
		shown := slices.ContainsFunc(rows, func(row []string) bool { return row[2] == o.Test })
		if !shown {
			t.Errorf("no fault shows that %s can fail", o.Test)
		}
	}
	for _, row := range rows {
		fault, found := row[1], row[2]
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			if found == "NoSecretInTheLog" { // which looks back
				found = "(FirstChange|NoSecretInTheLog)"
			}
			out, err := kit(t, binary, fault, "^TestFaulty$/^"+found+"$")
			found = row[2]
			if err == nil || !bytes.Contains(out, []byte("--- FAIL: TestFaulty/"+found+" ")) {
				t.Errorf("%s does not fail (%v):\n%s", found, err, out)
			}
		})
	}
	// What is left out of a script's tests is what it does not do.
	for name, proven := range map[string][]string{
		"none": {"CloseTwice", "PlanFails", "RunTwice"}, "none+overlap": nil, "none+lives": nil, "none+mint": nil, "none+tls": {"WrongKeyIsAuth"},
		"none+script": {"KillEveryStep", "StepTwice"}, "none+script-dependents": {"StepTwice"}, "none+script-after": {"RunTwice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := kit(t, binary, name, "^TestFaulty$")
			if err != nil {
				t.Errorf("a plugin without a fault fails: %v\n%s", err, out)
			}
			for _, one := range proven {
				if !bytes.Contains(out, []byte("--- PASS: TestFaulty/"+one+" ")) {
					t.Errorf("%s does not run:\n%s", one, out)
				}
			}
		})
	}
}

// A target that makes no account of a plain name is broken: a harness that skips then has
// proven nothing. Of odd names it may say so; where it does of all, nothing is proven of them.
func TestSkippedAccountFails(t *testing.T) {
	out, err := kit(t, conformance.Build(t, "../plugins/fault"), "none+skips", "^TestFaulty$/^(FirstChange|HostileNames)$")
	if err == nil || !bytes.Contains(out, []byte("--- FAIL: TestFaulty/FirstChange ")) {
		t.Errorf("FirstChange does not fail (%v):\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- SKIP: TestFaulty/HostileNames ")) {
		t.Errorf("HostileNames is not skipped:\n%s", out)
	}
}

// What a harness lacks that is always needed is named, before anything is begun.
func TestHarnessLacks(t *testing.T) {
	out, err := kit(t, "", "none+lacks", "^TestFaulty$")
	if err == nil || bytes.Contains(out, []byte("panic")) {
		t.Errorf("%v:\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("the harness lacks Binary, Name, Resource.Address, Account, Accepts: always needed\n")) {
		t.Errorf("it does not say what is missing:\n%s", out)
	}
}

func kit(t *testing.T, binary, fault, run string) ([]byte, error) {
	t.Helper()
	for _, name := range needOverlap {
		if strings.Contains(run, "/^"+name) {
			fault += "+overlap"
		}
	}
	switch {
	case fault == "living-is-rejected":
		fault += "+lives"
	case fault == "two-faced":
		fault += "+two-faced"
	case ofMint(fault):
		fault += "+mint"
	case fault == "trusts-any-key", fault == "verifies-any-key", fault == "names-no-identity":
		fault += "+tls"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run, "-test.v")
	cmd.Env = append(os.Environ(), chosen+"="+fault+"!"+binary)
	return cmd.CombinedOutput()
}

// TestFaulty is what the tests above run.
func TestFaulty(t *testing.T) {
	fault, binary, ok := strings.Cut(os.Getenv(chosen), "!")
	if !ok {
		t.Skip("only other tests run this")
	}
	fault, variant, _ := strings.Cut(fault, "+")
	if variant == "lacks" {
		conformance.Run(t, conformance.Harness{})
		return
	}
	name := "fault"
	skips, secure := variant == "skips", variant == "tls" // of the harness, and not of the plugin
	if variant != "" && !skips && !secure {
		name = "fault-" + variant
	}
	settings, err := json.Marshal(map[string]string{"fault": fault})
	if err != nil {
		t.Fatal(err)
	}
	admin := password("the administrator's own")
	service := sdktest.New(admin.Secret)
	srv := httptest.NewUnstartedServer(service)
	t.Cleanup(srv.Close)
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	first := password("a first password")
	account := func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
		if skips {
			t.Skip("the target makes no account")
		}
		service.Add(name, first.Secret)
		return sdk.Account{Name: name}, first
	}
	h := conformance.Harness{
		Binary: binary, Name: name,
		Resource: sdk.Resource{Address: srv.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}, Config: settings},
		Admin:    admin, AdminAs: sdk.Account{Name: sdktest.Admin},
		Account: account,
		Accepts: func(_ *testing.T, a sdk.Account, c sdk.Credential) bool { return service.Accepts(a.Name, c.Secret) },
		Refused: func(*testing.T) sdk.Credential { return password("short") },
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			return account(t, "clerk")
		},
		Dependent: func(t *testing.T, a sdk.Account, first sdk.Credential) conformance.Dependent {
			name := a.Name + "-app"
			service.AddApp(name+"1", first.Secret)
			service.AddApp(name+"2", first.Secret)
			settings, err := json.Marshal(map[string]any{"fault": fault, "apps": []string{name + "1", name + "2"}})
			if err != nil {
				t.Fatal(err)
			}
			cannot := bytes.ReplaceAll(settings, []byte(name+"2"), []byte(name+"-gone"))
			return conformance.Dependent{Config: settings, Cannot: cannot, Uses: func(_ *testing.T, c sdk.Credential) bool {
				return service.Uses(name+"1", c.Secret) && service.Uses(name+"2", c.Secret)
			}}
		},
		After: func(_ *testing.T, a sdk.Account, secret sdk.Credential) conformance.After {
			name := a.Name + "-restarted"
			service.AddApp(name, password("from before").Secret)
			return conformance.After{Config: settings, Done: func(*testing.T) bool { return service.Uses(name, secret.Secret) }}
		},
		Failures: func(_ *testing.T, a sdk.Account) int { return service.Failures(a.Name) },
		Groups:   []string{"readers", "writers"},
		Rights: func(_ *testing.T, a sdk.Account, groups []string, until time.Time) bool {
			has, end := service.Guest(a.Name)
			if until.IsZero() {
				return slices.Equal(has, groups) && end == ""
			}
			return slices.Equal(has, groups) && end == until.Format(time.RFC3339)
		},
		Lock: func(_ *testing.T, a sdk.Account) { service.Lock(a.Name) },
	}
	if secure {
		h.Resource.TLS.Mode, h.Pins = sdk.TLSPin, [][32]byte{sha256.Sum256(srv.Certificate().RawSubjectPublicKeyInfo)}
	}
	switch {
	case variant != "":
		h.Calls = 1000 // of the same program
	case fault == "none":
		h.Calls = targets.Calls()
	}
	if of, scripted := strings.CutPrefix(variant, "script"); scripted {
		h.Name, h.Script = "fault-scripts", []byte("fault"+of)
		switch of {
		case "-dependents":
			h.Script = []byte("dependents")
		case "-after":
			h.Script, h.Dependent = []byte("after"), nil
		}
		variant = strings.TrimPrefix(of, "-")
	}
	if variant == "mint" {
		h.Dependent = nil
		h.Kind = sdk.APIKey
		h.Account = func(_ *testing.T, name string) (sdk.Account, sdk.Credential) {
			service.Add(name, first.Secret)
			id, secret := service.AddKey(name)
			return sdk.Account{Name: name}, sdk.Credential{Kind: sdk.APIKey, ID: id, Secret: secret}
		}
		h.Accepts = func(_ *testing.T, _ sdk.Account, c sdk.Credential) bool { return service.AcceptsKey(c.ID, c.Secret) }
		h.IDs = func(_ *testing.T, a sdk.Account) []string { return service.Keys(a.Name) }
	}
	conformance.Run(t, h)
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}
