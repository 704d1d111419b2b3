package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
)

var ldapModule = module{
	about: "Logs in to directories, searches and changes entries.",
	functions: []function{
		{
			name: "connect", takes: "options: table", gives: "ldap.connection|nil, sdk.error?",
			about: "Connects, and logs in where a login is given. The options: address (the resource's), login (a DN), secret, starttls = true where TLS is asked for on a connection that begins in clear (port 389) in place of TLS from the first byte (port 636), " +
				"timeout in seconds (30) of the login and of each operation. It speaks TLS as the statement of the place says.",
			example: `local c, err = ldap.connect{login = "cn=admin,dc=example,dc=com", secret = job.admin.secret, starttls = true}
if not c then
  return sdk.unchanged(err.class, err.reason)
end`,
			do: ldapConnect,
		},
		{
			name: "escape_filter", takes: "text: string", gives: "string",
			about:   "Writes a text as a value in a search's filter, where it stands for itself.",
			example: `assert(ldap.escape_filter("a*)(b") == [[a\2a\29\28b]])`,
			do:      func(a *args) int { return a.give([]byte(ldap.EscapeFilter(a.text(1))), false) },
		},
		{
			name: "escape_dn", takes: "text: string", gives: "string",
			about:   "Writes a text as a value in a DN, where it stands for itself.",
			example: `assert(ldap.escape_dn("a,b") == [[a\,b]])`,
			do:      func(a *args) int { return a.give([]byte(ldap.EscapeDN(a.text(1))), false) },
		},
		{
			name: "ad_password", takes: "password: string|secret", gives: "string|secret",
			about:   "Writes a password as Active Directory takes it for the attribute unicodePwd.",
			example: `assert(ldap.ad_password("a") == '"\0a\0"\0')`,
			do: func(a *args) int {
				b, isSecret := a.bytes(1)
				if !utf8.Valid(b) {
					a.bad(1, "it is no UTF-8")
				}
				var out []byte
				for _, u := range utf16.Encode([]rune(`"` + string(b) + `"`)) {
					out = binary.LittleEndian.AppendUint16(out, u)
				}
				return a.give(out, isSecret)
			},
		},
	},
	objects: []object{ldapConnection},
}

var ldapConnection = object{
	name: "ldap.connection", about: "A connection to a directory.",
	functions: []function{
		{
			name: "bind", takes: "login: string, secret: string|secret", gives: "true|nil, sdk.error?",
			about: "Logs in by DN and password. An empty password is refused: servers take it for a login as nobody. An error's reason is bad_secret, locked or expired, or ldap. with the server's code.",
			example: `local c = assert(ldap.connect{})
local ok, err = c:bind("uid=app,dc=example,dc=com", job.secret)
if not ok and err.reason == "bad_secret" then
  return sdk.unchanged("auth", "bad_secret")
end`,
			do: ldapBind,
		},
		{
			name: "search", takes: "options: table", gives: "table[]|nil, sdk.error?",
			about: "Finds entries. The options: base; scope (sub, one or base); filter ((objectClass=*)); attributes, a list (all); limit, from 1 to 1,000 entries (100): more are an error. " +
				"An entry has dn and attributes, by name, each a list of texts. Referrals are not followed.",
			example: `local c = assert(ldap.connect{login = "cn=admin,dc=example,dc=com", secret = job.admin.secret})
local found = assert(c:search{
  base = "dc=example,dc=com", filter = "(uid=" .. ldap.escape_filter(job.account.login) .. ")", attributes = {"mail"}, limit = 2,
})
for _, entry in ipairs(found) do
  print(entry.dn, entry.attributes.mail[1])
end`,
			do: ldapSearch,
		},
		{
			name: "modify", acts: true, takes: "options: table", gives: "true|nil, sdk.error?",
			about: "Changes an entry in one step. The options: dn; delete, add and replace, each a table of attributes with a list of values, which may be secrets; they are done in this order. An empty list deletes the attribute.",
			example: `local c = assert(ldap.connect{login = "cn=admin,dc=example,dc=com", secret = job.admin.secret})
assert(c:modify{dn = "uid=" .. ldap.escape_dn(job.account.login) .. ",dc=example,dc=com", replace = {userPassword = {job.secret}}})`,
			do: ldapModify,
		},
		{
			name: "password_modify", acts: true, takes: "options: table", gives: "true|secret|nil, sdk.error?",
			about: "Sets a password by the operation of RFC 3062. The options: user (whoever is logged in), old, new. Without new the server makes one, which is given.",
			example: `local c = assert(ldap.connect{login = "cn=admin,dc=example,dc=com", secret = job.admin.secret})
assert(c:password_modify{user = "uid=app,dc=example,dc=com", new = job.secret})`,
			do: ldapPasswordModify,
		},
		{name: "close", about: "Ends the connection.", example: `local c = assert(ldap.connect{})
c:close()`, do: func(a *args) int {
			a.self.(*ldapConn).close()
			return 0
		}},
	},
}

// ldapConn is a connection as a script has it.
type ldapConn struct {
	*directory.Conn
	limit time.Duration
	once  sync.Once
}

