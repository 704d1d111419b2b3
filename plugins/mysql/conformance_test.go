package main

import (
	"crypto/rand"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	m := targets.Maria(t, "--plugin-load-add=auth_ed25519", "--plugin-load-add=simple_password_check", "--strict-password-validation=OFF",
		"--simple-password-check-letters-same-case=0", "--simple-password-check-digits=0", "--simple-password-check-other-characters=0")
	exec := func(t *testing.T, sql ...string) {
		t.Helper()
		if err := m.Exec(t.Context(), sql...); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, "CREATE USER clerk@'"+m.Host+"' IDENTIFIED BY 'the clerk''s own'", "GRANT SELECT ON mysql.global_priv TO clerk@'"+m.Host+"'")
	binary := conformance.Build(t, ".")
	for name, c := range map[string]struct {
		method, config string
		also           bool // of the second tier
		refused        func(*testing.T) sdk.Credential
	}{
		"native":               {method: native},
		"ed25519":              {method: ed25519, also: true},
		"judged by the server": {native, `{"clear":true}`, true, func(*testing.T) sdk.Credential { return password("short") }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.also {
				targets.Longer(t)
			}
			conformance.Run(t, conformance.Harness{
				Binary:   binary,
				Name:     "mysql",
				Calls:    targets.Calls(),
				Resource: sdk.Resource{Address: m.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(c.config)},
				Pins:     [][32]byte{m.SPKI},
				Admin:    sdk.Credential{Kind: sdk.Password, Secret: m.AdminPassword},
				AdminAs:  sdk.Account{Name: m.Admin},
				Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
					first := password("first-" + rand.Text())
					if err := m.CreateUser(t.Context(), name, m.Host, c.method, first.Secret); err != nil {
						t.Fatal(err)
					}
					return sdk.Account{Name: name, Scope: m.Host}, first
				},
				Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
					t.Helper()
					as, ok, err := m.Accepts(t.Context(), a.Name, c.Secret)
					if err != nil {
						t.Fatal(err)
					}
					return ok && as == a.Name+"@"+a.Scope
				},
				Refused: c.refused,
				Powerless: func(*testing.T) (sdk.Account, sdk.Credential) {
					return sdk.Account{Name: "clerk", Scope: m.Host}, password("the clerk's own")
				},
				Failures: func(t *testing.T, a sdk.Account) int {
					n, err := m.Failures(a.Name)
					if err != nil {
						t.Fatal(err)
					}
					return n
				},
				Lock: func(t *testing.T, a sdk.Account) { exec(t, "ALTER USER "+a.Name+"@'"+a.Scope+"' ACCOUNT LOCK") },
			})
		})
	}
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}
