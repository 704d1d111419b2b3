package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// rotator remembers its open sessions, by address: which controller they talk to, and
// what they see of an account before and after a login. A login itself never goes
// through one.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

func newServer(h sdk.Host, r sdk.Resource) (directory.Server, error) {
	var c Config
	if err := sdk.DecodeConfig(r, &c); err != nil {
		return directory.Server{}, err
	}
	if r.TLS.Mode == sdk.TLSOff {
		return directory.Server{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.tls", NotSent: true, Err: errors.New("a domain takes passwords over TLS only: say in the resource how the controller proves itself")}
	}
	return directory.Server{Host: h, Resource: r, StartTLS: c.StartTLS}, nil
}

// Open logs the administrator in and asks for the names of the domain.
func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := notCancelled(ctx); err != nil {
		return nil, err
	}
	if r.Admin.Kind != sdk.Password {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: errors.New("administrator needs a password")}
	}
	server, err := newServer(r.Host, r.Resource)
	if err != nil {
		return nil, err
	}
	s := &session{server: server, admin: r.AdminAs.Name, self: r.Self, secret: r.Admin.Secret}
	s.pool = pool.New(concurrency, s.connect, (*directory.Conn).HangUp)
	s.closed = func() { p.forget(s) }
	c, _, err := s.pool.Take(ctx)
	if err != nil {
		return nil, adminRefused(err)
	}
	s.domain, err = domainAsSeen(ctx, c)
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
	if name == "" {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("the account has no name")}
	}
	if empty(secret) { // it would be a login as nobody, which succeeds (RFC 4513, 5.1.2)
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "bad_secret", NotSent: true, Err: errors.New("the password is empty")}
	}
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if !isLoginName(name) {
		d, err := domainOf(ctx, c)
		if err != nil {
			c.HangUp()
			return nil, err
		}
		name += "@" + d.dns
	}
	if _, err := c.Bind(ctx, name, secret); err != nil {
		c.HangUp()
		return nil, loginError(ctx, err)
	}
	return c, nil
}

func empty(s sdk.Secret) bool {
	b := s.Expose()
	defer clear(b)
	return len(b) == 0
}

// domainOf reads what a controller tells everybody.
func domainOf(ctx context.Context, c *directory.Conn) (domain, error) {
	root, err := read(ctx, c, "", "defaultNamingContext", "configurationNamingContext")
	if err != nil {
		return domain{}, err
	}
	if root == nil || root.GetAttributeValue("defaultNamingContext") == "" {
		return domain{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.kind", NotSent: true, Err: errors.New("the server names no domain: it is no controller of an Active Directory")}
	}
	d := domain{root: root.GetAttributeValue("defaultNamingContext"), partition: "CN=Partitions," + root.GetAttributeValue("configurationNamingContext")}
	d.dns = dnsOf(d.root)
	return d, nil
}

// domainAsSeen adds what it tells those who are logged in.
func domainAsSeen(ctx context.Context, c *directory.Conn) (domain, error) {
	d, err := domainOf(ctx, c)
	if err != nil {
		return d, err
	}
	found, err := search(ctx, c, query{base: d.partition, scope: ldap.ScopeSingleLevel, filter: "(nCName=" + ldap.EscapeFilter(d.root) + ")"}, "nETBIOSName")
	if err == nil && len(found) == 1 {
		d.netbios = found[0].GetAttributeValue("nETBIOSName")
	}
	return d, err
}

// read reads one entry by its DN; none is nil.
func read(ctx context.Context, c *directory.Conn, dn string, attributes ...string) (*ldap.Entry, error) {
	found, err := search(ctx, c, query{base: dn, scope: ldap.ScopeBaseObject, filter: "(objectClass=*)"}, attributes...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// most is one entry more than anybody here is content with.
const most = 2

func search(ctx context.Context, c *directory.Conn, q query, attributes ...string) ([]*ldap.Entry, error) {
	var out *ldap.SearchResult
	err := c.Do(ctx, func() (err error) {
		out, err = c.Search(ldap.NewSearchRequest(q.base, q.scope, ldap.NeverDerefAliases, most, 0, false, q.filter, attributes, nil))
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
	case code == ldap.LDAPResultSizeLimitExceeded:
		return nil, ambiguous()
	}
	class, reason := refusal(code, directory.Text(err))
	return nil, &sdk.Error{Class: class, Reason: reason, NotSent: true, Err: err}
}

func ambiguous() error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "account.ambiguous", NotSent: true, Err: errors.New("several accounts have this name: give the account's DN")}
}

// adminRefused says that it was who logs in here who could not, and whether for a wrong
// password: one that is right, and held back, must not be taken for one.
func adminRefused(err error) error {
	var e *sdk.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Reason {
	case "bad_secret", notJudged:
		return &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: e.Err}
	case "no_login", "expired", "disabled", "locked":
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

// sessions gives the newest session, whose controller is the one to ask, the newest of an
// administrator, who may look at accounts, and the newest of the account's own, which may
// look at itself; nil where there is none.
func (p *rotator) sessions(address, name string) (newest, admin, own *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.open[address] {
		newest = s
		switch {
		case !s.self:
			admin = s
		case s.admin == name:
			own = s
		}
	}
	return newest, admin, own
}

// notJudged says of a login that was refused, and of nothing else that nobody could look
// why: the account may be kept out whatever its password.
const notJudged = "not_judged"

// Verify binds on a connection of its own, at the controller that the newest session
// talks to: another may not have heard of the change. The administrator, where he is
// logged in, is asked first whether the account can afford a login that fails, and
// afterwards what stands in its way. An account that rotates itself sees the former while
// it is logged in.
func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	if v.Credential.Kind != sdk.Password {
		return sdk.VerifyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true}
	}
	server, err := newServer(v.Host, v.Resource)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	name := v.Account.Name
	newest, admin, own := p.sessions(v.Resource.Address, name)
	if newest != nil {
		server.Prefer = newest.controller()
	}
	var e *sdk.Error
	before, err := admin.see(ctx, name)
	if admin == nil {
		before, err = own.seeItself(ctx)
	}
	switch {
	case errors.As(err, &e) && e.Class == sdk.ClassConflict:
		return sdk.VerifyResponse{}, err
	case err != nil, before == nil: // the login may find another controller, or show that the name is good
	case before.barred != "":
		return undecided(before.barred)
	case !before.spared:
		return undecided("throttled")
	default:
		name = before.dn
	}
	c, err := login(ctx, server, name, v.Credential.Secret)
	if err == nil {
		c.HangUp()
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	switch {
	case !errors.As(err, &e):
		return sdk.VerifyResponse{}, err
	case e.Reason == "bad_secret":
		after, err := admin.see(ctx, v.Account.Name)
		switch {
		case err != nil, after == nil:
			return undecided(notJudged)
		case after.barred != "":
			return undecided(after.barred)
		}
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	case e.Class == sdk.ClassAuth && e.Reason != "target_identity":
		return undecided(e.Reason)
	case e.Class == sdk.ClassUnreachable:
		return undecided("unreachable")
	}
	return sdk.VerifyResponse{}, err
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
