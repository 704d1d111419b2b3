package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestPassword(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)

	t.Run("FirstChange", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{}) // locked until now
		f.mustApply(t, s, u.Name, password("the very first one"), changed)
		f.mustVerify(t, u.Name, password("the very first one"), accepted)
		f.mustAccept(t, u.Name, password("the very first one"), true)
	})

	// Who locked the account meant to: a new secret would let it in again.
	t.Run("Locked", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		f.root(t, "usermod", "-L", u.Name)
		f.mustApply(t, s, u.Name, password("new"), unchanged(sdk.ClassConflict, "locked"))
		f.root(t, "usermod", "-U", u.Name)
		f.mustVerify(t, u.Name, password("as it was"), accepted)
		f.mustApply(t, s, u.Name, password("new"), changed)
		f.mustAccept(t, u.Name, password("new"), true)
	})

	t.Run("OldRejected", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("old password")})
		f.mustVerify(t, u.Name, password("old password"), accepted)
		f.mustApply(t, s, u.Name, password("new password"), changed)
		f.mustVerify(t, u.Name, password("new password"), accepted)
		f.mustVerify(t, u.Name, password("old password"), rejected)
		f.mustAccept(t, u.Name, password("old password"), false)
	})

	t.Run("Printable", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("x")})
		var ascii []byte
		for c := byte(' '); c <= '~'; c++ {
			ascii = append(ascii, c)
		}
		for _, pw := range []string{
			string(ascii), " leading and trailing ", "a:b:c", `\`, `'"$(reboot)` + "`id`", "%s {0} $1", "ünïcödé", "пароль", "emoji \U0001f600", strings.Repeat("long ", 50),
		} {
			f.mustApply(t, s, u.Name, password(pw), changed)
			f.mustVerify(t, u.Name, password(pw), accepted)
			f.mustAccept(t, u.Name, password(pw), true)
		}
		f.mustVerify(t, u.Name, password("another"), rejected)
	})

	t.Run("NotExpressible", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		for _, pw := range []string{"", "line\nbreak", "return\rhere", "zero\x00byte"} {
			f.mustApply(t, s, u.Name, password(pw), unchanged(sdk.ClassPolicy, "policy.charset"))
		}
		f.mustAccept(t, u.Name, password("as it was"), true)
	})

	t.Run("HostileNames", func(t *testing.T) {
		canary := filepath.Join(t.TempDir(), "canary")
		for i, name := range []string{"$(id)", "`id`", "a'b", `a"b`, "a;b", "a b", "a|b", "%s", "*", "-x.y"} {
			if strings.HasPrefix(name, "-") {
				name = "x" + name
			}
			name = fmt.Sprintf("%s%d", name, os.Getpid()%1000)
			u, err := f.CreateUser(t.Context(), targets.UserOptions{Name: name, Password: secret("old of a hostile one")})
			if err != nil {
				t.Logf("left out: this machine takes no account called %q: %v", name, err)
				continue
			}
			pw := fmt.Sprintf("new of hostile number %d", i)
			f.mustApply(t, s, u.Name, password(pw), changed)
			f.mustVerify(t, u.Name, password(pw), accepted)
		}
		for _, name := range []string{"$(touch " + canary + ")", "'; touch " + canary + "; '", "root\nroot", "--help", "-"} {
			f.mustApply(t, s, name, password("never arrives"), unchanged(sdk.ClassNotFound, "account.missing"))
		}
		if _, err := os.Stat(canary); err == nil {
			t.Error("a name was run as a program")
		}
	})

	t.Run("Missing", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		for _, name := range []string{"nobody-of-that-name", "", strconv.Itoa(u.UID), u.Name + " ", strings.ToUpper(u.Name), u.Name + ":x"} {
			f.mustApply(t, s, name, password("for nobody at all"), unchanged(sdk.ClassNotFound, "account.missing"))
		}
		f.mustAccept(t, u.Name, password("as it was"), true)
	})

	t.Run("ApplyTwice", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("old")})
		for range 2 {
			f.mustApply(t, s, u.Name, password("the same candidate"), changed)
		}
		f.mustAccept(t, u.Name, password("the same candidate"), true)
	})

	t.Run("SideBySide", func(t *testing.T) {
		var all sync.WaitGroup
		names := make([]string, 8)
		for i := range names {
			names[i] = f.user(t, targets.UserOptions{Password: secret("old")}).Name
		}
		before := f.dialer.dials.Load()
		for i, name := range names {
			all.Go(func() { f.mustApply(t, s, name, password(fmt.Sprint("new one of number ", i)), changed) })
		}
		all.Wait()
		if n := f.dialer.dials.Load() - before; n >= concurrency {
			t.Errorf("%d further logins of the administrator, want fewer than %d", n, concurrency)
		}
		for i, name := range names {
			f.mustAccept(t, name, password(fmt.Sprint("new one of number ", i)), true)
		}
	})

	t.Run("NoLogin", func(t *testing.T) {
		for _, shell := range []string{"/usr/sbin/nologin", "/bin/false"} {
			u := f.user(t, targets.UserOptions{Password: secret("old"), Shell: shell})
			f.mustApply(t, s, u.Name, password("of a service"), changed)
			f.mustVerify(t, u.Name, password("of a service"), undecided("no_login"))
			f.mustVerify(t, u.Name, password("old"), rejected)
		}
	})

	t.Run("CancelledHasNoEffect", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := f.dialer.dials.Load()
		_, err := f.apply(ctx, s, u.Name, password("must not arrive"))
		mustFail(t, err, sdk.ClassUnreachable, "cancelled")
		if v, _ := f.verify(ctx, u.Name, password("as it was")); v.Verdict != sdk.Undecided {
			t.Errorf("verify under a cancelled context: %+v", v)
		}
		if n := f.dialer.dials.Load() - before; n != 0 {
			t.Logf("%d connections were begun", n)
		}
		f.mustAccept(t, u.Name, password("as it was"), true)
	})

	t.Run("CloseTwice", func(t *testing.T) {
		s := f.open(t)
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		_, err := f.apply(t.Context(), s, "root", password("after the closing"))
		mustFail(t, err, sdk.ClassInternal, "session.closed")
	})

	t.Run("WrongAdmin", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("right")})
		for name, c := range map[string]sdk.Credential{f.Admin: newKey(t), u.Name: password("wrong"), "nobody-at-all": password("x")} {
			_, err := f.tryOpen(t.Context(), name, c)
			mustFail(t, err, sdk.ClassAuth, "admin.refused")
		}
		_, err := f.tryOpen(t.Context(), f.Admin, sdk.Credential{Kind: sdk.SSHKey, Secret: secret("not a key")})
		mustFail(t, err, sdk.ClassInvalid, "admin.key")
	})

	t.Run("AdminWithoutShell", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("right"), Shell: "/usr/sbin/nologin"})
		_, err := f.tryOpen(t.Context(), u.Name, password("right"))
		mustFail(t, err, sdk.ClassPermission, "admin.no_shell")
	})
}

