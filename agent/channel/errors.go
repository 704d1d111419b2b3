package channel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// Error is why there is no channel. Its text says what to do.
type Error struct {
	// Reason is a stable code: ca_mismatch, wrong_host, certificate_time,
	// tls, unreachable, proxy, status, restarting, silent, closed, malformed,
	// journal, and those that the router gives (package socket).
	Reason string
	Err    error

	comeBack time.Duration
	misled   bool // the other end did what no router does
}

func (e *Error) Error() string { return e.Reason + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// lasting: asking again soon changes nothing.
func (e *Error) lasting() bool {
	switch e.Reason {
	case socket.AgentUnknown, socket.Revoked, socket.WrongOrg, socket.Replaced:
		return true
	}
	return false
}

// ReasonOf is the code of an error of this package; "closed" of any other, ""
// of none.
func ReasonOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Reason
	}
	return "closed"
}

func failed(reason string, err error) error { return &Error{Reason: reason, Err: err} }

// misled makes an error of what no router does.
func misled(err error) error { return &Error{Reason: socket.Malformed, Err: err, misled: true} }

// refused makes an error of what the router said.
func refused(reason, words string) error {
	return failed(code(reason), fmt.Errorf("the server refused the channel: %s", words[:min(len(words), maxWords)]))
}

// maxWords bounds what is kept of the router's words, and a code in them.
const (
	maxWords = 500
	maxCode  = 64
)

// code keeps of the router's reason what is a code: it goes into logs and health.
func code(s string) string {
	if s == "" || len(s) > maxCode || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return socket.Malformed
	}
	return s
}

// tlsError says which of the things that must fit does not.
func (c *Channel) tlsError(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case trust.ReasonOf(err) == trust.CAMismatch, errors.As(err, &unknown):
		return failed("ca_mismatch", fmt.Errorf("%s shows a certificate of another authority than the one that was pinned at enrolment: somebody stands in between, or the server was set up anew: %w", c.cfg.Server, err))
	case errors.As(err, &name):
		return failed("wrong_host", fmt.Errorf("the server's certificate is not for %q: give the agent a name that the certificate has: %w", c.host, err))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failed("certificate_time", fmt.Errorf("the server's certificate is not valid at this machine's time %s: set the clock, or renew the certificate: %w", c.cfg.Now().Format(time.RFC3339), err))
	case errors.As(err, &record):
		return failed("tls", fmt.Errorf("%s does not speak TLS: %w", c.cfg.Server, err))
	}
	return failed("tls", fmt.Errorf("TLS with %s: %w", c.cfg.Server, err))
}

func (c *Channel) dialError(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return failed("unreachable", fmt.Errorf("there is no host %q: %w", c.host, err))
	}
	return failed("unreachable", fmt.Errorf("%s cannot be reached: %w", c.cfg.Server, err))
}

// statusError: something other than a router answered, or one that is busy.
func (c *Channel) statusError(err error) error {
	var status *socket.StatusError
	if !errors.As(err, &status) {
		return failed("closed", err)
	}
	if status.Code == 503 {
		e := &Error{Reason: socket.Busy, Err: err}
		if after, parseErr := time.ParseDuration(strings.TrimSpace(status.RetryAfter) + "s"); parseErr == nil && after > 0 && after <= time.Minute {
			e.comeBack = after
		}
		return e
	}
	return failed("status", fmt.Errorf("%s: is this a Rotunda server? %w", c.cfg.Server, err))
}
