package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
)

// What docs/targets.md has an administrator be given: on the unit the right to make and to
// remove users; on the users in it those to reset passwords and to write userAccountControl,
// accountExpires, description and primaryGroupID; on a group the right to write its members.
const (
	makeUsers  = "(OA;;CC;bf967aba-0de6-11d0-a285-00aa003049e2;;SID)"
	writeUsers = "(OA;CIIO;CR;00299570-246d-11d0-a768-00aa006e0529;bf967aba-0de6-11d0-a285-00aa003049e2;SID)" +
		"(OA;CIIO;WP;bf967a68-0de6-11d0-a285-00aa003049e2;bf967aba-0de6-11d0-a285-00aa003049e2;SID)" +
		"(OA;CIIO;WP;bf967915-0de6-11d0-a285-00aa003049e2;bf967aba-0de6-11d0-a285-00aa003049e2;SID)" +
		"(OA;CIIO;WP;bf967950-0de6-11d0-a285-00aa003049e2;bf967aba-0de6-11d0-a285-00aa003049e2;SID)" +
		"(OA;CIIO;WP;bf967a00-0de6-11d0-a285-00aa003049e2;bf967aba-0de6-11d0-a285-00aa003049e2;SID)"
	unitRights   = "(OA;;CCDC;bf967aba-0de6-11d0-a285-00aa003049e2;;SID)" + writeUsers
	writeMembers = "(OA;;WP;bf9679c0-0de6-11d0-a285-00aa003049e2;;SID)"
)

// makeUnit makes an organisational unit in which the administrator has these rights.
func makeUnit(t *testing.T, ad *targets.ADServer, name, rights string) string {
	t.Helper()
	dn := "OU=" + name + "," + ad.Domain
	if err := ad.Modify(t.Context(), "dn: "+dn+"\nchangetype: add\nobjectClass: organizationalUnit\n"); err != nil {
		t.Fatal(err)
	}
	if err := ad.Delegate(t.Context(), "agent", dn, rights); err != nil {
		t.Fatal(err)
	}
	return dn
}

// makeGroup makes a group below People, whose members the administrator may write.
func makeGroup(t *testing.T, ad *targets.ADServer, name string) string {
	t.Helper()
	dn := ad.DN(name)
	if err := ad.Modify(t.Context(), "dn: "+dn+"\nchangetype: add\nobjectClass: group\nsAMAccountName: "+name+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := ad.Delegate(t.Context(), "agent", dn, writeMembers); err != nil {
		t.Fatal(err)
	}
	return dn
}

// guests is a unit for accounts for a time, and groups for them.
type guests struct {
	*fixture
	unit          string
	readers, exec string // DNs
}

func newGuests(t *testing.T) *guests {
	f := newFixture(targets.AD(t))
	return &guests{f, makeUnit(t, f.ADServer, "guests", unitRights), makeGroup(t, f.ADServer, "readers"), makeGroup(t, f.ADServer, "exec")}
}

func (g *guests) as(unit, name string, c sdk.Credential) sdk.OpenRequest {
	h, r := g.here()
	r.Config, _ = json.Marshal(Config{Accounts: unit})
	return sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: sdk.Account{Name: name}}
}

func (g *guests) asAdmin(unit string) sdk.OpenRequest {
	return g.as(unit, g.Admin, sdk.Credential{Kind: sdk.Password, Secret: g.AdminPassword})
}

func (g *guests) dn(name string) string { return "CN=" + ldap.EscapeDN(name) + "," + g.unit }

func asked(name, pw, groups, until string) sdk.ApplyRequest {
	return sdk.ApplyRequest{
		Account:   sdk.Account{Name: name, Attrs: map[string]string{sdk.GroupsAttr: groups, sdk.UntilAttr: until}},
		Candidate: password(pw),
	}
}

