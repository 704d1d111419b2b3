package main

import (
	"crypto/rand"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	l := targets.LDAP(t)
	h := conformance.Harness{
		Binary:   conformance.Build(t, "."),
		Name:     "ldap",
		Resource: sdk.Resource{Address: l.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][32]byte{l.SPKI},
		Admin:    sdk.Credential{Kind: sdk.Password, Secret: l.AdminPassword},
		AdminAs:  sdk.Account{Name: l.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			dn, err := l.CreateEntry(t.Context(), name, first.Secret)
			if err != nil {
				t.Skipf("left out: %v", err)
			}
			return sdk.Account{Name: dn}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := l.Accepts(t.Context(), a.Name, c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Refused: func(*testing.T) sdk.Credential { return password("short") },
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			clerk := password("clerk-" + rand.Text())
			dn, err := l.CreateEntry(t.Context(), "clerk"+rand.Text(), clerk.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return sdk.Account{Name: dn}, clerk
		},
		Failures: func(t *testing.T, a sdk.Account) int {
			values, err := l.Values(t.Context(), a.Name, "pwdFailureTime")
			if err != nil {
				t.Fatal(err)
			}
			return len(values)
		},
		Lock: func(t *testing.T, a sdk.Account) {
			if err := l.Modify(t.Context(), "dn: "+a.Name+"\nchangetype: modify\nreplace: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n"); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, c := range map[string]struct {
		address, config string
		also            bool // of the second tier
	}{
		"password modify": {l.Address, `{}`, false},
		"modification":    {l.Address, `{"method":"modify"}`, true},
		"TLS asked for":   {l.PlainAddress(), `{"starttls":true}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := h
			h.Resource.Address, h.Resource.Config = c.address, []byte(c.config)
			h.Calls = targets.Calls()
			if c.also {
				targets.Longer(t)
			}
			conformance.Run(t, h)
		})
	}
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}