// An administrator who is not root becomes it by sudo, with his password on sudo's
// standard input or without one.
func TestSudo(t *testing.T) {
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("sudo is not installed on this machine")
	}
	f := newFixtureOn(t, targets.SSHDOptions{Blocks: []string{
		"Match User rtwrapped*", `  ForceCommand case "$SSH_ORIGINAL_COMMAND" in *sudo*) echo 0 ;; *) eval "$SSH_ORIGINAL_COMMAND" ;; esac`,
	}})
	for name, o := range map[string]targets.UserOptions{
		"with a password":    {Password: secret("the administrator's own"), Sudo: true},
		"without a password": {Password: secret("the administrator's own"), SudoNoPassword: true},
	} {
		t.Run(name, func(t *testing.T) {
			admin := f.user(t, o)
			u := f.user(t, targets.UserOptions{Password: secret("old"), AuthorizedKeys: []byte("# empty\n")})
			s := f.openAs(t, admin.Name, password("the administrator's own"))
			f.mustApply(t, s, u.Name, password("set through sudo"), changed)
			f.mustAccept(t, u.Name, password("set through sudo"), true)
			key := newKey(t)
			f.mustApply(t, s, u.Name, key, changed)
			f.mustAccept(t, u.Name, key, true)
			f.mustApply(t, s, "nobody-of-that-name", password("x y z"), unchanged(sdk.ClassNotFound, "account.missing"))
		})
	}
	t.Run("not allowed", func(t *testing.T) {
		weak := f.user(t, targets.UserOptions{Password: secret("of the weak")})
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		s := f.openAs(t, weak.Name, password("of the weak"))
		f.mustApply(t, s, u.Name, password("not by the weak"), unchanged(sdk.ClassPermission, "admin.sudo"))
		f.mustAccept(t, u.Name, password("as it was"), true)
	})
	t.Run("not with his own", func(t *testing.T) {
		admin := f.user(t, targets.UserOptions{Password: secret("the administrator's own"), Sudo: true})
		u := f.user(t, targets.UserOptions{Password: secret("as it was"), AuthorizedKeys: []byte("")})
		log := filepath.Join(t.TempDir(), "sudo.log")
		rule := filepath.Join("/etc/sudoers.d", filepath.Base(admin.Home)+"-target")
		text := fmt.Sprintf("Defaults:%s targetpw, passwd_tries=9, loglinelen=0, logfile=%s\n", admin.Name, log)
		if err := os.WriteFile(rule, []byte(text), 0o440); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(rule)
		s := f.openAs(t, admin.Name, password("the administrator's own"))
		// Whatever waits for it, sudo is asked once, and has nothing but the password for it.
		for range 2 {
			f.mustApply(t, s, u.Name, password("not as a try"), unchanged(sdk.ClassPermission, "admin.sudo"))
			f.mustApply(t, s, u.Name, newKey(t), unchanged(sdk.ClassPermission, "admin.sudo"))
		}
		noted, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		// Nor by a program of before, which ends after that.
		s.paid.doubt()
		f.mustApply(t, s, u.Name, password("not as a try"), unchanged(sdk.ClassPermission, "admin.sudo"))
		again, err := os.ReadFile(log)
		if err != nil || !bytes.Equal(again, noted) {
			t.Errorf("%v; sudo noted more: %s", err, again)
		}
		if tries := strings.Count(string(noted), "incorrect password attempt"); tries != 1 || !strings.Contains(string(noted), "1 incorrect password attempt ") {
			t.Errorf("sudo noted: %s", noted)
		}
		f.mustAccept(t, u.Name, password("as it was"), true)
	})
	t.Run("something else in its place", func(t *testing.T) {
		admin := f.user(t, targets.UserOptions{Name: "rtwrapped", Password: secret("the administrator's own"), SudoNoPassword: true})
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		s := f.openAs(t, admin.Name, password("the administrator's own"))
		f.mustApply(t, s, u.Name, password("said to be done"), unchanged(sdk.ClassPermission, "admin.sudo"))
		f.mustAccept(t, u.Name, password("as it was"), true)
	})
	t.Run("a key and no sudo", func(t *testing.T) {
		key := newKey(t)
		weak := f.user(t, targets.UserOptions{AuthorizedKeys: lines(key.Public)})
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		s := f.openAs(t, weak.Name, key)
		f.mustApply(t, s, u.Name, password("not by the weak"), unchanged(sdk.ClassPermission, "admin.not_root"))
		f.mustAccept(t, u.Name, password("as it was"), true)
	})
}

