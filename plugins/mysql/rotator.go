package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// rotator remembers its open sessions, by address, only to ask them why a login was
// refused; a login itself never goes through one.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

// Open logs the administrator in, and finds out what the server is and whether he may read
// what is stored of accounts: a change that does not know how an account logs in would
// end what it does not know of.
func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := notCancelled(ctx); err != nil {
		return nil, err
	}
	if r.Admin.Kind != sdk.Password {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: errors.New("administrator needs a password")}
	}
	t, err := newTarget(r.Host, r.Resource)
	if err != nil {
		return nil, err
	}
	s := &session{target: t, admin: accountOf(r.AdminAs), self: r.Self}
	s.pool = pool.New(concurrency, func(ctx context.Context) (*login, error) {
		c, err := t.connect(ctx, s.admin, r.Admin.Secret)
		if err != nil {
			return nil, err
		}
		if err := c.prepare(ctx); err != nil {
			c.hangUp()
			return nil, lookError(ctx, err)
		}
		return c, nil
	}, (*login).hangUp)
	s.closed = func() { p.forget(s) }
	if err := s.begin(ctx); err != nil {
		s.pool.Close()
		return nil, adminRefused(err)
	}
	p.remember(s)
	return s, nil
}

func (s *session) begin(ctx context.Context) error {
	c, rows, err := s.ask(ctx, statement{text: "SELECT VERSION()"})
	if err != nil {
		return err
	}
	s.pool.Give(c, c.alive())
	if len(rows) != 1 {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.version", NotSent: true, Err: errors.New("server does not say what it is")}
	}
	if s.server, err = readServer(rows[0][0]); err != nil {
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.version", NotSent: true, Err: err}
	}
	if s.self {
		c, err := s.isItself(ctx)
		if err == nil {
			s.pool.Give(c, c.alive())
		}
		return err
	}
	if !s.server.two() && !s.target.config.Single {
		return &sdk.Error{
			Class: sdk.ClassUnsupported, Reason: "target.single", NotSent: true,
			Err: fmt.Errorf("server's version is %s: its accounts have one password, which a change ends at once; set single for the resource if that may be", rows[0][0]),
		}
	}
	c, _, err = s.look(ctx, account{}) // which is nobody's
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Reason == "admin.rights" {
		return &sdk.Error{Class: e.Class, Reason: e.Reason, NotSent: true, Err: fmt.Errorf("administrator may not read %s, and needs to: %w", s.server.table(), e.Err)}
	}
	if err != nil {
		return err
	}
	s.pool.Give(c, c.alive())
	return nil
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
	a := s.target.resource.Address
	p.open[a] = append(p.open[a], s)
}

func (p *rotator) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := s.target.resource.Address
	p.open[a] = slices.DeleteFunc(p.open[a], func(o *session) bool { return o == s })
	if len(p.open[a]) == 0 {
		delete(p.open, a)
	}
}

// Verify logs in on a connection of its own and runs a statement, which a password that
// has expired does not open.
func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	if v.Credential.Kind != sdk.Password {
		return sdk.VerifyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true}
	}
	t, err := newTarget(v.Host, v.Resource)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	who := accountOf(v.Account)
	as, err := t.comesInAs(ctx, who, v.Credential.Secret)
	switch {
	case err == nil && as == who.String():
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	case err == nil: // the same name at another host, whose password this is
		return p.asked(ctx, v, who, false), nil
	}
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	var e *sdk.Error
	switch {
	case !errors.As(err, &e):
		return sdk.VerifyResponse{}, err
	case e.Reason == "bad_secret", e.Reason == "auth.switch":
		return p.asked(ctx, v, who, e.Reason == "bad_secret"), nil
	case e.Reason == "locked", e.Reason == "expired", e.Reason == "no_login", e.Reason == "throttled":
		return undecided(e.Reason)
	case e.Class == sdk.ClassUnreachable:
		return undecided("unreachable")
	}
	return sdk.VerifyResponse{}, err
}

// comesInAs logs in and says which account the server took that for.
func (t target) comesInAs(ctx context.Context, who account, secret sdk.Secret) (string, error) {
	c, err := t.connect(ctx, who, secret)
	if err != nil {
		return "", err
	}
	defer c.hangUp()
	as, err := c.who(ctx)
	if err != nil {
		code, answered := codeOf(err)
		if !answered {
			return "", &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", Err: err}
		}
		class, reason := loginRefused(code)
		return "", &sdk.Error{Class: class, Reason: reason, Err: err}
	}
	return as, nil
}

// asked is what the administrator says of a password that did not open its account: the
// server answers an account that is missing, and one that may not come from here, exactly
// as it answers a wrong password. He compares it with what is stored. Where he is not
// logged in, nobody knows.
func (p *rotator) asked(ctx context.Context, v sdk.VerifyRequest, who account, refused bool) sdk.VerifyResponse {
	undecided := func(reason string) sdk.VerifyResponse {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}
	}
	s := p.newest(v.Resource.Address, who)
	if s == nil {
		return undecided("not_judged")
	}
	if s.self {
		// The server took this login for the account that is logged in itself, from the same
		// host: so it was the password that it refused.
		if !refused {
			return undecided("not_judged")
		}
		c, err := s.isItself(ctx)
		if err != nil {
			return undecided("not_judged")
		}
		s.pool.Give(c, c.alive())
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
	}
	c, u, err := s.look(ctx, who)
	if err != nil {
		return undecided("not_judged")
	}
	s.pool.Give(c, c.alive())
	password := v.Credential.Secret.Expose()
	defer clear(password)
	out := u.judge(password)
	switch {
	case out.Verdict != sdk.Accepted:
		return out
	case u.locked:
		return undecided("locked")
	case u.expired:
		return undecided("expired")
	}
	return undecided("no_login") // it is the account's, which does not come in from here
}

// newest is the newest administrator's session on a server, else the account's own.
func (p *rotator) newest(address string, who account) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	var own *session
	for _, s := range slices.Backward(p.open[address]) {
		if !s.self {
			return s
		}
		if own == nil && s.admin == who {
			own = s
		}
	}
	return own
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
