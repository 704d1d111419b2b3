package main

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// itself opens the session of an account that changes its own secret.
func (f *fixture) itself(t *testing.T, name, current string) *session {
	t.Helper()
	h, r := f.here()
	s, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password(current), AdminAs: sdk.Account{Name: name}, Self: true})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*session)
}

// An account without an administrator, and without any right but its own, changes its
// password by passwd.
func TestItself(t *testing.T) {
	for name, pam := range map[string]bool{"sshd alone": false, "sshd with PAM": true} {
		f := newFixtureOn(t, targets.SSHDOptions{PAM: pam})
		t.Run(name, func(t *testing.T) {
			u := f.user(t, targets.UserOptions{Password: secret("the first one")})
			s := f.itself(t, u.Name, "the first one")
			f.mustApply(t, s, u.Name, password("the second one"), changed)
			f.mustVerify(t, u.Name, password("the second one"), accepted)
			f.mustAccept(t, u.Name, password("the second one"), true)
			f.mustAccept(t, u.Name, password("the first one"), false)
			f.mustApply(t, s, u.Name, password("the second one"), changed) // as after an answer that was lost
			s = f.itself(t, u.Name, "the second one")
			f.mustApply(t, s, u.Name, password("the second one"), changed)
			f.mustApply(t, s, u.Name, password("the third one"), changed)
			f.mustAccept(t, u.Name, password("the third one"), true)
			f.mustAccept(t, u.Name, password("the second one"), false)
		})
	}
	f := newFixture(t)

	t.Run("Characters", func(t *testing.T) {
		var ascii []byte
		for c := byte(' '); c <= '~'; c++ {
			ascii = append(ascii, c)
		}
		current := "the first one"
		u := f.user(t, targets.UserOptions{Password: secret(current)})
		for _, next := range []string{
			string(ascii), " leading and trailing ", `a:b:c \ \n`, `'"$(reboot)` + "`id`", "%s {0} $1 #", "\ttab\x01\x7f\x04\x03", "ünïcödé",
			strings.Repeat("128-char", 16), strings.Repeat("x", maxTyped-3) + "end",
		} {
			f.mustApply(t, f.itself(t, u.Name, current), u.Name, password(next), changed)
			f.mustAccept(t, u.Name, password(next), true)
			current = next
		}
		s := f.itself(t, u.Name, current)
		// Of a longer one the target would take a part, and the rest for the next answer.
		half := strings.Repeat("y", 511)
		for _, c := range []struct{ next, reason string }{
			{half, "policy.length"},
			{half + half, "policy.length"},
			{"\n", "policy.charset"},
			{"two\nlines", "policy.charset"},
			{"a zero \x00 byte", "policy.charset"},
			{"", "policy.charset"},
		} {
			f.mustApply(t, s, u.Name, password(c.next), unchanged(sdk.ClassPolicy, c.reason))
		}
		f.mustAccept(t, u.Name, password(current), true)
	})

	t.Run("Refused", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		s := f.itself(t, u.Name, "as it was")
		for _, next := range []string{"x", "short"} {
			f.mustApply(t, s, u.Name, password(next), unchanged(sdk.ClassPolicy, "policy.length"))
			f.mustVerify(t, u.Name, password(next), undecided("not_judged"))
			f.mustAccept(t, u.Name, password(next), false)
		}
		f.root(t, "passwd", "-n", "5", u.Name)
		f.mustApply(t, s, u.Name, password("too soon for it"), unchanged(sdk.ClassUnreachable, "policy.too_soon"))
		f.mustAccept(t, u.Name, password("as it was"), true)
		f.root(t, "passwd", "-n", "0", u.Name)
		f.mustApply(t, s, u.Name, password("too soon for it"), changed)
		f.mustAccept(t, u.Name, password("too soon for it"), true)
	})

	// passwd refuses, and nobody can prove that the password is as it was.
	t.Run("Unclear", func(t *testing.T) {
		for name, behind := range map[string]func(t *testing.T, u targets.User){
			"the password is another by now": func(t *testing.T, u targets.User) {
				if err := f.SetPassword(t.Context(), u.Name, secret("set by somebody")); err != nil {
					t.Fatal(err)
				}
			},
			"locked by now": func(t *testing.T, u targets.User) { f.root(t, "usermod", "-L", u.Name) },
			"too short, and nobody answers by now": func(t *testing.T, u targets.User) {
				if err := f.Down(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := f.Up(context.WithoutCancel(t.Context())); err != nil {
						t.Error(err)
					}
				})
			},
		} {
			t.Run(name, func(t *testing.T) {
				u := f.user(t, targets.UserOptions{Password: secret("as it was")})
				s := f.itself(t, u.Name, "as it was")
				behind(t, u)
				got, err := f.apply(t.Context(), s, u.Name, password("new"))
				mustBeUnclear(t, err, sdk.ClassUnreachable, "target.failed")
				if got.Outcome != sdk.Unknown {
					t.Errorf("apply: %+v", got)
				}
			})
		}
	})

	t.Run("Expired", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		f.root(t, "chage", "-d", "0", u.Name)
		h, r := f.here()
		_, err := f.plugin.Open(t.Context(), sdk.OpenRequest{Host: h, Resource: r, Admin: password("as it was"), AdminAs: sdk.Account{Name: u.Name}, Self: true})
		mustFail(t, err, sdk.ClassConflict, "admin.must_change")
	})

	t.Run("Another's", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		other := f.user(t, targets.UserOptions{Password: secret("the other's")})
		s := f.itself(t, u.Name, "as it was")
		f.mustApply(t, s, other.Name, password("not by this one"), unchanged(sdk.ClassPermission, "admin.sudo"))
		f.mustAccept(t, other.Name, password("the other's"), true)
		// And a session of an administrator is none of the account's own.
		f.mustApply(t, f.openAs(t, u.Name, password("as it was")), u.Name, password("not without sudo"), unchanged(sdk.ClassPermission, "admin.sudo"))
		f.mustAccept(t, u.Name, password("as it was"), true)
		got, err := s.outcome(s.run(t.Context(), program{ownPasswordSetter.command, true}, u.Name, []byte("x")))
		if err == nil {
			t.Errorf("a dialogue that breaks off: %+v", got)
		}
		s.admin.AdminAs.Name = other.Name // as if both had one number
		if got, err := s.setOwn(t.Context(), password("not for the other")); err != nil || got != unchanged(sdk.ClassUnsupported, "self") {
			t.Errorf("as another: %+v, %v", got, err)
		}
		f.mustAccept(t, u.Name, password("as it was"), true)
	})

	t.Run("NoTool", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was")})
		for _, tool := range []string{"getent", "id"} {
			if err := os.Symlink("/usr/bin/"+tool, filepath.Join(u.Home, tool)); err != nil {
				t.Fatal(err)
			}
		}
		ownPath(t, u.Home)
		f.mustApply(t, f.itself(t, u.Name, "as it was"), u.Name, password("a new one"), unchanged(sdk.ClassUnsupported, "target.tools"))
		f.mustAccept(t, u.Name, password("as it was"), true)
	})

	// Who becomes root without a word is not held to present rules.
	t.Run("BySudo", func(t *testing.T) {
		u := f.user(t, targets.UserOptions{Password: secret("as it was"), SudoNoPassword: true})
		f.root(t, "passwd", "-n", "5", u.Name)
		s := f.itself(t, u.Name, "as it was")
		if s.sudo != freeSudo {
			t.Skip("no sudo on this machine")
		}
		f.mustApply(t, s, u.Name, password("changed by chpasswd"), changed)
		f.mustAccept(t, u.Name, password("changed by chpasswd"), true)
	})
}

