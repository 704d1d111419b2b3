package main

import (
	"crypto/rand"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	ad := targets.AD(t)
	binary := conformance.Build(t, ".")
	for name, c := range map[string]struct {
		address, config string
		admin           string
		account         func(name string) (called string, lines []string)
	}{
		"DN": {ad.Address, `{}`, "CN=agent,CN=Users," + ad.Domain, func(name string) (string, []string) {
			return ad.DN(name), []string{"sAMAccountName: d" + rand.Text()[:12]}
		}},
		"UPN, TLS asked for": {ad.PlainAddress, `{"starttls":true}`, ad.Admin, func(name string) (string, []string) {
			upn := name + "@elsewhere.test"
			return upn, []string{"sAMAccountName: u" + rand.Text()[:12], "userPrincipalName: " + upn}
		}},
		"DOMAIN and name": {ad.Address, `{}`, ad.NetBIOS + `\agent`, func(name string) (string, []string) {
			return ad.NetBIOS + `\` + name, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			conformance.Run(t, conformance.Harness{
				Binary:   binary,
				Name:     "ad",
				Resource: sdk.Resource{Address: c.address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(c.config)},
				Pins:     [][32]byte{ad.SPKI},
				Admin:    sdk.Credential{Kind: sdk.Password, Secret: ad.AdminPassword},
				AdminAs:  sdk.Account{Name: c.admin},
				Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
					first := password("First-" + rand.Text())
					called, lines := c.account(name)
					if _, err := ad.CreateUser(t.Context(), name, first.Secret, lines...); err != nil {
						t.Skipf("left out: %v", err)
					}
					return sdk.Account{Name: called}, first
				},
				Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
					t.Helper()
					ok, err := ad.Accepts(t.Context(), a.Name, c.Secret)
					if err != nil {
						t.Fatal(err)
					}
					return ok
				},
				Candidate: func(*testing.T) sdk.Credential { return password("Next-" + rand.Text()) },
				Refused:   func(*testing.T) sdk.Credential { return password("nothingButLetters") },
			})
		})
	}
}
