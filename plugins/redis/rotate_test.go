package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}

// fixture is one server and the plugin.
type fixture struct {
	*targets.RedisServer
	plugin *rotator
}

func newFixture(t *testing.T, lines ...string) *fixture {
	return &fixture{targets.RedisWithACL(t, lines...), &rotator{}}
}

func (f *fixture) here(config string) (sdk.Host, sdk.Resource) {
	return sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{f.Address: f.SPKI[:]},
	}, sdk.Resource{Address: f.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(config)}
}

func (f *fixture) openAs(ctx context.Context, name string, c sdk.Credential, config string) (sdk.Session, error) {
	h, r := f.here(config)
	return f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: sdk.Account{Name: name}})
}

func (f *fixture) open(t *testing.T) *session {
	t.Helper()
	s, err := f.openAs(t.Context(), f.Admin, sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*session)
}

func (f *fixture) user(t *testing.T, name, pw string) {
	t.Helper()
	if err := f.CreateUser(t.Context(), name, password(pw).Secret); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := f.Do(t.Context(), argv...)
	if err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return out
}

func (f *fixture) mustAccept(t *testing.T, name, pw string, want bool) {
	t.Helper()
	if got, err := f.Accepts(t.Context(), name, password(pw).Secret); err != nil || got != want {
		t.Errorf("redis-cli as %q: %v, %v, want %v", name, got, err, want)
	}
}

// once is a line that is down after the first connection.
type once struct {
	net.Dialer
	used bool
}

func (o *once) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if o.used {
		return nil, errors.New("the line is down")
	}
	o.used = true
	return o.Dialer.DialContext(ctx, network, address)
}

// tap speaks TLS in the plugin's place, and keeps what the plugin writes.
type tap struct {
	server *targets.RedisServer
	mu     sync.Mutex
	bytes  bytes.Buffer
}

func (w *tap) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.server.CA)
	c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}).DialContext(ctx, network, address)
	return tapped{c, w}, err
}

func (w *tap) written() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.String()
}

type tapped struct {
	net.Conn
	tap *tap
}

