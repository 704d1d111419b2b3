package main

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// An account without an administrator changes its own password, by either way.
func TestItself(t *testing.T) {
	l := targets.LDAP(t)
	host := sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{l.Address: l.SPKI[:]},
	}
	for _, method := range []string{"exop", "modify"} {
		t.Run(method, func(t *testing.T) {
			first, second, third := "the first of "+method, "the second of "+method, "the third of "+method
			dn, err := l.CreateEntry(t.Context(), method, password(first).Secret)
			if err != nil {
				t.Fatal(err)
			}
			resource := sdk.Resource{Address: l.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(`{"method":"` + method + `"}`)}
			open := func(current string) sdk.Session {
				t.Helper()
				s, err := (&rotator{}).Open(t.Context(), sdk.OpenRequest{Host: host, Resource: resource, Admin: password(current), AdminAs: sdk.Account{Name: dn}, Self: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			apply := func(s sdk.Session, current, next string, want sdk.ApplyResponse) {
				t.Helper()
				got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Current: password(current), Candidate: password(next)})
				if err != nil || got != want {
					t.Errorf("apply: %+v, %v, want %+v", got, err, want)
				}
			}
			accepts := func(pw string, want bool) {
				t.Helper()
				if got, err := l.Accepts(t.Context(), dn, password(pw).Secret); err != nil || got != want {
					t.Errorf("ldapwhoami: %v, %v, want %v", got, err, want)
				}
			}
			changed := sdk.ApplyResponse{Outcome: sdk.Changed}
			policy := func(reason string) sdk.ApplyResponse {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: reason}
			}

			s := open(first)
			apply(s, first, second, changed)
			accepts(first, false)
			accepts(second, true)
			apply(s, first, second, changed) // the answer was lost, and the same candidate comes again
			s = open(second)
			apply(s, second, third, changed)
			s = open(third)
			apply(s, third, second, policy("policy.history"))
			apply(s, third, "short", policy("policy.length"))
			accepts(third, true)

			_, err = s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: l.Admin}, Current: password(third), Candidate: password(first)})
			if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Reason != "account.name" || !e.NotSent {
				t.Errorf("another's: %v", err)
			}
			got, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Current: password("not the current one"), Candidate: password(first)})
			if err == nil && got.Outcome != sdk.Unchanged {
				t.Errorf("with another's password: %+v", got)
			}
			accepts(third, true)
		})
	}
}

