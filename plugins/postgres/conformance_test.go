package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestConformance(t *testing.T) {
	pg := targets.Postgres(t)
	f := &fixture{PG: pg}
	f.exec(t, "CREATE ROLE readers", "CREATE ROLE writers")
	conformance.Run(t, conformance.Harness{
		Binary:   conformance.Build(t, "."),
		Name:     "postgres",
		Calls:    targets.Calls(),
		Resource: sdk.Resource{Address: pg.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][32]byte{pg.SPKI},
		Admin:    sdk.Credential{Kind: sdk.Password, Secret: pg.AdminPassword},
		AdminAs:  sdk.Account{Name: pg.Admin},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			first := password("first-" + rand.Text())
			if err := pg.CreateRole(t.Context(), name, first.Secret, ""); err != nil {
				t.Fatal(err)
			}
			return sdk.Account{Name: name}, first
		},
		Accepts: func(t *testing.T, a sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := pg.Accepts(t.Context(), a.Name, c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			clerk := password("clerk-" + rand.Text())
			if err := pg.CreateRole(t.Context(), "clerk", clerk.Secret, ""); err != nil {
				t.Fatal(err)
			}
			return sdk.Account{Name: "clerk"}, clerk
		},
		Failures: func(t *testing.T, a sdk.Account) int {
			log, err := os.ReadFile(pg.LogFile)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Count(log, []byte(`FATAL:  password authentication failed for user "`+a.Name+`"`))
		},
		Groups: []string{"readers", "writers"},
		Rights: func(t *testing.T, a sdk.Account, groups []string, until time.Time) bool {
			has, end := f.guestOf(t, a.Name)
			if until.IsZero() {
				return slices.Equal(has, groups) && end == "infinity"
			}
			return slices.Equal(has, groups) && end == until.UTC().Format("2006-01-02 15:04:05+00")
		},
		Lock: func(t *testing.T, a sdk.Account) {
			if err := pg.Exec(t.Context(), "ALTER ROLE "+pgx.Identifier{a.Name}.Sanitize()+" VALID UNTIL '2001-01-01'"); err != nil {
				t.Fatal(err)
			}
		},
	})
}
