package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// fixture is one server and the plugin.
type fixture struct {
	*targets.FerretDBServer
	plugin *rotator
}

func (f *fixture) here() (sdk.Host, sdk.Resource) {
	h := sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{f.Address: f.SPKI[:]},
	}
	return h, sdk.Resource{Address: f.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}
}

func (f *fixture) openAs(ctx context.Context, as sdk.Account, c sdk.Credential, self bool) (sdk.Session, error) {
	h, r := f.here()
	return f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: as, Self: self})
}

func (f *fixture) open(t *testing.T) *session {
	t.Helper()
	s, err := f.openAs(t.Context(), sdk.Account{Name: f.Admin}, sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*session)
}

func (f *fixture) user(t *testing.T, name, db, pw string, mechanisms ...string) sdk.Account {
	t.Helper()
	if err := f.CreateUser(t.Context(), name, db, password(pw).Secret, mechanisms...); err != nil {
		t.Fatal(err)
	}
	return sdk.Account{Name: name, Scope: db}
}

func (f *fixture) mustAccept(t *testing.T, a sdk.Account, pw string, want bool) {
	t.Helper()
	if got, err := f.Accepts(t.Context(), a.Name, a.Scope, password(pw).Secret); err != nil || got != want {
		t.Errorf("PyMongo as %s of %s: %v, %v, want %v", a.Name, a.Scope, got, err, want)
	}
}

func (f *fixture) mustVerify(t *testing.T, a sdk.Account, pw string, want sdk.VerifyResponse) {
	t.Helper()
	h, r := f.here()
	mustVerify(t, f.plugin, h, r, a, pw, want)
}

func mustVerify(t *testing.T, p *rotator, h sdk.Host, r sdk.Resource, a sdk.Account, pw string, want sdk.VerifyResponse) {
	t.Helper()
	got, err := p.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: a, Credential: password(pw)})
	if err != nil || got != want {
		t.Errorf("verify %s of %s: %+v, %v, want %+v", a.Name, a.Scope, got, err, want)
	}
}

func mustApply(t *testing.T, s sdk.Session, a sdk.Account, pw string, want sdk.ApplyResponse) {
	t.Helper()
	got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password(pw)})
	if err != nil || got != want {
		t.Errorf("apply to %s of %s: %+v, %v, want %+v", a.Name, a.Scope, got, err, want)
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

func refusedWith(class sdk.Class, reason string) sdk.ApplyResponse {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}
}

