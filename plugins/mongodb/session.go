package main

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/pool"
)

// session is one administrator on one server, or a user who changes his own password.
type session struct {
	target target
	admin  account
	self   bool
	pool   *pool.Pool[*conn]
	closed func()
}

// Close hangs up. It may be called twice.
func (s *session) Close() error {
	s.pool.Close()
	s.closed()
	return nil
}

// look finds a user, with his credentials where they are asked for, and gives the
// connection that he was found on, which is thereby known to be alive: an idle one may have
// died unnoticed, and finding that out by the change itself would make the change's outcome
// unknown.
func (s *session) look(ctx context.Context, who account, credentials bool) (*conn, user, error) {
	for {
		c, used, err := s.pool.Take(ctx)
		if err != nil {
			return nil, user{}, err
		}
		reply, err := c.run(ctx, who.db, usersInfo(who, credentials))
		if err == nil {
			u, err := readUser(who, reply)
			if err != nil {
				s.pool.Give(c, false)
				return nil, user{}, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.protocol", NotSent: true, Err: err}
			}
			return c, u, nil
		}
		dead := c.dead
		s.pool.Give(c, !dead)
		if used && dead && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, user{}, lookError(ctx, err)
	}
}

func unchanged(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
}

// Apply sets the candidate, for the mechanisms by which the user logs in already: the
// server would take all that it has, weaker ones among them.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	who := accountOf(a.Account)
	candidate := a.Candidate.Secret.ExposeString()
	switch {
	case a.Candidate.Kind != sdk.Password:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("a user has no %s", a.Candidate.Kind)}
	case s.self && who != s.admin:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own user only")}
	case !who.possible():
		return unchanged(sdk.ClassNotFound, "account.missing")
	case !sendable(candidate):
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	c, u, err := s.look(ctx, who, false)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer func() { s.pool.Give(c, !c.dead) }()
	switch {
	case !u.found:
		return unchanged(sdk.ClassNotFound, "account.missing")
	case len(u.mechanisms) == 0: // a certificate, or another directory
		return unchanged(sdk.ClassUnsupported, "account.method")
	}
	_, err = c.run(ctx, who.db, bson.D{
		{Key: "updateUser", Value: who.name},
		{Key: "pwd", Value: candidate},
		{Key: "mechanisms", Value: u.mechanisms},
		// What one member took alone is undone when another becomes the primary.
		{Key: "writeConcern", Value: bson.D{{Key: "w", Value: "majority"}}},
	})
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	var answer *refusal
	if !errors.As(err, &answer) { // it was sent and there is no answer: the zero outcome
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
	}
	if answer.done {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.unsaved", Err: fmt.Errorf("the primary made the change, and may lose it: %w", answer)}
	}
	if class, reason, proven := changeRefused(answer.code); proven {
		return unchanged(class, reason)
	}
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "target.failed", Err: answer}
}

// Readback compares the candidate with what the server stores.
func (s *session) Readback(ctx context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	who := accountOf(a.Account)
	if !who.possible() {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "account.missing"}, nil
	}
	c, u, err := s.look(ctx, who, true)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	s.pool.Give(c, !c.dead)
	if !u.found {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: "account.missing"}, nil
	}
	return u.judge(who, a.Candidate.Secret), nil
}
