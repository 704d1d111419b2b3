package main

import (
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	ad := targets.AD(t)
	binary := conformance.Build(t, ".")
	unit := makeUnit(t, ad, "guests", unitRights)
	for _, group := range []string{"exec", "readers"} {
		makeGroup(t, ad, group)
	}
	for name, c := range map[string]struct {
		address, config string
		admin           string
		also            bool // of the second tier
		account         func(name string) (called string, lines []string)
	}{
		"DN": {ad.Address, `{"accounts":"` + unit + `"}`, "CN=agent,CN=Users," + ad.Domain, false, func(name string) (string, []string) {
			return ad.DN(name), []string{"sAMAccountName: d" + rand.Text()[:12]}
		}},
		"name, TLS asked for": {ad.PlainAddress, `{"starttls":true,"accounts":"` + unit + `"}`, ad.Admin, true, func(name string) (string, []string) {
			return ad.NetBIOS + `\` + name, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.also {
				targets.Longer(t)
			}
			var dns sync.Map // of accounts, by the names that the kit knows them by
			dnOf := func(a sdk.Account) string {
				dn, _ := dns.Load(a.Name)
				return dn.(string)
			}
			conformance.Run(t, conformance.Harness{
				Binary:   binary,
				Name:     "ad",
				Calls:    targets.Calls(),
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
					dns.Store(called, ad.DN(name))
					return sdk.Account{Name: called}, first
				},
				Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
					t.Helper()
					name := a.Name
					if !strings.ContainsAny(name, `=\`) { // one that the plugin makes
						name = ad.NetBIOS + `\` + name
					}
					ok, err := ad.Accepts(t.Context(), name, c.Secret)
					if err != nil {
						t.Fatal(err)
					}
					return ok
				},
				Candidate: func(*testing.T) sdk.Credential { return password("Next-" + rand.Text()) },
				Refused:   func(*testing.T) sdk.Credential { return password("nothingButLetters") },
				Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
					clerk := password("Clerk-" + rand.Text())
					dn, err := ad.CreateUser(t.Context(), "c"+rand.Text()[:12], clerk.Secret)
					if err != nil {
						t.Fatal(err)
					}
					return sdk.Account{Name: dn}, clerk
				},
				Failures: func(t *testing.T, a sdk.Account) int {
					n, err := ad.Failures(t.Context(), dnOf(a))
					if err != nil {
						t.Fatal(err)
					}
					return n
				},
				Groups: []string{"exec", "readers"},
				Rights: func(t *testing.T, a sdk.Account, groups []string, until time.Time) bool {
					t.Helper()
					dn := "CN=" + a.Name + "," + unit
					has := in(t, ad, dn)
					ends, err := ad.Get(t.Context(), dn, "accountExpires")
					if err != nil {
						t.Fatal(err)
					}
					var wanted []string
					for _, group := range groups {
						wanted = append(wanted, ad.DN(group))
					}
					if until.IsZero() {
						return slices.Equal(has, wanted) && ends == "9223372036854775807"
					}
					// In tenths of microseconds since 1601.
					return slices.Equal(has, wanted) && ends == strconv.FormatInt(until.Unix()+11644473600, 10)+"0000000"
				},
				Lock: func(t *testing.T, a sdk.Account) {
					for range targets.ADLocksAfter {
						if _, err := ad.Accepts(t.Context(), a.Name, password("wrong").Secret); err != nil {
							t.Fatal(err)
						}
					}
				},
			})
		})
	}
}
