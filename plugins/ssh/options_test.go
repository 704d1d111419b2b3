package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

func line(c sdk.Credential) string { return string(bytes.TrimSpace(c.Public)) }
func body(c sdk.Credential) string { return strings.Fields(line(c))[1] }

// underPassphrase is a key pair whose private half cannot be read.
func underPassphrase(t *testing.T) sdk.Credential {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("nobody knows it"))
	if err != nil {
		t.Fatal(err)
	}
	return sdk.Credential{Kind: sdk.SSHKey, Public: ssh.MarshalAuthorizedKey(key), Secret: sdk.NewSecret(pem.EncodeToMemory(block))}
}

// A key may be restricted by options in front of it. The next one has the same, character
// for character, and neither rotation nor login runs a command that they name.
func TestKeyOptions(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	apply := func(name string, next, current sdk.Credential) (sdk.ApplyResponse, error) {
		return s.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: name}, Candidate: next, Current: current})
	}
	retire := func(t *testing.T, name string, old, keep sdk.Credential) {
		t.Helper()
		if r, err := s.Retire(t.Context(), sdk.RetireRequest{Account: sdk.Account{Name: name}, Old: old, Keep: keep}); err != nil || r.Outcome != sdk.Changed {
			t.Errorf("retire: %+v, %v", r, err)
		}
	}
	mustHave := func(t *testing.T, u targets.User, want string) {
		t.Helper()
		if got := string(mustRead(t, u.KeysFile())); got != want {
			t.Errorf("authorized_keys is\n%s\nwant\n%s", got, want)
		}
		if left, _ := filepath.Glob(u.KeysFile() + ".*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	// says is what sshd does for a key, whatever it is asked to run.
	says := func(t *testing.T, name string, c sdk.Credential) string {
		t.Helper()
		h, r := f.here()
		client, err := login(t.Context(), h, r, name, c)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		got, err := run(t.Context(), client, "echo free", nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.out
	}

	for name, c := range map[string]struct{ options, between, says string }{
		"from and no-pty":      {`from="127.0.0.1",no-pty`, " ", "free\n"},
		"a forced command":     {`command="touch ran; echo forced",from="127.0.0.0/8",no-pty`, " ", "forced\n"},
		"a quote within":       {`restrict,command="touch ran; echo \"two  words\""`, " ", "two  words\n"},
		"shell and printf":     {"command=\"touch ran; echo '$(id) `id` %s \\n * \\' &&  printf x\"", "  \t", ""},
		"a key in the command": {`command="touch ran; echo ssh-ed25519 AAAA # no comment"`, "\t", "ssh-ed25519 AAAA\n"},
		"a variable":           {`environment="WORD=not to be seen",pty`, " ", "free\n"},
		"none":                 {"", "", "free\n"},
	} {
		t.Run(name, func(t *testing.T) {
			old, next, other := newKey(t), newKey(t), newKey(t)
			kept := "# " + line(old) + "\n \t" + `no-pty,command="echo ` + body(old) + ` ` + line(old) + `" ` + line(other) + "\n\n"
			before := kept + c.options + c.between + line(old) + " a comment\n"
			u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(before)})
			separated := c.options
			if c.options != "" {
				separated += " "
			}
			for range 2 { // twice is once
				if got, err := apply(u.Name, next, old); err != nil || got != changed {
					t.Fatalf("apply: %+v, %v", got, err)
				}
				mustHave(t, u, before+separated+line(next)+"\n")
			}
			f.mustVerify(t, u.Name, next, accepted)
			retire(t, u.Name, old, next)
			mustHave(t, u, kept+separated+line(next)+"\n")
			// As after an answer that was lost: the former key is no longer there to be looked at.
			if got, err := apply(u.Name, next, old); err != nil || got != changed {
				t.Errorf("apply again: %+v, %v", got, err)
			}
			mustHave(t, u, kept+separated+line(next)+"\n")
			f.mustVerify(t, u.Name, old, rejected)
			f.mustVerify(t, u.Name, next, accepted)
			if _, err := os.Stat(filepath.Join(u.Home, "ran")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the command was run: %v", err)
			}
			if got := says(t, u.Name, next); c.says != "" && got != c.says {
				t.Errorf("the target says %q, want %q", got, c.says)
			}
		})
	}

	// What to do with these a person must say.
	t.Run("Differ", func(t *testing.T) {
		for name, content := range map[string]func(old, next string) string{
			"with and without":     func(old, _ string) string { return "no-pty " + old + "\n" + old + "\n" },
			"two kinds":            func(old, _ string) string { return `from="127.0.0.1" ` + old + "\n" + `from="127.0.0.2" ` + old + "\n" },
			"the new one has none": func(old, next string) string { return "no-pty " + old + "\n" + next + "\n" },
			"only the new one has": func(old, next string) string { return old + "\nno-pty " + next + "\n" },
		} {
			old, next := newKey(t), newKey(t)
			before := content(line(old), line(next))
			u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(before)})
			if got, err := apply(u.Name, next, old); err != nil || got != unchanged(sdk.ClassConflict, "key.options") {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			mustHave(t, u, before)
		}
	})

	t.Run("Alike", func(t *testing.T) {
		old, next := newKey(t), newKey(t)
		before := "no-pty " + line(old) + " one\r\n\tno-pty\t" + line(old) + "\r\n"
		u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(before)})
		f.mustVerify(t, u.Name, old, accepted)
		if got, err := apply(u.Name, next, old); err != nil || got != changed {
			t.Errorf("apply: %+v, %v", got, err)
		}
		mustHave(t, u, before+"no-pty "+line(next)+"\n")
		retire(t, u.Name, old, next)
		mustHave(t, u, "no-pty "+line(next)+"\n")
	})

	// Which key has the options is known by its private half, or where that cannot be read by
	// the public one. Where it is not known, or not there, the new one is added as it is.
	t.Run("Present", func(t *testing.T) {
		old, shut := newKey(t), underPassphrase(t)
		for name, c := range map[string]struct {
			there, current sdk.Credential
			kept           bool
		}{
			"by its private half":      {old, sdk.Credential{Kind: sdk.SSHKey, Secret: old.Secret}, true},
			"and not by a wrong one":   {old, sdk.Credential{Kind: sdk.SSHKey, Secret: old.Secret, Public: newKey(t).Public}, true},
			"under a passphrase":       {shut, shut, true},
			"under one, and no public": {shut, sdk.Credential{Kind: sdk.SSHKey, Secret: shut.Secret}, false},
			"not known":                {old, sdk.Credential{}, false},
			"a password":               {old, password(old.Secret.ExposeString()), false},
			"not there":                {old, newKey(t), false},
		} {
			next, before := newKey(t), "no-pty "+line(c.there)+"\n"
			u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(before)})
			if got, err := apply(u.Name, next, c.current); err != nil || got != changed {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			want := before
			if c.kept {
				want += "no-pty "
			}
			mustHave(t, u, want+line(next)+"\n")
		}
	})

	// What sshd runs in place of a program has not done what was asked for, however it ends.
	t.Run("Self", func(t *testing.T) {
		for _, says := range []string{
			":", "echo 1000 bytes", "exit 1", "echo copied: 1000", "echo 1000", "echo 0",
			`echo \"$SSH_ORIGINAL_COMMAND\"`, `echo $SSH_ORIGINAL_COMMAND`, `printf \"$SSH_ORIGINAL_COMMAND\"`,
		} {
			key, command := newKey(t), "echo >>ran; "+says
			u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(`command="` + command + `" ` + line(key) + "\n")})
			_, err := f.tryOpen(t.Context(), u.Name, key)
			mustFail(t, err, sdk.ClassPermission, "admin.no_shell")
			if got := mustRead(t, filepath.Join(u.Home, "ran")); string(got) != "\n" {
				t.Errorf("%s: was run %d times, want once", command, len(got))
			}
		}
		// One that does what is asked of it is a shell, and may greet.
		key := newKey(t)
		u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(`command="printf hello; eval \"$SSH_ORIGINAL_COMMAND\"" ` + line(key) + "\n")})
		if s := f.openAs(t, u.Name, key); s.root || s.sudo != noSudo {
			t.Errorf("root %v, sudo %v", s.root, s.sudo)
		}
	})

	// Whatever awk the target has.
	t.Run("Awk", func(t *testing.T) {
		for _, argv := range [][]string{{"gawk"}, {"gawk", "--posix"}, {"mawk"}, {"original-awk"}, {"busybox", "awk"}} {
			path, err := exec.LookPath(argv[0])
			if err != nil {
				t.Logf("left out: this machine has no %s", argv[0])
				continue
			}
			dir := t.TempDir()
			stand := "#!/bin/sh\nexec " + path + " " + strings.Join(argv[1:], " ") + ` "$@"` + "\n"
			if err := os.WriteFile(filepath.Join(dir, "awk"), []byte(stand), 0o755); err != nil {
				t.Fatal(err)
			}
			old, next := newKey(t), newKey(t)
			options := `command="echo \"a b\" \\ c",no-pty`
			u := f.user(t, targets.UserOptions{AuthorizedKeys: []byte(options + " " + line(old) + "\n")})
			for range 2 {
				if got := byAwk(t, s, dir, keyAdder, u.Name, line(next), body(old)); got != changed {
					t.Errorf("%v: add: %+v", argv, got)
				}
			}
			mustHave(t, u, options+" "+line(old)+"\n"+options+" "+line(next)+"\n")
			if got := byAwk(t, s, dir, keyFinder, u.Name, body(next)); got != changed {
				t.Errorf("%v: find: %+v", argv, got)
			}
			if got := byAwk(t, s, dir, keyDropper, u.Name, body(next), body(old)); got != changed {
				t.Errorf("%v: drop: %+v", argv, got)
			}
			mustHave(t, u, options+" "+line(next)+"\n")
		}
	})
}

// byAwk runs a program that finds awk in a folder.
func byAwk(t *testing.T, s *session, dir string, p program, name string, lines ...string) sdk.ApplyResponse {
	t.Helper()
	command := strings.Replace(p.command, "PATH=/usr/sbin:", "PATH="+dir+":/usr/sbin:", 1)
	if command == p.command {
		t.Fatal("the script has another path, so this proves nothing")
	}
	p.command = command
	var input [][]byte
	for _, l := range lines {
		input = append(input, []byte(l))
	}
	got, err := s.outcome(s.run(t.Context(), p, name, input...))
	if err != nil {
		t.Error(err)
	}
	return got
}
