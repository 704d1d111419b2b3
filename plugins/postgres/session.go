package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/sdk"
)

// session is one administrator on one server: a few connections, reused for all roles.
type session struct {
	target     target
	admin      sdk.Account
	secret     sdk.Secret
	self       bool
	iterations int // that the server wants new verifiers to have
	closed     func()

	slots chan struct{} // as many as there may be connections
	mu    sync.Mutex
	idle  []*pgconn.PgConn // nil when the session is closed
	open  bool
}

// take gives a connection for one call, a used one where there is one.
func (s *session) take(ctx context.Context) (c *pgconn.PgConn, used bool, err error) {
	if err := notCancelled(ctx); err != nil {
		return nil, false, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, false, notCancelled(ctx)
	}
	s.mu.Lock()
	if !s.open {
		s.mu.Unlock()
		<-s.slots
		return nil, false, &sdk.Error{Class: sdk.ClassInternal, Reason: "session.closed", NotSent: true}
	}
	if n := len(s.idle); n > 0 {
		c, s.idle = s.idle[n-1], s.idle[:n-1]
	}
	s.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	if c, err = s.target.connect(ctx, s.admin, s.secret); err != nil {
		<-s.slots
		return nil, false, err
	}
	return c, false, nil
}

// give takes a connection back. One that was cut off in the middle of something is not
// used again.
func (s *session) give(c *pgconn.PgConn) {
	s.mu.Lock()
	keep := s.open && !c.IsClosed() && !c.IsBusy() && c.TxStatus() == 'I'
	if keep {
		s.idle = append(s.idle, c)
	}
	s.mu.Unlock()
	if !keep {
		hangUp(c)
	}
	<-s.slots
}

func hangUp(c *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// Close says goodbye on the idle connections; one in use is closed when its call ends.
func (s *session) Close() error {
	s.mu.Lock()
	idle, was := s.idle, s.open
	s.idle, s.open = nil, false
	s.mu.Unlock()
	if was {
		s.closed()
	}
	for _, c := range idle {
		hangUp(c)
	}
	return nil
}

// role is what the administrator can see of an account.
type role struct {
	found    bool
	expired  bool // its password is valid until a time that is past
	canLogin bool
}

// look finds a role and gives the connection it was found on, which is thereby known
// to be alive: an idle one may have died unnoticed, and finding that out by the change
// itself would make the change's outcome unknown.
func (s *session) look(ctx context.Context, name string) (*pgconn.PgConn, role, error) {
	c, rows, err := s.read(ctx, "SELECT rolcanlogin, rolvaliduntil IS NOT NULL AND rolvaliduntil <= now() FROM pg_catalog.pg_roles WHERE rolname = $1::text", name)
	if err != nil {
		return nil, role{}, err
	}
	if len(rows) != 1 {
		return c, role{}, nil
	}
	return c, role{found: true, canLogin: rows[0][0] == "t", expired: rows[0][1] == "t"}, nil
}

// read runs a query that changes nothing, again on the next connection where an idle
// one has died.
func (s *session) read(ctx context.Context, sql, name string) (*pgconn.PgConn, [][]string, error) {
	for {
		c, used, err := s.take(ctx)
		if err != nil {
			return nil, nil, err
		}
		rows, err := query(ctx, c, sql, name)
		if err == nil {
			return c, rows, nil
		}
		s.give(c)
		if used && c.IsClosed() && ctx.Err() == nil {
			continue // the idle ones are used up after at most concurrency rounds
		}
		return nil, nil, lookError(ctx, err)
	}
}

func lookError(ctx context.Context, err error) error {
	out := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		out.Class, out.Reason = sdk.ClassUnsupported, "catalogue"
		if strings.HasPrefix(pg.Code, "57") || strings.HasPrefix(pg.Code, "53") {
			out.Class, out.Reason = sdk.ClassUnreachable, "target.busy"
		}
	}
	if ctx.Err() != nil {
		out.Class, out.Reason = sdk.ClassUnreachable, "deadline"
	}
	return out
}

