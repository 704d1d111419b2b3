package client

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// fail turns any error of a call or a check into this package's.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		if own.Op != "" || op == "" {
			return err
		}
		named := *own
		named.Op = op
		return &named
	}
	if reason := trust.ReasonOf(err); reason != "" {
		return &Error{Class: Refused, Reason: string(reason), Op: op, Hint: reason.Hint(), Err: err}
	}
	var call *connect.Error
	if errors.As(err, &call) {
		return callError(op, call)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &Error{Class: Unreachable, Reason: "no_answer", Op: op, Err: err}
	}
	return &Error{Class: Internal, Reason: "internal", Op: op, Err: err}
}

// opNumber is which op of a call failed: people make no calls.
var opNumber = regexp.MustCompile(`^op \d+: `)

// callError is an error that the server answered, or the lack of an answer.
func callError(op string, call *connect.Error) error {
	reason, hint := enrol.ErrorReason(call)
	class := Internal
	switch call.Code() {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeUnimplemented:
		class = Invalid
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		class = Denied
	case connect.CodeNotFound:
		class = NotFound
	case connect.CodeAborted, connect.CodeAlreadyExists, connect.CodeFailedPrecondition:
		class = Conflict
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeResourceExhausted:
		class = Unreachable
	}
	if reason == "" {
		reason = call.Code().String()
	}
	var err error = &served{text: opNumber.ReplaceAllString(call.Message(), "")}
	if errors.Is(call, context.Canceled) {
		err = context.Canceled // the caller's own word, by which he knows that he stopped it
	}
	return &Error{Class: class, Reason: reason, Op: op, Hint: hint, Err: err}
}

// ---- conversions ----

// refFrom reads a Ref; nil and an empty one are the zero Ref.
func refFrom(p *trustv1.Ref) (Ref, error) {
	if p == nil || len(p.FolderUid) == 0 && len(p.RecordUid) == 0 {
		return Ref{}, nil
	}
	return trust.RefFrom(p)
}

// idOr is an id that the server may leave out.
func idOr(b []byte) seal.ID {
	id, err := seal.IDFrom(b)
	if err != nil {
		return seal.ID{}
	}
	return id
}

func when(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func badServer(op, what string, args ...any) error {
	return &Error{
		Class: Refused, Reason: "malformed", Op: op, Err: fmt.Errorf(what, args...),
		Hint: "the server's answer makes no sense: is it another version, or something in between?",
	}
}