// A key is added beside the old one and only the old one is removed: whatever else
// stands in authorized_keys stays byte for byte.
func TestKey(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	retire := func(t *testing.T, s *session, name string, old, keep sdk.Credential) (sdk.RetireResponse, error) {
		t.Helper()
		return s.Retire(t.Context(), sdk.RetireRequest{Account: sdk.Account{Name: name}, Old: old, Keep: keep})
	}

	t.Run("Rotation", func(t *testing.T) {
		old, next, other := newKey(t), newKey(t), newKey(t)
		before := lines([]byte("# kept"), []byte(`from="127.0.0.1",no-pty `+string(other.Public)), []byte(""))
		u := f.user(t, targets.UserOptions{AuthorizedKeys: append(bytes.Clone(before), append(bytes.Clone(old.Public), " somebody@somewhere\n"...)...)})
		f.mustVerify(t, u.Name, old, accepted)
		f.mustApply(t, s, u.Name, next, changed)
		for _, c := range []sdk.Credential{old, next, other} {
			f.mustAccept(t, u.Name, c, true)
		}
		for range 2 { // twice is once
			if r, err := retire(t, s, u.Name, old, next); err != nil || r.Outcome != sdk.Changed {
				t.Fatalf("retire: %+v, %v", r, err)
			}
		}
		f.mustVerify(t, u.Name, old, rejected)
		f.mustVerify(t, u.Name, next, accepted)
		if got, want := mustRead(t, u.KeysFile()), append(before, append(bytes.TrimSpace(bytes.Clone(next.Public)), '\n')...); !bytes.Equal(got, want) {
			t.Errorf("authorized_keys is\n%s\nwant\n%s", got, want)
		}
		if left, _ := filepath.Glob(u.KeysFile() + ".*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})

	t.Run("OnlyFieldsCount", func(t *testing.T) {
		old, next := newKey(t), newKey(t)
		body := strings.Fields(string(old.Public))[1]
		kept := lines([]byte("# "+string(bytes.TrimSpace(old.Public))), []byte("ssh-ed25519 "+body+"x comment"), bytes.TrimSpace(next.Public))
		u := f.user(t, targets.UserOptions{AuthorizedKeys: append(bytes.Clone(kept), old.Public...)})
		if r, err := retire(t, s, u.Name, old, next); err != nil || r.Outcome != sdk.Changed {
			t.Fatalf("retire: %+v, %v", r, err)
		}
		if got := mustRead(t, u.KeysFile()); !bytes.Equal(got, kept) {
			t.Errorf("authorized_keys is\n%s\nwant\n%s", got, kept)
		}
	})

	t.Run("KeepMustBeThere", func(t *testing.T) {
		old, never := newKey(t), newKey(t)
		u := f.user(t, targets.UserOptions{AuthorizedKeys: lines(old.Public)})
		r, err := retire(t, s, u.Name, old, never)
		if err != nil || r.Outcome != sdk.Unchanged {
			t.Errorf("retire with nothing to keep: %+v, %v", r, err)
		}
		_, err = retire(t, s, u.Name, old, old)
		mustFail(t, err, sdk.ClassInvalid, "key.same")
		f.mustAccept(t, u.Name, old, true)
	})

	t.Run("FirstKey", func(t *testing.T) { // neither ~/.ssh nor the file is there
		u := f.user(t, targets.UserOptions{})
		c := newKey(t)
		f.mustApply(t, s, u.Name, c, changed)
		f.mustApply(t, s, u.Name, c, changed)
		f.mustVerify(t, u.Name, c, accepted)
		f.mustVerify(t, u.Name, newKey(t), rejected)
		if got := mustRead(t, u.KeysFile()); bytes.Count(got, []byte("\n")) != 1 {
			t.Errorf("added twice: %s", got)
		}
		if st, err := os.Stat(u.KeysFile()); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	})

	// An entry of the password file may end with its home: sshd takes /bin/sh then.
	t.Run("NoShell", func(t *testing.T) {
		u, c := f.user(t, targets.UserOptions{}), newKey(t)
		f.root(t, "usermod", "-s", "", "-c", "Ada, of $(id)", u.Name)
		f.mustApply(t, s, u.Name, c, changed)
		f.mustAccept(t, u.Name, c, true)
	})

	// Several records may have keys of one account.
	t.Run("SideBySide", func(t *testing.T) {
		u, keys := f.user(t, targets.UserOptions{}), make([]sdk.Credential, 8)
		var all sync.WaitGroup
		for i := range keys {
			keys[i] = newKey(t)
			all.Go(func() { f.mustApply(t, s, u.Name, keys[i], changed) })
		}
		all.Wait()
		for i, c := range keys {
			if !bytes.Contains(mustRead(t, u.KeysFile()), bytes.TrimSpace(c.Public)) {
				t.Errorf("key %d is lost", i)
			}
		}
		for i, old := range keys[:4] { // rotated, in turns with each other
			next := newKey(t)
			all.Go(func() {
				f.mustApply(t, s, u.Name, next, changed)
				if r, err := retire(t, s, u.Name, old, next); err != nil || r.Outcome != sdk.Changed {
					t.Errorf("retire: %+v, %v", r, err)
				}
			})
			keys[i] = next
		}
		all.Wait()
		got := mustRead(t, u.KeysFile())
		for i, c := range keys {
			if !bytes.Contains(got, bytes.TrimSpace(c.Public)) {
				t.Errorf("key %d is lost", i)
			}
		}
		if n := bytes.Count(got, []byte("\n")); n != len(keys) {
			t.Errorf("%d lines, want %d:\n%s", n, len(keys), got)
		}
	})

	// Who changes the file without the lock, as a person does, loses nothing either.
	t.Run("ChangedMeanwhile", func(t *testing.T) {
		u, other, c := f.user(t, targets.UserOptions{AuthorizedKeys: []byte("")}), newKey(t), newKey(t)
		meddled := strings.Replace(addKey, "\nput\n", "\necho '"+string(bytes.TrimSpace(other.Public))+"' >>\"$f\"\nput\n", 1)
		got, err := s.outcome(s.run(t.Context(), asAccount(meddled), u.Name, bytes.TrimSpace(c.Public), nil))
		if err != nil || got != unchanged(sdk.ClassUnreachable, "target.busy") {
			t.Errorf("%+v, %v", got, err)
		}
		f.mustApply(t, s, u.Name, c, changed)
		f.mustAccept(t, u.Name, other, true)
		f.mustAccept(t, u.Name, c, true)
	})

	t.Run("NoLastNewline", func(t *testing.T) {
		old, next := newKey(t), newKey(t)
		u := f.user(t, targets.UserOptions{AuthorizedKeys: bytes.TrimSpace(old.Public)})
		f.mustApply(t, s, u.Name, next, changed)
		f.mustAccept(t, u.Name, old, true)
		f.mustAccept(t, u.Name, next, true)
	})

	t.Run("HostileHome", func(t *testing.T) {
		// The account may put a link in its home: root must not follow it.
		prey := filepath.Join(t.TempDir(), "prey")
		if err := os.WriteFile(prey, []byte("root's own\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte("")})
		if err := errors.Join(os.Remove(u.KeysFile()), os.Symlink(prey, u.KeysFile())); err != nil {
			t.Fatal(err)
		}
		f.mustApply(t, s, u.Name, newKey(t), unchanged(sdk.ClassConflict, "keys.unwritable"))
		if got := mustRead(t, prey); string(got) != "root's own\n" {
			t.Errorf("root followed the account's link: %s", got)
		}
	})

	t.Run("NoHome", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{})
		if err := os.Rename(u.Home, u.Home+".away"); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(u.Home+".away", u.Home)
		f.mustApply(t, s, u.Name, newKey(t), unchanged(sdk.ClassConflict, "account.no_home"))
	})

	// Which key it is, the private half says.
	t.Run("PublicHalf", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte("# as it was\n")})
		good, other := newKey(t), newKey(t)
		for _, c := range []struct{ public, reason string }{
			{"nonsense", "key.public"},
			{string(good.Public) + "\n" + string(other.Public), "key.public"},
			{`command="reboot" ` + string(good.Public), "key.public"},
			{string(other.Public), "key.mismatch"},
		} {
			bad := sdk.Credential{Kind: sdk.SSHKey, Public: []byte(c.public), Secret: good.Secret}
			_, err := f.apply(t.Context(), s, u.Name, bad)
			mustFail(t, err, sdk.ClassInvalid, c.reason)
			_, err = f.verify(t.Context(), u.Name, bad)
			mustFail(t, err, sdk.ClassInvalid, c.reason)
		}
		if got := mustRead(t, u.KeysFile()); string(got) != "# as it was\n" {
			t.Errorf("authorized_keys is %s", got)
		}
		bare := sdk.Credential{Kind: sdk.SSHKey, Secret: good.Secret}
		f.mustApply(t, s, u.Name, bare, changed)
		f.mustVerify(t, u.Name, bare, accepted)
		f.mustAccept(t, u.Name, good, true)
	})

	// Nor does retire go by a public half that was left out, or left behind.
	t.Run("RetireByThePrivateHalf", func(t *testing.T) {
		next, bystander := newKey(t), newKey(t)
		for name, public := range map[string][]byte{"left out": nil, "of another key": bystander.Public} {
			old := newKey(t)
			u := f.user(t, targets.UserOptions{AuthorizedKeys: lines(old.Public, next.Public, bystander.Public)})
			r, err := retire(t, s, u.Name, sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: old.Secret}, next)
			if err != nil || r.Outcome != sdk.Changed {
				t.Errorf("%s: retire: %+v, %v", name, r, err)
			}
			f.mustAccept(t, u.Name, old, false)
			f.mustAccept(t, u.Name, bystander, true)
			f.mustAccept(t, u.Name, next, true)
		}
		_, err := retire(t, s, "root", sdk.Credential{Kind: sdk.SSHKey, Public: bystander.Public, Secret: secret("not a key")}, next)
		mustFail(t, err, sdk.ClassInvalid, "key.private")
	})

	t.Run("Self", func(t *testing.T) {
		old, next := newKey(t), newKey(t)
		u := f.user(t, targets.UserOptions{AuthorizedKeys: lines(old.Public)})
		me := f.openAs(t, u.Name, old)
		f.mustApply(t, me, u.Name, next, changed)
		f.mustVerify(t, u.Name, next, accepted)
		me = f.openAs(t, u.Name, next)
		if r, err := retire(t, me, u.Name, old, next); err != nil || r.Outcome != sdk.Changed {
			t.Errorf("retire by itself: %+v, %v", r, err)
		}
		f.mustVerify(t, u.Name, old, rejected)
	})
}