// ownPath has the account's script look for programs elsewhere.
func ownPath(t *testing.T, path string) {
	t.Helper()
	was := ownPasswordSetter
	t.Cleanup(func() { ownPasswordSetter = was })
	ownPasswordSetter.command = strings.Replace(was.command, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PATH="+path, 1)
	if ownPasswordSetter.command == was.command {
		t.Fatal("the script has another path, so this proves nothing")
	}
}

// The machine's own passwd, with other PAM modules than the machine has.
func TestItselfByOtherRules(t *testing.T) {
	if exec.CommandContext(t.Context(), "unshare", "-m", "mount", "--bind", "/etc/hostname", "/etc/pam.d/passwd").Run() != nil {
		t.Skip("this machine gives no mounts of one's own")
	}
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("sudo is not installed on this machine")
	}
	f := newFixture(t)
	for name, c := range map[string]struct {
		pam     string
		between string // the password is changed to this one, and back
		next    string
		want    sdk.ApplyResponse
	}{
		// It fails, says "password unchanged", and the password is another.
		"a module below pam_unix fails": {"password required pam_unix.so\npassword required pam_exec.so /bin/false\n", "", "taken all the same", changed},
		"a module above it fails":       {"password requisite pam_exec.so /bin/false\npassword required pam_unix.so\n", "", "never taken", unchanged(sdk.ClassConflict, "target.refused")},
		"used before":                   {"password requisite pam_pwhistory.so remember=3\npassword required pam_unix.so use_authtok\n", "the next of it", "as it was", unchanged(sdk.ClassPolicy, "policy.history")},
		"nothing is asked":              {"password required pam_permit.so\n", "", "never asked for", changed}, // which only a login disproves
	} {
		t.Run(name, func(t *testing.T) {
			current := "as it was"
			u := f.user(t, targets.UserOptions{Password: secret(current), SudoNoPassword: true})
			stand := "#!/bin/sh\nexec sudo -n unshare -m /bin/sh -c '" +
				"mount --bind " + u.Home + "/pam /etc/pam.d/passwd && mount --bind " + u.Home + "/security /etc/security && " +
				"LC_ALL=C exec setpriv --reuid " + u.Name + " --regid " + u.Name + " --init-groups /usr/bin/passwd'\n"
			for file, content := range map[string]string{"pam": c.pam, "passwd": stand, "security/opasswd": ""} {
				path := filepath.Join(u.Home, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			ownPath(t, u.Home+":/usr/bin:/bin")
			open := func() *session {
				s := f.itself(t, u.Name, current)
				s.sudo = noSudo // which the account has for the stand-in alone
				return s
			}
			if c.between != "" {
				f.mustApply(t, open(), u.Name, password(c.between), changed)
				current = c.between
			}
			f.mustApply(t, open(), u.Name, password(c.next), c.want)
			live := c.want == changed && c.next != "never asked for"
			f.mustAccept(t, u.Name, password(c.next), live)
			f.mustAccept(t, u.Name, password(current), !live)
		})
	}
}

func TestRefusalIn(t *testing.T) {
	for said, want := range map[string]sdk.ApplyResponse{
		"You must choose a longer password.\npasswd: Authentication token manipulation error\npasswd: password unchanged": unchanged(sdk.ClassPolicy, "policy.length"),
		"You must choose a shorter password.":                            unchanged(sdk.ClassPolicy, "policy.length"),
		"BAD PASSWORD: The password is shorter than 8 characters":        unchanged(sdk.ClassPolicy, "policy.length"),
		"BAD PASSWORD: it is based on a dictionary word":                 unchanged(sdk.ClassPolicy, "policy.quality"),
		"Bad: new password is too simple":                                unchanged(sdk.ClassPolicy, "policy.quality"),
		"Weak password: based on personal login information.":            unchanged(sdk.ClassPolicy, "policy.quality"),
		"Password has been already used. Choose another.":                unchanged(sdk.ClassPolicy, "policy.history"),
		"Password change failed. Server message: Password is in history": unchanged(sdk.ClassPolicy, "policy.history"),
		"You must wait longer to change your password.":                  unchanged(sdk.ClassUnreachable, "policy.too_soon"),
		"The password for app cannot be changed yet.":                    unchanged(sdk.ClassUnreachable, "policy.too_soon"),
		"passwd: Authentication token lock busy":                         unchanged(sdk.ClassUnreachable, "target.busy"),
		"passwd: Authentication token manipulation error":                unchanged(sdk.ClassConflict, "target.refused"),
		"": unchanged(sdk.ClassConflict, "target.refused"),
	} {
		if class, reason := refusalIn(said); class != want.Class || reason != want.Reason {
			t.Errorf("%q: %s, %s, want %s, %s", said, class, reason, want.Class, want.Reason)
		}
	}
}

// What comes of passwd is a code of the list, whatever a module prints.
func FuzzRefusalIn(f *testing.F) {
	f.Add("BAD PASSWORD: " + rand.Text())
	f.Fuzz(func(t *testing.T, said string) {
		class, reason := refusalIn(said)
		if class == "" || reason == "" || len(reason) > sdk.MaxReason {
			t.Errorf("%q: %q, %q", said, class, reason)
		}
	})
}
