package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func secret(s string) sdk.Secret { return sdk.NewSecret([]byte(s)) }

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
	*targets.MariaDBServer
	plugin *rotator
	dialer *dialer

	mu    sync.Mutex
	given []string
}

func newFixture(t *testing.T, settings ...string) *fixture {
	f := &fixture{MariaDBServer: targets.Maria(t, settings...), plugin: &rotator{}, dialer: &dialer{}}
	t.Cleanup(func() { f.noneInTheLogs(t) }) // before the server's folder goes
	return f
}

// noneInTheLogs looks for the candidates in what the server writes down: every statement
// that it was sent, and every change.
func (f *fixture) noneInTheLogs(t *testing.T) {
	binary, err := filepath.Glob(filepath.Join(filepath.Dir(f.GeneralLog), "binlog.0*"))
	if err != nil {
		t.Error(err)
	}
	for name, files := range map[string][]string{"general log": {f.GeneralLog}, "binary log": binary} {
		var log []byte
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			log = append(log, b...)
		}
		if len(f.given) > 0 && !bytes.Contains(log, []byte("ALTER USER '")) {
			t.Errorf("the %s does not have the changes, so it proves nothing", name)
		}
		for i, s := range f.given {
			if bytes.Contains(log, []byte(s)) {
				t.Errorf("the %s has the password given as candidate %d", name, i)
			}
		}
	}
}

// here is the host and the resource as the agent would hand them in.
func (f *fixture) here(config string) (sdk.Host, sdk.Resource) {
	return sdk.Host{
			Dialer: f.dialer, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
			Pins: map[string][]byte{f.Address: f.SPKI[:]},
		},
		sdk.Resource{Address: f.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(config)}
}

func (f *fixture) tryOpen(ctx context.Context, a sdk.Account, pw, config string, self bool) (*session, error) {
	h, r := f.here(config)
	s, err := f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: password(pw), AdminAs: a, Self: self})
	if err != nil {
		return nil, err
	}
	return s.(*session), nil
}

func (f *fixture) openAs(t *testing.T, a sdk.Account, pw, config string, self bool) *session {
	t.Helper()
	s, err := f.tryOpen(t.Context(), a, pw, config, self)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (f *fixture) open(t *testing.T, config string) *session {
	t.Helper()
	return f.openAs(t, sdk.Account{Name: f.Admin}, f.AdminPassword.ExposeString(), config, false)
}

// at is the account of a name, at the host that the tests come from.
func (f *fixture) at(name string) sdk.Account { return sdk.Account{Name: name, Scope: f.Host} }

func (f *fixture) user(t *testing.T, name, pw string) sdk.Account {
	t.Helper()
	return f.userBy(t, name, native, pw)
}

func (f *fixture) userBy(t *testing.T, name, method, pw string) sdk.Account {
	t.Helper()
	if err := f.CreateUser(t.Context(), name, f.Host, method, secret(pw)); err != nil {
		t.Fatal(err)
	}
	return f.at(name)
}

func (f *fixture) exec(t *testing.T, sql ...string) {
	t.Helper()
	if err := f.Exec(t.Context(), sql...); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) apply(ctx context.Context, s *session, a sdk.Account, pw, current string) (sdk.ApplyResponse, error) {
	f.mu.Lock()
	if len(pw) > 8 && !s.target.config.Clear { // shorter ones are in every log by chance
		f.given = append(f.given, pw)
	}
	f.mu.Unlock()
	return s.Apply(ctx, sdk.ApplyRequest{Account: a, Candidate: password(pw), Current: password(current)})
}

func (f *fixture) verify(ctx context.Context, a sdk.Account, pw string) (sdk.VerifyResponse, error) {
	h, r := f.here("")
	return f.plugin.Verify(ctx, sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password(pw)})
}

func (f *fixture) mustApply(t *testing.T, s *session, a sdk.Account, pw, current string, want sdk.ApplyResponse) {
	t.Helper()
	if got, err := f.apply(t.Context(), s, a, pw, current); err != nil || got != want {
		t.Errorf("apply to %v: %+v, %v, want %+v", a, got, err, want)
	}
}

func (f *fixture) mustVerify(t *testing.T, a sdk.Account, pw string, want sdk.VerifyResponse) {
	t.Helper()
	if got, err := f.verify(t.Context(), a, pw); err != nil || got != want {
		t.Errorf("verify %v: %+v, %v, want %+v", a, got, err, want)
	}
}

// mustAccept asks a judge that shares no code with the plugin.
func (f *fixture) mustAccept(t *testing.T, a sdk.Account, pw string, want bool) {
	t.Helper()
	as, got, err := f.Accepts(t.Context(), a.Name, secret(pw))
	if err != nil || got != want || got && as != a.Name+"@"+a.Scope {
		t.Errorf("mariadb as %v: %q, %v, %v, want %v", a, as, got, err, want)
	}
}

func mustRetire(t *testing.T, s *session, a sdk.Account, keep, old string, want sdk.Outcome) {
	t.Helper()
	got, err := s.Retire(t.Context(), sdk.RetireRequest{Account: a, Keep: password(keep), Old: password(old)})
	if err != nil || got.Outcome != want {
		t.Errorf("retire of %v: %+v, %v, want %d", a, got, err, want)
	}
}

var (
	changed  = sdk.ApplyResponse{Outcome: sdk.Changed}
	accepted = sdk.VerifyResponse{Verdict: sdk.Accepted}
	rejected = sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
)

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
	if err != nil && strings.Contains(err.Error(), "password of") {
		t.Errorf("error %v has a password", err)
	}
}
