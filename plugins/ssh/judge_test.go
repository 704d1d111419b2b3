package main

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	// What stands there in place of a hash was not compared with anything.
	t.Run("a password that is elsewhere", func(t *testing.T) {
		for _, hash := range []string{"x", "*K*", "*NP*", "{SASL}somebody@somewhere"} {
			u := f.user(t, targets.UserOptions{})
			f.root(t, "usermod", "-p", hash, u.Name)
			f.mustVerify(t, u.Name, password("right, for all that is known"), undecided("not_judged"))
		}
	})
	t.Run("no account", func(t *testing.T) {
		f.mustVerify(t, "nobody-of-that-name", password("never applied"), rejected)
		f.mustVerify(t, "nobody-of-that-name", newKey(t), rejected)
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

// A directory shows no hash, and has accounts that the machine's files do not have. The one
// here is systemd's, whose records are files.
func TestAccountOfADirectory(t *testing.T) {
	const records = "/run/userdb"
	if err := os.MkdirAll(records, 0o755); err != nil {
		t.Fatal(err)
	}
	name := "rtdirectory" + strings.ToLower(rand.Text()[:8])
	record := filepath.Join(records, name+".user")
	text := `{"userName":"` + name + `","uid":61998,"gid":61998,"homeDirectory":"/nonexistent","shell":"/bin/sh","disposition":"regular"}`
	if err := os.WriteFile(record, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(record)
	if exec.CommandContext(t.Context(), "getent", "passwd", "--", name).Run() != nil || exec.CommandContext(t.Context(), "getent", "shadow", "--", name).Run() != nil {
		t.Skip("this machine's accounts do not come from systemd, too (libnss-systemd)")
	}
	f := newFixture(t)
	defer f.open(t).Close()
	f.mustVerify(t, name, password("right, for all that is known"), undecided("not_judged"))
}

// Only the machine's own entry is what unix_chkpwd's word is about.
func TestComparedWithTheFiles(t *testing.T) {
	f := newFixture(t)
	defer f.open(t).Close()
	u := f.user(t, targets.UserOptions{Password: secret("the right one")})
	was := passwordComparer
	defer func() { passwordComparer = was }()
	const path = "PATH=/usr/sbin:"
	for name, c := range map[string]struct {
		getent string // what stands in front of the machine's own
		want   sdk.VerifyResponse
	}{
		"as it is":                         {"", rejected},
		"a directory is asked first":       {`[ "$1" != shadow ] || { echo "$3:*:::::::"; exit 0; }`, undecided("not_judged")},
		"another of that name comes first": {`[ "$1" != passwd ] || { echo "$3:x:61996:61996::/:/bin/sh"; exit 0; }`, undecided("not_judged")},
		"getent knows no -s":               {`[ "$1" != -s ] || exit 1`, undecided("not_judged")},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "getent"), []byte("#!/bin/sh\n"+c.getent+"\nexec /usr/bin/getent \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		passwordComparer.command = strings.Replace(was.command, path, "PATH="+dir+":/usr/sbin:", 1)
		if passwordComparer.command == was.command {
			t.Fatal("the script has another path, so this proves nothing")
		}
		t.Run(name, func(t *testing.T) { f.mustVerify(t, u.Name, password("the wrong one"), c.want) })
	}
}

// getent knows no account of a directory that is down, and says so as of one that nobody
// has. Which it is the machine's sources tell.
func TestNoSuchAccount(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	was := absenceProver
	defer func() { absenceProver = was }()
	users := string(mustRead(t, "/etc/passwd"))
	for name, c := range map[string]struct {
		sources, vendor, users string // vendor: the file that counts on SUSE where there is no other
		proven                 bool
		services               []string // that systemd's module finds
	}{
		"the files alone":               {"passwd: files\n", "", users, true, nil},
		"and systemd":                   {"# passwd: ldap\n  passwd :\tcompat systemd # sss\ngroup: ldap\npasswd_compat: nis\n", "", users, true, nil},
		"by default":                    {"", "", users, true, nil},
		"by the vendor's default":       {"", "passwd: compat systemd\n", users, true, nil},
		"a directory that is down":      {"passwd: files ldap\n", "", users, false, nil},
		"first, and an action":          {"passwd:sss [NOTFOUND=return] files\n", "", users, false, nil},
		"an action":                     {"passwd: files [!SUCCESS=return] systemd\n", "", users, false, nil},
		"in a second line":              {"passwd: files\npasswd: winbind\n", "", users, false, nil},
		"without a last newline":        {"passwd: *", "", users, false, nil},
		"the vendor's directory":        {"", "passwd: files sss\n", users, false, nil},
		"no sources":                    {"group: files\n", "", users, false, nil},
		"NIS":                           {"passwd: compat\n", "", users + "+::::::\n", false, nil},
		"NIS, without a last newline":   {"passwd: compat\n", "", users + "+@admins", false, nil},
		"there, and getent cannot tell": {"passwd: files\n", "", users + "nobody-of-that-name:x:61997:61997::/:/bin/sh\n", false, nil},
		"no file of users":              {"passwd: files\n", "", "", false, nil},
		"systemd's own services":        {"passwd: files systemd\n", "", users, true, []string{"io.systemd.DynamicUser", "io.systemd.Home"}},
		"another's service":             {"passwd: files systemd\n", "", users, false, []string{"io.systemd.DynamicUser", "com.example.Directory"}},
		"one that nobody asks":          {"passwd: files\n", "", users, true, []string{"com.example.Directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			absenceProver = was
			services := filepath.Join(dir, "userdb")
			for _, n := range c.services {
				if err := errors.Join(os.MkdirAll(services, 0o755), os.WriteFile(filepath.Join(services, n), nil, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			absenceProver.command = strings.ReplaceAll(was.command, "/run/systemd/userdb", services)
			if absenceProver.command == was.command {
				t.Fatal("the script does not look for services, so this proves nothing")
			}
			for path, content := range map[string]string{"/etc/nsswitch.conf": c.sources, "/usr/etc/nsswitch.conf": c.vendor, "/etc/passwd": c.users} {
				own := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
				if content != "" {
					if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				command := strings.NewReplacer(" "+path, " "+own, "<"+path, "<"+own).Replace(absenceProver.command)
				if command == absenceProver.command {
					t.Fatalf("the script does not look at %s, so this proves nothing", path)
				}
				absenceProver.command = command
			}
			want := undecided("not_judged")
			if c.proven {
				want = rejected
			}
			for _, secret := range []sdk.Credential{password("right, for all that is known"), newKey(t)} {
				f.mustVerify(t, "nobody-of-that-name", secret, want)
			}
		})
	}
	s.Close()
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
