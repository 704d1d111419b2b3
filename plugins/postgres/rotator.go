package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/rotunda-pam/rotunda/sdk"
)

// rotator remembers its open sessions, by address, only to ask them why a login was
// refused; a login itself never goes through one.
type rotator struct {
	mu   sync.Mutex
	open map[string][]*session // by address, newest last
}

const oldestServer = 100000 // version 10: the first with SCRAM-SHA-256

// Open logs the administrator in and asks the server how it wants passwords.
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
	s := &session{target: t, admin: r.AdminAs, secret: r.Admin.Secret, self: r.Self, open: true, slots: make(chan struct{}, concurrency)}
	s.closed = func() { p.forget(s) }
	c, _, err := s.take(ctx)
	if err != nil {
		return nil, adminRefused(err)
	}
	rows, err := query(ctx, c, "SELECT current_setting('server_version_num'), current_setting('password_encryption'), coalesce(current_setting('scram_iterations', true), '')")
	s.give(c)
	if err != nil || len(rows) != 1 {
		_ = s.Close()
		return nil, lookError(ctx, err)
	}
	if version, err := strconv.Atoi(rows[0][0]); err != nil || version < oldestServer {
		_ = s.Close()
		return nil, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "server.version", NotSent: true, Err: errors.New("server is older than PostgreSQL 10")}
	}
	if rows[0][1] != "scram-sha-256" && r.Host.Log != nil {
		r.Host.Log.Warn("server's password_encryption is not scram-sha-256; accounts get scram-sha-256 verifiers nevertheless, with which clients of before PostgreSQL 10 cannot log in",
			"address", r.Resource.Address, "password_encryption", rows[0][1])
	}
	s.iterations = defaultIterations
	if n, err := strconv.Atoi(rows[0][2]); err == nil && n >= 1 && n <= maxIterations {
		s.iterations = n
	}
	p.remember(s)
	return s, nil
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
	case "no_login":
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

// Verify logs in on a connection of its own and runs a statement.
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
	c, err := t.connect(ctx, v.Account, v.Credential.Secret)
	if err != nil {
		return p.refused(ctx, v, err)
	}
	defer hangUp(c)
	// One message, where a statement with parameters takes five.
	if r, err := c.Exec(ctx, "SELECT 1").ReadAll(); err != nil || len(r) != 1 || len(r[0].Rows) != 1 {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "unreachable"}, nil
	}
	return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
}

// refused tells a secret that was judged and found wrong from everything else.
func (p *rotator) refused(ctx context.Context, v sdk.VerifyRequest, err error) (sdk.VerifyResponse, error) {
	var e *sdk.Error
	if !errors.As(err, &e) {
		return sdk.VerifyResponse{}, err
	}
	switch {
	case e.Reason == "bad_secret":
		if why := p.otherReason(ctx, v); why != "" {
			return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: why}, nil
		}
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	case e.Reason == "no_login":
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "no_login"}, nil
	case e.Reason == "throttled":
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "throttled"}, nil
	case e.Class == sdk.ClassUnreachable:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "unreachable"}, nil
	}
	return sdk.VerifyResponse{}, err
}

// otherReason asks the administrator why a login was refused: the server answers a
// role that is missing and one whose time is up exactly as it answers a wrong password.
// Where he is not logged in, nobody knows.
func (p *rotator) otherReason(ctx context.Context, v sdk.VerifyRequest) string {
	p.mu.Lock()
	var s *session
	if open := p.open[v.Resource.Address]; len(open) > 0 {
		s = open[len(open)-1]
	}
	p.mu.Unlock()
	if s == nil {
		return "not_judged"
	}
	c, r, err := s.look(ctx, v.Account.Name)
	if err != nil {
		return "unreachable" // not known, so not proven
	}
	s.give(c)
	if r.found && r.expired {
		return "expired"
	}
	return ""
}
