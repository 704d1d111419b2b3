package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}

// fixture is one controller, or several behind one name, and the plugin.
type fixture struct {
	*targets.ADServer
	plugin  *rotator
	address string
	pins    []byte
	dialer  sdk.Dialer
}

func newFixture(ad *targets.ADServer) *fixture {
	return &fixture{ad, &rotator{}, ad.Address, ad.SPKI[:], new(net.Dialer)}
}

func (f *fixture) here() (sdk.Host, sdk.Resource) {
	return sdk.Host{
		Dialer: f.dialer, Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{f.address: f.pins},
	}, sdk.Resource{Address: f.address, TLS: sdk.TLS{Mode: sdk.TLSPin}}
}

func (f *fixture) openAs(ctx context.Context, name string, c sdk.Credential, self bool) (*session, error) {
	h, r := f.here()
	s, err := f.plugin.Open(ctx, sdk.OpenRequest{Host: h, Resource: r, Admin: c, AdminAs: sdk.Account{Name: name}, Self: self})
	if err != nil {
		return nil, err
	}
	return s.(*session), nil
}

func (f *fixture) open(t *testing.T) *session {
	t.Helper()
	return f.mustOpen(t, f.Admin, sdk.Credential{Kind: sdk.Password, Secret: f.AdminPassword}, false)
}

func (f *fixture) mustOpen(t *testing.T, name string, c sdk.Credential, self bool) *session {
	t.Helper()
	s, err := f.openAs(t.Context(), name, c, self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// user makes an account whose password is "First-1-" and its name.
func (f *fixture) user(t *testing.T, name string, lines ...string) string {
	t.Helper()
	dn, err := f.CreateUser(t.Context(), name, password("First-1-"+name).Secret, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return dn
}

func (f *fixture) set(t *testing.T, dn, attribute, value string) {
	t.Helper()
	if err := f.Set(t.Context(), dn, attribute, value); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) mustGet(t *testing.T, dn, attribute, want string) {
	t.Helper()
	if got, err := f.Get(t.Context(), dn, attribute); err != nil || got != want {
		t.Errorf("%s of %s: %q, %v, want %q", attribute, dn, got, err, want)
	}
}

func (f *fixture) mustAccept(t *testing.T, name, pw string, want bool) {
	t.Helper()
	if got, err := f.Accepts(t.Context(), name, password(pw).Secret); err != nil || got != want {
		t.Errorf("ldapsearch as %q: %v, %v, want %v", name, got, err, want)
	}
}

func (f *fixture) mustVerify(t *testing.T, name, pw string, want sdk.VerifyResponse) {
	t.Helper()
	h, r := f.here()
	got, err := f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: name}, Credential: password(pw)})
	if err != nil || got != want {
		t.Errorf("verify %q: %+v, %v, want %+v", name, got, err, want)
	}
}

func mustApply(t *testing.T, s *session, name, current, pw string, want sdk.ApplyResponse) {
	t.Helper()
	got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Current: password(current), Candidate: password(pw)})
	if err != nil || got != want {
		t.Errorf("apply to %q: %+v, %v, want %+v", name, got, err, want)
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
	missing  = unchanged(sdk.ClassNotFound, "account.missing")
	accepted = sdk.VerifyResponse{Verdict: sdk.Accepted}
	rejected = sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
)

func unchanged(class sdk.Class, reason string) sdk.ApplyResponse {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}
}

func undecided(reason string) sdk.VerifyResponse {
	return sdk.VerifyResponse{Verdict: sdk.Undecided, Reason: reason}
}

const wrong = "Wrong-1-wrong"

