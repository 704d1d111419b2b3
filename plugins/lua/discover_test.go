package main

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// discover runs a script of kind discoverer with the body of its function.
func discover(t *testing.T, body, parameters string) (found []sdk.Finding, err error) {
	t.Helper()
	b := benchOf(t, `--[[ rotunda
name = "users"
version = "1"
kind = "discoverer"
about = "Finds users."
modules = ["json"]
hosts = ["resource"]
[parameters.prefix]
type = "string"
about = "How their names begin."
default = ""
]]
local json = require "json"
function discover(job)
`+body+"\nend\n")
	open := sdk.OpenRequest{
		Host: b.host, Resource: sdk.Resource{Address: "db1:5432", Config: json.RawMessage(parameters)},
		Admin: sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("adm1n-s3cr3t"))}, AdminAs: sdk.Account{Name: "root"},
		Extra: map[string]sdk.Credential{"second": {Kind: sdk.Password, Secret: sdk.NewSecret([]byte("s3cond-secret"))}},
	}
	err = b.p.plugin().Discoverer.Discover(t.Context(), open, func(f sdk.Finding) error { found = append(found, f); return nil })
	return found, err
}

func TestDiscover(t *testing.T) {
	found, err := discover(t, `
	assert(job.admin.login == "root" and job.extras.second and job.resource.address == "db1:5432" and not job.account and not job.records)
	return {
	  {login = job.parameters.prefix .. "app", scope = "%", facts = {locked = false, sessions = 3, owner = json.null(), since = nil, plugin = "x"}},
	  {login = 1001},
	}`, `{"prefix": "x_"}`)
	if err != nil || len(found) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	if f := found[0]; f.Login != "x_app" || f.Scope != "%" || !maps.Equal(f.Facts, map[string]string{"locked": "false", "sessions": "3", "plugin": "x"}) {
		t.Errorf("the first is %+v", f)
	}
	if f := found[1]; f.Login != "1001" || f.Scope != "" || len(f.Facts) != 0 {
		t.Errorf("the second is %+v", f)
	}
	for _, none := range []string{`return {}`, `return json.decode("[]")`} {
		if found, err := discover(t, none, ""); err != nil || len(found) != 0 {
			t.Errorf("%s: %+v, %v", none, found, err)
		}
	}
}

// An answer that is none ends it: a part of a list would say that there is no more. What is
// wrong is said without a secret.
func TestDiscoverRefuses(t *testing.T) {
	for body, what := range map[string]string{
		`return nil`:             "no list",
		`return sdk.changed`:     "no list",
		`return {login = "app"}`: "no list",
		`local l = {{login = "a"}} l[3] = {login = "b"} return l`: "a hole",
		`return {"app"}`:         "item 1 (\"\"): it is no table",
		`return {{scope = "a"}}`: "item 1 (\"\"): an account without a login",
		`return {{login = "a"}, {login = "b", name = "c"}}`:           "item 2 (\"b\"): name: there is no such field",
		`return {{login = job.admin.secret}}`:                         "login: want a text, got a secret",
		`return {{login = "a", facts = {x = job.extras.second}}}`:     "facts: x: want a text, got a secret",
		`return {{login = "a", facts = {x = "is adm1n-s3cr3t now"}}}`: "facts: x: it has a secret in it",
		`return {{login = "a", facts = {x = {}}}}`:                    "facts: x: want a text",
		`return {{login = "a", facts = {"x"}}}`:                       "facts: want a table of names",
		`return {{login = "a", facts = {["X Y"] = "x"}}}`:             "a fact whose name",
		`return {{login = "a\nb"}}`:                                   "not to be seen",
		`return {{login = ("x"):rep(300)}}`:                           "too long",
	} {
		_, err := discover(t, body, "")
		if err == nil || errorFrom(t, err).Reason != "script.discover" || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", body, err)
		}
	}
	for body, reason := range map[string]string{
		`error("no")`: "script.error",
		`return nil, {class = "unreachable", reason = "http", not_sent = true}`: "http",
		`sdk.fail{class = "auth", reason = "admin.refused"}`:                    "admin.refused",
	} {
		if _, err := discover(t, body, ""); err == nil || errorFrom(t, err).Reason != reason {
			t.Errorf("%s: %v", body, err)
		}
	}
	if _, err := load([]byte("--[[ rotunda\nname = \"users\"\nversion = \"1\"\nkind = \"discoverer\"\nabout = \"Finds users.\"\n]]\nfunction find() end\n")); err == nil || !strings.Contains(err.Error(), "function discover") {
		t.Errorf("a script without its function: %v", err)
	}
}