// The right password of an account that the password policy holds back is not a wrong one.
func TestHeldBack(t *testing.T) {
	l := targets.LDAP(t)
	host := sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{l.Address: l.SPKI[:]},
	}
	resource := sdk.Resource{Address: l.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}
	plugin := &rotator{}
	s, err := plugin.Open(t.Context(), sdk.OpenRequest{Host: host, Resource: resource, Admin: sdk.Credential{Kind: sdk.Password, Secret: l.AdminPassword}, AdminAs: sdk.Account{Name: l.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	verify := func(dn, pw string) sdk.VerifyResponse {
		t.Helper()
		got, err := plugin.Verify(t.Context(), sdk.VerifyRequest{Host: host, Resource: resource, Account: sdk.Account{Name: dn}, Credential: password(pw)})
		if err != nil {
			t.Error(err)
		}
		return got
	}
	set := func(dn, attribute, value string) {
		t.Helper()
		if err := l.Modify(t.Context(), "dn: "+dn+"\nchangetype: modify\nreplace: "+attribute+"\n"+attribute+": "+value+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	accepted, rejected := sdk.VerifyResponse{Verdict: sdk.Accepted}, sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format("20060102150405Z") }
	for _, c := range []struct {
		name, attribute, value string
		right, wrong           sdk.VerifyResponse
	}{
		{"free", "description", "of no account", accepted, rejected},
		{"for a while", "pwdAccountTmpLockoutEnd", at(time.Hour), sdk.VerifyResponse{Reason: "throttled"}, sdk.VerifyResponse{Reason: "throttled"}},
		{"no more", "pwdAccountTmpLockoutEnd", at(-time.Hour), accepted, rejected},
		{"not yet", "pwdStartTime", at(time.Hour), sdk.VerifyResponse{Reason: "disabled"}, sdk.VerifyResponse{Reason: "disabled"}},
		{"begun", "pwdStartTime", at(-time.Hour), accepted, rejected},
		{"over", "pwdEndTime", at(-time.Hour), sdk.VerifyResponse{Reason: "expired"}, sdk.VerifyResponse{Reason: "expired"}},
		{"not over", "pwdEndTime", at(time.Hour), accepted, rejected},
		{"over, in a zone", "pwdEndTime", time.Now().Add(-time.Hour).In(time.FixedZone("", 2*3600)).Format("20060102150405-0700"), sdk.VerifyResponse{Reason: "expired"}, sdk.VerifyResponse{Reason: "expired"}},
	} {
		dn, err := l.CreateEntry(t.Context(), c.name, password("the one of "+c.name).Secret)
		if err != nil {
			t.Fatal(err)
		}
		set(dn, c.attribute, c.value)
		if got := verify(dn, "another one"); got != c.wrong {
			t.Errorf("%s: a wrong password: %+v, want %+v", c.name, got, c.wrong)
		}
		if got := verify(dn, "the one of "+c.name); got != c.right {
			t.Errorf("%s: the right password: %+v, want %+v", c.name, got, c.right)
		}
	}

	// A candidate that was set already is not given up because its account is held back.
	again, err := l.CreateEntry(t.Context(), "again", password("the first of again").Secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{at(time.Hour), at(-time.Hour)} { // free, and over
		set(again, "pwdEndTime", value)
		out, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: again}, Candidate: password("the second of again")})
		if out.Outcome == sdk.Unchanged {
			t.Errorf("applied again: %+v, %v", out, err)
		}
	}
}

// A server that says in its own words why it lets an account in no more is believed, where
// there is no administrator to ask: that of one that rotates itself.
func TestTheServersWord(t *testing.T) {
	l := targets.LDAP(t, "ppolicy_use_lockout")
	host := sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{l.Address: l.SPKI[:]},
	}
	resource := sdk.Resource{Address: l.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}
	modify := func(ldif string) {
		t.Helper()
		if err := l.Modify(t.Context(), ldif); err != nil {
			t.Fatal(err)
		}
	}
	short := "cn=short," + l.Base
	modify("dn: " + short + "\nchangetype: add\nobjectClass: device\nobjectClass: pwdPolicy\ncn: short\npwdAttribute: userPassword\npwdMaxAge: 60\n")
	lock := func(dn string) {
		for range 3 { // as many as the policy takes
			if ok, err := l.Accepts(t.Context(), dn, password("a wrong one").Secret); err != nil || ok {
				t.Fatalf("ldapwhoami: %v, %v", ok, err)
			}
		}
	}
	age := func(dn string) {
		modify("dn: " + dn + "\nchangetype: modify\nreplace: pwdPolicySubentry\npwdPolicySubentry: " + short +
			"\n-\nreplace: pwdChangedTime\npwdChangedTime: " + time.Now().Add(-time.Hour).UTC().Format("20060102150405Z") + "\n")
	}
	for _, c := range []struct {
		name, first, second string
		held                func(dn string)
		right, wrong        sdk.VerifyResponse
	}{
		{"locked", "the first of locked", "the second of locked", lock, sdk.VerifyResponse{Reason: "locked"}, sdk.VerifyResponse{Reason: "locked"}},
		{"expired", "the first of expired", "the second of expired", age, sdk.VerifyResponse{Reason: "expired"}, sdk.VerifyResponse{Reason: "not_judged"}}, // told to who knows it
	} {
		t.Run(c.name, func(t *testing.T) {
			dn, err := l.CreateEntry(t.Context(), c.name, password(c.first).Secret)
			if err != nil {
				t.Fatal(err)
			}
			plugin := &rotator{}
			itself := sdk.OpenRequest{Host: host, Resource: resource, Admin: password(c.first), AdminAs: sdk.Account{Name: dn}, Self: true}
			s, err := plugin.Open(t.Context(), itself)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			apply := sdk.ApplyRequest{Account: sdk.Account{Name: dn}, Current: password(c.first), Candidate: password(c.second)}
			if out, err := s.Apply(t.Context(), apply); err != nil || out.Outcome != sdk.Changed {
				t.Fatalf("apply: %+v, %v", out, err)
			}
			c.held(dn)
			for pw, want := range map[string]sdk.VerifyResponse{c.second: c.right, "another wrong one": c.wrong} {
				got, err := plugin.Verify(t.Context(), sdk.VerifyRequest{Host: host, Resource: resource, Account: sdk.Account{Name: dn}, Credential: password(pw)})
				if err != nil || got != want {
					t.Errorf("verify %q: %+v, %v, want %+v", pw, got, err, want)
				}
			}
			// The answer was lost, and the same candidate comes again: it must not be given up.
			if out, err := s.Apply(t.Context(), apply); err == nil || out.Outcome != sdk.Unknown {
				t.Errorf("applied again: %+v, %v; want an error and an unknown outcome", out, err)
			}
			// Nor does its password count as wrong, where that is right.
			itself.Admin = password(c.second)
			_, err = plugin.Open(t.Context(), itself)
			if e := (*sdk.Error)(nil); !errors.As(err, &e) || e.Class != sdk.ClassConflict || e.Reason != "admin.barred" {
				t.Errorf("an account that is held back: %v", err)
			}
		})
	}
}

