package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/directory"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// session is one administrator at one controller, or an account that changes itself.
type session struct {
	server directory.Server
	admin  string
	secret sdk.Secret
	self   bool
	domain domain
	pool   *pool.Pool[*directory.Conn]
	closed func()

	mu sync.Mutex
	at string // the controller, of those that the address may lead to
}

func (s *session) address() string { return s.server.Resource.Address }

func (s *session) controller() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// connect logs in once more, at the same controller while it answers.
func (s *session) connect(ctx context.Context) (*directory.Conn, error) {
	server := s.server
	server.Prefer = s.controller()
	c, err := login(ctx, server, s.admin, s.secret)
	if err == nil {
		s.mu.Lock()
		s.at = c.Remote()
		s.mu.Unlock()
	}
	return c, err
}

// Close says goodbye on idle connections. It may be called twice.
func (s *session) Close() error {
	s.pool.Close()
	s.closed()
	return nil
}

// look finds an account's entry, nil where there is none or where the administrator sees
// none, and gives the connection it was found on, which is thereby known to be alive.
func (s *session) look(ctx context.Context, name string) (*directory.Conn, *ldap.Entry, error) {
	for {
		c, used, err := s.pool.Take(ctx)
		if err != nil {
			return nil, nil, err
		}
		e, err := s.find(ctx, c, name)
		if err == nil {
			return c, e, nil
		}
		alive := c.Alive()
		s.pool.Give(c, alive)
		if used && !alive && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, nil, err
	}
}

func (s *session) find(ctx context.Context, c *directory.Conn, name string) (*ldap.Entry, error) {
	q, ok := s.domain.query(name)
	if !ok {
		return nil, nil
	}
	found, err := search(ctx, c, q, accountAttributes...)
	switch {
	case err != nil:
		return nil, err
	case len(found) > 1:
		return nil, ambiguous()
	case len(found) == 0 || !q.is(found[0]):
		return nil, nil
	}
	return found[0], nil
}

// see tells how an account stands with logins; nil where there is none that the
// administrator sees, or nobody to ask.
func (s *session) see(ctx context.Context, name string) (*account, error) {
	if s == nil {
		return nil, nil
	}
	c, e, err := s.look(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { s.pool.Give(c, c.Alive()) }()
	return s.standing(ctx, c, e)
}

// seeItself is see of the session's own account, on a connection that is there: a login made
// for it, by what may be a former password by now, would be one of those that it is to spare.
func (s *session) seeItself(ctx context.Context) (*account, error) {
	if s == nil {
		return nil, nil
	}
	c, ok := s.pool.Idle()
	if !ok {
		return nil, nil
	}
	defer func() { s.pool.Give(c, c.Alive()) }()
	e, err := s.find(ctx, c, s.admin)
	if err != nil {
		return nil, err
	}
	return s.standing(ctx, c, e)
}

func (s *session) standing(ctx context.Context, c *directory.Conn, e *ldap.Entry) (*account, error) {
	if e == nil {
		return nil, nil
	}
	spared, err := s.spared(ctx, c, e)
	return &account{dn: e.DN, barred: barred(e), spared: spared}, err
}

// Apply sets the candidate.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	if a.Candidate.Kind != sdk.Password {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("an account of a domain has no %s", a.Candidate.Kind)}
	}
	if s.self && a.Account.Name != s.admin {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own account only")}
	}
	next, ok := unicodePwd(a.Candidate.Secret)
	if !ok {
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	c, e, err := s.look(ctx, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.Alive()) }()
	if e == nil {
		return unchanged(sdk.ClassNotFound, "account.missing")
	}
	if s.self {
		// A former password that is wrong counts as a failed login.
		if spared, err := s.spared(ctx, c, e); err != nil || !spared {
			return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "throttled", NotSent: true, Err: err}
		}
	}
	out, err := outcome(c.Do(ctx, func() error { return c.Modify(s.modify(e.DN, a.Current.Secret, next)) }))
	if s.self && (out.Class == sdk.ClassPolicy || out.Class == sdk.ClassAuth) {
		return s.unlessSet(ctx, c, e, a, out.Class, out.Reason)
	}
	return out, err
}

// outcome is what became of a change, by how the call of the library ended.
func outcome(err error) (sdk.ApplyResponse, error) {
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	code, ok := directory.Code(err)
	if !ok { // it was sent and there is no answer: the zero outcome
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	if code == ldap.LDAPResultOther || code == ldap.LDAPResultOperationsError { // it went wrong, and nobody says when
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.failed", Err: err}
	}
	class, reason := refusal(code, directory.Text(err))
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
}

func (s *session) spared(ctx context.Context, c *directory.Conn, e *ldap.Entry) (bool, error) {
	p, err := policyOf(ctx, c, s.domain, e)
	if err != nil {
		return false, err
	}
	return p.spared(ctx, c, e)
}

// unlessSet finds out what the account's own change was refused for. A candidate that is
// its password already is refused as one that was used before, or because the former one
// is wrong; that is so where this change was made before and its answer was lost.
func (s *session) unlessSet(ctx context.Context, c *directory.Conn, before *ldap.Entry, a sdk.ApplyRequest, class sdk.Class, reason string) (sdk.ApplyResponse, error) {
	lost := func(reason string, err error) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: reason, Err: err}
	}
	e, err := read(ctx, c, before.DN, accountAttributes...)
	if err != nil || e == nil {
		return lost(notJudged, err)
	}
	if spared, err := s.spared(ctx, c, e); err != nil || !spared {
		return lost("throttled", err)
	}
	server := s.server
	server.Prefer = s.controller()
	own, err := login(ctx, server, e.DN, a.Candidate.Secret)
	if err == nil {
		own.HangUp()
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	if refused := (*sdk.Error)(nil); !errors.As(err, &refused) || refused.Reason != "bad_secret" {
		return lost(notJudged, err)
	}
	if class == sdk.ClassPolicy {
		p, err := policyOf(ctx, c, s.domain, e)
		if err != nil {
			return lost(notJudged, err)
		}
		soon, err := p.tooSoon(ctx, c, e)
		if err != nil {
			return lost(notJudged, err)
		}
		if soon { // another candidate would be refused, too, and this one taken later
			class, reason = sdk.ClassUnreachable, "policy.too_soon"
		}
	}
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
}

// modify resets a password; an account that changes itself takes its own away and adds
// the new one ([MS-ADTS] 3.1.1.3.1.5).
func (s *session) modify(dn string, current sdk.Secret, next string) *ldap.ModifyRequest {
	r := ldap.NewModifyRequest(dn, nil)
	if s.self {
		former, _ := unicodePwd(current)
		r.Delete("unicodePwd", []string{former})
		r.Add("unicodePwd", []string{next})
	} else {
		r.Replace("unicodePwd", []string{next})
	}
	return r
}

// unicodePwd is a password as the attribute takes it: quoted, in UTF-16. It is false of
// one that is empty or no text, or has a NUL, at which logins end.
func unicodePwd(secret sdk.Secret) (string, bool) {
	b := secret.Expose()
	defer clear(b)
	if len(b) == 0 || !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return "", false
	}
	out := []byte{'"', 0}
	for _, u := range utf16.Encode([]rune(string(b))) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(append(out, '"', 0)), true
}
