package main

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"

	"github.com/gomodule/redigo/redis"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// rotator remembers its open sessions, by address, only to ask them why a login was
// refused; a login itself never goes through one.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

// Open logs the administrator in and asks the server where it keeps its users.
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
	s := &session{target: t}
	s.pool = pool.New(concurrency, func(ctx context.Context) (*login, error) {
		return t.connect(ctx, r.AdminAs.Name, r.Admin.Secret)
	}, (*login).hangUp)
	s.closed = func() { p.forget(s) }
	c, _, err := s.pool.Take(ctx)
	if err != nil {
		return nil, adminRefused(err)
	}
	s.save, err = saving(ctx, c, t.unsaved)
	s.pool.Give(c, c.alive())
	if err != nil {
		s.pool.Close()
		return nil, err
	}
	p.remember(s)
	return s, nil
}

// saving finds the command that has a change of users outlive a restart; nil where the
// resource says that there is none.
func saving(ctx context.Context, c *login, unsaved bool) ([]string, error) {
	if unsaved {
		return nil, nil
	}
	values, err := redis.Strings(c.do(ctx, "CONFIG", "GET", "aclfile"))
	if err != nil {
		return nil, lookError(ctx, err)
	}
	if len(values) == 2 && values[1] != "" {
		return []string{"ACL", "SAVE"}, nil
	}
	info, err := redis.String(c.do(ctx, "INFO", "server"))
	if err != nil {
		return nil, lookError(ctx, err)
	}
	if hasConfigFile(info) {
		return []string{"CONFIG", "REWRITE"}, nil
	}
	return nil, &sdk.Error{
		Class: sdk.ClassUnsupported, Reason: "target.unsaved", NotSent: true,
		Err: errors.New("server has neither an aclfile nor a configuration file: its users would be lost with a restart; give it one, or set unsaved for the resource"),
	}
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

// Verify logs in on a connection of its own.
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
	c, err := t.connect(ctx, v.Account.Name, v.Credential.Secret)
	var e *sdk.Error
	switch {
	case err == nil:
		c.hangUp()
		u, asked := p.ask(ctx, v)
		switch { // every password opens such a user: that this one did says nothing
		case asked && u.anything: // and none is its own
			return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "account.nopass"}, nil
		case !asked && !t.judges(ctx, v.Account.Name):
			return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}, nil
		}
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	case errors.As(err, &e) && e.Reason == "bad_secret":
		return p.refused(ctx, v), nil
	case errors.As(err, &e) && e.Class == sdk.ClassUnreachable:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "unreachable"}, nil
	}
	return sdk.VerifyResponse{}, err
}

// judges says whether the server refuses a user a password that nobody can know, for when
// nobody can be asked whether any opens it. Where it does not say so, nobody knows.
func (t target) judges(ctx context.Context, name string) bool {
	c, err := t.connect(ctx, name, sdk.NewSecret([]byte(rand.Text())))
	if err == nil {
		c.hangUp()
		return false
	}
	var e *sdk.Error
	return errors.As(err, &e) && e.Reason == "bad_secret"
}

// refused asks the administrator why: the server answers a user that is missing, and one
// that is switched off, exactly as it answers a wrong password. Where he is not logged
// in, nobody knows.
func (p *rotator) refused(ctx context.Context, v sdk.VerifyRequest) sdk.VerifyResponse {
	u, asked := p.ask(ctx, v)
	switch {
	case !asked:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}
	case u.found && !u.on:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "disabled"}
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
}

// ask looks a user up through the newest session of its server, if there is one.
func (p *rotator) ask(ctx context.Context, v sdk.VerifyRequest) (u user, asked bool) {
	p.mu.Lock()
	var s *session
	if open := p.open[v.Resource.Address]; len(open) > 0 {
		s = open[len(open)-1]
	}
	p.mu.Unlock()
	if s == nil {
		return user{}, false
	}
	c, u, err := s.look(ctx, v.Account.Name)
	if err != nil {
		return user{}, false
	}
	s.pool.Give(c, c.alive())
	return u, true
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
