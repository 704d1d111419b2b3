package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// exit is a code that the program ends with.
type exit = exitcode.Code

const (
	exitOK          = exitcode.OK
	exitInternal    = exitcode.Internal
	exitUsage       = exitcode.Usage
	exitNotFound    = exitcode.NotFound
	exitDenied      = exitcode.Denied
	exitConflict    = exitcode.Conflict
	exitUnreachable = exitcode.Unreachable
	exitPending     = exitcode.Pending
	exitFailed      = exitcode.Failed
	exitLocked      = exitcode.Locked
	exitFindings    = exitcode.Findings
	exitPartly      = exitcode.Partly
	exitDeclined    = exitcode.Declined
	exitInterrupted = exitcode.Interrupted
)

// failure is an error with all that the program says about it: the exit code,
// a stable reason, and what to do.
type failure struct {
	exit   exit
	reason string
	hint   string
	output string // what a program said that was run: shown as its lines
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

// withOutput adds what a program said.
func (f *failure) withOutput(text string) *failure {
	f.output = text
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
				Output  string `json:"output,omitempty"`
				Exit    exit   `json:"exit"`
			} `json:"error"`
		}
		line.Error.Reason, line.Error.Message = f.reason, f.Error()
		line.Error.Hint, line.Error.Output, line.Error.Exit = f.hint, f.output, f.exit
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(line) // nobody is left to tell
		return f.exit
	}
	message := f.Error()
	if f.reason != "" && f.reason != "usage" && f.reason != "internal" {
		message += " (" + f.reason + ")"
	}
	printLine(w, "rotunda: %s", message)
	for line := range strings.Lines(f.output) {
		printLine(w, "  %s", strings.TrimRight(line, "\r\n"))
	}
	for line := range strings.Lines(f.hint) {
		printLine(w, "hint: %s", strings.TrimRight(line, "\n"))
	}
	return f.exit
}

// asFailure finds a failure in a chain.
func asFailure(err error) (*failure, bool) {
	var f *failure
	ok := errors.As(err, &f)
	return f, ok
}
