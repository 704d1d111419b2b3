package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// rotator remembers its open sessions, by address: which server they talk to, and to ask
// them why a login was refused; a login itself never goes through one.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

func newServer(h sdk.Host, r sdk.Resource) (directory.Server, Config, error) {
	var c Config
	err := sdk.DecodeConfig(r, &c)
	return directory.Server{Host: h, Resource: r, StartTLS: c.StartTLS}, c, err
}

// Open logs the administrator in and asks the server how it wants passwords changed.
func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := notCancelled(ctx); err != nil {
		return nil, err
	}
	if r.Admin.Kind != sdk.Password {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: errors.New("administrator needs a password")}
	}
	server, config, err := newServer(r.Host, r.Resource)
	if err != nil {
		return nil, err
	}
	s := &session{server: server, admin: r.AdminAs.Name, secret: r.Admin.Secret, self: r.Self, exop: config.Method == "exop", replicas: config.Replicas}
	s.pool = pool.New(concurrency, s.connect, (*directory.Conn).HangUp)
	s.closed = func() { p.forget(s) }
	c, _, err := s.pool.Take(ctx)
	if err != nil {
		return nil, adminRefused(err)
	}
	if config.Method == "auto" {
		s.exop, err = hasExop(ctx, c)
	}
	s.pool.Give(c, c.Alive())
	if err != nil {
		s.pool.Close()
		return nil, err
	}
	p.remember(s)
	return s, nil
}

// login connects and binds.
func login(ctx context.Context, server directory.Server, name string, secret sdk.Secret) (*directory.Conn, error) {
	if _, err := ldap.ParseDN(name); err != nil || name == "" {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("an account of a directory is named by its DN")}
	}
	if empty(secret) { // it would be a login as nobody, which succeeds (RFC 4513, 5.1.2)
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "bad_secret", NotSent: true, Err: errors.New("the password is empty")}
	}
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := c.Bind(ctx, name, secret, ldap.NewControlBeheraPasswordPolicy())
	if err != nil {
		c.HangUp()
		return nil, bindError(ctx, err, answer)
	}
	return c, nil
}

func empty(s sdk.Secret) bool {
	b := s.Expose()
	defer clear(b)
	return len(b) == 0
}

// bindError reads why a login was refused.
func bindError(ctx context.Context, err error, answer []ldap.Control) error {
	code, ok := directory.Code(err)
	if !ok {
		return directory.Unreached(ctx, err)
	}
	out := &sdk.Error{NotSent: true, Err: err}
	switch code {
	case ldap.LDAPResultInvalidCredentials: // or there is no such entry, or it is locked
		out.Class, out.Reason = sdk.ClassAuth, "bad_secret"
		switch policyError(answer) {
		case accountLocked:
			out.Reason = "locked"
		case passwordExpired:
			out.Reason = "expired"
		}
	case ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform: // 389 DS: switched off
		out.Class, out.Reason = sdk.ClassAuth, "no_login"
	case ldap.LDAPResultConstraintViolation: // 389 DS: too many tries
		out.Class, out.Reason = sdk.ClassUnreachable, "throttled"
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable:
		out.Class, out.Reason = sdk.ClassUnreachable, "target.busy"
	case ldap.LDAPResultInvalidDNSyntax:
		out.Class, out.Reason = sdk.ClassInvalid, "account.name"
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		out.Class, out.Reason = sdk.ClassUnsupported, "auth.method"
	default:
		out.Class, out.Reason = sdk.ClassUnsupported, "login.refused"
	}
	return out
}

// What a server says of its password policy (draft-behera-ldap-password-policy-11, 6.2).
const (
	noPolicyError   = -1
	passwordExpired = 0
	accountLocked   = 1
	changeAfter     = 2 // the login is good, and good for nothing but a change of the password
	tooYoung        = 7
)

func policyError(answer []ldap.Control) int8 {
	for _, c := range answer {
		if p, ok := c.(*ldap.ControlBeheraPasswordPolicy); ok {
			return p.Error
		}
	}
	return noPolicyError
}

// hasExop asks whether the server has the password modify operation.
func hasExop(ctx context.Context, c *directory.Conn) (bool, error) {
	found, err := search(ctx, c, "", "(objectClass=*)", "supportedExtension")
	switch {
	case err != nil:
		return false, err
	case len(found) != 1:
		return false, nil
	}
	return slices.Contains(found[0].GetAttributeValues("supportedExtension"), passwordModify), nil
}

// search reads one entry by its DN; none is no error.
func search(ctx context.Context, c *directory.Conn, dn, filter string, attributes ...string) ([]*ldap.Entry, error) {
	var out *ldap.SearchResult
	err := c.Do(ctx, func() (err error) {
		out, err = c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, filter, attributes, nil))
		return err
	})
	if err == nil {
		return out.Entries, nil
	}
	code, ok := directory.Code(err)
	switch {
	case !ok:
		return nil, directory.Unreached(ctx, err)
	case code == ldap.LDAPResultNoSuchObject, code == ldap.LDAPResultInvalidDNSyntax:
		return nil, nil
	}
	class, reason := refusal(code)
	return nil, &sdk.Error{Class: class, Reason: reason, NotSent: true, Err: err}
}