func (c tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.bytes.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

func (f *fixture) mustVerify(t *testing.T, name, pw string, want sdk.VerifyResponse) {
	t.Helper()
	f.mustVerifyBy(t, new(net.Dialer), name, pw, want)
}

func (f *fixture) mustVerifyBy(t *testing.T, line sdk.Dialer, name, pw string, want sdk.VerifyResponse) {
	t.Helper()
	h, r := f.here("")
	h.Dialer = line
	got, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: name}, Credential: password(pw)})
	if err != nil || got != want {
		t.Errorf("verify %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func mustApply(t *testing.T, s *session, name, pw string, want sdk.ApplyResponse) {
	t.Helper()
	got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: password(pw)})
	if err != nil || got != want {
		t.Errorf("apply to %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func mustRetire(t *testing.T, s *session, name, keep, old string, want sdk.Outcome) {
	t.Helper()
	got, err := s.Retire(t.Context(), sdk.RetireRequest{Account: sdk.Account{Name: name}, Keep: password(keep), Old: password(old)})
	if err != nil || got.Outcome != want {
		t.Errorf("retire of %q: %+v, %v, want %d", name, got, err, want)
	}
}

func mustFail(t *testing.T, err error, class sdk.Class, reason string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != class || e.Reason != reason {
		t.Errorf("error %v, want class %s, reason %s", err, class, reason)
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

func TestRotate(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)

	t.Run("BothWorkUntilRetired", func(t *testing.T) {
		f.user(t, "app", "the first of app")
		mustApply(t, s, "app", "the second of app", changed)
		f.mustAccept(t, "app", "the first of app", true)
		f.mustAccept(t, "app", "the second of app", true)
		mustRetire(t, s, "app", "the second of app", "the first of app", sdk.Changed)
		f.mustAccept(t, "app", "the first of app", false)
		f.mustAccept(t, "app", "the second of app", true)
	})

	// A password that a person added beside stays his business.
	t.Run("OthersArePassedBy", func(t *testing.T) {
		f.user(t, "shared", "the first of shared")
		f.command(t, "ACL", "SETUSER", "shared", ">a person's own")
		mustApply(t, s, "shared", "the second of shared", changed)
		mustRetire(t, s, "shared", "the second of shared", "the first of shared", sdk.Changed)
		f.mustAccept(t, "shared", "a person's own", true)
	})

	t.Run("RetireLeavesOneThatWorks", func(t *testing.T) {
		f.user(t, "alone", "the only one of alone")
		mustRetire(t, s, "alone", "one that it has not", "the only one of alone", sdk.Unchanged)
		mustRetire(t, s, "alone", "the only one of alone", "the only one of alone", sdk.Changed)
		f.mustAccept(t, "alone", "the only one of alone", true)
	})

	t.Run("DefaultUser", func(t *testing.T) {
		f.command(t, "ACL", "SETUSER", "default", "on", ">of the default user")
		mustApply(t, s, "default", "new of the default user", changed)
		mustRetire(t, s, "default", "new of the default user", "of the default user", sdk.Changed)
		f.mustVerify(t, "default", "new of the default user", accepted)
		f.mustVerify(t, "default", "of the default user", rejected)
	})

	t.Run("SwitchedOff", func(t *testing.T) {
		f.user(t, "off", "the first of off")
		f.command(t, "ACL", "SETUSER", "off", "off")
		mustApply(t, s, "off", "the second of off", changed)
		f.mustVerify(t, "off", "the second of off", undecided("disabled"))
	})

	// Whoever comes is let in: that a password is taken says nothing about it.
	t.Run("WithoutPassword", func(t *testing.T) {
		f.user(t, "anybody", "the first of anybody")
		f.command(t, "ACL", "SETUSER", "anybody", "nopass")
		f.mustVerify(t, "anybody", "whatever it is", sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "account.nopass"})
		mustApply(t, s, "anybody", "the second of anybody", changed)
		f.mustVerify(t, "anybody", "whatever it is", rejected)
	})

	// The current password works until it is retired: a first one would end it at once.
	t.Run("WithoutPasswordAndInUse", func(t *testing.T) {
		refused := sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.nopass"}
		for rule, want := range map[string]sdk.ApplyResponse{"nopass": refused, ">the first of served": changed} {
			f.command(t, "ACL", "SETUSER", "served", "reset", "on", "+ping", rule)
			got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "served"}, Candidate: password("the second of served"), Current: password("the first of served")})
			if err != nil || got != want {
				t.Errorf("%s: %+v, %v, want %+v", rule, got, err, want)
			}
			f.mustAccept(t, "served", "the first of served", true)
			f.mustAccept(t, "served", "anything at all", want == refused)
		}
	})

	// Where nobody can be asked, a login says nothing of a user whom every password opens.
	t.Run("NobodyToAsk", func(t *testing.T) {
		f.user(t, "judged", "the first of judged")
		f.user(t, "open", "the first of open")
		f.command(t, "ACL", "SETUSER", "open", "nopass")
		f.user(t, "blind", "the first of blind")
		f.command(t, "ACL", "SETUSER", "blind", "reset", "on", ">the first of blind", "+config|get", "+info")
		blind := &fixture{f.RedisServer, &rotator{}}
		little, err := blind.openAs(t.Context(), "blind", password("the first of blind"), "")
		if err != nil {
			t.Fatal(err)
		}
		defer little.Close()
		for why, nobody := range map[string]*fixture{"no session": {f.RedisServer, &rotator{}}, "no right to look": blind} {
			t.Run(why, func(t *testing.T) {
				nobody.mustVerify(t, "judged", "the first of judged", accepted)
				nobody.mustVerify(t, "judged", "wrong", undecided("not_judged"))
				nobody.mustVerify(t, "open", "the first of open", undecided("not_judged"))
				nobody.mustVerify(t, "open", "one that was never set", undecided("not_judged"))
				nobody.mustVerifyBy(t, &once{}, "judged", "the first of judged", undecided("not_judged")) // no second try
			})
		}
	})

	t.Run("Missing", func(t *testing.T) {
		for _, name := range []string{"nobody", "", "APP", "app ", "a\x00b"} {
			mustApply(t, s, name, "for nobody at all", sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"})
		}
		if users := f.command(t, "ACL", "USERS"); strings.Contains(users, "nobody") {
			t.Error("the change of a user who is missing made one")
		}
	})

	t.Run("Readback", func(t *testing.T) {
		f.user(t, "mirror", "the first of mirror")
		for pw, want := range map[string]sdk.VerifyResponse{"the first of mirror": accepted, "another": rejected} {
			got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "mirror"}, Candidate: password(pw)})
			if err != nil || got != want {
				t.Errorf("read back %q: %+v, %v, want %+v", pw, got, err, want)
			}
		}
	})

	// A login that fails counts once, where a server or a watch locks out by counting.
	t.Run("OneTry", func(t *testing.T) {
		f.user(t, "counted", "the first of counted")
		f.command(t, "ACL", "LOG", "RESET")
		f.mustVerify(t, "counted", "not it", rejected)
		if n := strings.Count(f.command(t, "ACL", "LOG"), "auth"); n != 2 { // reason and context of one entry
			t.Errorf("the server's log of refusals: %s", f.command(t, "ACL", "LOG"))
		}
	})

	t.Run("LittleRights", func(t *testing.T) {
		f.user(t, "clerk", "the first of clerk")
		f.command(t, "ACL", "SETUSER", "clerk", "reset", "on", ">the first of clerk", "+acl|getuser", "+config|get", "+info")
		little, err := f.openAs(t.Context(), "clerk", password("the first of clerk"), "")
		if err != nil {
			t.Fatal(err)
		}
		defer little.Close()
		mustApply(t, little.(*session), "app", "of a clerk", sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "admin.rights"})
	})

	// Looked for in what the plugin writes: Redis 7 takes the rules of ACL SETUSER out of its
	// slow log, whatever they are, and stores digests of what it was sent.
	t.Run("ChangesSendDigestsOnly", func(t *testing.T) {
		f.user(t, "seen", "the first of seen")
		wire := &tap{server: f.RedisServer}
		h, r := f.here("")
		h.Dialer, r.TLS.Mode = wire, sdk.TLSOff
		open, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin}})
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		s, seen := open.(*session), sdk.Account{Name: "seen"}
		mustApply(t, s, "seen", "the second of seen", changed)
		if got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: seen, Candidate: password("the second of seen")}); err != nil || got != accepted {
			t.Errorf("readback: %+v, %v", got, err)
		}
		mustRetire(t, s, "seen", "the second of seen", "the first of seen", sdk.Changed)
		if n := strings.Count(wire.written(), "SETUSER"); n != 2 {
			t.Fatalf("%d changes were seen on the line, want 2", n)
		}
		if strings.Contains(wire.written(), " of seen") {
			t.Error("a password was sent to change a user")
		}
		// The line shows a password where one is sent.
		c, _, err := s.look(t.Context(), "seen")
		if err != nil {
			t.Fatal(err)
		}
		defer s.pool.Give(c, true)
		if got, err := s.change(t.Context(), c, "seen", ">the third of seen"); err != nil || got != changed {
			t.Fatalf("%+v, %v", got, err)
		}
		if !strings.Contains(wire.written(), ">the third of seen") {
			t.Error("a password that was sent is not found on the line")
		}
	})
}

