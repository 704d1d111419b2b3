package main

import (
	"crypto/sha256"
	"net"
	"slices"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// dirServer is a directory as scripts see it.
type dirServer struct {
	*targets.LDAPServer
	at   sdk.Resource
	pins []byte
}

// run runs code, in which c is a connection of the administrator unless it makes its own.
func (d dirServer) run(t *testing.T, code string, fill func(*state, *lua.LTable)) error {
	t.Helper()
	if !strings.Contains(code, "ldap.connect{") {
		code = "local c = assert(ldap.connect{login = job.login, secret = job.secret})\n" + code
	}
	b := newBench(t, []string{"ldap", "secret", "text"}, "", code)
	b.allow, b.host.Pins[d.at.Address] = []string{d.at.Address}, d.pins
	_, err := b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("login", lua.LString(d.Admin))
		job.RawSetString("secret", s.credential(sdk.Credential{Secret: d.AdminPassword}))
		job.RawSetString("base", lua.LString(d.Base))
		if fill != nil {
			fill(s, job)
		}
	}, d.at)
	return err
}

func TestLDAP(t *testing.T) {
	l := targets.LDAP(t)
	pinned := sdk.TLS{Mode: sdk.TLSPin}
	d := dirServer{l, sdk.Resource{Address: l.Address, TLS: pinned}, l.SPKI[:]}
	entries := map[string]string{}
	for _, name := range []string{"app", "other", "a*)(cn=b", `comma,"quote"`} {
		dn, err := l.CreateEntry(t.Context(), name, sdk.NewSecret([]byte("before the change")))
		if err != nil {
			t.Fatal(err)
		}
		entries[name] = dn
	}

	t.Run("login", func(t *testing.T) {
		start, startOff, wrongKey, down := d, d, d, d
		start.at.Address, startOff.at.Address = l.PlainAddress(), l.PlainAddress()
		startOff.at.TLS.Mode = sdk.TLSOff
		wrongKey.pins = make([]byte, sha256.Size)
		wrongStart := start
		wrongStart.pins = wrongKey.pins
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		down.at.Address = listener.Addr().String()
		listener.Close()
		silent := d
		silent.at.Address, silent.at.TLS.Mode = serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 100)); _, _ = c.Read(make([]byte, 1)) }), sdk.TLSOff
		for name, c := range map[string]struct {
			d      dirServer
			with   string
			class  sdk.Class
			reason string
		}{
			"TLS":                 {d, `secret = job.secret`, "", ""},
			"TLS asked for":       {start, `secret = job.secret, starttls = true`, "", ""},
			"wrong secret":        {d, `secret = secret.of("not it")`, sdk.ClassAuth, "bad_secret"},
			"no secret":           {d, `secret = ""`, sdk.ClassAuth, "bad_secret"},
			"in clear":            {startOff, `secret = job.secret`, sdk.ClassUnsupported, "ldap.13"},
			"wrong key":           {wrongKey, `secret = job.secret`, sdk.ClassAuth, "target_identity"},
			"wrong key, asked":    {wrongStart, `secret = job.secret, starttls = true`, sdk.ClassAuth, "target_identity"},
			"down":                {down, `secret = job.secret`, sdk.ClassUnreachable, "connection"},
			"elsewhere":           {d, `secret = job.secret, address = "127.0.0.1:1"`, sdk.ClassPermission, "dial.denied"},
			"silent":              {silent, `secret = job.secret, timeout = 0.5`, sdk.ClassUnreachable, "deadline"},
			"a name that is none": {d, `login = "app", secret = job.secret`, sdk.ClassInvalid, "account.name"},
		} {
			if !strings.Contains(c.with, "login") {
				c.with = "login = job.login, " + c.with
			}
			code := "assert(ldap.connect{" + c.with + "}):close()"
			if c.reason != "" {
				code = failsWith("ldap.connect{"+c.with+"}", c.class, c.reason, true)
			}
			if err := c.d.run(t, code, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := startOff.run(t, refused(`ldap.connect{login = job.login, secret = job.secret, starttls = true}`, "says TLS off"), nil); err != nil {
			t.Error(err)
		}
	})

	for name, code := range map[string]string{
		"one entry": `local r = assert(c:search{base = job.base, filter = "(cn=" .. ldap.escape_filter("app") .. ")", attributes = {"cn", "objectClass"}})
			assert(#r == 1 and r[1].dn == "cn=app," .. job.base and r[1].attributes.cn[1] == "app" and r[1].attributes.sn == nil)`,
		"a hostile name": `local r = assert(c:search{base = job.base, filter = "(cn=" .. ldap.escape_filter("a*)(cn=b") .. ")"})
			assert(#r == 1 and r[1].attributes.cn[1] == "a*)(cn=b")`,
		"none":            `assert(#assert(c:search{base = job.base, filter = "(cn=nobody)"}) == 0)`,
		"its base":        `assert(#assert(c:search{base = "cn=app," .. job.base, scope = "base"}) == 1)`,
		"too many":        failsWith(`c:search{base = job.base, limit = 2}`, sdk.ClassUnsupported, "ldap.4", true),
		"no such base":    failsWith(`c:search{base = "cn=none," .. job.base}`, sdk.ClassNotFound, "ldap.32", true),
		"a closed one":    `c:close() ` + failsWith(`c:search{base = job.base}`, sdk.ClassUnreachable, "connection", true),
		"no filter":       refused(`c:search{base = job.base, filter = "(cn=a"}`, "escape_filter"),
		"a secret filter": refused(`c:search{base = job.base, filter = text.concat("(cn=", job.secret, ")")}`, "got a secret"),
		"no right":        failsWith(`c:modify{dn = "cn=app," .. job.base, replace = {sn = "x"}}`, sdk.ClassPermission, "ldap.50", false),
		"no change":       refused(`c:modify{dn = "cn=app," .. job.base}`, "want a change"),
		"no DN":           refused(`c:modify{dn = "app", replace = {sn = "x"}}`, "want a DN"),
		"policy":          failsWith(`c:password_modify{user = "cn=app," .. job.base, new = secret.of("short")}`, sdk.ClassPolicy, "ldap.19", false),
		"an empty one":    refused(`c:password_modify{user = "cn=app," .. job.base, new = ""}`, "empty"),
		"closed, changed": `c:close() ` + failsWith(`c:password_modify{user = "cn=app," .. job.base, new = secret.of("longer than that")}`, sdk.ClassUnreachable, "connection", true),
		"a bind": failsWith(`c:bind("cn=app," .. job.base, secret.of("not it"))`, sdk.ClassAuth, "bad_secret", true) + ` assert(c:bind("cn=app," .. job.base, secret.of("before the change")))
			` + `local r, e = c:bind("cn=app," .. job.base, "") assert(r == nil and e.reason == "bad_secret")`,
	} {
		if err := d.run(t, code, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	for name, dn := range entries {
		for how, code := range map[string]string{
			"by the operation": `assert(c:password_modify{user = job.dn, new = job.new} == true)`,
			"by the attribute": `assert(c:modify{dn = job.dn, replace = {userPassword = job.new}})`,
			"by the account":   `local c = assert(ldap.connect{login = job.dn, secret = job.old}) assert(c:password_modify{old = job.old, new = job.new})`,
			"by the server":    `local made = assert(c:password_modify{user = job.dn}) assert(tostring(made) == "[secret]") assert(c:bind(job.dn, made)) assert(c:password_modify{old = made, new = job.new})`,
		} {
			before, after := sdk.NewSecret([]byte("before: "+how+name)), sdk.NewSecret([]byte("after: é "+how+name))
			if err := l.Modify(t.Context(), "dn: "+dn+"\nchangetype: modify\nreplace: userPassword\nuserPassword: "+before.ExposeString()+"\n"); err != nil {
				t.Fatal(err)
			}
			err := d.run(t, code, func(s *state, job *lua.LTable) {
				job.RawSetString("dn", lua.LString(dn))
				job.RawSetString("old", s.credential(sdk.Credential{Secret: before}))
				job.RawSetString("new", s.credential(sdk.Credential{Secret: after}))
			})
			if err != nil {
				t.Errorf("%s %s: %v", name, how, err)
			}
			if ok, err := l.Accepts(t.Context(), dn, after); err != nil || !ok {
				t.Errorf("%s %s: ldapwhoami: %v, %v", name, how, ok, err)
			}
		}
	}
	if values, err := l.Values(t.Context(), entries["other"], "cn"); err != nil || !slices.Equal(values, []string{"other"}) {
		t.Errorf("another entry has %v, %v", values, err)
	}
}
