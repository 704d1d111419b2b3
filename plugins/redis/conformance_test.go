package main

import (
	"crypto/rand"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	r := targets.RedisWithACL(t)
	do := func(t *testing.T, argv ...string) string {
		t.Helper()
		out, err := r.Do(t.Context(), argv...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	conformance.Run(t, conformance.Harness{
		Binary:   conformance.Build(t, "."),
		Name:     "redis",
		Calls:    targets.Calls(),
		Resource: sdk.Resource{Address: r.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][32]byte{r.SPKI},
		Admin:    sdk.Credential{Kind: sdk.Password, Secret: r.AdminPassword},
		AdminAs:  sdk.Account{Name: r.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("first-" + rand.Text()))}
			if err := r.CreateUser(t.Context(), name, first.Secret); err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: name}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := r.Accepts(t.Context(), a.Name, c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			do(t, "ACL", "SETUSER", "clerk", "reset", "on", ">the clerk's own", "+acl|getuser", "+config|get", "+info")
			return sdk.Account{Name: "clerk"}, password("the clerk's own")
		},
		Failures: func(t *testing.T, a sdk.Account) int {
			n, err := r.Failures(t.Context(), a.Name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Lock: func(t *testing.T, a sdk.Account) { do(t, "ACL", "SETUSER", a.Name, "off") },
	})
}
