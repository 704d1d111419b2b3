// Command rotunda-agent is the on-prem agent: it dials out, checks signed commands
// and mandates, and rotates credentials with its plugins.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "rotunda-agent:", err)
		if hint := hintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
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
