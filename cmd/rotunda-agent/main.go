// Command rotunda-agent is the on-prem agent: it dials out, checks signed commands
// and mandates, and rotates credentials with its plugins.
package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/cmdtree"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/terminal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, stderr := command(), terminal.Of(os.Stderr)
	root.SetOut(terminal.Of(os.Stdout))
	root.SetErr(stderr)
	if err := cmdtree.Execute(ctx, root); err != nil {
		report(stderr, err, wantsJSON(os.Args[1:]))
		os.Exit(int(exitOf(err)))
	}
}

// report prints an error; as JSON in the form of rotunda's (docs/cli.md).
func report(w io.Writer, err error, asJSON bool) {
	if !asJSON {
		fmt.Fprintln(w, "rotunda-agent:", err)
		if hint := hintOf(err); hint != "" {
			fmt.Fprintln(w, "hint:", hint)
		}
		return
	}
	type said struct {
		Reason  string        `json:"reason"`
		Message string        `json:"message"`
		Hint    string        `json:"hint,omitempty"`
		Exit    exitcode.Code `json:"exit"`
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(map[string]said{"error": {cmp.Or(string(trust.ReasonOf(err)), exitOf(err).Name()), err.Error(), hintOf(err), exitOf(err)}}) // nobody is left to tell
}

// wantsJSON looks for --json also where the flags could not be read to their end.
func wantsJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

// exitOf is how the program ends for an error.
func exitOf(err error) exitcode.Code {
	other := exitcode.Internal
	switch {
	case errors.Is(err, agent.ErrNotEnrolled):
		other = exitcode.NotFound
	case errors.Is(err, agent.ErrLocked):
		other = exitcode.Locked
	case errors.Is(err, enrol.ErrOtherKind):
		other = exitcode.Usage
	case errors.Is(err, seal.ErrPassphrase), errors.Is(err, enrol.ErrExpired), trust.ReasonOf(err) != "":
		other = exitcode.Denied
	case errors.Is(err, journal.ErrOpen), errors.Is(err, syscall.EADDRINUSE):
		other = exitcode.Conflict
	case enrol.AnswerLost(err):
		other = exitcode.Unreachable
	case refused(err):
		other = exitcode.Denied
	}
	return exitcode.Of(err, other)
}

// refused reports an answer by which the server said no.
func refused(err error) bool {
	_, answered := errors.AsType[*connect.Error](err)
	return answered || errors.Is(err, enrol.ErrKeyUnknown)
}

// hintOf says what to do about an error whose text does not say it itself.
func hintOf(err error) string {
	if hint := trust.ReasonOf(err).Hint(); hint != "" {
		return hint
	}
	if _, hint := enrol.ErrorReason(err); hint != "" {
		return hint
	}
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	if connect.CodeOf(err) == connect.CodeUnavailable && !errors.As(err, &name) && !errors.As(err, &invalid) {
		return "see that the server runs at this address, and that this host reaches it"
	}
	return ""
}
