package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func secret(s string) sdk.Secret       { return sdk.NewSecret([]byte(s)) }
func password(s string) sdk.Credential { return sdk.Credential{Kind: sdk.Password, Secret: secret(s)} }

// dialer counts, and can do something to every write.
type dialer struct {
	dials atomic.Int32
	write func(c net.Conn, b []byte) (int, error)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.dials.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil && d.write != nil {
		c = &hooked{Conn: c, write: d.write}
	}
	return c, err
}

type hooked struct {
	net.Conn
	write func(c net.Conn, b []byte) (int, error)
}

func (h *hooked) Write(b []byte) (int, error) { return h.write(h.Conn, b) }

// fixture is one server, the plugin, and every candidate that the plugin was given.
type fixture struct {
	*targets.PG
	plugin *rotator
	dialer *dialer

	mu    sync.Mutex
	given []string
}

func newFixture(t *testing.T, settings ...string) *fixture {
	f := &fixture{PG: targets.Postgres(t, settings...), plugin: &rotator{}, dialer: &dialer{}}
	t.Cleanup(func() { // before the server's folder goes
		log, err := os.ReadFile(f.LogFile)
		if err != nil || !bytes.Contains(log, []byte("PASSWORD 'SCRAM-SHA-256$")) && len(f.given) > 0 {
			t.Errorf("the server's log does not have the statements, so it proves nothing: %v", err)
		}
		for i, s := range f.given {
			if bytes.Contains(log, []byte(s)) {
				t.Errorf("the server's log has the password given as candidate %d", i)
			}
		}
	})
	return f
}

// here is the host and the resource as the agent would hand them in.
func (f *fixture) here() (sdk.Host, sdk.Resource) {
	return sdk.Host{
			Dialer: f.dialer, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
			Pins: map[string][]byte{f.Address: f.SPKI[:]},
		},
		sdk.Resource{Address: f.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}
}

func (f *fixture) openAs(t *testing.T, name string, c sdk.Credential, self bool) *session {
	t.Helper()
	h, r := f.here()
	s, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: sdk.Account{Name: name}, Self: self})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*session)
}

func (f *fixture) open(t *testing.T) *session {
	t.Helper()
	return f.openAs(t, f.Admin, sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, false)
}

func (f *fixture) role(t *testing.T, name, pw, options string) {
	t.Helper()
	if err := f.CreateRole(t.Context(), name, secret(pw), options); err != nil {
		t.Fatalf("create role: %v", err)
	}
}

func (f *fixture) exec(t *testing.T, sql ...string) {
	t.Helper()
	if err := f.Exec(t.Context(), sql...); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) apply(ctx context.Context, s *session, name, pw string) (sdk.ApplyResponse, error) {
	f.mu.Lock()
	if len(pw) > 8 { // shorter ones are in every log by chance
		f.given = append(f.given, pw)
	}
	f.mu.Unlock()
	return s.Apply(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: password(pw)})
}

func (f *fixture) verify(ctx context.Context, name, pw string) (sdk.VerifyResponse, error) {
	h, r := f.here()
	return f.plugin.Verify(ctx, sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: name}, Credential: password(pw)})
}

func (f *fixture) mustApply(t *testing.T, s *session, name, pw string, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := f.apply(t.Context(), s, name, pw); err != nil || got != want {
		t.Errorf("apply to %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func (f *fixture) mustVerify(t *testing.T, name, pw string, want sdk.VerifyResponse) {
	t.Helper()
	if got, err := f.verify(t.Context(), name, pw); err != nil || got != want {
		t.Errorf("verify %q: %+v, %v, want %+v", name, got, err, want)
	}
}

// mustAccept asks a judge that shares no code with the plugin.
func (f *fixture) mustAccept(t *testing.T, name, pw string, want bool) {
	t.Helper()
	if got, err := f.Accepts(t.Context(), name, secret(pw)); err != nil || got != want {
		t.Errorf("psql as %q: %v, %v, want %v", name, got, err, want)
	}
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

func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("%s took %s, want at most %s", what, took, d)
	}
}