// Apply sets the verifier of the candidate.
func (s *session) Apply(ctx context.Context, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.ApplyResponse{}, err
	}
	if a.Candidate.Kind != sdk.Password {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kind", NotSent: true, Err: fmt.Errorf("a role has no %s", a.Candidate.Kind)}
	}
	if s.self && a.Account.Name != s.admin.Name {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("session changes its own role only")}
	}
	unchanged := func(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
	}
	if !validName(a.Account.Name) {
		return unchanged(sdk.ClassNotFound, "account.missing")
	}
	password := a.Candidate.Secret.Expose()
	defer clear(password)
	if !sendable(password) {
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	v, err := newVerifier(password, s.iterations)
	if err != nil {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "scram", NotSent: true, Err: err}
	}
	c, r, err := s.look(ctx, a.Account.Name)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	defer s.give(c)
	switch {
	case !r.found:
		return unchanged(sdk.ClassNotFound, "account.missing")
	case r.expired:
		// A login fails as if the password were wrong, whatever the password is.
		return unchanged(sdk.ClassConflict, "account.expired")
	}
	err = c.Exec(ctx, alter(ctx, a.Account.Name, v)).Close()
	if err == nil {
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		if class, reason, proven := changeRefused(pg); proven {
			return unchanged(class, reason)
		}
	}
	// It was sent and there is no answer: the zero outcome.
	return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "reply.lost", Err: err}
}

// alter is one message, and so one transaction. The server gives up when we do:
// otherwise a statement that waits for a lock would be carried out after the agent
// had given up. It is no bound by the lease: an agent that loses that hangs up, which
// the server does not notice before the lock is free or this time is over.
func alter(ctx context.Context, name string, v verifier) string {
	return bounds(ctx) + "ALTER ROLE " + pgx.Identifier{name}.Sanitize() + " PASSWORD '" + v.String() + "'"
}

// bounds begins such a message.
func bounds(ctx context.Context) string {
	left := time.Minute
	if t, ok := ctx.Deadline(); ok {
		left = max(time.Until(t), time.Millisecond)
	}
	ms := strconv.FormatInt(min(left, time.Hour).Milliseconds()+1, 10)
	return "SET LOCAL lock_timeout = " + ms + "; SET LOCAL statement_timeout = " + ms + "; "
}

// Readback compares the candidate with what the server stores, which only a superuser
// can read.
func (s *session) Readback(ctx context.Context, a sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	undecided := func(reason string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}, nil
	}
	if !validName(a.Account.Name) {
		return undecided("account.missing")
	}
	c, rows, err := s.read(ctx, "SELECT rolpassword, rolvaliduntil IS NOT NULL AND rolvaliduntil <= now() FROM pg_catalog.pg_authid WHERE rolname = $1::text", a.Account.Name)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "42501" {
		return undecided("readback.rights")
	}
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	s.give(c)
	if len(rows) != 1 {
		return undecided("account.missing")
	}
	stored, expired := rows[0][0], rows[0][1] == "t"
	if expired {
		return undecided("expired")
	}
	password := a.Candidate.Secret.Expose()
	defer clear(password)
	same, err := storedMatches(stored, a.Account.Name, password)
	switch {
	case stored == "": // no password at all
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	case err != nil:
		return undecided("readback.form")
	case same:
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
}

// query runs one statement with parameters and returns its rows as text; NULL is "".
func query(ctx context.Context, c *pgconn.PgConn, sql string, params ...string) ([][]string, error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	r := c.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	rows := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		for _, v := range row {
			rows[i] = append(rows[i], string(v))
		}
	}
	return rows, r.Err
}

// validName tells whether a role can have this name at all. Longer names are cut by
// the server, and would then be those of another role.
func validName(name string) bool {
	const maxName = 63 // NAMEDATALEN - 1
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsRune(name, 0)
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
