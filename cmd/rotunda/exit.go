package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// exit is a code that the program ends with. Codes are stable: scripts branch
// on them. A new situation takes a new number, or the nearest old one.
type exit int

const (
	exitOK          exit = 0
	exitInternal    exit = 1
	exitUsage       exit = 2
	exitNotFound    exit = 3
	exitDenied      exit = 4
	exitConflict    exit = 5
	exitUnreachable exit = 6
	exitPending     exit = 7
	exitFailed      exit = 8
	exitLocked      exit = 9
	exitFindings    exit = 10
	exitPartly      exit = 11
	exitInterrupted exit = 130
)

// exitCodes is the documented table.
func exitCodes() []struct {
	Code    exit
	Name    string
	Meaning string
} {
	return []struct {
		Code    exit
		Name    string
		Meaning string
	}{
		{exitOK, "ok", "done"},
		{exitInternal, "internal", "a fault of the program or of this machine; nothing else fits"},
		{exitUsage, "usage", "the command line, a file or an input is not understood"},
		{exitNotFound, "not_found", "no such record, folder, run, member, file, …, or a name that fits several"},
		{exitDenied, "denied", "the rights do not reach, or a check refused what the server served (see the reason)"},
		{exitConflict, "conflict", "somebody else changed it first, it exists already, other records need it, or a run is outstanding"},
		{exitUnreachable, "unreachable", "the server, or an agent that could do it, cannot be reached now"},
		{exitPending, "pending", "not decided yet: still running, or the outcome is unknown and Rotunda finds out later"},
		{exitFailed, "failed", "the run ended and the credential was not changed, or verifying said no"},
		{exitLocked, "locked", "the device store is locked and no passphrase was to be had"},
		{exitFindings, "findings", "doctor found something that needs a person"},
		{exitPartly, "partly", "the credential is changed and in use, but dependents or scripts failed"},
		{exitInterrupted, "interrupted", "stopped by a signal; work that was started goes on at the agent"},
	}
}

// failure is an error with all that the program says about it: the exit code,
// a stable reason, and what to do.
type failure struct {
	exit   exit
	reason string
	hint   string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// failf makes a failure; %w wraps as in fmt.Errorf.
func failf(code exit, reason, format string, args ...any) *failure {
	return &failure{exit: code, reason: reason, err: fmt.Errorf(format, args...)}
}

// withHint adds what to do about it.
func (f *failure) withHint(format string, args ...any) *failure {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

// usagef is a failure of the command line.
func usagef(format string, args ...any) *failure { return failf(exitUsage, "usage", format, args...) }

// report prints an error and gives the exit code that goes with it.
func report(w io.Writer, err error, asJSON bool) exit {
	f := classify(err)
	if asJSON {
		var line struct {
			Error struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
				Hint    string `json:"hint,omitempty"`
				Exit    exit   `json:"exit"`
			} `json:"error"`
		}
		line.Error.Reason, line.Error.Message = f.reason, f.Error()
		line.Error.Hint, line.Error.Exit = f.hint, f.exit
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(line) // nobody is left to tell
		return f.exit
	}
	message := printable(f.Error())
	if f.reason != "" && f.reason != "usage" && f.reason != "internal" {
		message += " (" + f.reason + ")"
	}
	fmt.Fprintf(w, "rotunda: %s\n", message)
	for line := range strings.Lines(f.hint) {
		fmt.Fprintf(w, "hint: %s\n", printable(strings.TrimRight(line, "\n")))
	}
	return f.exit
}

// asFailure finds a failure in a chain.
func asFailure(err error) (*failure, bool) {
	var f *failure
	ok := errors.As(err, &f)
	return f, ok
}