func TestRotate(t *testing.T) {
	f := &fixture{targets.Ferret(t), &rotator{}}
	s := f.open(t)

	t.Run("OneNameInTwoDatabases", func(t *testing.T) {
		shop, stock := f.user(t, "twin", "shop", "the first of shop"), f.user(t, "twin", "stock", "the first of stock")
		mustApply(t, s, shop, "the second of shop", changed)
		f.mustVerify(t, shop, "the second of shop", accepted)
		f.mustVerify(t, shop, "the first of shop", rejected)
		f.mustAccept(t, stock, "the first of stock", true)
		f.mustVerify(t, stock, "the second of shop", rejected)
	})

	t.Run("NoScopeIsAdmin", func(t *testing.T) {
		a := f.user(t, "clerk", "admin", "the first of clerk")
		mustApply(t, s, sdk.Account{Name: "clerk"}, "the second of clerk", changed)
		f.mustVerify(t, a, "the second of clerk", accepted)
	})

	// A user that logs in by one mechanism is given no other by a change.
	t.Run("MechanismsStay", func(t *testing.T) {
		for _, m := range []string{sha256, sha1} {
			a := f.user(t, "by-"+strings.ToLower(m), "shop", "the first", m)
			mustApply(t, s, a, "the second", changed)
			f.mustVerify(t, a, "the second", accepted)
			f.mustVerify(t, a, "the first", rejected)
			c, u, err := s.look(t.Context(), accountOf(a), false)
			if err != nil {
				t.Fatal(err)
			}
			s.pool.Give(c, true)
			if !slices.Equal(u.mechanisms, []string{m}) {
				t.Errorf("the user logs in by %q now, and did by %s", u.mechanisms, m)
			}
		}
	})

	t.Run("Missing", func(t *testing.T) {
		for _, a := range []sdk.Account{
			{Name: "nobody", Scope: "shop"},
			{Name: "", Scope: "shop"},
			{Name: "TWIN", Scope: "shop"},
			{Name: "twin ", Scope: "shop"},
			{Name: "a\x00b", Scope: "shop"},
			{Name: "twin", Scope: "nowhere"},
			{Name: "twin", Scope: "a.b"},
			{Name: "\xff", Scope: "shop"},
		} {
			mustApply(t, s, a, "for nobody at all", refusedWith(sdk.ClassNotFound, "account.missing"))
		}
	})

	// What a server could not take, or would show in its own error, does not go to it.
	t.Run("Characters", func(t *testing.T) {
		a := f.user(t, "odd", "shop", "the first of odd")
		for _, pw := range []string{"line\nbreak", "zero\x00byte", "bell\a", "", "not \xff text", strings.Repeat("x", maxPassword+1)} {
			mustApply(t, s, a, pw, refusedWith(sdk.ClassPolicy, "policy.charset"))
		}
		f.mustAccept(t, a, "the first of odd", true)
		for _, pw := range []string{"pässwörd-Ключ-鍵", " around ", "a,b=c", strings.Repeat("Ab3-", maxPassword/4)} {
			mustApply(t, s, a, pw, changed)
			f.mustAccept(t, a, pw, true)
			f.mustVerify(t, a, pw, accepted)
		}
	})

	t.Run("OneTry", func(t *testing.T) {
		for _, m := range []string{sha256, sha1} {
			name := "counted-" + strings.ToLower(m)
			a := f.user(t, name, "shop", "the first of counted", m)
			f.mustVerify(t, a, "not it", rejected)
			if n, err := f.Failures(name); err != nil || n != 1 {
				t.Errorf("%s: %d logins failed, %v, want 1", m, n, err)
			}
		}
	})

	t.Run("Readback", func(t *testing.T) {
		for _, m := range []string{sha256, sha1} {
			a := f.user(t, "mirror-"+strings.ToLower(m), "shop", "the first of mirror", m)
			for pw, want := range map[string]sdk.VerifyResponse{"the first of mirror": accepted, "another": rejected, "never\x00": rejected} {
				got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: a, Candidate: password(pw)})
				if err != nil || got != want {
					t.Errorf("read back %q: %+v, %v, want %+v", pw, got, err, want)
				}
			}
		}
		got, err := s.Readback(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "nobody"}, Candidate: password("x")})
		if err != nil || got != undecided("account.missing") {
			t.Errorf("read back nobody's: %+v, %v", got, err)
		}
	})

	t.Run("NobodyLoggedIn", func(t *testing.T) {
		h, r := f.here()
		mustVerify(t, &rotator{}, h, r, sdk.Account{Name: "twin", Scope: "shop"}, "wrong", undecided("not_judged"))
	})

	t.Run("Itself", func(t *testing.T) {
		a := f.user(t, "own", "shop", "the first of own")
		own, err := f.openAs(t.Context(), a, password("the first of own"), true)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		mustApply(t, own, a, "the second of own", changed)
		mustApply(t, own, a, "the second of own", changed)
		f.mustVerify(t, a, "the second of own", accepted)
		_, err = own.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "twin", Scope: "shop"}, Candidate: password("not his")})
		mustFail(t, err, sdk.ClassInvalid, "account.name")
		f.mustVerify(t, sdk.Account{Name: "twin", Scope: "shop"}, "the second of shop", accepted)
	})

	t.Run("WrongKey", func(t *testing.T) {
		h, r := f.here()
		h.Pins = map[string][]byte{f.Address: make([]byte, 32)}
		_, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "twin", Scope: "shop"}, Credential: password("secret")})
		mustFail(t, err, sdk.ClassAuth, "target_identity")
		r.TLS.Mode = sdk.TLSOff // the server speaks TLS only
		got, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "twin", Scope: "shop"}, Credential: password("secret")})
		if err == nil && got.Verdict != sdk.Undecided {
			t.Errorf("without TLS: %+v", got)
		}
	})

	// Connections that died while nobody used them are found out by a question.
	t.Run("Restart", func(t *testing.T) {
		a := f.user(t, "after", "shop", "the first of after")
		if err := errors.Join(f.Down(), f.Up(t.Context())); err != nil {
			t.Fatal(err)
		}
		mustApply(t, s, a, "the second of after", changed)
		f.mustVerify(t, a, "the second of after", accepted)
	})
}

