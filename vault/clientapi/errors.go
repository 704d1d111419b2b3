package clientapi

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/store"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// Reasons of this API, beside those of the log's checks (package trust). They
// are stable: clients act on them.
const (
	ReasonSession     = "session_ended"       // sign in (again)
	ReasonChallenge   = "challenge_unknown"   // used, or older than a minute
	ReasonSignature   = "signature_bad"       // wrong key, host, connection or challenge
	ReasonSetupCode   = "setup_code"          // not this server's
	ReasonExpired     = "expired"             // the device's or enrolment's not_after
	ReasonNotAllowed  = "not_allowed"         // the log gives no such right
	ReasonNotFound    = "not_found"           // no such thing
	ReasonExists      = "exists"              // there is one already
	ReasonMalformed   = "malformed"           // a length or a value is wrong
	ReasonTooLarge    = "too_large"           // a bound is exceeded
	ReasonThrottled   = "throttled"           // later
	ReasonOutOfSync   = "out_of_sync"         // somebody else changed it meanwhile
	ReasonOutstanding = "run_outstanding"     // a candidate is outstanding
	ReasonStatement   = "statement_conflict"  // another statement came first
	ReasonFloor       = "statement_unfloored" // its floor is not in the log
	ReasonTurn        = "turn_taken"          // another party may append now
	ReasonKeysMissing = "keys_missing"        // an entry was put without its keys
	ReasonKeyVersion  = "key_version"         // not the folder key of the log
	ReasonRekey       = "rekey_incomplete"    // a new folder key that leaves something or somebody out
	ReasonReader      = "reader_without_key"  // a new folder key that is not sealed to all who may read
	ReasonValue       = "value_conflict"      // not the next value, or not this data
	ReasonSchedule    = "schedule_bad"        // no schedule
	ReasonAgent       = "agent_unknown"       // not a live agent of that pool
	ReasonStarted     = "run_started"         // too late to drop it
	ReasonUnavailable = "unavailable"         // the server cannot: see its log
)

// refuse makes an error with its reason and hint.
func refuse(code connect.Code, reason, hint, format string, args ...any) error {
	e := connect.NewError(code, fmt.Errorf(format, args...))
	d, err := connect.NewErrorDetail(&clientv1.ErrorDetail{Reason: reason, Hint: hint})
	if err == nil {
		e.AddDetail(d)
	}
	return e
}

func malformed(format string, args ...any) error {
	return refuse(connect.CodeInvalidArgument, ReasonMalformed, "", format, args...)
}

func notFound(format string, args ...any) error {
	return refuse(connect.CodeNotFound, ReasonNotFound, "", format, args...)
}

func notAllowed(format string, args ...any) error {
	return refuse(connect.CodePermissionDenied, ReasonNotAllowed,
		"ask an administrator for the role", format, args...)
}

// answered makes any error one that a client can use. What is not foreseen is
// not told: it goes to the server's own log, and its text may name the server's
// files.
func (s *service) answered(ctx context.Context, procedure string, err error) error {
	var c *connect.Error
	switch {
	case errors.As(err, &c):
		return c
	case ctx.Err() != nil:
		return connect.NewError(connect.CodeCanceled, context.Cause(ctx))
	case errors.Is(err, store.ErrFull):
		s.log.ErrorContext(ctx, "client api", "procedure", procedure, "err", err)
		return refuse(connect.CodeResourceExhausted, ReasonUnavailable, "the server's disk is full: its administrator has to free some space", "nothing was stored")
	case errors.Is(err, store.ErrLocked), errors.Is(err, store.ErrClosed):
		s.log.ErrorContext(ctx, "client api", "procedure", procedure, "err", err)
		return refuse(connect.CodeUnavailable, ReasonUnavailable, "try again in a moment; if it stays so, the server's log tells its administrator why", "the server's database is not available")
	}
	s.log.ErrorContext(ctx, "client api", "procedure", procedure, "err", err)
	return refuse(connect.CodeInternal, ReasonUnavailable, "the server's log says more", "the server failed")
}