func (g *guests) mustProvision(t *testing.T, a sdk.ApplyRequest, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := (provisioner{}).Provision(t.Context(), g.asAdmin(g.unit), a); err != nil || got != want {
		t.Fatalf("provision %q: %+v, %v, want %+v", a.Account.Name, got, err, want)
	}
}

func (g *guests) mustDeprovision(t *testing.T, name string, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := (provisioner{}).Deprovision(t.Context(), g.asAdmin(g.unit), sdk.Account{Name: name}); err != nil || got != want {
		t.Errorf("deprovision %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func (g *guests) mustBeThere(t *testing.T, dn string, want bool) {
	t.Helper()
	if got, err := g.Has(t.Context(), dn); err != nil || got != want {
		t.Errorf("%s: there: %v, %v, want %v", dn, got, err, want)
	}
}

// in are the groups that the directory has an account in, beside its primary one.
func in(t *testing.T, ad *targets.ADServer, dn string) []string {
	t.Helper()
	has, err := ad.Values(t.Context(), dn, "memberOf")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(has)
	return has
}

// mustBeRefused wants an error that says whether something was sent.
func mustBeRefused(t *testing.T, err error, class sdk.Class, reason string, notSent bool) {
	t.Helper()
	mustFail(t, err, class, reason)
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.NotSent != notSent {
		t.Errorf("%v: not sent: %v, want %v", err, e.NotSent, notSent)
	}
}

func TestProvision(t *testing.T) {
	g := newGuests(t)
	t.Run("Rights", func(t *testing.T) { guestRights(t, g) })
	t.Run("Names", func(t *testing.T) { guestNames(t, g) })
	t.Run("Foreign", func(t *testing.T) { guestForeign(t, g) })
	t.Run("Refused", func(t *testing.T) { guestRefused(t, g) })
	t.Run("Mark", func(t *testing.T) { guestMark(t, g) })
	t.Run("PrimaryGroup", func(t *testing.T) { guestPrimary(t, g) })
	t.Run("NotRemoved", func(t *testing.T) { guestNotRemoved(t, g) })
	t.Run("Cut", func(t *testing.T) { guestCut(t, g) })
}

// An account has the groups and the end that it was given last, and no others, and can use
// them.
func guestRights(t *testing.T, g *guests) {
	dn := g.dn("visitor")
	for i, step := range []struct {
		what, groups, until string
		behind              string // a group that somebody puts it in before
		want                []string
		expires             string
		letIn               bool
	}{
		{"made", "readers, " + g.exec, "2091-03-04T05:06:07+01:00", "", []string{g.exec, g.readers}, "154682931670000000", true},
		{"again", "exec,READERS,exec,Domain Users", "2091-03-04T04:06:07Z", "", []string{g.exec, g.readers}, "154682931670000000", true},
		{"another group", "exec", "", "", []string{g.exec}, never, true},
		{"given by hand", "exec", "", g.readers, []string{g.exec}, never, true},
		{"no longer good", g.readers, "2001-01-01T00:00:00.123456789Z", "", []string{g.readers}, "126227808001234567", false},
		{"good again, in none", "", "", "", nil, never, true},
	} {
		if step.behind != "" {
			if err := g.Modify(t.Context(), "dn: "+step.behind+"\nchangetype: modify\nadd: member\nmember: "+dn+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		pw := "Visitor-1-" + strings.Repeat("x", i)
		g.mustProvision(t, asked("visitor", pw, step.groups, step.until), changed)
		if has := in(t, g.ADServer, dn); !slices.Equal(has, step.want) {
			t.Errorf("%s: in %q, want %q", step.what, has, step.want)
		}
		g.mustGet(t, dn, "accountExpires", step.expires)
		g.mustGet(t, dn, "userAccountControl", enabled)
		g.mustAccept(t, `ROTUNDA\visitor`, pw, step.letIn)
		if i > 0 {
			g.mustAccept(t, dn, "Visitor-1-"+strings.Repeat("x", i-1), false)
		}
		if !step.letIn {
			g.mustVerify(t, dn, pw, undecided("expired"))
			continue
		}
		if sids := g.ownGroups(t, "visitor", pw); sids[g.sid(t, g.readers)] != slices.Contains(step.want, g.readers) || sids[g.sid(t, g.exec)] != slices.Contains(step.want, g.exec) {
			t.Errorf("%s: what it shows at a login is not to be in %q", step.what, step.want)
		}
	}
	for range 2 {
		g.mustDeprovision(t, "visitor", changed)
		g.mustBeThere(t, dn, false)
	}
}

// ownGroups are the SIDs that a controller takes an account for that has logged in.
func (g *guests) ownGroups(t *testing.T, name, pw string) map[string]bool {
	t.Helper()
	h, r := g.here()
	server, err := newServer(h, r)
	if err != nil {
		t.Fatal(err)
	}
	c, err := login(t.Context(), server, name, password(pw).Secret)
	if err != nil {
		t.Fatal(err)
	}
	defer c.HangUp()
	e, err := read(t.Context(), c, "", "tokenGroups")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, sid := range e.GetRawAttributeValues("tokenGroups") {
		out[string(sid)] = true
	}
	if len(out) == 0 {
		t.Fatal("the controller names no groups at all")
	}
	return out
}

func (g *guests) sid(t *testing.T, dn string) string {
	t.Helper()
	s := g.open(t)
	c, _, err := s.pool.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.pool.Give(c, true)
	e, err := read(t.Context(), c, dn, "objectSid")
	if err != nil || e == nil {
		t.Fatalf("%s: %v", dn, err)
	}
	return string(e.GetRawAttributeValue("objectSid"))
}

// An account is made by its sAMAccountName; one that was made is known by its other names.
func guestNames(t *testing.T, g *guests) {
	for _, name := range []string{"o'brien (jr)", "#jürgen", "exactly-20-charactrs"} {
		pw := "Named-1-" + rand.Text()
		g.mustProvision(t, asked(`rotunda\`+name, pw, "readers", ""), changed)
		g.mustAccept(t, `ROTUNDA\`+name, pw, true)
		g.mustGet(t, g.dn(name), "description", made)
		again := "Again-1-" + rand.Text()
		g.mustProvision(t, asked(g.dn(name), again, "", ""), changed)
		g.mustAccept(t, `ROTUNDA\`+name, again, true)
		g.mustDeprovision(t, name+"@rotunda.test", changed)
		g.mustBeThere(t, g.dn(name), false)
	}
	invalid := unchanged(sdk.ClassInvalid, "account.name")
	for _, name := range []string{"", "*", "exactly-21-characters", "nobody@rotunda.test", g.dn("nobody"), "nobody$", "x)(cn=*", `OTHER\x`} {
		g.mustProvision(t, asked(name, "Named-1-"+rand.Text(), "", ""), invalid)
	}
	// What no account is called was not looked for; what was looked for is gone.
	for name, want := range map[string]sdk.ApplyResponse{"": invalid, "*": invalid, `OTHER\x`: invalid, "nobody": changed, g.dn("nobody"): changed} {
		g.mustDeprovision(t, name, want)
	}
}

// What the plugin has not made it leaves alone, whatever is the same about it.
func guestForeign(t *testing.T, g *guests) {
	for _, c := range []struct {
		name, dn string
		lines    []string
	}{
		{"foreign", g.dn("foreign"), nil},
		{"noted", g.dn("noted"), []string{"description: made by rotunda", "info: " + made}},
		{"elsewhere-made", g.DN("elsewhere-made"), []string{"description: " + made}},
		{"nested", "CN=nested,OU=not-guests," + g.Domain, []string{"description: " + made}},
	} {
		if strings.Contains(c.dn, "not-guests") {
			makeUnit(t, g.ADServer, "not-guests", unitRights)
		}
		ldif := append([]string{"dn: " + c.dn, "changetype: add", "objectClass: user", "userAccountControl: 512", "sAMAccountName: " + c.name}, c.lines...)
		if err := g.Modify(t.Context(), strings.Join(append(ldif, "userPassword: First-1-"+c.name, ""), "\n")); err != nil {
			t.Fatal(err)
		}
		if err := g.SetPassword(t.Context(), c.dn, password("First-1-"+c.name).Secret); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{c.name, c.dn} {
			g.mustProvision(t, asked(name, "Taken-1-"+rand.Text(), "readers", "2001-01-01T00:00:00Z"), unchanged(sdk.ClassConflict, "account.exists"))
			g.mustDeprovision(t, name, unchanged(sdk.ClassConflict, "account.exists"))
		}
		g.mustAccept(t, `ROTUNDA\`+c.name, "First-1-"+c.name, true)
		if has := in(t, g.ADServer, c.dn); has != nil {
			t.Errorf("%s is in %q", c.name, has)
		}
	}
	// The name is a group's, or the place is another's.
	g.mustProvision(t, asked("readers", "Taken-1-"+rand.Text(), "", ""), unchanged(sdk.ClassConflict, "account.exists"))
	if err := g.Modify(t.Context(), "dn: "+g.dn("taken")+"\nchangetype: add\nobjectClass: contact\n"); err != nil {
		t.Fatal(err)
	}
	g.mustProvision(t, asked("taken", "Taken-1-"+rand.Text(), "", ""), unchanged(sdk.ClassConflict, "account.exists"))
	g.mustDeprovision(t, "taken", changed)
	g.mustBeThere(t, g.dn("taken"), true)
}

// What can be seen before is refused before there is an account.
func guestRefused(t *testing.T, g *guests) {
	good := "Refused-1-" + rand.Text()
	g.user(t, "clerk")
	agent := func(unit string) sdk.OpenRequest { return g.asAdmin(unit) }
	for name, c := range map[string]struct {
		as     sdk.OpenRequest
		a      sdk.ApplyRequest
		class  sdk.Class
		reason string
	}{
		"no unit":               {agent(""), asked("refused", good, "", ""), sdk.ClassInvalid, "account.place"},
		"no DN":                 {agent("guests"), asked("refused", good, "", ""), sdk.ClassInvalid, "account.place"},
		"a unit that is not":    {agent("OU=none," + g.Domain), asked("refused", good, "", ""), sdk.ClassNotFound, "account.place"},
		"no right to the unit":  {agent(g.People), asked("refused", good, "", ""), sdk.ClassPermission, "admin.rights"},
		"nobody's right":        {g.as(g.unit, "clerk", password("First-1-clerk")), asked("refused", good, "", ""), sdk.ClassPermission, "admin.rights"},
		"no such group":         {agent(g.unit), asked("refused", good, "readers,none", ""), sdk.ClassNotFound, "group.missing"},
		"no such DN":            {agent(g.unit), asked("refused", good, "CN=none,"+g.People, ""), sdk.ClassNotFound, "group.missing"},
		"a user for a group":    {agent(g.unit), asked("refused", good, "clerk", ""), sdk.ClassNotFound, "group.missing"},
		"no right to the group": {agent(g.unit), asked("refused", good, "readers,Domain Admins", ""), sdk.ClassPermission, "admin.rights"},
		"no list of groups":     {agent(g.unit), asked("refused", good, "readers)(cn=*", ""), sdk.ClassInvalid, "account.groups"},
		"no time":               {agent(g.unit), asked("refused", good, "", "tomorrow"), sdk.ClassInvalid, "account.until"},
		"when time began":       {agent(g.unit), asked("refused", good, "", "1601-01-01T00:00:00Z"), sdk.ClassInvalid, "account.until"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := provisioner{}.Provision(t.Context(), c.as, c.a)
			if got != (sdk.ApplyResponse{}) {
				t.Errorf("provision: %+v", got)
			}
			mustBeRefused(t, err, c.class, c.reason, true)
		})
	}
	for pw, want := range map[string]sdk.ApplyResponse{
		"onlylowercase":       unchanged(sdk.ClassPolicy, "policy.refused"),
		"":                    unchanged(sdk.ClassPolicy, "policy.charset"),
		"half: Aa1\x00 of it": unchanged(sdk.ClassPolicy, "policy.charset"),
	} {
		g.mustProvision(t, asked("refused", pw, "readers", ""), want)
	}
	if s := g.open(t); s != nil {
		if e, err := s.see(t.Context(), "refused"); err != nil || e != nil {
			t.Errorf("the account: %+v, %v, want none", e, err)
		}
	}
	for _, unit := range []string{"", "OU=none," + g.Domain} {
		_, err := provisioner{}.Deprovision(t.Context(), g.asAdmin(unit), sdk.Account{Name: "refused"})
		if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Reason != "account.place" || !e.NotSent {
			t.Errorf("deprovision without a unit that is there: %v", err)
		}
	}

	// One that is there keeps what it has.
	dn := g.dn("kept")
	g.mustProvision(t, asked("kept", good, "readers", ""), changed)
	_, err := provisioner{}.Provision(t.Context(), g.asAdmin(g.unit), asked("kept", "Other-1-"+rand.Text(), "exec,Domain Admins", ""))
	mustBeRefused(t, err, sdk.ClassPermission, "admin.rights", true)
	g.mustAccept(t, dn, good, true)
	if has := in(t, g.ADServer, dn); !slices.Equal(has, []string{g.readers}) {
		t.Errorf("in %q", has)
	}
	// It was put where the administrator cannot take it out.
	if err := g.Modify(t.Context(), "dn: CN=Domain Guests,CN=Users,"+g.Domain+"\nchangetype: modify\nadd: member\nmember: "+dn+"\n"); err != nil {
		t.Fatal(err)
	}
	_, err = provisioner{}.Provision(t.Context(), g.asAdmin(g.unit), asked("kept", "Other-1-"+rand.Text(), "exec", ""))
	mustBeRefused(t, err, sdk.ClassPermission, "admin.rights", true)
	g.mustAccept(t, dn, good, true)
	// What shows only later leaves it disabled, and is no "unchanged".
	if err := g.Modify(t.Context(), "dn: CN=Domain Guests,CN=Users,"+g.Domain+"\nchangetype: modify\ndelete: member\nmember: "+dn+"\n"); err != nil {
		t.Fatal(err)
	}
	got, err := provisioner{}.Provision(t.Context(), g.asAdmin(g.unit), asked("kept", "onlylowercase", "exec", ""))
	if got != (sdk.ApplyResponse{}) {
		t.Errorf("provision: %+v", got)
	}
	mustBeRefused(t, err, sdk.ClassPolicy, "policy.refused", false)
	g.mustAccept(t, dn, good, false)
	g.mustProvision(t, asked("kept", good, "exec", ""), changed)
	g.mustAccept(t, dn, good, true)
	g.mustDeprovision(t, "kept", changed)
}

// Its holder cannot make a guest anything else than one.
func guestMark(t *testing.T, g *guests) {
	pw := "Marked-1-" + rand.Text()
	g.mustProvision(t, asked("marked", pw, "readers", ""), changed)
	h, r := g.here()
	server, err := newServer(h, r)
	if err != nil {
		t.Fatal(err)
	}
	c, err := login(t.Context(), server, "marked", password(pw).Secret)
	if err != nil {
		t.Fatal(err)
	}
	defer c.HangUp()
	for attribute, want := range map[string]uint16{"description": ldap.LDAPResultInsufficientAccessRights, "accountExpires": ldap.LDAPResultInsufficientAccessRights, "homePhone": ldap.LDAPResultSuccess} {
		m := ldap.NewModifyRequest(g.dn("marked"), nil)
		m.Replace(attribute, []string{"1"})
		err := c.Modify(m)
		if code, _ := directory.Code(err); code != want || (err == nil) != (want == ldap.LDAPResultSuccess) {
			t.Errorf("its holder writes %s: %v, want %d", attribute, err, want)
		}
	}
	g.mustDeprovision(t, "marked", changed)
	g.mustBeThere(t, g.dn("marked"), false)
}

// A primary group is not among those that an account says it is in.
func guestPrimary(t *testing.T, g *guests) {
	dn := g.dn("primary")
	g.mustProvision(t, asked("primary", "Primary-1-"+rand.Text(), "exec", ""), changed)
	token, err := g.Get(t.Context(), g.exec, "primaryGroupToken")
	if err != nil {
		t.Fatal(err)
	}
	g.set(t, dn, "primaryGroupID", token)
	if has := in(t, g.ADServer, dn); slices.Contains(has, g.exec) {
		t.Fatalf("the primary group is among %q", has)
	}
	g.mustProvision(t, asked("primary", "Primary-1-"+rand.Text(), "readers", ""), changed)
	g.mustGet(t, dn, "primaryGroupID", "513")
	if has := in(t, g.ADServer, dn); !slices.Equal(has, []string{g.readers}) {
		t.Errorf("in %q, want the readers alone", has)
	}
	g.mustDeprovision(t, "primary", changed)
}

// Who may not remove an account, or cannot, lets nobody in with it.
func guestNotRemoved(t *testing.T, g *guests) {
	unit := makeUnit(t, g.ADServer, "stays", makeUsers+writeUsers)
	pw, dn := "Stays-1-"+rand.Text(), "CN=stays,"+unit
	if got, err := (provisioner{}).Provision(t.Context(), g.asAdmin(unit), asked("stays", pw, "", "")); err != nil || got != changed {
		t.Fatalf("provision: %+v, %v", got, err)
	}
	g.mustAccept(t, dn, pw, true)
	_, err := provisioner{}.Deprovision(t.Context(), g.asAdmin(unit), sdk.Account{Name: "stays"})
	mustBeRefused(t, err, sdk.ClassPermission, "admin.rights", false)
	g.mustAccept(t, dn, pw, false)
	g.mustGet(t, dn, "userAccountControl", disabled)

	pw, dn = "Owner-1-"+rand.Text(), g.dn("owner")
	g.mustProvision(t, asked("owner", pw, "", ""), changed)
	if err := g.Modify(t.Context(), "dn: CN=queue,"+dn+"\nchangetype: add\nobjectClass: nTFRSSubscriptions\n"); err != nil {
		t.Fatal(err)
	}
	_, err = provisioner{}.Deprovision(t.Context(), g.asAdmin(g.unit), sdk.Account{Name: "owner"})
	mustBeRefused(t, err, sdk.ClassConflict, "account.owns", false)
	g.mustAccept(t, dn, pw, false)
}

// People are told of the rights that the administrator has here, and of no others.
func TestRightsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/targets.md")
	if err != nil {
		t.Fatal(err)
	}
	told := strings.ReplaceAll(string(page), "\\\n", "")
	for _, rights := range []string{unitRights, writeMembers} {
		if !strings.Contains(told, `--sddl="`+rights+`"`) {
			t.Errorf("docs/targets.md does not have %s", rights)
		}
	}
	if !strings.Contains(told, "`"+made+"`") {
		t.Error("docs/targets.md does not say by what an account for a time is known")
	}
}

func TestRights(t *testing.T) {
	for until, want := range map[string]string{
		"":                                 never,
		"1601-01-01T00:00:01Z":             "10000000",
		"2026-11-26T07:23:50.849276+00:00": "134401514308492760",
		"9999-12-31T23:59:59Z":             "2650467743990000000",
	} {
		if got, _, err := rights(sdk.Account{Attrs: map[string]string{sdk.UntilAttr: until}}); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", until, got, err, want)
		}
	}
	if got := ticks(time.Unix(-to1970, 0)); got != 0 {
		t.Errorf("time begins at %d", got)
	}
}
