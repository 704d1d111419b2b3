package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// session is one administrator on one server, or an account that changes itself.
type session struct {
	target target
	server server
	admin  account
	self   bool
	pool   *pool.Pool[*login]
	closed func()
}

// Close says goodbye on idle connections. It may be called twice.
func (s *session) Close() error {
	s.pool.Close()
	s.closed()
	return nil
}

// ask runs a query that changes nothing, again on the next connection where an idle one
// has died. It gives the connection, which is thereby known to be alive: an idle one may
// have died unnoticed, and finding that out by the change itself would make the change's
// outcome unknown.
func (s *session) ask(ctx context.Context, q statement) (*login, [][]string, error) {
	for {
		c, used, err := s.pool.Take(ctx)
		if err != nil {
			return nil, nil, err
		}
		rows, err := c.query(ctx, q)
		if err == nil {
			return c, rows, nil
		}
		alive := c.alive()
		s.pool.Give(c, alive)
		if used && !alive && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, nil, lookError(ctx, err)
	}
}

// look finds an account, and gives the connection it was found on.
func (s *session) look(ctx context.Context, a account) (*login, user, error) {
	c, rows, err := s.ask(ctx, s.server.look(a))
	if err != nil {
		return nil, user{}, err
	}
	u, err := s.server.read(a, rows)
	if err != nil {
		s.pool.Give(c, c.alive())
		return nil, user{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "catalogue", NotSent: true, Err: err}
	}
	return c, u, nil
}

// isItself asks whether the connections of an account that changes itself are that
// account's: one of the same name may have been made for a closer host.
func (s *session) isItself(ctx context.Context) (*login, error) {
	c, rows, err := s.ask(ctx, statement{text: "SELECT CURRENT_USER()"})
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || rows[0][0] != s.admin.String() {
		s.pool.Give(c, c.alive())
		return nil, &sdk.Error{
			Class: sdk.ClassInvalid, Reason: "account.scope", NotSent: true,
			Err: fmt.Errorf("from here the account's login is not taken for %s: give the host part that it is taken for as its scope", s.admin),
		}
	}
	return c, nil
}

func unchanged(class sdk.Class, reason string) sdk.ApplyResponse {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}
}

// Apply sets the candidate.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	who := accountOf(a.Account)
	switch {
	case a.Candidate.Kind != sdk.Password:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("an account has no %s", a.Candidate.Kind)}
	case s.self && who != s.admin:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own account only")}
	case !who.possible():
		return unchanged(sdk.ClassNotFound, "account.missing"), nil
	}
	candidate, current := a.Candidate.Secret.Expose(), a.Current.Secret.Expose()
	defer clear(candidate)
	defer clear(current)
	if !sendable(candidate) {
		return unchanged(sdk.ClassPolicy, "policy.charset"), nil
	}
	if s.self {
		return s.applyOwn(ctx, candidate, current, a.Candidate.Secret)
	}
	c, u, err := s.look(ctx, who)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.alive()) }()
	if !u.found {
		return unchanged(sdk.ClassNotFound, "account.missing"), nil
	}
	change, err := s.server.apply(u, candidate, current, s.target.config)
	switch {
	case err != nil:
		s.target.host.Log.Warn("the account's password cannot be set", "account", who.String(), "error", err)
		return unchanged(sdk.ClassUnsupported, "account.method"), nil
	case change == nil:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	return s.change(ctx, c, *change)
}