func (c *ldapConn) close() {
	c.once.Do(func() {
		if c.Conn != nil { // a dry run has none
			c.HangUp()
		}
	})
}

func ldapConnect(a *args) int {
	o := a.options(1, "address", "login", "secret", "starttls", "timeout")
	at, limit := o.address(), o.seconds("timeout", 30*time.Second)
	name, of := o.login()
	start := o.bool("starttls")
	if start && at.TLS.Mode == sdk.TLSOff {
		a.bad(1, "starttls: the statement of %s says TLS off", at.Address)
	}
	if name == "" && of.Len() > 0 {
		a.bad(1, "login: want a DN")
	}
	ctx, cancel := a.within(limit)
	defer cancel()
	wire, err := directory.Server{Host: a.host, Resource: at, StartTLS: start}.Connect(ctx)
	if err != nil {
		return a.fail(asError(err, sdk.ClassUnreachable, "connection"))
	}
	c := &ldapConn{Conn: wire, limit: limit}
	a.later(c.close)
	if name != "" {
		if failed := c.bind(ctx, name, of.Secret); failed != nil {
			c.close()
			return a.fail(failed)
		}
	}
	return a.push(ldapConnection.of(a.state, c))
}

// bind logs in.
func (c *ldapConn) bind(ctx context.Context, name string, secret sdk.Secret) *sdk.Error {
	if _, err := ldap.ParseDN(name); err != nil || name == "" {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("a login of a directory is a DN")}
	}
	if secret.Len() == 0 { // RFC 4513, 5.1.2
		return &sdk.Error{Class: sdk.ClassAuth, Reason: "bad_secret", NotSent: true, Err: errors.New("the password is empty")}
	}
	answer, err := c.Bind(ctx, name, secret, ldap.NewControlBeheraPasswordPolicy())
	if err == nil {
		return nil
	}
	failed := ldapError(ctx, err)
	failed.NotSent = true
	for _, one := range answer {
		if policy, ok := one.(*ldap.ControlBeheraPasswordPolicy); ok && failed.Reason == "bad_secret" {
			switch policy.Error {
			case 0:
				failed.Reason = "expired"
			case 1:
				failed.Reason = "locked"
			}
		}
	}
	return failed
}

func ldapBind(a *args) int {
	c := a.self.(*ldapConn)
	name := a.text(1)
	b, _ := a.bytes(2)
	defer clear(b)
	ctx, cancel := a.within(c.limit)
	defer cancel()
	if failed := c.bind(ctx, name, sdk.NewSecret(b)); failed != nil {
		return a.fail(failed)
	}
	return a.push(lua.LTrue)
}

var scopes = map[string]int{"base": ldap.ScopeBaseObject, "one": ldap.ScopeSingleLevel, "sub": ldap.ScopeWholeSubtree}

func ldapSearch(a *args) int {
	c := a.self.(*ldapConn)
	o := a.options(1, "base", "scope", "filter", "attributes", "limit")
	if !o.has("base") {
		a.bad(1, "base: want a DN")
	}
	scope, ok := scopes[o.text("scope", "sub")]
	if !ok {
		a.bad(1, "scope: want base, one or sub")
	}
	r := ldap.NewSearchRequest(o.text("base", ""), scope, ldap.NeverDerefAliases, o.integer("limit", 100, 1, 1000), int(c.limit.Seconds())+1, false, o.text("filter", "(objectClass=*)"), nil, nil)
	if _, err := ldap.ParseDN(r.BaseDN); err != nil {
		a.bad(1, "base: want a DN")
	}
	if _, err := ldap.CompileFilter(r.Filter); err != nil || len(r.Filter) > 8192 {
		a.bad(1, "filter: want one such as (uid=app); values are written by ldap.escape_filter")
	}
	if t := o.table("attributes"); t != nil {
		items, secrets, why := textList(t)
		if why != "" || secrets {
			a.bad(1, "attributes: want a list of names")
		}
		for _, one := range items {
			r.Attributes = append(r.Attributes, string(one))
		}
	}
	ctx, cancel := a.within(c.limit)
	defer cancel()
	var found []*ldap.Entry
	err := c.Do(ctx, func() (err error) {
		found, err = c.find(ctx, r)
		return err
	})
	if err != nil {
		failed := ldapError(ctx, err)
		failed.NotSent = true
		return a.fail(failed)
	}
	list := a.L.NewTable()
	for _, e := range found {
		entry, attributes := a.L.NewTable(), a.L.NewTable()
		for _, one := range e.Attributes {
			values := a.L.NewTable()
			for _, v := range one.ByteValues {
				values.Append(lua.LString(v))
			}
			attributes.RawSetString(one.Name, values)
		}
		entry.RawSetString("dn", lua.LString(e.DN))
		entry.RawSetString("attributes", attributes)
		list.Append(entry)
	}
	return a.push(list)
}

