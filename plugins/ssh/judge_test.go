package main

import (
	"os/exec"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A server answers the right secret exactly as a wrong one when something else keeps
// the account out. Only a secret that the target does not have is rejected.
func TestRefusedForAnotherReason(t *testing.T) {
	f := newFixtureOn(t, targets.SSHDOptions{Blocks: []string{
		"Match User rtallow*", "  AllowUsers root",
		"Match User rtdeny*", "  DenyUsers rtdeny*",
		"Match User rtboth*", "  AuthenticationMethods publickey,password",
		"Match User rtfirst*", "  AuthenticationMethods password,publickey",
	}})
	s := f.open(t)
	for _, c := range []struct {
		name          string
		after         []string // is run with the account's name
		password, key sdk.VerifyResponse
		other         sdk.VerifyResponse // for a password that it never had
		otherKey      sdk.VerifyResponse
	}{
		{name: "rtallow", password: undecided("no_login"), key: undecided("key.not_taken"), other: rejected, otherKey: rejected},
		{name: "rtdeny", password: undecided("no_login"), key: undecided("key.not_taken"), other: rejected, otherKey: rejected},
		{name: "rtboth", password: undecided("unreachable"), key: undecided("second_factor"), other: undecided("unreachable"), otherKey: rejected},
		{name: "rtfirst", password: undecided("no_login"), key: undecided("unreachable"), other: rejected, otherKey: undecided("unreachable")},
		{name: "rtlocked", after: []string{"usermod", "-L"}, password: undecided("locked"), key: undecided("key.not_taken"), other: undecided("locked"), otherKey: rejected},
		{name: "rtexpired", after: []string{"chage", "-E", "1"}, password: undecided("no_login"), key: undecided("key.not_taken"), other: rejected, otherKey: rejected},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := f.user(t, targets.UserOptions{Name: c.name, AuthorizedKeys: []byte("")})
			pw, key := password("the one that is live"), newKey(t)
			f.mustApply(t, s, u.Name, pw, changed)
			f.mustApply(t, s, u.Name, key, changed)
			if len(c.after) > 0 {
				if out, err := exec.CommandContext(t.Context(), c.after[0], append(c.after[1:], u.Name)...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v, %s", c.after, err, out)
				}
			}
			if in, _ := f.Accepts(t.Context(), u.Name, pw); in {
				t.Fatal("the password opens the target, so there is nothing to tell")
			}
			f.mustVerify(t, u.Name, pw, c.password)
			f.mustVerify(t, u.Name, key, c.key)
			f.mustVerify(t, u.Name, password("never applied"), c.other)
			f.mustVerify(t, u.Name, newKey(t), c.otherKey)
		})
	}
	t.Run("no password at all", func(t *testing.T) {
		for _, hash := range []string{"*", "!", "!!", "!*"} {
			u := f.user(t, targets.UserOptions{})
			if out, err := exec.CommandContext(t.Context(), "usermod", "-p", hash, u.Name).CombinedOutput(); err != nil {
				t.Fatalf("%v, %s", err, out)
			}
			f.mustVerify(t, u.Name, password("never applied"), rejected)
		}
	})
	t.Run("no account", func(t *testing.T) {
		f.mustVerify(t, "nobody-of-that-name", password("never applied"), rejected)
	})
	t.Run("a password too long to compare", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("short")})
		long := make([]byte, 250)
		for i := range long {
			long[i] = 'x'
		}
		f.mustVerify(t, u.Name, password(string(long)), undecided("not_judged"))
	})
}

// Who can look into the account, and who cannot.
func TestWitness(t *testing.T) {
	f := newFixture(t)
	key := newKey(t)
	u := f.user(t, targets.UserOptions{Password: secret("the right one"), AuthorizedKeys: lines(key.Public)})
	wrong, wrongKey := password("the wrong one"), newKey(t)
	nobody := func(t *testing.T) {
		t.Helper()
		f.mustVerify(t, u.Name, wrong, undecided("not_judged"))
		f.mustVerify(t, u.Name, wrongKey, undecided("not_judged"))
	}
	t.Run("nobody is logged in", nobody)
	t.Run("the account itself", func(t *testing.T) {
		s := f.openAs(t, u.Name, key)
		defer s.Close()
		f.mustVerify(t, u.Name, wrong, undecided("not_judged"))
		f.mustVerify(t, u.Name, wrongKey, rejected)
	})
	t.Run("somebody else", func(t *testing.T) {
		weak := f.user(t, targets.UserOptions{AuthorizedKeys: lines(key.Public)})
		s := f.openAs(t, weak.Name, key)
		defer s.Close()
		nobody(t)
	})
	t.Run("by sudo", func(t *testing.T) {
		if _, err := exec.LookPath("sudo"); err != nil {
			t.Skip("sudo is not installed on this machine")
		}
		admin := f.user(t, targets.UserOptions{Password: secret("the administrator's own"), Sudo: true})
		s := f.openAs(t, admin.Name, password("the administrator's own"))
		defer s.Close()
		f.mustVerify(t, u.Name, wrong, rejected)
		f.mustVerify(t, u.Name, wrongKey, rejected)
	})
	t.Run("may not use sudo", func(t *testing.T) {
		weak := f.user(t, targets.UserOptions{Password: secret("of the weak")})
		s := f.openAs(t, weak.Name, password("of the weak"))
		defer s.Close()
		nobody(t)
	})
	t.Run("all have left", nobody)
}
