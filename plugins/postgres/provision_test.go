package main

import (
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// guestOf is what the catalogue has of a role: its groups, and until when it is good.
func (f *fixture) guestOf(t *testing.T, name string) (groups []string, until string) {
	t.Helper()
	c, err := f.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	err = c.QueryRow(t.Context(), `SELECT rolvaliduntil::text,
		array(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1)
		FROM pg_roles r WHERE rolname = $1`, name).Scan(&until, &groups)
	if err != nil {
		t.Fatal(err)
	}
	return groups, until
}

// A role has the groups and the end of its attributes, and no others, whoever gave them.
func TestProvisionRights(t *testing.T) {
	f := newFixture(t)
	f.role(t, "clerk", "a clerk's own password", "")
	f.exec(t, `CREATE ROLE readers`, `CREATE ROLE "Odd ""100%"" group"`, `CREATE ROLE writers`, `GRANT writers TO clerk WITH ADMIN OPTION`)
	h, r := f.here()
	as := sdk.OpenRequest{Host: h, Resource: r, Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin}}
	until := time.Date(2091, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
	for _, step := range []struct {
		what          string
		behind        []string // what others do before
		groups, until string
		want          []string
		wantUntil     string
	}{
		{"made", nil, "readers, writers", until.Format(time.RFC3339), []string{"readers", "writers"}, "2091-03-04 04:06:07+00"},
		{"again", nil, "readers, writers", until.Format(time.RFC3339), []string{"readers", "writers"}, "2091-03-04 04:06:07+00"},
		{"one group fewer", nil, "writers", "", []string{"writers"}, "infinity"},
		{"another", nil, "readers", "", []string{"readers"}, "infinity"},
		{"given by hand", []string{
			`GRANT "Odd ""100%"" group" TO "a guest"`,
			`SET ROLE clerk; GRANT writers TO "a guest"; RESET ROLE`,
		}, "readers", "", []string{"readers"}, "infinity"},
		{"given by somebody who is gone, as he can be until PostgreSQL 15", []string{
			`SET ROLE clerk; GRANT writers TO "a guest"; RESET ROLE`,
			`DO 'BEGIN IF current_setting(''server_version_num'')::int < 160000 THEN DROP ROLE clerk; END IF; END'`,
		}, "readers", "", []string{"readers"}, "infinity"},
		{"none", nil, "", "", nil, "infinity"},
	} {
		f.exec(t, step.behind...)
		a := sdk.ApplyRequest{
			Account:   sdk.Account{Name: "a guest", Attrs: map[string]string{sdk.GroupsAttr: step.groups, sdk.UntilAttr: step.until}},
			Candidate: password("a guest's own password"),
		}
		if got, err := (provisioner{}).Provision(t.Context(), as, a); err != nil || got.Outcome != sdk.Changed {
			t.Fatalf("%s: %+v, %v", step.what, got, err)
		}
		if groups, until := f.guestOf(t, "a guest"); !slices.Equal(groups, step.want) || until != step.wantUntil {
			t.Errorf("%s: in %q until %s, want %q until %s", step.what, groups, until, step.want, step.wantUntil)
		}
	}
	f.given = append(f.given, "a guest's own password")
}