// A server that does not show a pinned key is sent nothing, and its word is not
// believed.
func TestHostKey(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("right")})
	all, wrong := f.pins, bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		pins []byte
		ok   bool
	}{
		"all":              {all, true},
		"Ed25519 alone":    {all[:32], true},
		"ECDSA alone":      {all[32:], true},
		"one among others": {append(bytes.Clone(wrong), all[32:]...), true},
		"wrong":            {wrong, false},
		"none":             {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			f.pins = c.pins
			v, err := f.verify(t.Context(), u.Name, password("right"))
			_, openErr := f.tryOpen(t.Context(), f.Admin, f.admin())
			if c.ok {
				if err != nil || openErr != nil || v != accepted {
					t.Errorf("%+v, %v, %v", v, err, openErr)
				}
				return
			}
			mustFail(t, err, sdk.ClassAuth, "target_identity")
			mustFail(t, openErr, sdk.ClassAuth, "target_identity")
		})
	}
}

// A connection that ends while nobody uses it is no outcome: the session makes it
// again, and goes by the pinned key as before.
func TestIdleConnectionEnds(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("as it was")})
	s := f.open(t)
	f.mustApply(t, s, u.Name, password("first"), changed)
	(*f.dialer.last.Load()).Close()
	f.mustApply(t, s, u.Name, password("second"), changed)
	f.mustAccept(t, u.Name, password("second"), true)

	if err := errors.Join(f.Down(), f.NewHostKeys(), f.Up(t.Context())); err != nil {
		t.Fatal(err)
	}
	(*f.dialer.last.Load()).Close() // sshd's children outlive it
	_, err := f.apply(t.Context(), s, u.Name, password("third"))
	mustFail(t, err, sdk.ClassAuth, "target_identity")
	f.mustAccept(t, u.Name, password("second"), true)
}

