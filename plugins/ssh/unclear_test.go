package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// What a program said is not yet what the target has.

// A key has ended only where the server says so: it may stand elsewhere than in the file that
// the plugin writes, and a server that cannot be asked has said nothing.
func TestRetireAsksTheServer(t *testing.T) {
	keys := t.TempDir()
	f := newFixtureOn(t, targets.SSHDOptions{
		Lines:  []string{"AuthorizedKeysCommand /usr/bin/cat " + keys + "/%u", "AuthorizedKeysCommandUser root"},
		Blocks: []string{"Match User rtsecond*", "  AuthenticationMethods publickey,password", "Match User rtbarred*", "  AllowUsers root"},
	})
	s := f.open(t)
	second := func(u targets.User) string { return u.KeysFile() + "2" }
	command := func(u targets.User) string { return filepath.Join(keys, u.Name) }
	for name, c := range map[string]struct {
		account string
		here    bool // in authorized_keys, too
		where   func(targets.User) string
		opens   bool
	}{
		"authorized_keys2":            {where: second, opens: true},
		"both files":                  {here: true, where: second, opens: true},
		"a command":                   {where: command, opens: true},
		"a command, and the file":     {here: true, where: command, opens: true},
		"one of two factors":          {account: "rtsecond", where: second},
		"one of two, and in the file": {account: "rtsecondtoo", here: true, where: second},
	} {
		t.Run(name, func(t *testing.T) {
			old, next := newKey(t), newKey(t)
			before, after := lines(next.Public), lines(next.Public)
			if c.here {
				before = lines(old.Public, next.Public)
			}
			u := f.user(t, targets.UserOptions{Name: c.account, AuthorizedKeys: before})
			if err := os.WriteFile(c.where(u), lines(old.Public), 0o644); err != nil {
				t.Fatal(err)
			}
			r := sdk.RetireRequest{Account: sdk.Account{Name: u.Name}, Old: old, Keep: next}
			for range 2 {
				got, err := s.Retire(t.Context(), r)
				mustBeUnclear(t, err, sdk.ClassConflict, "key.elsewhere")
				if got.Outcome != sdk.Unknown {
					t.Errorf("retire: %+v", got)
				}
			}
			f.mustAccept(t, u.Name, old, c.opens)
			if got := mustRead(t, c.where(u)); !bytes.Equal(got, lines(old.Public)) {
				t.Errorf("%s is now %s", c.where(u), got)
			}
			if err := os.Remove(c.where(u)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Retire(t.Context(), r); err != nil || got.Outcome != sdk.Changed {
				t.Errorf("retire once it is gone: %+v, %v", got, err)
			}
			// What a server counts against a host, and shuts it out for.
			if c.opens && bytes.Contains(mustRead(t, f.LogFile), []byte("authenticating user "+u.Name+" ")) {
				t.Error("a login has failed, of which nobody wanted to know")
			}
			f.mustAccept(t, u.Name, old, false)
			f.mustAccept(t, u.Name, next, c.opens)
			if got := mustRead(t, u.KeysFile()); !bytes.Equal(got, after) {
				t.Errorf("authorized_keys is\n%s\nwant\n%s", got, after)
			}
		})
	}
	// It has no key taken then, wherever it stands.
	t.Run("the account is not let in", func(t *testing.T) {
		for _, name := range []string{"", "rtbarred"} {
			old, next := newKey(t), newKey(t)
			u := f.user(t, targets.UserOptions{Name: name, AuthorizedKeys: lines(old.Public, next.Public)})
			if err := os.WriteFile(second(u), lines(old.Public), 0o644); err != nil {
				t.Fatal(err)
			}
			if name == "" {
				f.root(t, "usermod", "-L", u.Name)
			}
			r := sdk.RetireRequest{Account: sdk.Account{Name: u.Name}, Old: old, Keep: next}
			for range 2 {
				got, err := s.Retire(t.Context(), r)
				mustBeUnclear(t, err, sdk.ClassUnreachable, "not_judged")
				if got.Outcome != sdk.Unknown {
					t.Errorf("retire: %+v", got)
				}
			}
			if name != "" {
				continue
			}
			f.root(t, "usermod", "-U", u.Name)
			_, err := s.Retire(t.Context(), r)
			mustBeUnclear(t, err, sdk.ClassConflict, "key.elsewhere")
			f.mustAccept(t, u.Name, old, true)
			if err := os.Remove(second(u)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Retire(t.Context(), r); err != nil || got.Outcome != sdk.Changed {
				t.Errorf("retire once it is gone: %+v, %v", got, err)
			}
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		old, next := newKey(t), newKey(t)
		u := f.user(t, targets.UserOptions{AuthorizedKeys: lines(old.Public, next.Public)})
		r := sdk.RetireRequest{Account: sdk.Account{Name: u.Name}, Old: old, Keep: next}
		if err := f.Down(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Retire(t.Context(), r)
		mustBeUnclear(t, err, sdk.ClassUnreachable, "connection")
		if got.Outcome != sdk.Unknown {
			t.Errorf("retire: %+v", got)
		}
		if err := f.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Retire(t.Context(), r); err != nil || got.Outcome != sdk.Changed {
			t.Errorf("retire again: %+v, %v", got, err)
		}
		f.mustAccept(t, u.Name, old, false)
	})
}

// chpasswd also fails once it has set the password, which is then live: only where the
// account has the hash that it had nothing was changed.
func TestChpasswdFails(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	const path = "PATH=/usr/sbin:"
	for name, c := range map[string]struct {
		before string // of chpasswd, in a program of that name; empty: the machine's own
		first  string // the account's password; empty: none
		next   string
		want   sdk.ApplyResponse
		live   bool // the new one
	}{
		// The machine's own PAM, and behind it a module that fails in the second round alone.
		"a module below pam_unix": {`exec unshare -m /bin/sh -c 'mount --bind "${0%/*}/pam" /etc/pam.d/chpasswd && exec /usr/sbin/chpasswd' "$0"`, "as it was", "taken all the same", sdk.ApplyResponse{}, true},
		"a signal after it":       {"/usr/sbin/chpasswd; kill -KILL $$", "as it was", "taken all the same", sdk.ApplyResponse{}, true},
		"a first password":        {"/usr/sbin/chpasswd; exit 1", "", "taken all the same", sdk.ApplyResponse{}, true},
		"a signal before it":      {"kill -KILL $$", "as it was", "never taken", unchanged(sdk.ClassConflict, "chpasswd.refused"), false},
		"refused":                 {"", "as it was", strings.Repeat("long", 4096), unchanged(sdk.ClassConflict, "chpasswd.refused"), false},
		"refused, and none yet":   {"", "", strings.Repeat("long", 4096), sdk.ApplyResponse{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := passwordSetter
			if c.before != "" {
				if strings.Contains(c.before, "unshare") && exec.CommandContext(t.Context(), "unshare", "-m", "mount", "--bind", "/etc/hostname", "/etc/pam.d/chpasswd").Run() != nil {
					t.Skip("this machine gives no mounts of one's own")
				}
				dir := t.TempDir()
				err := errors.Join(
					os.WriteFile(filepath.Join(dir, "pam"), []byte("password required pam_unix.so\npassword required pam_exec.so /bin/false\n"), 0o600),
					os.WriteFile(filepath.Join(dir, "chpasswd"), []byte("#!/bin/sh\n"+c.before+"\n"), 0o700))
				if err != nil {
					t.Fatal(err)
				}
				p.command = strings.Replace(p.command, path, "PATH="+dir+":/usr/sbin:", 1)
				if p.command == passwordSetter.command {
					t.Fatal("the script has another path, so this proves nothing")
				}
			}
			u := f.user(t, targets.UserOptions{Password: secret(c.first)})
			got, err := s.outcome(s.run(t.Context(), p, u.Name, []byte(u.Name+":"+c.next)))
			if got != c.want || (err == nil) != (c.want.Outcome == sdk.Unchanged) {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
			if err != nil {
				mustBeUnclear(t, err, sdk.ClassConflict, "chpasswd.refused")
			}
			f.mustAccept(t, u.Name, password(c.next), c.live)
			if c.first != "" {
				f.mustAccept(t, u.Name, password(c.first), !c.live)
			}
		})
	}
}