// What FerretDB does not answer is answered by a server of the test's own, in MongoDB's
// words.
func TestAnswersOfMongoDB(t *testing.T) {
	app := sdk.Account{Name: "app", Scope: "shop"}
	open := func(t *testing.T, answers map[string]bson.D) (*rotator, sdk.Host, sdk.Resource, sdk.Session) {
		t.Helper()
		h, r := serve(t, answers)
		p := &rotator{}
		s, err := p.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("the administrator's"), AdminAs: sdk.Account{Name: "root"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return p, h, r, s
	}
	fail := func(code int32) bson.D {
		return bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: "as it says"}, {Key: "code", Value: code}}
	}
	info := func(more ...bson.E) bson.D {
		u := append(bson.D{{Key: "_id", Value: "shop.app"}, {Key: "user", Value: "app"}, {Key: "db", Value: "shop"}}, more...)
		return bson.D{{Key: "users", Value: bson.A{u}}, {Key: "ok", Value: 1.0}}
	}
	scramUser := info(bson.E{Key: "mechanisms", Value: bson.A{sha1, sha256}})

	for name, c := range map[string]struct {
		answer bson.D
		want   sdk.ApplyResponse
	}{
		"not his to change": {fail(13), refusedWith(sdk.ClassPermission, "admin.rights")},
		"gone meanwhile":    {fail(11), refusedWith(sdk.ClassNotFound, "account.missing")},
		"a secondary":       {fail(10107), refusedWith(sdk.ClassConflict, "target.read_only")},
		"characters":        {fail(50692), refusedWith(sdk.ClassPolicy, "policy.charset")},
		"a service's no":    {fail(8000), refusedWith(sdk.ClassUnsupported, "target.refused")},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, s := open(t, map[string]bson.D{"usersInfo": scramUser, "updateUser": c.answer})
			mustApply(t, s, app, "the second", c.want)
		})
	}

	// The change may have been made.
	for name, c := range map[string]struct {
		answer bson.D
		reason string
	}{
		"steps down":          {fail(189), "target.failed"},
		"says nothing of why": {bson.D{{Key: "ok", Value: 0.0}}, "reply.lost"},
		"alone": {bson.D{{Key: "ok", Value: 1.0}, {Key: "writeConcernError", Value: bson.D{
			{Key: "code", Value: int32(64)}, {Key: "errmsg", Value: "waiting for replication timed out"},
		}}}, "target.unsaved"},
		"hangs up": {nil, "reply.lost"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, s := open(t, map[string]bson.D{"usersInfo": scramUser, "updateUser": c.answer})
			out, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: app, Candidate: password("the second")})
			mustFail(t, err, sdk.ClassUnreachable, c.reason)
			var e *sdk.Error
			if errors.As(err, &e) && e.NotSent || out.Outcome != sdk.Unknown {
				t.Errorf("%+v, %v: want an outcome that is not known", out, err)
			}
		})
	}

	t.Run("may not look", func(t *testing.T) {
		_, _, _, s := open(t, map[string]bson.D{"usersInfo": fail(13)})
		_, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: app, Candidate: password("the second")})
		mustFail(t, err, sdk.ClassPermission, "admin.rights")
	})

	t.Run("by certificate", func(t *testing.T) {
		_, _, _, s := open(t, map[string]bson.D{"usersInfo": info(bson.E{Key: "mechanisms", Value: bson.A{"external"}})})
		mustApply(t, s, app, "the second", refusedWith(sdk.ClassUnsupported, "account.method"))
	})

	// A user that may log in from some addresses only gets the answer to a wrong password.
	t.Run("not from here", func(t *testing.T) {
		maker, err := client(sha256, accountOf(app), password("the first").Secret)
		if err != nil {
			t.Fatal(err)
		}
		stored := storedFor(t, maker)
		p, h, r, _ := open(t, map[string]bson.D{
			"app":       fail(18),
			"usersInfo": info(bson.E{Key: "credentials", Value: bson.D{{Key: sha256, Value: stored}}}),
		})
		mustVerify(t, p, h, r, app, "the first", undecided("no_login"))
		mustVerify(t, p, h, r, app, "another", rejected)
		p, h, r, _ = open(t, map[string]bson.D{"app": fail(18), "usersInfo": scramUser}) // no credentials are shown
		mustVerify(t, p, h, r, app, "another", undecided("not_judged"))
		p, h, r, _ = open(t, map[string]bson.D{"app": fail(11600)})
		mustVerify(t, p, h, r, app, "another", undecided("unreachable"))
	})

	t.Run("does not know the password", func(t *testing.T) {
		h, r := serve(t, map[string]bson.D{"impostor": {{Key: "ok", Value: 1.0}, {Key: "done", Value: true}, {Key: "conversationId", Value: int32(1)}, {Key: "payload", Value: bson.Binary{}}}})
		_, err := (&rotator{}).Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "impostor"}, Credential: password("x")})
		mustFail(t, err, sdk.ClassAuth, "target_identity")
	})
}
