package main

import (
	"context"
	"errors"
	"strings"

	"github.com/rotunda-pam/rotunda/client"
)

// classify says how the program ends for an error: by type and class, never by text.
func classify(err error) *failure {
	if f, ok := asFailure(err); ok {
		out := *f
		if f != err { //nolint:errorlint // the chain's outer text is kept
			out.err = err
		}
		return &out
	}
	var ce *client.Error
	switch {
	case errors.As(err, &ce):
		return fromClient(ce)
	case errors.Is(err, context.DeadlineExceeded):
		return failf(exitUnreachable, "deadline", "no answer in time").
			withHint("give a longer --timeout, or look whether the server is well")
	case errors.Is(err, context.Canceled):
		return errInterrupted
	default:
		return &failure{exit: exitInternal, reason: "internal", err: err}
	}
}

// fromClient turns an error of the client library into the program's.
func fromClient(e *client.Error) *failure {
	f := &failure{exit: classExit(e.Class), reason: e.Reason, hint: e.Hint, err: clientText(e)}
	if f.reason == "" {
		f.reason = string(e.Class)
	}
	if f.hint == "" {
		f.hint = classHint(e.Class)
	}
	return f
}

// unenrolled is an error of what makes this device one of the organisation's: until then
// `rotunda doctor` has no server to look at.
func unenrolled(err error, server string) error {
	var ce *client.Error
	if errors.As(err, &ce) && ce.Class == client.Unreachable && ce.Hint == "" {
		return fromClient(ce).withHint("see that %s is the server's address and port, that rotunda-server runs there, and that no firewall or proxy stands between", server)
	}
	return err
}

// clientText is the error's text without its reason, which is printed beside it.
func clientText(e *client.Error) error {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	} else {
		parts = append(parts, strings.ReplaceAll(orWord(e.Reason, string(e.Class)), "_", " "))
	}
	return errors.New(strings.Join(parts, ": "))
}

func classExit(class client.Class) exit {
	switch class {
	case client.Invalid:
		return exitUsage
	case client.Locked:
		return exitLocked
	case client.Denied, client.Refused:
		return exitDenied
	case client.NotFound:
		return exitNotFound
	case client.Conflict:
		return exitConflict
	case client.Unreachable:
		return exitUnreachable
	case client.Failed:
		return exitFailed
	case client.Unknown:
		return exitPending
	default:
		return exitInternal
	}
}

// classHint is what to do where the library says nothing itself.
func classHint(class client.Class) string {
	switch class {
	case client.Locked:
		return "run `rotunda unlock` first, or give --passphrase-file FILE"
	case client.Unreachable:
		return "`rotunda doctor` looks at the way to the server and at the agents"
	case client.Refused:
		return "what the server served does not hold: do not act on it, and see `rotunda log verify`"
	case client.Unknown:
		return "nothing is lost: Rotunda finds out by itself, `rotunda run show` tells"
	default:
		return ""
	}
}