// adminRefused says that it was who logs in here who could not, and whether for a wrong
// password: one that is right, and held back, must not be taken for one.
func adminRefused(err error) error {
	var e *sdk.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Reason {
	case "bad_secret":
		return &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: e.Err}
	case "no_login", "expired", "locked":
		return &sdk.Error{Class: sdk.ClassConflict, Reason: "admin.barred", NotSent: true, Err: fmt.Errorf("%s: %w", e.Reason, e.Err)}
	}
	return err
}

func (p *rotator) remember(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[string][]*session{}
	}
	p.open[s.address()] = append(p.open[s.address()], s)
}

func (p *rotator) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[s.address()] = slices.DeleteFunc(p.open[s.address()], func(o *session) bool { return o == s })
	if len(p.open[s.address()]) == 0 {
		delete(p.open, s.address())
	}
}

// newest gives the newest session, nil where there is none.
func (p *rotator) newest(address string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open := p.open[address]; len(open) > 0 {
		return open[len(open)-1]
	}
	return nil
}

// Verify binds on a connection of its own, at the server that the newest session talks to:
// another may not have heard of the change.
func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	if v.Credential.Kind != sdk.Password {
		return sdk.VerifyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true}
	}
	server, _, err := newServer(v.Host, v.Resource)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	began := time.Now()
	if s := p.newest(v.Resource.Address); s != nil {
		server.Prefer = s.where()
	}
	c, err := login(ctx, server, v.Account.Name, v.Credential.Secret)
	if err == nil {
		c.HangUp()
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	var e *sdk.Error
	switch {
	case !errors.As(err, &e):
		return sdk.VerifyResponse{}, err
	case e.Reason == "bad_secret":
		return p.refused(ctx, v, began)
	case e.Reason == "locked", e.Reason == "expired", e.Reason == "no_login", e.Reason == "throttled":
		return undecided(e.Reason)
	case e.Class == sdk.ClassUnreachable:
		return undecided("unreachable")
	}
	return sdk.VerifyResponse{}, err
}

// lockAttributes are where servers write down that nobody may log in to an account:
// OpenLDAP's password policy, 389 Directory Server's, and its switch.
var lockAttributes = []string{"pwdAccountLockedTime", "accountUnlockTime", "nsAccountLock"}

// timeAttributes are where OpenLDAP's password policy writes down when it lets an account
// in: not until such a time, or else not from then on.
var timeAttributes = []struct {
	name   string
	until  bool
	reason string
}{
	{"pwdAccountTmpLockoutEnd", true, "throttled"},
	{"pwdStartTime", true, "disabled"},
	{"pwdEndTime", false, "expired"},
}

// lookedAt are the attributes of an entry that are read; 1.1 stands for none.
func lookedAt() []string {
	out := append([]string{"1.1"}, lockAttributes...)
	for _, a := range timeAttributes {
		out = append(out, a.name)
	}
	return out
}

// heldBack says why an account is let in with no secret at that time, by what its entry
// says; empty: it does not say so.
func heldBack(entry *ldap.Entry, now time.Time) string {
	for _, a := range lockAttributes {
		if entry.GetAttributeValue(a) != "" {
			return "locked"
		}
	}
	for _, a := range timeAttributes {
		text := entry.GetAttributeValue(a.name)
		when, err := generalizedTime(text)
		switch {
		case text == "":
		case err != nil, a.until && now.Before(when.Add(clocks)), !a.until && now.After(when.Add(-clocks)):
			return a.reason
		}
	}
	return ""
}

// clocks is how far this machine's clock and the server's may be apart: OpenLDAP does not tell its
// own.
const clocks = time.Minute

// generalizedTime reads a time as people and servers write it (RFC 4517, 3.3.13).
func generalizedTime(text string) (t time.Time, err error) {
	for _, form := range []string{"20060102150405Z0700", "200601021504Z0700", "2006010215Z0700"} {
		if t, err = time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return t, err
}

// refused asks the administrator why: a server answers an entry that is missing, and by
// default one that is locked, exactly as it answers a wrong password. Where he is not
// logged in, nobody knows.
func (p *rotator) refused(ctx context.Context, v sdk.VerifyRequest, began time.Time) (sdk.VerifyResponse, error) {
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	s := p.newest(v.Resource.Address)
	if s == nil || s.self {
		return undecided("not_judged")
	}
	c, entry, err := s.look(ctx, v.Account.Name)
	if err != nil {
		return undecided("not_judged")
	}
	s.pool.Give(c, c.Alive())
	if entry == nil { // or he may not see it
		return undecided("not_judged")
	}
	if why := heldBack(entry, began); why != "" {
		return undecided(why)
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
