package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gomodule/redigo/redis"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// session is one administrator on one server.
type session struct {
	target target
	pool   *pool.Pool[*login]
	save   []string // the command that has a change outlive a restart; nil: there is none
	closed func()
}

// Close hangs up. It may be called twice.
func (s *session) Close() error {
	s.pool.Close()
	s.closed()
	return nil
}

// look finds a user and gives the connection it was found on, which is thereby known to
// be alive: an idle one may have died unnoticed, and finding that out by the change
// itself would make the change's outcome unknown.
func (s *session) look(ctx context.Context, name string) (*login, user, error) {
	for {
		c, used, err := s.pool.Take(ctx)
		if err != nil {
			return nil, user{}, err
		}
		reply, err := c.do(ctx, "ACL", "GETUSER", name)
		if err == nil {
			u, err := readUser(reply)
			if err != nil {
				s.pool.Give(c, false)
				return nil, user{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.refused", NotSent: true, Err: err}
			}
			return c, u, nil
		}
		alive := c.alive()
		s.pool.Give(c, alive)
		if used && !alive && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, user{}, lookError(ctx, err)
	}
}

// lookError classes an error of a question: nothing was changed.
func lookError(ctx context.Context, err error) error {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return lineError(ctx, err)
	}
	out := &sdk.Error{NotSent: true, Err: err}
	out.Class, out.Reason = refusal(answer)
	return out
}

// refusal reads the code of an error that ended a command, which then did nothing.
func refusal(e redis.Error) (sdk.Class, string) {
	switch code(e) {
	case "NOPERM":
		return sdk.ClassPermission, "admin.rights"
	case "NOAUTH": // its own password was changed meanwhile
		return sdk.ClassAuth, "admin.refused"
	case "LOADING", "BUSY", "MASTERDOWN", "OOM":
		return sdk.ClassUnreachable, "target.busy"
	}
	if strings.Contains(string(e), "unknown command") { // the one text that has no code of its own
		return sdk.ClassUnsupported, "target.refused"
	}
	return sdk.ClassConflict, "target.refused"
}

// Apply adds the candidate to the user's passwords.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	if a.Candidate.Kind != sdk.Password {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("a user has no %s", a.Candidate.Kind)}
	}
	c, u, err := s.look(ctx, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, c.alive()) }()
	if !u.found { // ACL SETUSER would make it
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, nil
	}
	if u.anything && a.Current.Secret.Len() > 0 {
		// A first password ends "any password" at once, and with it the current one, which is
		// to go on until it is retired.
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.nopass"}, nil
	}
	return s.change(ctx, c, a.Account.Name, "#"+digest(a.Candidate.Secret))
}

// change alters a user by one rule and saves it.
func (s *session) change(ctx context.Context, c *login, name, rule string) (sdk.ApplyResponse, error) {
	if _, err := c.do(ctx, "ACL", "SETUSER", name, rule); err != nil {
		if answer := redis.Error(""); errors.As(err, &answer) {
			class, reason := refusal(answer)
			return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
		}
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	if err := s.keep(ctx, c); err != nil {
		return sdk.ApplyResponse{}, err
	}
	return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
}

// keep has the users outlive a restart. What could not be saved is not known: the next
// restart decides.
func (s *session) keep(ctx context.Context, c *login) error {
	if s.save == nil {
		return nil
	}
	if _, err := c.do(ctx, s.save[0], s.save[1]); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.unsaved", Err: fmt.Errorf("the change was made and could not be saved: %w", err)}
	}
	return nil
}

// Retire takes the former password away, and no other.
func (s *session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.RetireResponse{}, err
	}
	old, keep := digest(r.Old.Secret), digest(r.Keep.Secret)
	c, u, err := s.look(ctx, r.Account.Name)
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	defer func() { s.pool.Give(c, c.alive()) }()
	switch {
	case old == keep:
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil // it is to stay
	case !u.has(old): // gone already, but perhaps not from the file
		if err := s.keep(ctx, c); err != nil {
			return sdk.RetireResponse{}, err
		}
		return sdk.RetireResponse{Outcome: sdk.Changed}, nil
	case !u.has(keep): // it would be left with no password that anybody knows of
		return sdk.RetireResponse{Outcome: sdk.Unchanged}, nil
	}
	out, err := s.change(ctx, c, r.Account.Name, "!"+old)
	return sdk.RetireResponse{Outcome: out.Outcome}, err
}

// Readback compares the candidate with what the server stores.
func (s *session) Readback(ctx context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	c, u, err := s.look(ctx, a.Account.Name)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	s.pool.Give(c, c.alive())
	switch {
	case !u.found:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "account.missing"}, nil
	case !u.on:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "disabled"}, nil
	case u.anything:
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "not_judged"}, nil
	case u.has(digest(a.Candidate.Secret)):
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
}

// hasConfigFile reads the answer to INFO server.
func hasConfigFile(info string) bool {
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		if file, ok := strings.CutPrefix(lines.Text(), "config_file:"); ok {
			return strings.TrimSpace(file) != ""
		}
	}
	return false
}