// change runs a statement that changes an account, and says what became of it.
func (s *session) change(ctx context.Context, c *login, change statement) (sdk.ApplyResponse, error) {
	err := c.run(ctx, change)
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	code, answered := codeOf(err)
	if !answered { // it was sent and there is no answer: the zero outcome
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	if code == 1396 { // the account's statement failed; MariaDB has the cause in a list
		code = c.cause(ctx, code)
	}
	if code == 1290 { // an option of the server's forbids it, and only the text says which
		class, reason := c.forbidden(ctx)
		return unchanged(class, reason), nil
	}
	class, reason, proven := changeRefused(code)
	if !proven {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.failed", Err: err}
	}
	return unchanged(class, reason), nil
}

// cause is the number of the first error behind the one that was answered.
func (l *login) cause(ctx context.Context, code uint16) uint16 {
	rows, err := l.query(ctx, statement{text: "SHOW WARNINGS"})
	if err != nil {
		return code
	}
	for _, r := range rows { // level, number, text
		if len(r) != 3 || r[0] != "Error" {
			continue
		}
		if n, err := strconv.ParseUint(r[1], 10, 16); err == nil {
			return uint16(n)
		}
	}
	return code
}

// forbidden tells apart the options by which a server forbids a change.
func (l *login) forbidden(ctx context.Context) (sdk.Class, string) {
	rows, err := l.query(ctx, statement{text: "SELECT @@global.read_only"})
	switch {
	case err != nil || len(rows) != 1:
		return sdk.ClassConflict, "target.refused"
	case rows[0][0] == "0":
		// MariaDB's strict_password_validation: it wants to judge the password, and was given
		// a digest.
		return sdk.ClassUnsupported, "policy.digest"
	}
	return sdk.ClassConflict, "target.read_only"
}

// applyOwn has the account change its password itself. It has one then: for a second it
// would need an administrator's rights.
func (s *session) applyOwn(ctx context.Context, candidate, current []byte, secret sdk.Secret) (out sdk.ApplyResponse, err error) {
	c, err := s.isItself(ctx)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.alive()) }()
	for _, one := range s.server.own(candidate, current, s.target.config) {
		if out, err = s.change(ctx, c, one); err != nil || out.Reason != "account.method" {
			break
		}
	}
	if err != nil || out.Outcome != sdk.Unchanged || out.Class != sdk.ClassPolicy && out.Reason != "account.current" {
		return out, err
	}
	// A candidate that was set already is refused as one that was used before, and what was
	// current then is not any more.
	again, err := s.target.connect(ctx, s.admin, secret)
	if err == nil {
		again.hangUp()
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Reason == "bad_secret" {
		return out, nil
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "not_judged", Err: err}
}

// Retire takes the former password away, and no other.
func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.RetireResponse{}, err
	}
	if r.Old.Secret.Equal(r.Keep.Secret) {
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil // it is to stay
	}
	who := accountOf(r.Account)
	switch {
	case !who.possible():
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	case s.self:
		return s.retireOwn(ctx, who, r.Old.Secret)
	}
	keep, old := r.Keep.Secret.Expose(), r.Old.Secret.Expose()
	defer clear(keep)
	defer clear(old)
	c, u, err := s.look(ctx, who)
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	defer func() { s.pool.Give(c, c.alive()) }()
	change, ok := s.server.retire(u, keep, old)
	switch {
	case !ok: // it would be left with no password that anybody knows of
		return sdk.RetireResponse{Outcome: sdk.Unchanged}, nil
	case change == nil:
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	}
	out, err := s.change(ctx, c, *change)
	return sdk.RetireResponse{Outcome: out.Outcome}, err
}

// retireOwn finds out whether the former password is gone, which it is by the change
// itself unless the account had two. It cannot be taken away without an administrator.
func (s *session) retireOwn(ctx context.Context, who account, old sdk.Secret) (sdk.RetireResponse, error) {
	if who != s.admin {
		return sdk.RetireResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own account only")}
	}
	c, err := s.target.connect(ctx, who, old)
	if err == nil {
		c.hangUp()
		return sdk.RetireResponse{Outcome: sdk.Unchanged}, nil
	}
	if e := (*sdk.Error)(nil); errors.As(err, &e) && e.Reason == "bad_secret" {
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	}
	return sdk.RetireResponse{}, err
}

// Readback compares the candidate with what the server stores.
func (s *session) Readback(ctx context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	who := accountOf(a.Account)
	switch {
	case s.self:
		return undecided("readback.rights")
	case !who.possible():
		return undecided("account.missing")
	}
	c, u, err := s.look(ctx, who)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	s.pool.Give(c, c.alive())
	switch {
	case !u.found:
		return undecided("account.missing")
	case u.locked:
		return undecided("locked")
	case u.expired:
		return undecided("expired")
	}
	candidate := a.Candidate.Secret.Expose()
	defer clear(candidate)
	return u.judge(candidate), nil
}
