package main

import (
	"crypto/rand"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	f := targets.Ferret(t)
	const db = "shop"
	conformance.Run(t, conformance.Harness{
		Binary:   conformance.Build(t, "."),
		Name:     "mongodb",
		Resource: sdk.Resource{Address: f.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][32]byte{f.SPKI},
		Admin:    sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword},
		AdminAs:  sdk.Account{Name: f.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			if err := f.CreateUser(t.Context(), name, db, first.Secret); err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: name, Scope: db}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := f.Accepts(t.Context(), a.Name, a.Scope, c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Refused: func(*testing.T) sdk.Credential { return password("a bell\a rings") },
		Failures: func(t *testing.T, a sdk.Account) int {
			n, err := f.Failures(a.Name)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
	})
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}
