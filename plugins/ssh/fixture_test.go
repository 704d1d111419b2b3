package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	keys "github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func secret(s string) sdk.Secret       { return sdk.NewSecret([]byte(s)) }
func password(s string) sdk.Credential { return sdk.Credential{Kind: sdk.Password, Secret: secret(s)} }

func newKey(t *testing.T) sdk.Credential {
	t.Helper()
	public, private, err := keys.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	return sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: sdk.NewSecret(private)}
}

// mutable is a connection whose peer can fall silent, as one that is gone without a word.
type mutable struct {
	net.Conn
	mute   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (m *mutable) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if m.mute.Load() {
		<-m.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (m *mutable) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.Conn.Close()
}

// dialer counts, and hands out its last connection so that a test can cut it.
type dialer struct {
	dials atomic.Int32
	last  atomic.Pointer[net.Conn]
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.dials.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		c = &mutable{Conn: c, closed: make(chan struct{})}
		d.last.Store(&c)
	}
	return c, err
}

// fixture is one server and the plugin.
type fixture struct {
	*targets.SSHD
	plugin *rotator
	dialer *dialer
	pins   []byte
}

func newFixture(t *testing.T, lines ...string) *fixture {
	return newFixtureOn(t, targets.SSHDOptions{Lines: lines})
}

// newFixtureOn has a server whose logins cost little; TestConformance is with Debian's settings.
func newFixtureOn(t *testing.T, o targets.SSHDOptions) *fixture {
	o.Quick = true
	s := targets.OpenSSH(t, o)
	return &fixture{SSHD: s, plugin: &rotator{}, dialer: &dialer{}, pins: s.Pins()}
}

// here is the host and the resource as the agent would hand them in.
func (f *fixture) here() (sdk.Host, sdk.Resource) {
	return sdk.Host{
		Dialer: f.dialer, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{f.Address: f.pins},
	}, sdk.Resource{Address: f.Address}
}

func (f *fixture) admin() sdk.Credential {
	return sdk.Credential{Kind: sdk.SSHKey, Public: f.AdminPub, Secret: f.AdminKey}
}

func (f *fixture) tryOpen(ctx context.Context, name string, c sdk.Credential) (*session, error) {
	h, r := f.here()
	s, err := f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: sdk.Account{Name: name}})
	if err != nil {
		return nil, err
	}
	return s.(*session), nil
}

func (f *fixture) openAs(t *testing.T, name string, c sdk.Credential) *session {
	t.Helper()
	s, err := f.tryOpen(t.Context(), name, c)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (f *fixture) open(t *testing.T) *session {
	t.Helper()
	return f.openAs(t, f.Admin, f.admin())
}

// root runs a program of this machine's administrator.
func (f *fixture) root(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

func (f *fixture) user(t *testing.T, o targets.UserOptions) targets.User {
	t.Helper()
	u, err := f.CreateUser(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (f *fixture) apply(ctx context.Context, s *session, name string, c sdk.Credential) (sdk.ApplyResponse, error) {
	return s.Apply(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: c})
}

func (f *fixture) verify(ctx context.Context, name string, c sdk.Credential) (sdk.VerifyResponse, error) {
	h, r := f.here()
	return f.plugin.Verify(ctx, sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: name}, Credential: c})
}

func (f *fixture) mustApply(t *testing.T, s *session, name string, c sdk.Credential, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := f.apply(t.Context(), s, name, c); err != nil || got != want {
		t.Errorf("apply to %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func (f *fixture) mustVerify(t *testing.T, name string, c sdk.Credential, want sdk.VerifyResponse) {
	t.Helper()
	if got, err := f.verify(t.Context(), name, c); err != nil || got != want {
		t.Errorf("verify %q: %+v, %v, want %+v", name, got, err, want)
	}
}

// mustAccept asks a judge that shares no code with the plugin.
func (f *fixture) mustAccept(t *testing.T, name string, c sdk.Credential, want bool) {
	t.Helper()
	if got, err := f.Accepts(t.Context(), name, c); err != nil || got != want {
		t.Errorf("login as %q: %v, %v, want %v", name, got, err, want)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	changed  = sdk.ApplyResponse{Outcome: sdk.Changed}
	accepted = sdk.VerifyResponse{Verdict: sdk.Accepted}
	rejected = sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
)

func unchanged(c sdk.Class, reason string) sdk.ApplyResponse {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: c, Reason: reason}
}

func undecided(reason string) sdk.VerifyResponse {
	return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}
}

func mustFail(t *testing.T, err error, class sdk.Class, reason string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != class || e.Reason != reason {
		t.Errorf("error %v, want class %s, reason %s", err, class, reason)
	} else if !e.NotSent {
		t.Errorf("error %v does not say that nothing was sent", err)
	}
}

// mustBeUnclear wants an error that does not say that nothing was sent.
func mustBeUnclear(t *testing.T, err error, class sdk.Class, reason string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != class || e.Reason != reason || e.NotSent {
		t.Errorf("error %v, want class %s, reason %s, and that it may have been sent", err, class, reason)
	}
}

func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("%s took %s, want at most %s", what, took, d)
	}
}

func lines(parts ...[]byte) []byte { return append(bytes.Join(parts, []byte("\n")), '\n') }