// What is changed is there after a restart, wherever the server keeps its users.
func TestSaved(t *testing.T) {
	t.Run("in the ACL file", func(t *testing.T) {
		f := newFixture(t)
		f.user(t, "app", "the first of app")
		s := f.open(t)
		mustApply(t, s, "app", "the second of app", changed)
		mustRetire(t, s, "app", "the second of app", "the first of app", sdk.Changed)
		if err := errors.Join(f.Down(), f.Up(t.Context())); err != nil {
			t.Fatal(err)
		}
		f.mustAccept(t, "app", "the second of app", true)
		f.mustAccept(t, "app", "the first of app", false)
		mustApply(t, s, "app", "the third of app", changed) // by the session of before
	})
	t.Run("in the configuration", func(t *testing.T) {
		f := newFixture(t, `aclfile ""`, "user radmin on nopass ~* &* +@all")
		f.command(t, "ACL", "SETUSER", "app", "on", ">the first of app", "+@all")
		s := f.open(t)
		mustApply(t, s, "app", "the second of app", changed)
		if err := errors.Join(f.Down(), f.Up(t.Context())); err != nil {
			t.Fatal(err)
		}
		f.mustAccept(t, "app", "the second of app", true)
	})
	// The change was made and will be lost: that is not known, and done again it is saved.
	t.Run("not yet", func(t *testing.T) {
		f := newFixture(t)
		f.user(t, "app", "the first of app")
		s := f.open(t)
		if err := errors.Join(os.Remove(f.UsersFile), os.MkdirAll(filepath.Join(f.UsersFile, "in the way"), 0o700)); err != nil {
			t.Fatal(err)
		}
		app := sdk.Account{Name: "app"}
		first, second := password("the first of app"), password("the second of app")
		out, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: app, Candidate: second})
		mustFail(t, err, sdk.ClassUnreachable, "target.unsaved")
		if out.Outcome != sdk.Unknown {
			t.Errorf("%+v, want an unknown outcome", out)
		}
		_, err = s.Retire(t.Context(), sdk.RetireRequest{Account: app, Keep: second, Old: first})
		mustFail(t, err, sdk.ClassUnreachable, "target.unsaved")
		if err := os.RemoveAll(f.UsersFile); err != nil {
			t.Fatal(err)
		}
		mustRetire(t, s, "app", "the second of app", "the first of app", sdk.Changed)
		if err := errors.Join(f.Down(), f.Up(t.Context())); err != nil {
			t.Fatal(err)
		}
		f.mustAccept(t, "app", "the first of app", false)
		f.mustAccept(t, "app", "the second of app", true)
	})
	t.Run("nowhere, and the resource says so", func(t *testing.T) {
		f := newFixture(t)
		f.user(t, "app", "the first of app")
		s, err := f.openAs(t.Context(), f.Admin, sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, `{"unsaved":true}`)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		mustApply(t, s.(*session), "app", "the second of app", changed)
		if err := errors.Join(f.Down(), f.Up(t.Context())); err != nil {
			t.Fatal(err)
		}
		f.mustAccept(t, "app", "the first of app", true)
	})
}