func TestDown(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("as it was")})
	if err := f.Down(); err != nil {
		t.Fatal(err)
	}
	_, err := f.tryOpen(t.Context(), f.Admin, f.admin())
	mustFail(t, err, sdk.ClassUnreachable, "connection")
	f.mustVerify(t, u.Name, password("as it was"), undecided("unreachable"))
	if err := f.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.mustVerify(t, u.Name, password("as it was"), accepted)
}

func TestHung(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("as it was")})
	if err := f.Pause(); err != nil {
		t.Fatal(err)
	}
	defer f.Resume()
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	within(t, 3*time.Second, "verify on a deaf server", func() {
		f.mustVerifyIn(t, soon(), u.Name, password("as it was"), undecided("unreachable"))
	})
	within(t, 3*time.Second, "open on a deaf server", func() {
		ctx := soon()
		_, err := f.tryOpen(ctx, f.Admin, f.admin())
		mustFail(t, err, sdk.ClassUnreachable, "connection")
	})
}

// A peer that is gone without a word holds nobody up: the call ends with its context, and
// what was not begun is told as not sent.
func TestSilentPeer(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("as it was")})
	s := f.open(t)
	(*f.dialer.last.Load()).(*mutable).mute.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	within(t, 3*time.Second, "apply to a silent peer", func() {
		_, err := f.apply(ctx, s, u.Name, password("must not arrive"))
		mustFail(t, err, sdk.ClassUnreachable, "connection")
	})
	f.mustAccept(t, u.Name, password("as it was"), true)
}

func (f *fixture) mustVerifyIn(t *testing.T, ctx context.Context, name string, c sdk.Credential, want sdk.VerifyResponse) {
	t.Helper()
	if got, err := f.verify(ctx, name, c); err != nil || got != want {
		t.Errorf("verify %q: %+v, %v, want %+v", name, got, err, want)
	}
}