func TestRotate(t *testing.T) {
	f := newFixture(targets.AD(t))
	s := f.open(t)

	t.Run("Names", func(t *testing.T) {
		dn := f.user(t, "Named", "userPrincipalName: called@elsewhere.test")
		for i, name := range []string{
			dn, strings.ToLower(dn), "called@elsewhere.test", "CALLED@Elsewhere.test", "named@rotunda.test", "named", "NAMED", `ROTUNDA\named`, `rotunda\named`, `rotunda.test\named`,
		} {
			next := "Next-1-" + strings.Repeat("x", i+1)
			mustApply(t, s, name, "", next, changed)
			f.mustAccept(t, dn, next, true)
			f.mustVerify(t, name, next, accepted)
		}
		f.mustVerify(t, "named", wrong, rejected)
		for _, name := range []string{
			"", "nobody", "name*", "*", "named)(sAMAccountName=*", "named@example.com", `OTHER\named`, `\named`, "called", "named@", "@rotunda.test",
			"CN=nobody," + f.People, f.People, "CN=Users," + f.Domain, "CN=Domain Admins,CN=Users," + f.Domain, "CN=named,DC=example,DC=com",
		} {
			got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: password(wrong)})
			if referral := (*sdk.Error)(nil); errors.As(err, &referral) && referral.Reason == "target.referral" && referral.NotSent {
				continue // of another domain, which may be there
			}
			if err != nil || got != missing {
				t.Errorf("apply to %q: %+v, %v, want %+v", name, got, err, missing)
			}
		}
		f.mustVerify(t, "nobody", wrong, undecided(notJudged))
	})

	// Samba lets nobody have the name that another has by its sAMAccountName and the
	// domain's; old domains of Windows do.
	t.Run("Ambiguous", func(t *testing.T) {
		f.user(t, "twin")
		f.user(t, "evil", "userPrincipalName: twin@elsewhere.test")
		s := f.open(t)
		s.domain.dns = "elsewhere.test"
		_, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "twin@elsewhere.test"}, Candidate: password(wrong)})
		mustFail(t, err, sdk.ClassConflict, "account.ambiguous")
		h, r := f.here()
		_, err = f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "twin@elsewhere.test"}, Credential: password(wrong)})
		mustFail(t, err, sdk.ClassConflict, "account.ambiguous")
		f.mustGet(t, f.DN("twin"), "badPwdCount", "0")
		s.Close()
	})

	// The right to reset passwords is given for one organisational unit.
	t.Run("DelegatedResetOnly", func(t *testing.T) {
		mustApply(t, s, "Administrator", "", "Taken-Over-1", unchanged(sdk.ClassPermission, "admin.rights"))
		mustApply(t, s, "agent", "", "Taken-Over-1", unchanged(sdk.ClassPermission, "admin.rights"))
		f.mustAccept(t, f.Admin, f.AdminPassword.ExposeString(), true)
	})

	t.Run("Policy", func(t *testing.T) {
		dn := f.user(t, "policy")
		for _, pw := range []string{"aB1-", "onlylowercase"} {
			mustApply(t, s, dn, "", pw, unchanged(sdk.ClassPolicy, "policy.refused"))
		}
		mustApply(t, s, dn, "", "", unchanged(sdk.ClassPolicy, "policy.charset"))
		mustApply(t, s, dn, "", "no text: Aa1\xff", unchanged(sdk.ClassPolicy, "policy.charset"))
		mustApply(t, s, dn, "", "half of it: Aa1\x00 is cut off", unchanged(sdk.ClassPolicy, "policy.charset"))
		f.mustAccept(t, dn, "First-1-policy", true)
		// History is for those who change their own.
		mustApply(t, s, dn, "", "First-1-policy", changed)
		beyond := "Ünïcode-€-\U0001D11E-1"
		mustApply(t, s, dn, "", beyond, changed)
		f.mustAccept(t, dn, beyond, true)
		f.mustVerify(t, dn, beyond, accepted)
	})

	// A login that fails for another reason than the password says nothing of it, and one
	// that fails for the password does, whatever else is wrong with the account.
	t.Run("WhyALoginFails", func(t *testing.T) {
		for _, c := range []struct {
			name, attribute, value string
			right, wrong           sdk.VerifyResponse
		}{
			{"disabled", "userAccountControl", "514", undecided("disabled"), undecided("disabled")},
			{"smartcard", "userAccountControl", "262656", undecided("no_login"), undecided("no_login")},
			{"mustchange", "pwdLastSet", "0", undecided("expired"), rejected},
			{"expired", "accountExpires", "130000000000000000", undecided("expired"), rejected},
			{"elsewhere", "userWorkstations", "another", undecided("no_login"), rejected},
		} {
			dn := f.user(t, c.name)
			f.set(t, dn, c.attribute, c.value)
			f.mustVerify(t, c.name, "First-1-"+c.name, c.right)
			f.mustVerify(t, c.name, wrong, c.wrong)
			// Nobody is logged in who could look.
			alone := &fixture{f.ADServer, &rotator{}, f.address, f.pins, f.dialer}
			if c.name != "smartcard" { // which sets a password that nobody knows
				alone.mustVerify(t, dn, "First-1-"+c.name, c.right)
			}
			alone.mustVerify(t, dn, wrong, undecided(notJudged))
		}
	})

	t.Run("Budget", func(t *testing.T) {
		dn := f.user(t, "budget") // the domain locks after five
		for range 3 {
			f.mustAccept(t, dn, wrong, false)
		}
		f.mustVerify(t, dn, wrong, rejected)
		f.mustVerify(t, dn, wrong, undecided("throttled"))
		f.mustVerify(t, "budget", "First-1-budget", undecided("throttled"))
		f.mustGet(t, dn, "badPwdCount", "4")
		f.set(t, f.Domain, "lockOutObservationWindow", "-10000000")
		defer f.set(t, f.Domain, "lockOutObservationWindow", "-18000000000")
		waitFor(t, "the window to end", func() bool {
			e, err := s.see(t.Context(), dn)
			return err == nil && e.spared
		})
		f.mustVerify(t, dn, wrong, rejected)
		f.mustGet(t, dn, "badPwdCount", "1")
	})

	t.Run("Locked", func(t *testing.T) {
		dn := f.user(t, "locked")
		for range 5 {
			f.mustAccept(t, dn, wrong, false)
		}
		f.mustVerify(t, dn, "First-1-locked", undecided("locked"))
		f.mustVerify(t, dn, wrong, undecided("locked"))
		// It is not the plugin's to unlock it.
		mustApply(t, s, dn, "", "Second-1-locked", changed)
		f.mustVerify(t, dn, "Second-1-locked", undecided("locked"))
		f.set(t, dn, "lockoutTime", "0")
		f.mustVerify(t, dn, "Second-1-locked", accepted)
	})

	// Where a policy of its own applies to an account, and is not for the administrator to
	// see, one login may fail.
	t.Run("PolicyOfItsOwn", func(t *testing.T) {
		dn := f.user(t, "finer")
		if err := f.Modify(t.Context(), strings.Join([]string{
			"dn: CN=strict,CN=Password Settings Container,CN=System," + f.Domain, "changetype: add", "objectClass: msDS-PasswordSettings",
			"msDS-PasswordSettingsPrecedence: 1", "msDS-PasswordReversibleEncryptionEnabled: FALSE", "msDS-PasswordHistoryLength: 5",
			"msDS-PasswordComplexityEnabled: TRUE", "msDS-MinimumPasswordLength: 20", "msDS-MinimumPasswordAge: -864000000000",
			"msDS-MaximumPasswordAge: -36288000000000", "msDS-LockoutThreshold: 2", "msDS-LockoutObservationWindow: -18000000000",
			"msDS-LockoutDuration: -18000000000", "msDS-PSOAppliesTo: " + dn, "",
		}, "\n")); err != nil {
			t.Fatal(err)
		}
		mustApply(t, s, dn, "", "Second-1-finer", unchanged(sdk.ClassPolicy, "policy.refused"))
		f.mustVerify(t, dn, wrong, rejected)
		f.mustVerify(t, dn, wrong, undecided("throttled"))
		f.mustGet(t, dn, "badPwdCount", "1")
	})

	t.Run("Administrator", func(t *testing.T) {
		dn := f.user(t, "boss")
		for _, name := range []string{dn, "boss", `ROTUNDA\boss`, "boss@rotunda.test"} {
			f.mustOpen(t, name, password("First-1-boss"), false).Close()
		}
		for name, c := range map[string]struct {
			admin, pw string
			class     sdk.Class
			reason    string
		}{
			"wrong password": {"boss", wrong, sdk.ClassAuth, "admin.refused"},
			"no password":    {"boss", "", sdk.ClassAuth, "admin.refused"},
			"nobody":         {"nobody", wrong, sdk.ClassAuth, "admin.refused"},
			"no name":        {"", wrong, sdk.ClassInvalid, "account.name"},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := f.openAs(t.Context(), c.admin, password(c.pw), false)
				mustFail(t, err, c.class, c.reason)
			})
		}
		// Who is kept out with the right password has not shown that it is wrong.
		for _, held := range []struct{ attribute, value, free string }{
			{"userAccountControl", "514", "512"}, {"accountExpires", "130000000000000000", "0"}, {"pwdLastSet", "0", "-1"},
		} {
			f.set(t, dn, held.attribute, held.value)
			_, err := f.openAs(t.Context(), "boss", password("First-1-boss"), false)
			mustFail(t, err, sdk.ClassConflict, "admin.barred")
			_, err = f.openAs(t.Context(), "boss", password(wrong), false)
			mustFail(t, err, sdk.ClassAuth, "admin.refused")
			f.set(t, dn, held.attribute, held.free)
		}
	})

	t.Run("InClear", func(t *testing.T) {
		h, r := f.here()
		r.Address, r.TLS.Mode = f.PlainAddress, sdk.TLSOff
		h.Dialer = nobody{t}
		_, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password(wrong), AdminAs: sdk.Account{Name: "boss"}})
		mustFail(t, err, sdk.ClassUnsupported, "target.tls")
		_, err = f.plugin.Verify(t.Context(), sdk.VerifyRequest{Host: h, Resource: r, Account: sdk.Account{Name: "boss"}, Credential: password(wrong)})
		mustFail(t, err, sdk.ClassUnsupported, "target.tls")
	})

	t.Run("AnotherKey", func(t *testing.T) {
		other := &fixture{f.ADServer, &rotator{}, f.address, make([]byte, 32), f.dialer}
		_, err := other.openAs(t.Context(), f.Admin, password(wrong), false)
		mustFail(t, err, sdk.ClassAuth, "target_identity")
	})

	t.Run("Itself", func(t *testing.T) { itself(t, f) })

	t.Run("ItselfSpared", func(t *testing.T) { itselfSpared(t, f) })

	t.Run("Controllers", func(t *testing.T) { controllers(t, f.ADServer) })
}

