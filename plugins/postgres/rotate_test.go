package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func TestRotate(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)

	t.Run("FirstChange", func(t *testing.T) {
		f.exec(t, `CREATE ROLE fresh LOGIN`)
		f.mustApply(t, s, "fresh", "the very first one", changed)
		f.mustVerify(t, "fresh", "the very first one", accepted)
		f.mustAccept(t, "fresh", "the very first one", true)
	})

	t.Run("OldRejected", func(t *testing.T) {
		f.role(t, "app", "old password", "")
		f.mustVerify(t, "app", "old password", accepted)
		f.mustApply(t, s, "app", "new password", changed)
		f.mustVerify(t, "app", "new password", accepted)
		f.mustVerify(t, "app", "old password", rejected)
		f.mustAccept(t, "app", "new password", true)
		f.mustAccept(t, "app", "old password", false)
	})

	t.Run("Printable", func(t *testing.T) {
		f.role(t, "printable", "x", "")
		var ascii []byte
		for c := byte(' '); c <= '~'; c++ {
			ascii = append(ascii, c)
		}
		// The one that looks like a verifier has no letters for a salt: two letters begin a real one in every 4096.
		for _, pw := range []string{
			string(ascii), " leading and trailing ", "'; DROP ROLE app; --", `\`, `"`, "$1 %s {0}", "SCRAM-SHA-256$4096:**",
			"ünïcödé påsswörd", "пароль и слово", "密码很长很长", "e\u0301 decomposed", "\ufb01ne and \u2168", "no\u00a0break and \u00ad soft",
			"emoji \U0001f600 \U0001f511", strings.Repeat("long ", 200),
		} {
			f.mustApply(t, s, "printable", pw, changed)
			f.mustVerify(t, "printable", pw, accepted)
			f.mustAccept(t, "printable", pw, true)
			f.mustVerify(t, "printable", pw+"x", rejected)
		}
	})

	t.Run("NotExpressible", func(t *testing.T) {
		f.role(t, "narrow", "as it was here", "")
		for _, pw := range []string{"", "zero\x00byte inside", "not \xff utf-8 at all"} {
			f.mustApply(t, s, "narrow", pw, unchanged(sdk.ClassPolicy, "policy.charset"))
		}
		f.mustAccept(t, "narrow", "as it was here", true)
	})

	t.Run("HostileNames", func(t *testing.T) {
		names := []string{
			`a"; DROP ROLE app; --`, `"`, `""`, `'`, `\`, `$1`, `a b`, ` `, "new\nline", "tab\t", `a.b`, `A`, `a;b`, `--`, `/*`, `%s`,
			`user=other`, `$(reboot)`, "`id`", "ünï", "\u202eright", strings.Repeat("n", 63), "select", "current_user", "session_user", "all",
		}
		for i, name := range names {
			f.role(t, name, "old of a hostile one", "")
			pw := fmt.Sprintf("new of hostile number %d", i)
			f.mustApply(t, s, name, pw, changed)
			f.mustVerify(t, name, pw, accepted)
		}
		for i, name := range names { // and each change reached its own role only
			if !strings.ContainsAny(name, "\n") {
				f.mustAccept(t, name, fmt.Sprintf("new of hostile number %d", i), true)
			}
		}
	})

	t.Run("Missing", func(t *testing.T) {
		f.role(t, strings.Repeat("m", 63), "as it was before", "")
		for _, name := range []string{"nobody", "", "public", "none", "zero\x00", "bad\xffutf8", strings.Repeat("m", 64), "APP", "app "} {
			f.mustApply(t, s, name, "for nobody at all", unchanged(sdk.ClassNotFound, "account.missing"))
		}
		// A longer name is cut by the server to one that exists.
		f.mustAccept(t, strings.Repeat("m", 63), "as it was before", true)
	})

	t.Run("ApplyTwice", func(t *testing.T) {
		f.role(t, "twice", "old", "")
		f.mustApply(t, s, "twice", "the same candidate", changed)
		f.mustApply(t, s, "twice", "the same candidate", changed)
		f.mustAccept(t, "twice", "the same candidate", true)
	})

	t.Run("Readback", func(t *testing.T) {
		f.role(t, "mirror", "first of mirror", "")
		read := func(name, pw string) sdk.VerifyResponse {
			t.Helper()
			v, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: password(pw)})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		f.exec(t, `SET password_encryption = 'md5'`, `CREATE ROLE old_hash LOGIN`, `CREATE ROLE bare LOGIN`)
		for _, c := range []struct {
			name, pw string
			want     sdk.VerifyResponse
		}{
			{"mirror", "first of mirror", accepted},
			{"mirror", "first of mirrox", rejected},
			{"nobody", "x", undecided("account.missing")},
			{"bare", "x", rejected},
		} {
			if got := read(c.name, c.pw); got != c.want {
				t.Errorf("read back %s: %+v, want %+v", c.name, got, c.want)
			}
		}
	})

	t.Run("NoLogin", func(t *testing.T) {
		f.role(t, "group_role", "old", "NOLOGIN")
		f.mustApply(t, s, "group_role", "of a role without login", changed)
		f.mustVerify(t, "group_role", "of a role without login", undecided("no_login"))
	})

	t.Run("Expired", func(t *testing.T) {
		f.role(t, "late", "still the old one", "VALID UNTIL '2001-01-01'")
		f.role(t, "later", "old", "VALID UNTIL '2901-01-01'")
		f.role(t, "ever", "old", "VALID UNTIL 'infinity'")
		f.mustApply(t, s, "late", "not for the late", unchanged(sdk.ClassConflict, "account.expired"))
		f.mustApply(t, s, "later", "but for the later", changed)
		f.mustApply(t, s, "ever", "and for ever more", changed)
		f.exec(t, `ALTER ROLE late VALID UNTIL 'infinity'`)
		f.mustAccept(t, "late", "still the old one", true)
	})

	t.Run("RejectedIsProven", func(t *testing.T) {
		f.role(t, "judged", "right", "")
		f.mustVerify(t, "judged", "wrong", rejected)
		f.exec(t, `ALTER ROLE judged VALID UNTIL '2001-01-01'`)
		f.mustVerify(t, "judged", "right", undecided("expired"))
		f.open(t).Close() // another session that comes and goes
		f.mustVerify(t, "judged", "right", undecided("expired"))
		f.exec(t, `ALTER ROLE judged VALID UNTIL 'infinity' CONNECTION LIMIT 0`)
		f.mustVerify(t, "judged", "right", undecided("throttled"))
		f.exec(t, `ALTER ROLE judged CONNECTION LIMIT -1`, `CREATE DATABASE closed`, `REVOKE CONNECT ON DATABASE closed FROM public`)
		h, r := f.here()
		r.Config = []byte(`{"database":"closed"}`)
		v, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "judged"}, Credential: password("right")})
		if err != nil || v != undecided("no_login") {
			t.Errorf("verify without the right to connect: %+v, %v", v, err)
		}
		r.Config = []byte(`{"database":"absent"}`)
		_, err = f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "judged"}, Credential: password("right")})
		mustFail(t, err, sdk.ClassInvalid, "database.missing")
		f.mustVerify(t, "judged", "right", accepted)
	})

	// A role whose time is up is answered as a wrong password is, and nobody is there who
	// could tell.
	t.Run("NobodyLoggedIn", func(t *testing.T) {
		f.role(t, "alone", "right", "VALID UNTIL '2001-01-01'")
		h, r := f.here()
		for _, pw := range []string{"right", "wrong"} {
			v, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "alone"}, Credential: password(pw)})
			if err != nil || v != undecided("not_judged") {
				t.Errorf("%s: %+v, %v", pw, v, err)
			}
		}
	})

	t.Run("VerifyIsFresh", func(t *testing.T) {
		f.role(t, "stale", "right", "")
		before := f.dialer.dials.Load()
		f.mustVerify(t, "stale", "right", accepted)
		f.exec(t, `ALTER ROLE stale PASSWORD 'another'`)
		f.mustVerify(t, "stale", "right", rejected)
		if n := f.dialer.dials.Load() - before; n != 2 {
			t.Errorf("%d connections for two logins", n)
		}
	})

	t.Run("OneSessionServesAll", func(t *testing.T) {
		s := f.open(t)
		before := f.dialer.dials.Load()
		for i := range 50 {
			f.role(t, fmt.Sprintf("many%d", i), "old", "")
			f.mustApply(t, s, fmt.Sprintf("many%d", i), fmt.Sprintf("new one of many %d", i), changed)
		}
		if n := f.dialer.dials.Load() - before; n != 0 {
			t.Errorf("%d further logins of the administrator for 50 roles", n)
		}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				f.mustApply(t, s, fmt.Sprintf("many%d", i), fmt.Sprintf("newer one of many %d", i), changed)
			})
		}
		all.Wait()
		if n := f.dialer.dials.Load() - before; n >= concurrency {
			t.Errorf("%d connections of the administrator beside the first, want less than %d", n, concurrency)
		}
		f.mustAccept(t, "many7", "newer one of many 7", true)
	})

	t.Run("DeadIdleConnectionIsNoOutcome", func(t *testing.T) {
		f.role(t, "survivor", "old", "")
		s := f.open(t)
		f.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rotunda'`)
		f.mustApply(t, s, "survivor", "after the server hung up", changed)
		f.mustAccept(t, "survivor", "after the server hung up", true)
	})

	t.Run("CancelledHasNoEffect", func(t *testing.T) {
		f.role(t, "calm", "as it was", "")
		before := f.dialer.dials.Load()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.apply(ctx, s, "calm", "must not arrive")
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = f.verify(ctx, "calm", "as it was")
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = s.Readback(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: "calm"}})
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		h, r := f.here()
		_, err = f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: password("x")})
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		if n := f.dialer.dials.Load() - before; n != 0 {
			t.Errorf("%d connections made for a cancelled context", n)
		}
		f.mustAccept(t, "calm", "as it was", true)
	})

	t.Run("CloseTwice", func(t *testing.T) {
		s := f.open(t)
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		_, err := f.apply(t.Context(), s, "app", "after the closing")
		mustFail(t, err, sdk.ClassInternal, "session.closed")
	})

	t.Run("OpenIsReadOnly", func(t *testing.T) {
		// A server that takes nothing but reads lets the session open all the same.
		f.exec(t, `CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'a reading one'`, `ALTER ROLE reader SET default_transaction_read_only = on`)
		ro := f.openAs(t, "reader", password("a reading one"), false)
		f.mustApply(t, ro, "app", "not on a standby", unchanged(sdk.ClassConflict, "target.read_only"))
	})

	t.Run("Self", func(t *testing.T) {
		f.role(t, "own", "its own old one", "")
		me := f.openAs(t, "own", password("its own old one"), true)
		f.mustApply(t, me, "own", "its own new one", changed)
		f.mustApply(t, me, "own", "its own new one", changed)
		f.mustVerify(t, "own", "its own new one", accepted)
		f.mustVerify(t, "own", "its own old one", rejected)
		if _, err := f.apply(t.Context(), me, "app", "of somebody else"); err == nil {
			t.Error("a role changed another in a session of its own")
		}
	})

	t.Run("WrongAdmin", func(t *testing.T) {
		h, r := f.here()
		for _, who := range []string{f.Admin, "nobody at all"} {
			_, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("wrong"), AdminAs: sdk.Account{Name: who}})
			mustFail(t, err, sdk.ClassAuth, "admin.refused")
		}
		f.role(t, "kept_out", "the right one", "NOLOGIN")
		_, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("the right one"), AdminAs: sdk.Account{Name: "kept_out"}})
		mustFail(t, err, sdk.ClassConflict, "admin.barred")
	})

	t.Run("NoRights", func(t *testing.T) {
		f.role(t, "weak", "of the weak", "")
		f.role(t, "strong", "of the strong", "")
		weak := f.openAs(t, "weak", password("of the weak"), false)
		f.mustApply(t, weak, "strong", "not by the weak", unchanged(sdk.ClassPermission, "admin.rights"))
		f.mustAccept(t, "strong", "of the strong", true)
		v, err := weak.Readback(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "strong"}, Candidate: password("of the strong")})
		if err != nil || v != undecided("readback.rights") {
			t.Errorf("readback without the right: %+v, %v", v, err)
		}
	})
}

// A reply that is lost is an unknown outcome, whichever side of it the change is on,
// and the same candidate brings the account home.
func TestLostReplyIsUnknown(t *testing.T) {
	f := newFixture(t)
	f.role(t, "lost", "old", "")
	for name, deliver := range map[string]bool{"before the change": false, "after the change": true} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			f.dialer.write = func(c net.Conn, b []byte) (int, error) {
				if !armed.Load() || !bytes.Contains(b, []byte("ALTER ROLE")) {
					return c.Write(b)
				}
				if deliver {
					c.Write(b)
				}
				c.Close()
				return len(b), nil
			}
			defer func() { f.dialer.write = nil }()
			h, r := f.here()
			r.TLS.Mode = sdk.TLSOff // so that the test sees what is written
			s, err := f.plugin.Open(t.Context(), sdk.OpenRequest{
				Host: h, Resource: r,
				Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			armed.Store(true)
			out, err := f.apply(t.Context(), s.(*session), "lost", "the candidate "+name)
			var e *sdk.Error
			if out.Outcome != sdk.Unknown || !errors.As(err, &e) || e.NotSent {
				t.Errorf("lost reply: %+v, %v", out, err)
			}
			armed.Store(false)
			// The lost one may be committing still: then the target is busy, and says so.
			for out.Outcome != sdk.Changed {
				out, err = f.apply(t.Context(), s.(*session), "lost", "the candidate "+name)
				if err != nil || out.Outcome == sdk.Unchanged && out.Reason != "target.busy" {
					t.Fatalf("again: %+v, %v", out, err)
				}
			}
			f.mustAccept(t, "lost", "the candidate "+name, true)
		})
	}
}

func TestDown(t *testing.T) {
	f := newFixture(t)
	f.role(t, "app", "old", "")
	s := f.open(t)
	f.mustApply(t, s, "app", "before it went down", changed)
	if err := f.Down(); err != nil {
		t.Fatal(err)
	}
	_, err := f.apply(t.Context(), s, "app", "while it was down")
	mustFail(t, err, sdk.ClassUnreachable, "connection")
	f.mustVerify(t, "app", "before it went down", undecided("unreachable"))
	h, r := f.here()
	_, err = f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("x"), AdminAs: sdk.Account{Name: "x"}})
	mustFail(t, err, sdk.ClassUnreachable, "connection")
	if err := f.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.mustApply(t, s, "app", "after it came back", changed)
	f.mustAccept(t, "app", "after it came back", true)
}

func TestHung(t *testing.T) {
	f := newFixture(t)
	f.role(t, "app", "as it was", "")
	s := f.open(t)

	// A server that takes connections and says nothing.
	if err := f.Pause(); err != nil {
		t.Fatal(err)
	}
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	within(t, 3*time.Second, "verify on a deaf server", func() {
		if v, err := f.verify(short(), "app", "as it was"); err != nil || v != undecided("unreachable") {
			t.Errorf("verify on a deaf server: %+v, %v", v, err)
		}
	})
	if err := f.Resume(); err != nil {
		t.Fatal(err)
	}

	// A change that waits for somebody else's lock is given up on both sides: it must not
	// be carried out later.
	other, err := f.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), `BEGIN; ALTER ROLE app CONNECTION LIMIT 7`); err != nil {
		t.Fatal(err)
	}
	within(t, 3*time.Second, "apply behind a lock", func() {
		out, err := f.apply(short(), s, "app", "behind the lock")
		if out.Outcome == sdk.Changed || out.Outcome == sdk.Unknown && err == nil {
			t.Errorf("apply behind a lock: %+v, %v", out, err)
		}
	})
	if _, err := other.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	for waiting := 1; waiting > 0; {
		if err := other.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rotunda' AND state = 'active'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	f.mustAccept(t, "app", "behind the lock", false)
	f.mustAccept(t, "app", "as it was", true)

	// The connection that was cut off is not used again.
	f.mustApply(t, s, "app", "after the lock", changed)
	f.mustAccept(t, "app", "after the lock", true)
}

func TestPolicyIsUnchanged(t *testing.T) {
	f := newFixture(t, "shared_preload_libraries=passwordcheck")
	f.exec(t, `CREATE ROLE role_called_thus LOGIN`)
	s := f.open(t)
	// All that the module can tell of a verifier is whether the password is the role's name.
	got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "role_called_thus"}, Candidate: password("role_called_thus")})
	if want := unchanged(sdk.ClassPolicy, "policy.refused"); err != nil || got != want {
		t.Errorf("a refusing policy: %+v, %v, want %+v", got, err, want)
	}
	f.mustApply(t, s, "role_called_thus", "and that it takes", changed)
}

// A server that cannot prove itself is not sent a byte of a credential, nor is its
// judgement believed.
func TestTargetIdentity(t *testing.T) {
	f := newFixture(t)
	f.role(t, "app", "right", "")
	wrong := bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		mode   sdk.TLSMode
		pins   []byte
		class  sdk.Class
		reason string
	}{
		"right pin":                   {sdk.TLSPin, f.SPKI[:], "", ""},
		"right pin among others":      {sdk.TLSPin, append(bytes.Clone(wrong), f.SPKI[:]...), "", ""},
		"wrong pin":                   {sdk.TLSPin, wrong, sdk.ClassAuth, "target_identity"},
		"no pin":                      {sdk.TLSPin, nil, sdk.ClassInvalid, "tls.pin"},
		"authority that nobody knows": {sdk.TLSSystem, nil, sdk.ClassAuth, "target_identity"},
		"nothing said":                {"", nil, sdk.ClassAuth, "target_identity"},
		"off":                         {sdk.TLSOff, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, r := f.here()
			h.Pins = map[string][]byte{f.Address: c.pins}
			r.TLS.Mode = c.mode
			v, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "app"}, Credential: password("right")})
			_, openErr := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin}})
			if c.reason == "" {
				if err != nil || openErr != nil || v != accepted {
					t.Errorf("%+v, %v, %v", v, err, openErr)
				}
				return
			}
			mustFail(t, err, c.class, c.reason)
			mustFail(t, openErr, c.class, c.reason)
		})
	}

	t.Run("server without TLS", func(t *testing.T) {
		plain := newFixture(t, "ssl=off")
		_, err := plain.verify(t.Context(), "app", "right")
		mustFail(t, err, sdk.ClassAuth, "target_identity")
	})
}

// A server that lets everybody in judges nothing.
func TestTrustProvesNothing(t *testing.T) {
	f := newFixture(t)
	f.role(t, "app", "right", "")
	f.exec(t, `COPY (SELECT 'host all all 127.0.0.1/32 trust') TO PROGRAM 'cat > pg_hba.conf'`, `SELECT pg_reload_conf()`)
	for deadline := time.Now().Add(10 * time.Second); ; {
		in, err := f.Accepts(t.Context(), "app", secret("wrong"))
		if err != nil {
			t.Fatal(err)
		}
		if in {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not trust yet")
		}
	}
	_, err := f.verify(t.Context(), "app", "wrong")
	mustFail(t, err, sdk.ClassUnsupported, "auth.method")
}