// The draft's words for a change that was refused, which no server here says all of.
func TestPolicyRefusal(t *testing.T) {
	for e, want := range map[int8]sdk.ApplyResponse{
		noPolicyError:   {},
		passwordExpired: {},
		accountLocked:   {Class: sdk.ClassConflict, Reason: "account.locked"},
		changeAfter:     {Class: sdk.ClassConflict, Reason: "admin.must_change"},
		3:               {Class: sdk.ClassPermission, Reason: "admin.rights"},
		4:               {Class: sdk.ClassUnsupported, Reason: "policy.old_password"},
		5:               {Class: sdk.ClassPolicy, Reason: "policy.quality"},
		6:               {Class: sdk.ClassPolicy, Reason: "policy.length"},
		tooYoung:        {Class: sdk.ClassUnreachable, Reason: "policy.too_soon"},
		8:               {Class: sdk.ClassPolicy, Reason: "policy.history"},
	} {
		class, reason, ok := policyRefusal(e)
		if class != want.Class || reason != want.Reason || ok != (want.Reason != "") {
			t.Errorf("%d: %s %s %v, want %s %s", e, class, reason, ok, want.Class, want.Reason)
		}
	}
}

// Times as people and servers write them; what cannot be read holds an account back.
func TestHeldBackAt(t *testing.T) {
	now := time.Date(2026, 11, 27, 15, 0, 0, 0, time.UTC)
	for _, c := range []struct{ attribute, value, want string }{
		{"description", "20261127150000Z", ""},
		{"pwdAccountLockedTime", "000001010000Z", "locked"},
		{"pwdAccountTmpLockoutEnd", "20261127150001.123456Z", "throttled"},
		{"pwdAccountTmpLockoutEnd", "20261127145930Z", "throttled"}, // the clocks may differ
		{"pwdAccountTmpLockoutEnd", "20261127145859Z", ""},
		{"pwdStartTime", "202611271600Z", "disabled"},
		{"pwdStartTime", "2026112714Z", ""},
		{"pwdStartTime", "20261127160000+0200", ""},
		{"pwdStartTime", "20261127160000,5-0100", "disabled"},
		{"pwdStartTime", "tomorrow", "disabled"},
		{"pwdEndTime", "20261127140000Z", "expired"},
		{"pwdEndTime", "20261127150030Z", "expired"}, // the clocks may differ
		{"pwdEndTime", "20261127150200Z", ""},
		{"pwdEndTime", "20261127150200", "expired"}, // in no zone
	} {
		entry := ldap.NewEntry("cn=app", map[string][]string{c.attribute: {c.value}})
		if got := heldBack(entry, now); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.attribute, c.value, got, c.want)
		}
	}
}
