package main

import (
	"context"
	"errors"
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

// Open logs the administrator in.
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
	s.pool = pool.New(concurrency, func(ctx context.Context) (*conn, error) {
		return t.connect(ctx, s.admin, r.Admin.Secret)
	}, (*conn).hangUp)
	s.closed = func() { p.forget(s) }
	c, _, err := s.pool.Take(ctx)
	if err != nil {
		return nil, adminRefused(err)
	}
	s.pool.Give(c, !c.dead)
	p.remember(s)
	return s, nil
}

// adminRefused says that it was the administrator who could not log in.
func adminRefused(err error) error {
	var e *sdk.Error
	if errors.As(err, &e) && e.Reason == "bad_secret" {
		return &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: e.Err}
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

// Verify logs in on a connection of its own and asks the server whom it let in.
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
	c, err := t.connect(ctx, who, v.Credential.Secret)
	var e *sdk.Error
	switch {
	case err == nil:
		c.hangUp()
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	case errors.As(err, &e) && e.Reason == "bad_secret":
		return p.asked(ctx, v, who), nil
	case errors.As(err, &e) && e.Class == sdk.ClassUnreachable:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "unreachable"}, nil
	}
	return sdk.VerifyResponse{}, err
}

// asked is what the administrator says of a password that did not open its user: the server
// answers a user that is missing, and one that may not come from here, exactly as it
// answers a wrong password. He compares it with what is stored. Where he is not logged in,
// or sees no credentials, nobody knows.
func (p *rotator) asked(ctx context.Context, v sdk.VerifyRequest, who account) sdk.VerifyResponse {
	undecided := sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}
	s := p.newest(v.Resource.Address, who)
	if s == nil {
		return undecided
	}
	c, u, err := s.look(ctx, who, true)
	if err != nil {
		return undecided
	}
	s.pool.Give(c, !c.dead)
	if !u.found {
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
	}
	out := u.judge(who, v.Credential.Secret)
	if out.Verdict == sdk.Accepted { // it is the user's, who does not come in from here
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "no_login"}
	}
	return out
}

// newest is the newest administrator's session on a server, else the user's own.
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
