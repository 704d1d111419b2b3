// Package directory connects a plugin to an LDAP server (RFC 4511): through the agent's
// dialer, over TLS from the first byte or from StartTLS on, with errors that have a
// class.
package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
)

// maxAnswer is more than any answer that a plugin asks for.
const maxAnswer = 4 << 20

func init() { ber.MaxPacketLengthBytes = maxAnswer }

// Server is where to log in and how it proves itself.
type Server struct {
	Host     sdk.Host
	Resource sdk.Resource
	StartTLS bool // TLS is asked for on a connection that began in clear
	// Prefer is where the resource's name led before, as [Conn.Remote] gives it: of several
	// servers behind one name the same is taken again while it answers. It proves itself as
	// the resource's address does.
	Prefer string
}

// preferFor is how long the preferred server has to take a connection.
const preferFor = 5 * time.Second

// Conn is one connection. The library's calls take no context: use [Conn.Do].
type Conn struct {
	*ldap.Conn
	wire net.Conn
}

// Do calls f. Where ctx ends before it is done, the connection ends with it.
func (c *Conn) Do(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { c.wire.Close() })
	defer stop()
	return f()
}

// HangUp says goodbye, if the server takes it at once.
func (c *Conn) HangUp() {
	_ = c.wire.SetDeadline(time.Now().Add(time.Second))
	_ = c.Unbind()
	_ = c.Close()
	_ = c.wire.Close()
}

// Remote is the address of the server at the other end.
func (c *Conn) Remote() string { return c.wire.RemoteAddr().String() }

// Alive tells whether the connection can be used for another call.
func (c *Conn) Alive() bool { return !c.IsClosing() }

// Connect opens a connection to a server that has proven itself; nobody is logged in.
// Errors are of type [*sdk.Error] and say that nothing was sent.
func (s Server) Connect(ctx context.Context) (*Conn, error) {
	secure, err := sdk.TLSConfig(s.Host, s.Resource)
	if err != nil {
		return nil, err
	}
	wire, err := s.dial(ctx)
	if err != nil {
		return nil, Unreached(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { wire.Close() })
	defer stop()
	if secure != nil && !s.StartTLS {
		t := tls.Client(wire, secure)
		if err := t.HandshakeContext(ctx); err != nil {
			wire.Close()
			return nil, notProven(ctx, err)
		}
		wire = t
	}
	c := &Conn{Conn: ldap.NewConn(wire, secure != nil && !s.StartTLS), wire: wire}
	c.Start()
	if secure != nil && s.StartTLS {
		// The library keeps only the text of what the proof of the key says.
		var refused error
		prove := secure.VerifyConnection
		secure.VerifyConnection = func(s tls.ConnectionState) error {
			refused = prove(s)
			return refused
		}
		if err := c.StartTLS(secure); err != nil {
			c.HangUp()
			return nil, notProven(ctx, errors.Join(err, refused))
		}
	}
	return c, nil
}

func (s Server) dial(ctx context.Context) (net.Conn, error) {
	if s.Prefer != "" {
		ctx, cancel := context.WithTimeout(ctx, preferFor)
		wire, err := s.Host.Dialer.DialContext(ctx, "tcp", s.Prefer)
		cancel()
		if err == nil {
			return wire, nil
		}
	}
	return s.Host.Dialer.DialContext(ctx, "tcp", s.Resource.Address)
}

// Bind logs in. Its error is the library's, or what ended the connection.
func (c *Conn) Bind(ctx context.Context, name string, secret sdk.Secret, controls ...ldap.Control) ([]ldap.Control, error) {
	var answer []ldap.Control
	err := c.Do(ctx, func() error {
		r, err := c.SimpleBind(ldap.NewSimpleBindRequest(name, secret.ExposeString(), controls))
		if r != nil {
			answer = r.Controls
		}
		return err
	})
	return answer, err
}

// Code is the server's answer in an error of the library's (RFC 4511, 4.1.9); false
// where the server gave none: the line broke, or the answer was no LDAP.
func Code(err error) (uint16, bool) {
	var e *ldap.Error
	if !errors.As(err, &e) || e.ResultCode >= ldap.ErrorNetwork {
		return 0, false
	}
	return e.ResultCode, true
}

// Text is what the server wrote beside its answer in an error of the library's: for
// people, and for what servers say nowhere else.
func Text(err error) string {
	var e *ldap.Error
	if !errors.As(err, &e) || e.ResultCode >= ldap.ErrorNetwork || e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// Controls are those that came with an error.
func Controls(err error) []ldap.Control {
	var e *ldap.Error
	if !errors.As(err, &e) || e.Packet == nil || len(e.Packet.Children) < 3 {
		return nil
	}
	var out []ldap.Control
	for _, child := range e.Packet.Children[2].Children {
		if c, err := ldap.DecodeControl(child); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// Unreached classes an error that is not an answer of the server.
func Unreached(ctx context.Context, err error) *sdk.Error {
	out := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: err}
	var ours *sdk.Error
	switch {
	case ctx.Err() != nil:
		out.Reason = "deadline"
	case errors.As(err, &ours): // the dialer's word, or the proof of the target's key
		out.Class, out.Reason = ours.Class, ours.Reason
	}
	return out
}

// notProven classes a TLS handshake that failed, or was refused.
func notProven(ctx context.Context, err error) error {
	var ours *sdk.Error
	var network *net.OpError
	switch {
	case ctx.Err() != nil, errors.As(err, &ours), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Unreached(ctx, err)
	}
	if code, ok := Code(err); ok && (code == ldap.LDAPResultBusy || code == ldap.LDAPResultUnavailable) {
		return Unreached(ctx, err)
	}
	return &sdk.Error{Class: sdk.ClassAuth, Reason: "target_identity", NotSent: true, Err: err}
}