// find reads the answer as it comes: a server may send more than it was asked for.
func (c *ldapConn) find(outer context.Context, r *ldap.SearchRequest) (found []*ldap.Entry, err error) {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	size := 0
	answer := c.SearchAsync(ctx, r, 1)
	for answer.Next() {
		e := answer.Entry()
		if e == nil {
			continue
		}
		size += len(e.DN)
		for _, one := range e.Attributes {
			size += len(one.Name)
			for _, v := range one.ByteValues {
				size += len(v) + 16
			}
		}
		if found = append(found, e); len(found) > r.SizeLimit || size > maxString {
			c.close()
			return nil, errTooLarge
		}
	}
	// The library says nothing of an answer that ended before its end.
	if err := cmp.Or(answer.Err(), outer.Err()); err != nil {
		return nil, err
	}
	if !c.Alive() {
		return nil, errClosed
	}
	return found, nil
}

func ldapModify(a *args) int {
	c := a.self.(*ldapConn)
	o := a.options(1, "dn", "delete", "add", "replace")
	r := ldap.NewModifyRequest(o.text("dn", ""), []ldap.Control{ldap.NewControlBeheraPasswordPolicy()})
	if _, err := ldap.ParseDN(r.DN); err != nil || r.DN == "" {
		a.bad(1, "dn: want a DN")
	}
	for _, part := range []struct {
		name string
		do   func(string, []string)
	}{{"delete", r.Delete}, {"add", r.Add}, {"replace", r.Replace}} {
		t := o.table(part.name)
		if t == nil {
			continue
		}
		names, ok := sortedKeys(t)
		if !ok {
			a.bad(1, "%s: want attributes with their values", part.name)
		}
		for _, name := range names {
			part.do(name, o.values(part.name+"."+name, t.RawGetString(name)))
		}
	}
	if len(r.Changes) == 0 {
		a.bad(1, "want a change: delete, add or replace")
	}
	return a.change(c, func() error { return c.Modify(r) })
}

// values are those of an attribute: a list of them, or one.
func (o options) values(name string, v lua.LValue) []string {
	t, ok := v.(*lua.LTable)
	if !ok {
		t = o.a.L.NewTable()
		t.Append(v)
	}
	items, _, why := textList(t)
	if why != "" {
		o.a.bad(o.n, "%s: %s", name, why)
	}
	out := make([]string, len(items))
	for i, b := range items {
		out[i] = string(b)
	}
	return out
}

func ldapPasswordModify(a *args) int {
	c := a.self.(*ldapConn)
	o := a.options(1, "user", "old", "new")
	before, _ := o.bytes("old")
	after, _ := o.bytes("new")
	if o.has("new") && len(after) == 0 { // the server would make one
		a.bad(1, "new: it is empty")
	}
	r := ldap.NewPasswordModifyRequest(o.text("user", ""), string(before), string(after))
	var made string
	pushed := a.change(c, func() error {
		answer, err := c.PasswordModify(r)
		if err == nil {
			made = answer.GeneratedPassword
		}
		return err
	})
	if made != "" {
		a.L.Pop(pushed)
		return a.give([]byte(made), true)
	}
	return pushed
}

// change carries out an operation that changes something.
func (a *args) change(c *ldapConn, f func() error) int {
	ctx, cancel := a.within(c.limit)
	defer cancel()
	if !c.Alive() {
		return a.fail(&sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: errClosed})
	}
	if err := c.Do(ctx, f); err != nil {
		return a.fail(ldapError(ctx, err))
	}
	return a.push(lua.LTrue)
}

// ldapError reads the code of an operation that the server did not carry out (RFC 4511,
// appendix A.2).
func ldapError(ctx context.Context, err error) *sdk.Error {
	if errors.Is(err, errTooLarge) {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "ldap.too_large", Err: errors.New("the directory answers more than was asked for")}
	}
	code, ok := directory.Code(err)
	if !ok {
		failed := directory.Unreached(ctx, err)
		failed.NotSent = false
		return failed
	}
	e := &sdk.Error{Class: sdk.ClassConflict, Reason: fmt.Sprintf("ldap.%d", code), Err: errors.New(strings.TrimSpace(ldap.LDAPResultCodeMap[code] + ": " + directory.Text(err)))}
	switch code {
	case ldap.LDAPResultInvalidCredentials: // or there is no such entry, or it is locked
		e.Class, e.Reason = sdk.ClassAuth, "bad_secret"
	case ldap.LDAPResultInappropriateAuthentication:
		e.Class = sdk.ClassAuth
	case ldap.LDAPResultInsufficientAccessRights:
		e.Class = sdk.ClassPermission
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultNoSuchAttribute:
		e.Class = sdk.ClassNotFound
	case ldap.LDAPResultInvalidDNSyntax, ldap.LDAPResultUndefinedAttributeType:
		e.Class = sdk.ClassInvalid
	case ldap.LDAPResultConstraintViolation, ldap.LDAPResultInvalidAttributeSyntax:
		e.Class = sdk.ClassPolicy
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded:
		e.Class = sdk.ClassUnreachable
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired, ldap.LDAPResultProtocolError, ldap.LDAPResultUnavailableCriticalExtension, ldap.LDAPResultSizeLimitExceeded:
		e.Class = sdk.ClassUnsupported
	}
	return e
}
