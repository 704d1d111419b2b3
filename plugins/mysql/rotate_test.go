package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func TestRotate(t *testing.T) {
	f := newFixture(t, "--plugin-load-add=auth_ed25519")
	s := f.open(t, "")

	// The same name at three hosts is three accounts.
	t.Run("Hosts", func(t *testing.T) {
		here, any, far := f.user(t, "app", "the first of here"), sdk.Account{Name: "app"}, sdk.Account{Name: "app", Scope: "10.9.8.7"}
		for host, pw := range map[string]string{"%": "the first of any", far.Scope: "the first of far"} {
			if err := f.CreateUser(t.Context(), "app", host, native, secret(pw)); err != nil {
				t.Fatal(err)
			}
		}
		f.mustVerify(t, here, "the first of here", accepted)
		f.mustVerify(t, far, "the first of far", undecided("no_login"))
		f.mustVerify(t, far, "the first of here", rejected)
		f.mustVerify(t, any, "the first of any", undecided("no_login"))
		f.mustVerify(t, any, "another one", rejected)
		for _, c := range []struct {
			a        sdk.Account
			old, new string
		}{{far, "the first of far", "the second of far"}, {any, "the first of any", "the second of any"}} {
			f.mustApply(t, s, c.a, c.new, c.old, changed)
			mustRetire(t, s, c.a, c.new, c.old, sdk.Changed)
			f.mustVerify(t, c.a, c.new, undecided("no_login"))
			f.mustVerify(t, c.a, c.old, rejected)
			got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: c.a, Candidate: password(c.new)})
			if err != nil || got != accepted {
				t.Errorf("readback of %v: %+v, %v", c.a, got, err)
			}
		}
		f.mustAccept(t, here, "the first of here", true)
		f.exec(t, "DROP USER app@'"+f.Host+"'")
		f.mustVerify(t, any, "the second of any", accepted)
		f.mustVerify(t, sdk.Account{Name: "app", Scope: "10.9.8.6"}, "the second of any", rejected)
	})

	// Whoever is nobody is taken for the account without a name.
	t.Run("Anonymous", func(t *testing.T) {
		if err := f.CreateUser(t.Context(), "", f.Host, native, secret("of nobody at all")); err != nil {
			t.Fatal(err)
		}
		f.mustVerify(t, f.at("ghost"), "of nobody at all", rejected)
		f.exec(t, "DROP USER ''@'"+f.Host+"'")
	})

	for _, method := range []string{native, ed25519} {
		t.Run("BothWorkUntilRetired "+method, func(t *testing.T) {
			a := f.userBy(t, "both"+method, method, "the first of both")
			f.mustApply(t, s, a, "the second of both "+method, "the first of both", changed)
			f.mustAccept(t, a, "the first of both", true)
			f.mustAccept(t, a, "the second of both "+method, true)
			f.mustVerify(t, a, "the second of both "+method, accepted)
			f.mustVerify(t, a, "a third of both", rejected)
			mustRetire(t, s, a, "the second of both "+method, "the first of both", sdk.Changed)
			f.mustAccept(t, a, "the first of both", false)
			f.mustVerify(t, a, "the first of both", rejected)
			f.mustVerify(t, a, "the second of both "+method, accepted)
		})

		// What a person brought back is the former secret, which is there still.
		t.Run("BroughtBack "+method, func(t *testing.T) {
			a := f.userBy(t, "back"+method, method, "the first of back")
			f.mustApply(t, s, a, "the second of back "+method, "the first of back", changed)
			got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password("the first of back"), Current: password("the second of back " + method)})
			if err != nil || got != changed {
				t.Errorf("%+v, %v", got, err)
			}
			mustRetire(t, s, a, "the first of back", "the second of back "+method, sdk.Changed)
			f.mustAccept(t, a, "the first of back", true)
			f.mustAccept(t, a, "the second of back "+method, false)
		})
	}

	// There is room for two: the current stays, what was left over does not.
	t.Run("RoomForTwo", func(t *testing.T) {
		a := f.user(t, "room", "the first of room")
		f.mustApply(t, s, a, "the second of room", "the first of room", changed)
		f.mustApply(t, s, a, "the third of room", "the second of room", changed)
		f.mustAccept(t, a, "the first of room", false)
		f.mustAccept(t, a, "the second of room", true)
		f.mustAccept(t, a, "the third of room", true)
	})

	t.Run("OtherWaysStay", func(t *testing.T) {
		f.exec(t, "CREATE USER ways@'"+f.Host+"' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('the first of ways')")
		a := f.at("ways")
		f.mustApply(t, s, a, "the second of ways", "the first of ways", changed)
		f.mustVerify(t, a, "the second of ways", accepted)
		mustRetire(t, s, a, "the second of ways", "the first of ways", sdk.Changed)
		f.mustVerify(t, a, "the first of ways", rejected)
		out, err := f.Query(t.Context(), "SHOW CREATE USER ways@'"+f.Host+"'")
		if err != nil || !strings.Contains(out, "IDENTIFIED VIA unix_socket OR mysql_native_password USING '"+nativeDigest([]byte("the second of ways"))+"'") {
			t.Errorf("%s, %v", out, err)
		}
	})

	t.Run("NoPasswordToSet", func(t *testing.T) {
		f.exec(t, "CREATE USER socket@'"+f.Host+"' IDENTIFIED VIA unix_socket")
		f.mustApply(t, s, f.at("socket"), "of the socket", "", unchanged(sdk.ClassUnsupported, "account.method"))
		f.mustVerify(t, f.at("socket"), "of the socket", rejected)
	})

	t.Run("NoPasswordYet", func(t *testing.T) {
		f.exec(t, "CREATE USER bare@'"+f.Host+"'")
		f.mustApply(t, s, f.at("bare"), "the first of bare", "", changed)
		f.mustAccept(t, f.at("bare"), "the first of bare", true)
		f.mustAccept(t, f.at("bare"), "", false)
	})

	t.Run("RetireLeavesOneThatWorks", func(t *testing.T) {
		a := f.user(t, "alone", "the only one of alone")
		mustRetire(t, s, a, "one that it has not", "the only one of alone", sdk.Unchanged)
		mustRetire(t, s, a, "the only one of alone", "the only one of alone", sdk.Changed)
		mustRetire(t, s, f.at("nobody"), "a", "b", sdk.Changed)
		f.mustAccept(t, a, "the only one of alone", true)
	})

	t.Run("OneAtATime", func(t *testing.T) {
		one := f.open(t, `{"single":true}`)
		a := f.user(t, "single", "the first of single")
		for range 2 {
			f.mustApply(t, one, a, "the second of single", "the first of single", changed)
			f.mustAccept(t, a, "the first of single", false)
			f.mustAccept(t, a, "the second of single", true)
		}
		mustRetire(t, one, a, "the second of single", "the first of single", sdk.Changed)
	})

	t.Run("Expired", func(t *testing.T) {
		a := f.user(t, "late", "the first of late")
		f.exec(t, "ALTER USER late@'"+f.Host+"' PASSWORD EXPIRE")
		f.mustVerify(t, a, "the first of late", undecided("expired"))
		f.mustVerify(t, a, "another of late", rejected)
		_, err := f.tryOpen(t.Context(), a, "the first of late", "", false)
		mustFail(t, err, sdk.ClassConflict, "admin.must_change")
		f.exec(t, "SET GLOBAL disconnect_on_expired_password = ON")
		f.mustVerify(t, a, "the first of late", undecided("expired"))
		f.exec(t, "SET GLOBAL disconnect_on_expired_password = OFF")
		f.mustApply(t, s, a, "the second of late", "the first of late", changed)
		f.mustVerify(t, a, "the second of late", accepted)
	})

	t.Run("Locked", func(t *testing.T) {
		a := f.user(t, "shut", "the first of shut")
		f.exec(t, "ALTER USER shut@'"+f.Host+"' ACCOUNT LOCK")
		f.mustApply(t, s, a, "the second of shut", "the first of shut", changed)
		f.mustVerify(t, a, "the second of shut", undecided("locked"))
		f.mustVerify(t, a, "another of shut", rejected)
		got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password("the second of shut")})
		if err != nil || got != undecided("locked") {
			t.Errorf("readback: %+v, %v", got, err)
		}
	})

	t.Run("TooManyWrongPasswords", func(t *testing.T) {
		a := f.user(t, "guessed", "of the guessed one")
		f.exec(t, "SET GLOBAL max_password_errors = 2")
		for range 2 {
			f.mustVerify(t, a, "a wrong guess", rejected)
		}
		f.mustVerify(t, a, "of the guessed one", undecided("locked"))
		f.exec(t, "SET GLOBAL max_password_errors = 4294967295", "FLUSH PRIVILEGES")
		f.mustVerify(t, a, "of the guessed one", accepted)
	})

	t.Run("TooManyLogins", func(t *testing.T) {
		f.exec(t, "CREATE USER often@'"+f.Host+"' IDENTIFIED BY 'of the frequent one' WITH MAX_CONNECTIONS_PER_HOUR 1")
		f.mustVerify(t, f.at("often"), "of the frequent one", accepted)
		f.mustVerify(t, f.at("often"), "of the frequent one", undecided("throttled"))
	})

	t.Run("NobodyLoggedIn", func(t *testing.T) {
		a := f.user(t, "unasked", "of the unasked one")
		h, r := f.here("")
		for _, c := range []struct {
			a    sdk.Account
			pw   string
			want sdk.VerifyResponse
		}{
			{a, "of the unasked one", accepted},
			{a, "a wrong one", undecided("not_judged")},
			{sdk.Account{Name: "unasked"}, "of the unasked one", undecided("not_judged")},
		} {
			got, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: c.a, Credential: password(c.pw)})
			if err != nil || got != c.want {
				t.Errorf("%v: %+v, %v, want %+v", c.a, got, err, c.want)
			}
		}
	})

	t.Run("Missing", func(t *testing.T) {
		f.user(t, "there", "of the one there")
		for _, a := range []sdk.Account{
			f.at("nobody"), f.at(""), f.at("THERE"), f.at("there "), f.at("there\x00b"), f.at("\xff"), f.at(strings.Repeat("x", 200)),
			{Name: "there"},
			{Name: "there", Scope: "10.0.0.1"},
			{Name: "there", Scope: f.Host + " "},
			{Name: "there", Scope: strings.Repeat("x", 300)},
		} {
			f.mustApply(t, s, a, "for nobody at all", "", unchanged(sdk.ClassNotFound, "account.missing"))
			got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password("of the one there")})
			if err != nil || got != undecided("account.missing") {
				t.Errorf("readback of %v: %+v, %v", a, got, err)
			}
		}
	})

	t.Run("Unsendable", func(t *testing.T) {
		a := f.user(t, "plain", "of the plain one")
		for _, pw := range []string{"", "with\x00in it", strings.Repeat("x", maxPassword+1)} {
			f.mustApply(t, s, a, pw, "of the plain one", unchanged(sdk.ClassPolicy, "policy.charset"))
		}
		for _, pw := range []string{"ü" + strings.Repeat("x", maxPassword-2), "\xff\xfe no utf-8 \n\t", `'"\%_?` + "`"} {
			f.mustApply(t, s, a, pw, "", changed)
			f.mustVerify(t, a, pw, accepted)
		}
	})

	// Names are values, in whatever mode the server reads text.
	t.Run("Quoting", func(t *testing.T) {
		for _, mode := range []string{"NO_BACKSLASH_ESCAPES,ANSI_QUOTES", "STRICT_TRANS_TABLES"} {
			f.exec(t, "SET GLOBAL sql_mode = '"+mode+"'")
			s := f.open(t, "")
			c, _, err := s.ask(t.Context(), statement{text: "DO 1"})
			if err != nil {
				t.Fatal(err)
			}
			pieces := []string{"'", `"`, `\`, "`", "?", "%", "\n", "\x00", "\x1a", "\r", "ü", "日", "😀", "--", "/*", ";", "a", "''", `\'`}
			for range 300 {
				var b strings.Builder
				for range rand.IntN(8) {
					b.WriteString(pieces[rand.IntN(len(pieces))])
				}
				rows, err := c.query(t.Context(), statement{"SELECT ?, HEX(?)", []string{b.String(), b.String()}})
				if err != nil || len(rows) != 1 || rows[0][0] != b.String() || rows[0][1] != fmt.Sprintf("%X", b.String()) {
					t.Fatalf("%q came back as %q, %v", b.String(), rows, err)
				}
			}
			s.pool.Give(c, true)
			for i, name := range []string{`\`, `it's\`, `"; DROP USER x; --`, "a?b", "ü 日"} {
				a := f.user(t, fmt.Sprint(name, len(mode)), "of an odd one")
				f.mustApply(t, s, a, fmt.Sprint("of the odd one ", mode, i), "of an odd one", changed)
				f.mustVerify(t, a, fmt.Sprint("of the odd one ", mode, i), accepted)
			}
		}
	})

	t.Run("ManyAtOnce", func(t *testing.T) {
		for i := range 100 {
			f.user(t, fmt.Sprint("many", i), "old one of many")
		}
		before := f.dialer.dials.Load()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				f.mustApply(t, s, f.at(fmt.Sprint("many", i)), fmt.Sprint("newer one of many ", i), "", changed)
			})
		}
		all.Wait()
		if n := f.dialer.dials.Load() - before; n >= concurrency {
			t.Errorf("%d connections of the administrator beside the first, want less than %d", n, concurrency)
		}
		f.mustAccept(t, f.at("many7"), "newer one of many 7", true)
	})

	t.Run("DeadIdleConnectionIsNoOutcome", func(t *testing.T) {
		a := f.user(t, "survivor", "old one of survivor")
		f.exec(t, "KILL USER "+f.Admin)
		f.mustApply(t, s, a, "after the server hung up", "", changed)
		f.mustAccept(t, a, "after the server hung up", true)
	})

	t.Run("CancelledHasNoEffect", func(t *testing.T) {
		a := f.user(t, "calm", "as it was before")
		before := f.dialer.dials.Load()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.apply(ctx, s, a, "must not arrive", "")
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = f.verify(ctx, a, "as it was before")
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = s.Readback(ctx, sdk.ApplyRequest{Account: a})
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = s.Retire(ctx, sdk.RetireRequest{Account: a})
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		_, err = f.tryOpen(ctx, a, "x", "", false)
		mustFail(t, err, sdk.ClassUnreachable, "deadline")
		if n := f.dialer.dials.Load() - before; n != 0 {
			t.Errorf("%d connections made for a cancelled context", n)
		}
		f.mustAccept(t, a, "as it was before", true)
	})

	t.Run("CloseTwice", func(t *testing.T) {
		s := f.open(t, "")
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		_, err := f.apply(t.Context(), s, f.at("calm"), "after the closing", "")
		mustFail(t, err, sdk.ClassInternal, "session.closed")
	})

	t.Run("ReadOnly", func(t *testing.T) {
		a := f.user(t, "replica", "of the replica")
		f.exec(t, "SET GLOBAL read_only = 1")
		defer f.exec(t, "SET GLOBAL read_only = 0")
		s := f.open(t, "")
		f.mustApply(t, s, a, "not on a replica", "of the replica", unchanged(sdk.ClassConflict, "target.read_only"))
		f.mustVerify(t, a, "of the replica", accepted)
	})

	t.Run("WrongAdministrator", func(t *testing.T) {
		for _, who := range []string{f.Admin, "nobody at all"} {
			_, err := f.tryOpen(t.Context(), sdk.Account{Name: who}, "wrong", "", false)
			mustFail(t, err, sdk.ClassAuth, "admin.refused")
		}
		f.user(t, "asleep", "of the sleeping one")
		f.exec(t, "ALTER USER asleep@'"+f.Host+"' ACCOUNT LOCK")
		_, err := f.tryOpen(t.Context(), f.at("asleep"), "of the sleeping one", "", false)
		mustFail(t, err, sdk.ClassConflict, "admin.barred")
	})

	t.Run("NoRights", func(t *testing.T) {
		weak, strong := f.user(t, "weak", "of the weak one"), f.user(t, "strong", "of the strong one")
		_, err := f.tryOpen(t.Context(), weak, "of the weak one", "", false)
		mustFail(t, err, sdk.ClassPermission, "admin.rights")
		f.exec(t, "GRANT SELECT ON mysql.global_priv TO weak@'"+f.Host+"'")
		w := f.openAs(t, weak, "of the weak one", "", false)
		f.mustApply(t, w, strong, "not by the weak one", "", unchanged(sdk.ClassPermission, "admin.rights"))
		f.mustAccept(t, strong, "of the strong one", true)
	})

	for _, method := range []string{native, ed25519} {
		t.Run("Self "+method, func(t *testing.T) {
			a := f.userBy(t, "own"+method, method, "its own old one")
			me := f.openAs(t, a, "its own old one", "", true)
			now := "its own new one " + method
			f.mustApply(t, me, a, now, "its own old one", changed)
			f.mustApply(t, me, a, now, "its own old one", changed)
			f.mustAccept(t, a, now, true)
			f.mustAccept(t, a, "its own old one", false)
			mustRetire(t, me, a, now, "its own old one", sdk.Changed)
			mustRetire(t, me, a, "another", now, sdk.Unchanged)
			if _, err := f.apply(t.Context(), me, f.at("calm"), "of somebody else", ""); err == nil {
				t.Error("an account changed another in a session of its own")
			}
			got, err := me.Readback(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password(now)})
			if err != nil || got != undecided("readback.rights") {
				t.Errorf("readback: %+v, %v", got, err)
			}
		})
	}

	// Of 256 challenges one ends in a zero, which the driver takes for the end of a text.
	for _, mode := range []sdk.TLSMode{sdk.TLSOff, sdk.TLSPin} {
		t.Run("Challenges "+string(mode), func(t *testing.T) {
			a := f.userBy(t, "often"+string(mode), ed25519, "tried often")
			h, r := f.here("")
			r.TLS.Mode = mode
			v := sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password("tried often")}
			before := f.dialer.dials.Load()
			for n := int32(1); n < 5000; n++ {
				if got, err := f.plugin.Verify(t.Context(), v); err != nil || got != accepted {
					t.Fatalf("login %d: %+v, %v", n, got, err)
				}
				if f.dialer.dials.Load() > before+n {
					return
				}
			}
			t.Error("no login in 5,000 had to be begun again")
		})
	}

	// An account that changes itself knows who it is, so that a refusal is about the password.
	t.Run("SelfJudges", func(t *testing.T) {
		a := f.user(t, "knows", "of the knowing one")
		alone := &fixture{MariaDBServer: f.MariaDBServer, plugin: &rotator{}, dialer: f.dialer}
		alone.openAs(t, a, "of the knowing one", "", true)
		alone.mustVerify(t, a, "of the knowing one", accepted)
		alone.mustVerify(t, a, "a wrong one", rejected)
		alone.mustVerify(t, f.at("calm"), "a wrong one", undecided("not_judged"))
		_, err := alone.tryOpen(t.Context(), sdk.Account{Name: "knows", Scope: "%"}, "of the knowing one", "", true)
		mustFail(t, err, sdk.ClassInvalid, "account.scope")
	})
}

// A server that judges passwords is given none, and says no, unless the resource says that
// it may have them.
func TestPolicy(t *testing.T) {
	f := newFixture(t)
	f.exec(t, "INSTALL SONAME 'simple_password_check'")
	a := f.user(t, "judged", "The 1st of judged!")
	for config, want := range map[string]sdk.ApplyResponse{
		``:                             unchanged(sdk.ClassUnsupported, "policy.digest"),
		`{"single":true}`:              unchanged(sdk.ClassUnsupported, "policy.digest"),
		`{"clear":true}`:               unchanged(sdk.ClassUnsupported, "policy.digest"), // the former password is a digest beside the new one
		`{"clear":true,"single":true}`: unchanged(sdk.ClassPolicy, "policy.refused"),
	} {
		got, err := f.open(t, config).Apply(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password("too plain"), Current: password("The 1st of judged!")})
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", config, got, err, want)
		}
		f.mustVerify(t, a, "The 1st of judged!", accepted)
	}
	s := f.open(t, `{"clear":true,"single":true}`)
	f.mustApply(t, s, a, "The 2nd of judged!", "The 1st of judged!", changed)
	f.mustVerify(t, a, "The 2nd of judged!", accepted)
	f.mustApply(t, s, f.at("nobody"), "The 1st of nobody!", "", unchanged(sdk.ClassNotFound, "account.missing"))

	own := f.openAs(t, a, "The 2nd of judged!", "", true)
	f.mustApply(t, own, a, "The digest of judged!", "The 2nd of judged!", unchanged(sdk.ClassUnsupported, "policy.digest"))
	own = f.openAs(t, a, "The 2nd of judged!", `{"clear":true}`, true)
	f.mustApply(t, own, a, "too plain for it", "The 2nd of judged!", unchanged(sdk.ClassPolicy, "policy.refused"))
	f.mustApply(t, own, a, "The 3rd of judged!", "The 2nd of judged!", changed)
	f.mustVerify(t, a, "The 3rd of judged!", accepted)

	f.exec(t, "SET GLOBAL strict_password_validation = OFF")
	f.mustApply(t, f.open(t, ""), a, "a digest that it takes", "The 3rd of judged!", changed)
}

// A reply that is lost is an unknown outcome, whichever side of it the change is on,
// and the same candidate brings the account home.
func TestBrokenLines(t *testing.T) {
	f := newFixture(t)
	a := f.user(t, "lost", "the first of lost")
	for name, deliver := range map[string]bool{"before the change": false, "after the change": true} {
		t.Run("LostReply "+name, func(t *testing.T) {
			var armed atomic.Bool
			f.dialer.write = func(c net.Conn, b []byte) (int, error) {
				if !armed.Load() || !bytes.Contains(b, []byte("ALTER USER")) {
					return c.Write(b)
				}
				if deliver {
					c.Write(b)
				}
				c.Close()
				return len(b), nil
			}
			defer func() { f.dialer.write = nil }()
			h, r := f.here("")
			r.TLS.Mode = sdk.TLSOff // so that the test sees what is written
			o, err := f.plugin.Open(t.Context(), sdk.OpenRequest{
				Host: h, Resource: r,
				Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin},
			})
			if err != nil {
				t.Fatal(err)
			}
			s := o.(*session)
			defer s.Close()
			armed.Store(true)
			out, err := f.apply(t.Context(), s, a, "the candidate "+name, "the first of lost")
			var e *sdk.Error
			if out.Outcome != sdk.Unknown || !errors.As(err, &e) || e.NotSent {
				t.Errorf("lost reply: %+v, %v", out, err)
			}
			armed.Store(false)
			f.mustApply(t, s, a, "the candidate "+name, "the first of lost", changed)
			f.mustAccept(t, a, "the candidate "+name, true)
			f.mustAccept(t, a, "the first of lost", true)
		})
	}

	s := f.open(t, "")
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}

	t.Run("Deaf", func(t *testing.T) {
		if err := f.Pause(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if v, err := f.verify(short(), a, "the first of lost"); err != nil || v != undecided("unreachable") {
			t.Errorf("verify on a deaf server: %+v, %v", v, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("verify took %s", took)
		}
		if err := f.Resume(); err != nil {
			t.Fatal(err)
		}
	})

	// A change that waits for somebody else's lock is given up on both sides: it must not be
	// carried out later. The server has no time limit for it (lock_wait_timeout is not for
	// these tables), but looks after its client while it waits.
	t.Run("BehindALock", func(t *testing.T) {
		b := f.user(t, "waits", "of the waiting one")
		f.exec(t, "GRANT RELOAD ON *.* TO waits@'"+f.Host+"'")
		h, r := f.here("")
		other, err := target{host: h, resource: r}.connect(t.Context(), accountOf(b), secret("of the waiting one"))
		if err != nil {
			t.Fatal(err)
		}
		defer other.hangUp()
		if err := other.run(t.Context(), statement{text: "FLUSH TABLES WITH READ LOCK"}); err != nil {
			t.Fatal(err)
		}
		out, err := f.apply(short(), s, b, "behind the lock", "of the waiting one")
		if out.Outcome == sdk.Changed || out.Outcome == sdk.Unknown && err == nil {
			t.Errorf("apply behind a lock: %+v, %v", out, err)
		}
		for waiting, deadline := "1", time.Now().Add(20*time.Second); waiting != "0"; time.Sleep(50 * time.Millisecond) {
			if waiting, err = f.Query(t.Context(), "SELECT COUNT(*) FROM information_schema.processlist WHERE user = '"+f.Admin+"' AND info LIKE 'ALTER%'"); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatal("the server still waits with a change whose client has gone")
			}
		}
		if err := other.run(t.Context(), statement{text: "UNLOCK TABLES"}); err != nil {
			t.Fatal(err)
		}
		f.mustAccept(t, b, "behind the lock", false)
		f.mustAccept(t, b, "of the waiting one", true)
		f.mustApply(t, s, b, "after the lock", "of the waiting one", changed)
	})

	t.Run("TooManyConnections", func(t *testing.T) {
		f.exec(t, "SET GLOBAL max_connections = 10")
		var conns []net.Conn
		for range 12 {
			c, err := net.Dial("tcp", f.Address)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := f.tryOpen(t.Context(), sdk.Account{Name: f.Admin}, f.AdminPassword.ExposeString(), "", false)
		mustFail(t, err, sdk.ClassUnreachable, "throttled")
		f.mustVerify(t, a, "the first of lost", undecided("throttled"))
		for _, c := range conns {
			c.Close()
		}
		f.exec(t, "SET GLOBAL max_connections = 151")
	})

	t.Run("Down", func(t *testing.T) {
		if err := f.Down(); err != nil {
			t.Fatal(err)
		}
		_, err := f.apply(t.Context(), s, a, "while it was down", "")
		mustFail(t, err, sdk.ClassUnreachable, "connection")
		f.mustVerify(t, a, "the first of lost", undecided("unreachable"))
		_, err = f.tryOpen(t.Context(), a, "x", "", false)
		mustFail(t, err, sdk.ClassUnreachable, "connection")
		if err := f.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.mustApply(t, s, a, "after it came back", "the first of lost", changed)
		f.mustAccept(t, a, "after it came back", true)
	})
}

// A server that cannot prove itself is not sent a byte of a credential, nor is its
// judgement believed.
func TestTargetIdentity(t *testing.T) {
	f := newFixture(t)
	a := f.user(t, "app", "the right one")
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
			h, r := f.here("")
			h.Pins = map[string][]byte{f.Address: c.pins}
			r.TLS.Mode = c.mode
			v, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password("the right one")})
			s, openErr := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, AdminAs: sdk.Account{Name: f.Admin}})
			if openErr == nil {
				s.Close()
			}
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

	// MariaDB refuses who comes without TLS as it refuses a wrong password.
	t.Run("TLS required", func(t *testing.T) {
		f.exec(t, "SET GLOBAL require_secure_transport = ON")
		f.open(t, "")
		h, r := f.here("")
		r.TLS.Mode = sdk.TLSOff
		for pw, want := range map[string]sdk.VerifyResponse{"the right one": undecided("no_login"), "a wrong one": rejected} {
			v, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password(pw)})
			if err != nil || v != want {
				t.Errorf("without TLS: %+v, %v, want %+v", v, err, want)
			}
		}
		f.mustVerify(t, a, "the right one", accepted)
	})

	// Whatever greets, it is not believed, and the plugin lives on.
	for name, said := range map[string]string{
		"wrong password, it says":  "\x48\x00\x00\x00\xff\x15\x04#28000Access denied for user 'app'@'127.0.0.1' (using password: YES)",
		"nobody may come, it says": "\x40\x00\x00\x00\xff\x6a\x04Host '127.0.0.1' is not allowed to connect to this MariaDB server",
		"no TLS":                   "\x4a\x00\x00\x00\x0a8.0.36\x00\x01\x00\x00\x0012345678\x00\xff\xf7\x08\x02\x00\xff\xc1\x15" + strings.Repeat("\x00", 10) + "123456789012\x00mysql_native_password\x00",
		"short":                    "\x03\x00\x00\x00\x0a8.",
		"empty":                    "\x00\x00\x00\x00",
		"web server":               "HTTP/1.1 400 Bad Request\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			address, heard := greet(t, said)
			h, r := f.here("")
			r.Address, h.Pins = address, map[string][]byte{address: f.SPKI[:]}
			v, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password("the right one")})
			if v.Verdict != sdk.Undecided || err == nil && v.Reason != "unreachable" {
				t.Errorf("%+v, %v", v, err)
			}
			if n := <-heard; n != 0 {
				t.Errorf("it was sent %d bytes", n)
			}
		})
	}
}

// greet is a server that says one thing, and counts what it is answered.
func greet(t *testing.T, said string) (string, <-chan int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard := make(chan int, 1)
	go func() { // ends with the listener, or with the one connection
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte(said))
		_ = c.(*net.TCPConn).CloseWrite()
		n := 0
		for b := make([]byte, 1024); err == nil; {
			var one int
			one, err = c.Read(b)
			n += one
		}
		heard <- n
	}()
	return l.Addr().String(), heard
}