// itself is an account that changes its own password.
func itself(t *testing.T, f *fixture) {
	dn := f.user(t, "self")
	first, second, third := "First-1-self", "Second-1-self", "Third-1-self"
	s := f.mustOpen(t, "self", password(first), true)
	mustApply(t, s, "self", first, second, changed)
	f.mustAccept(t, dn, second, true)
	// The answer was lost, and the same candidate comes again.
	mustApply(t, s, "self", first, second, changed)
	mustApply(t, f.mustOpen(t, "self", password(second), true), "self", second, second, changed)

	s = f.mustOpen(t, "self", password(second), true)
	mustApply(t, s, "self", second, first, unchanged(sdk.ClassPolicy, "policy.refused")) // history
	mustApply(t, s, "self", wrong, third, unchanged(sdk.ClassAuth, "admin.refused"))
	f.mustAccept(t, dn, second, true)
	_, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "other"}, Current: password(second), Candidate: password(third)})
	mustFail(t, err, sdk.ClassInvalid, "account.name")

	f.set(t, f.Domain, "minPwdAge", "-864000000000")
	mustApply(t, s, "self", second, third, unchanged(sdk.ClassUnreachable, "policy.too_soon"))
	f.set(t, f.Domain, "minPwdAge", "0")
	f.mustAccept(t, dn, second, true)

	// A former password that is wrong would be one failed login too many; a login to find
	// out why the second.
	for range 3 {
		f.mustAccept(t, dn, wrong, false)
	}
	_, err = s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "self"}, Current: password(wrong), Candidate: password(third)})
	mustFail(t, err, sdk.ClassUnreachable, "throttled")
	f.mustGet(t, dn, "badPwdCount", "4")
	f.mustAccept(t, dn, second, true)
	for range 4 {
		f.mustAccept(t, dn, wrong, false)
	}
	_, err = s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "self"}, Current: password(wrong), Candidate: password(third)})
	mustFail(t, err, sdk.ClassUnreachable, "throttled")
	f.mustGet(t, dn, "badPwdCount", "4")
	f.mustAccept(t, dn, second, true)
}