// Who takes no more ends it.
func TestDiscoverEnds(t *testing.T) {
	b := benchOf(t, "--[[ rotunda\nname = \"users\"\nversion = \"1\"\nkind = \"discoverer\"\nabout = \"Finds users.\"\n]]\nfunction discover() return {{login = \"a\"}, {login = \"b\"}} end\n")
	n := 0
	err := discoverer{b.p}.Discover(t.Context(), sdk.OpenRequest{Host: b.host}, func(sdk.Finding) error { n++; return sdk.ErrEnough })
	if !errors.Is(err, sdk.ErrEnough) || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

// A real PostgreSQL and a real sshd tell what accounts they have.
func TestDiscoverersOfTheLibrary(t *testing.T) {
	found := func(b *bench, open sdk.OpenRequest) map[string]sdk.Finding {
		t.Helper()
		out := map[string]sdk.Finding{}
		open.Host = b.host
		if err := (discoverer{b.p}).Discover(t.Context(), open, func(f sdk.Finding) error { out[f.Login] = f; return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("postgres-roles", func(t *testing.T) {
		pg := targets.Postgres(t)
		for _, role := range []string{"seller", "sailor", "buyer"} {
			if err := pg.CreateRole(t.Context(), role, sdk.NewSecret([]byte("its own secret")), ""); err != nil {
				t.Fatal(err)
			}
		}
		db, err := pg.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(t.Context())
		if _, err := db.Exec(t.Context(), "create role readers nologin; grant readers to seller; alter role seller valid until '2031-01-02 UTC'"); err != nil {
			t.Fatal(err)
		}
		b := fromLibrary(t, "discoverers/postgres-roles")
		b.allow, b.host.Pins[pg.Address] = []string{pg.Address}, pg.SPKI[:]
		open := sdk.OpenRequest{
			Resource: sdk.Resource{Address: pg.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
			Admin:    sdk.Credential{Kind: sdk.Password, Secret: pg.AdminPassword}, AdminAs: sdk.Account{Name: pg.Admin},
		}
		all := found(b, open)
		if seller := all["seller"].Facts; seller["member_of"] != "readers" || !strings.HasPrefix(seller["valid_until"], "2031-01-0") || seller["superuser"] != "" {
			t.Errorf("seller is %v", seller)
		}
		if admin := all[pg.Admin].Facts; admin["superuser"] != "true" || admin["sessions"] == "" {
			t.Errorf("the administrator is %v", admin)
		}
		if _, ok := all["readers"]; ok || len(all) < 4 {
			t.Errorf("it found %v", all)
		}
		open.Resource.Config = json.RawMessage(`{"like":"s%er"}`)
		if some := found(b, open); len(some) != 1 || some["seller"].Login == "" {
			t.Errorf("like s%%er are %v", some)
		}
	})
	t.Run("unix-users", func(t *testing.T) {
		s := targets.OpenSSH(t, targets.SSHDOptions{})
		b := fromLibrary(t, "discoverers/unix-users")
		b.allow, b.host.Pins[s.Address] = []string{s.Address}, s.Pins()
		open := sdk.OpenRequest{
			Resource: sdk.Resource{Address: s.Address}, AdminAs: sdk.Account{Name: s.Admin},
			Admin: sdk.Credential{Kind: sdk.SSHKey, Public: s.AdminPub, Secret: s.AdminKey},
		}
		some := found(b, open)
		if root := some["root"].Facts; root["uid"] != "0" || root["home"] == "" {
			t.Errorf("root is %v", root)
		}
		open.Resource.Config = json.RawMessage(`{"everybody":true}`)
		all := found(b, open)
		if _, ok := all["nobody"]; !ok || len(all) <= len(some) || some["nobody"].Login != "" {
			t.Errorf("of %d users %d may log in: %v", len(all), len(some), some)
		}
	})
}
