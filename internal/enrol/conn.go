package enrol

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// errCAMismatch: the server's certificate does not lead to the pinned authority.
// Somebody stands in between, or the server was set up anew.
var errCAMismatch = &trust.Error{Reason: trust.CAMismatch, What: "the server's certificate does not lead to the authority that was pinned"}

// MaxMessage bounds an answer of the people's API.
const MaxMessage = 16 << 20

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	// pingAfter notices a dead connection under a quiet Watch.
	pingAfter = 20 * time.Second
)

// TLSConfig trusts the server by the pinned key of its authority, and by nothing
// else; a zero pin means the system's authorities. Names and times are checked
// in both cases. TLS 1.3, since signing in is bound to its exporter.
func TLSConfig(server string, caPin seal.Digest) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("server address %q is not host:port", server)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host}
	if caPin == (seal.Digest{}) {
		return c, nil
	}
	// The library would look the chain up among the system's roots; ours is in
	// the chain that the server sends, and its key's hash is what we know.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error { return verifyPinned(s.PeerCertificates, host, caPin) }
	return c, nil
}

func verifyPinned(chain []*x509.Certificate, host string, caPin seal.Digest) error {
	if len(chain) == 0 {
		return errCAMismatch
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain {
		if seal.Digest(sha256.Sum256(c.RawSubjectPublicKeyInfo)) == caPin {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errCAMismatch
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return &trust.Error{Reason: errCAMismatch.Reason, What: errCAMismatch.What, Err: err}
	case errors.As(err, &name):
		return fmt.Errorf("%w: use a name that the certificate has, or start the server with --name %s", err, host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: compare this host's clock with the server's", err)
	}
	return err
}

// Conn reaches one server's people API. Its zero value is of no use.
type Conn struct {
	clientv1connect.VaultServiceClient
	transport *http.Transport
	server    string
	version   string

	mu     sync.Mutex
	bearer string
}

// Dial prepares a connection; nothing is sent yet. Version is what the server's
// administrator sees of this program.
func Dial(server string, caPin seal.Digest, version string) (*Conn, error) {
	if err := CheckServer(server); err != nil {
		return nil, err
	}
	tlsConfig, err := TLSConfig(server, caPin)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   handshakeTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          4,
		IdleConnTimeout:       5 * time.Minute,
		ResponseHeaderTimeout: 0, // calls bring their own deadline
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: 10 * time.Second},
	}
	c := &Conn{transport: t, server: server, version: version}
	c.VaultServiceClient = clientv1connect.NewVaultServiceClient(
		&http.Client{Transport: t}, "https://"+server,
		connect.WithReadMaxBytes(MaxMessage),
		connect.WithInterceptors(bearerOf{c}),
	)
	return c, nil
}

// Close closes idle connections and forgets the session.
func (c *Conn) Close() {
	c.mu.Lock()
	c.bearer = ""
	c.mu.Unlock()
	c.transport.CloseIdleConnections()
}

// Signer is who signs in: an entry of the log and its key. The holder of a token
// leaves OrgID and EntryID zero: the server finds both by the key, and the holder
// checks them against his token once he has the log.
type Signer struct {
	OrgID   seal.Digest
	EntryID seal.ID
	Key     ed25519.PrivateKey
}

func (s Signer) keyID() seal.ID {
	return seal.KeyID(seal.AlgEd25519, s.Key.Public().(ed25519.PublicKey))
}

// ErrConnectionChanged: three times the connection broke between challenge and answer.
var ErrConnectionChanged = errors.New("the connection to the server broke three times while signing in")

// ErrKeyUnknown: the server knows no live entry with the signer's key.
var ErrKeyUnknown = errors.New("the server knows no live entry with this key")

// Session is what signing in gave.
type Session struct {
	Signer           // completed
	Ends   time.Time // by the local clock
}

// StartSession signs in: it takes a challenge and answers it on the same connection, to which the
// answer is bound.
func (c *Conn) StartSession(ctx context.Context, s Signer) (Session, error) {
	c.mu.Lock()
	c.bearer = ""
	c.mu.Unlock()
	host, _, err := net.SplitHostPort(c.server)
	if err != nil {
		return Session{}, err
	}
	for range 3 {
		var first, second net.Conn
		ask := &clientv1.ChallengeRequest{}
		if s.EntryID.IsZero() {
			ask.KeyId = s.keyID().Bytes()
		}
		challenge, err := c.Challenge(traced(ctx, &first), connect.NewRequest(ask))
		if err != nil {
			return Session{}, err
		}
		if len(challenge.Msg.Challenge) != 32 {
			return Session{}, errors.New("sign in: the server's challenge is not 32 bytes")
		}
		if s.EntryID.IsZero() {
			if len(challenge.Msg.EntryId) == 0 {
				return Session{}, ErrKeyUnknown
			}
			if s.OrgID, err = seal.DigestFrom(challenge.Msg.OrgId); err != nil {
				return Session{}, fmt.Errorf("sign in: organisation: %w", err)
			}
			if s.EntryID, err = seal.IDFrom(challenge.Msg.EntryId); err != nil {
				return Session{}, fmt.Errorf("sign in: entry: %w", err)
			}
		}
		exporter, err := exporterOf(first)
		if err != nil {
			return Session{}, err
		}
		input := seal.SessionInput(s.OrgID, s.EntryID, host, [32]byte(challenge.Msg.Challenge), exporter)
		answer, err := c.SignIn(traced(ctx, &second), connect.NewRequest(&clientv1.SignInRequest{
			OrgId: s.OrgID.Bytes(), EntryId: s.EntryID.Bytes(), Challenge: challenge.Msg.Challenge,
			Signature: seal.SignSession(s.Key, input), ClientVersion: c.version,
		}))
		if second != nil && second != first {
			continue // whatever it answered, it was not to this connection's exporter
		}
		if err != nil {
			return Session{}, err
		}
		c.mu.Lock()
		c.bearer = answer.Msg.Bearer
		c.mu.Unlock()
		// The server's clock says how long; ours says until when.
		return Session{s, time.Now().Add(time.Duration(answer.Msg.Expires-answer.Msg.Now) * time.Millisecond)}, nil
	}
	return Session{}, ErrConnectionChanged
}

func traced(ctx context.Context, used *net.Conn) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { *used = i.Conn },
	})
}

func exporterOf(c net.Conn) ([32]byte, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return [32]byte{}, errors.New("sign in: the connection to the server is not TLS")
	}
	state := t.ConnectionState()
	b, err := state.ExportKeyingMaterial(seal.SessionExporter, nil, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("sign in: %w", err)
	}
	return [32]byte(b), nil
}

// bearerOf puts the session on every call but those that make one.
type bearerOf struct{ c *Conn }

func (b bearerOf) header() string {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.c.bearer
}

func (b bearerOf) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if h := b.header(); h != "" {
			r.Header().Set("Authorization", "Bearer "+h)
		}
		return next(ctx, r)
	}
}

func (b bearerOf) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		if h := b.header(); h != "" {
			conn.RequestHeader().Set("Authorization", "Bearer "+h)
		}
		return conn
	}
}

func (b bearerOf) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// ErrorReason is the stable reason that the server gave with a Connect error, and its hint.
func ErrorReason(err error) (reason, hint string) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return "", ""
	}
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			continue
		}
		if e, ok := m.(*clientv1.ErrorDetail); ok && len(e.Reason) <= 64 && len(e.Hint) <= 512 {
			return e.Reason, e.Hint
		}
	}
	return "", ""
}