// itselfSpared: while an account that changes its own password is logged in, it sees that
// one login more that fails would lock it. Before, and by others of its kind, nobody does.
func itselfSpared(t *testing.T, f *fixture) {
	dn := f.user(t, "spared")
	right := "First-1-spared"
	alone := &fixture{f.ADServer, &rotator{}, f.address, f.pins, f.dialer}
	f.user(t, "stranger")
	alone.mustOpen(t, "stranger", password("First-1-stranger"), true)
	s := alone.mustOpen(t, "spared", password(right), true)
	for range 3 {
		f.mustAccept(t, dn, wrong, false)
	}
	alone.mustVerify(t, "spared", wrong, undecided(notJudged)) // the fourth, of five
	alone.mustVerify(t, "spared", wrong, undecided("throttled"))
	alone.mustVerify(t, "spared", right, undecided("throttled"))
	f.mustGet(t, dn, "badPwdCount", "4")
	s.Close()
	alone.mustVerify(t, "spared", right, accepted)
	f.mustGet(t, dn, "badPwdCount", "0")
}

// controllers are two behind one name, of which neither hears of what the other was told.
// The second lets the former password live, as domains do.
func controllers(t *testing.T, one *targets.ADServer) {
	other := targets.AD(t, "old password allowed period = 60")
	way := &crossroads{name: "rotunda.test:636", to: one.Address}
	f := &fixture{one, &rotator{}, way.name, append(one.SPKI[:], other.SPKI[:]...), way}
	there := newFixture(other)
	dn, first, second, third := f.DN("everywhere"), "First-1-everywhere", "Second-1-everywhere", "Third-1-everywhere"
	f.user(t, "everywhere")
	there.user(t, "everywhere")

	s := f.open(t)
	way.lead(other.Address)
	mustApply(t, s, dn, "", second, changed)
	f.mustAccept(t, dn, second, true)
	there.mustAccept(t, dn, second, false)
	// The one that was told is asked, and one that is not logged in asks the other.
	f.mustVerify(t, dn, second, accepted)
	alone := &fixture{one, &rotator{}, f.address, f.pins, way}
	alone.mustVerify(t, dn, second, undecided(notJudged))
	alone.mustVerify(t, dn, first, accepted)

	// It goes away: the next takes over, for changes and logins.
	if err := one.Down(); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, dn, "", third, changed)
	f.mustVerify(t, dn, third, accepted)
	// There the former one lives on, and is said to.
	there.mustAccept(t, dn, first, true)
	f.mustVerify(t, dn, first, accepted)
	f.mustVerify(t, dn, wrong, rejected)
}

// crossroads leads a name to one of several servers, as DNS does.
type crossroads struct {
	name string

	mu sync.Mutex
	to string
}

func (c *crossroads) lead(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

func (c *crossroads) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	if address == c.name {
		address = c.to
	}
	c.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, address)
}

// nobody is a dialer that must not be used.
type nobody struct{ t *testing.T }

func (n nobody) DialContext(context.Context, string, string) (net.Conn, error) {
	n.t.Error("a connection is opened")
	return nil, errors.New("nobody is there")
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
