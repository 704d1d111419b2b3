package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/ssh"

	keys "github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// machine is a real host with an account, and scripts that log in to it.
type machine struct {
	*targets.SSHD
	user targets.User
	key  sdk.Credential
	pins []byte
}

const hostPassword = "the p'assw0rd\" of app"

func newMachine(t *testing.T) *machine {
	t.Helper()
	h := &machine{SSHD: targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}})}
	public, private, err := keys.SSHKey()
	if err != nil {
		t.Fatal(err)
	}
	h.key, h.pins = sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: sdk.NewSecret(private)}, h.Pins()
	if h.user, err = h.CreateUser(t.Context(), targets.UserOptions{Password: password(hostPassword).Secret, AuthorizedKeys: append(public, '\n')}); err != nil {
		t.Fatal(err)
	}
	return h
}

// run runs code, in which c is a connection of the account unless it makes its own.
func (h *machine) run(t *testing.T, code string) error {
	t.Helper()
	if !strings.Contains(code, "ssh.connect{") {
		code = "local c = assert(ssh.connect{login = job.login, secret = job.secret})\n" + code
	}
	b := newBench(t, []string{"ssh", "secret", "text"}, "", code)
	b.allow, b.host.Pins[h.Address] = []string{h.Address}, h.pins
	_, err := b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("login", lua.LString(h.user.Name))
		job.RawSetString("secret", s.credential(password(hostPassword)))
		job.RawSetString("key", s.credential(h.key))
		job.RawSetString("home", lua.LString(h.user.Home))
		job.RawSetString("text", lua.LString(strings.Repeat("a", 64)))
	}, sdk.Resource{Address: h.Address})
	return err
}

func TestSSH(t *testing.T) {
	h := newMachine(t)

	t.Run("login", func(t *testing.T) {
		for name, c := range map[string]struct {
			options string
			class   sdk.Class
			reason  string
		}{
			"by password":       {`login = job.login, secret = job.secret`, "", ""},
			"by key":            {`login = job.login, secret = job.key`, "", ""},
			"wrong password":    {`login = job.login, secret = secret.of("not it")`, sdk.ClassAuth, "bad_secret"},
			"no such account":   {`login = "nobody-here", secret = job.secret`, sdk.ClassAuth, "bad_secret"},
			"a key that is not": {`login = job.login, secret = secret.of("-----BEGIN OPENSSH PRIVATE KEY-----\nAA\n")`, sdk.ClassInvalid, "ssh.key"},
			"another address":   {`address = "127.0.0.1:9", login = job.login, secret = job.secret`, sdk.ClassAuth, "target_identity"},
		} {
			code := "local c = assert(ssh.connect{" + c.options + "}) c:close()"
			if c.reason != "" {
				code = failsWith("ssh.connect{"+c.options+"}", c.class, c.reason, true)
			}
			if err := h.run(t, code); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})

	t.Run("wrong host key", func(t *testing.T) {
		other := *h
		other.pins = make([]byte, 32)
		if err := other.run(t, failsWith(`ssh.connect{login = job.login, secret = job.secret}`, sdk.ClassAuth, "target_identity", true)); err != nil {
			t.Error(err)
		}
	})

	t.Run("run", func(t *testing.T) {
		for name, code := range map[string]string{
			"output and status": `local r = assert(c:run{argv = {"sh", "-c", "echo out; echo err >&2; exit 7"}})
				assert(r.status == 7 and r.stdout == "out\n" and r.stderr == "err\n" and not r.truncated)`,
			"arguments are what they are": `for _, one in ipairs{"a b", "$(id)", "` + "`id`" + `", "; touch /tmp/x", "it's", [["\n\]], "*", "", "-n", "a&b|c>d", "~", "$HOME", "!!", "é", "#x"} do
				local r = assert(c:run{argv = {"printf", "[%s]", one}})
				assert(r.stdout == "[" .. one .. "]", r.stdout) end`,
			"a secret on its input": `local r = assert(c:run{argv = {"sha256sum"}, stdin = job.secret})
				assert(r.stdout:sub(1, 64) ~= "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", r.stdout) assert(r.status == 0)
				local r = assert(c:run{argv = {"cat"}, stdin = job.secret, secret = true})
				assert(tostring(r.stdout) == "[secret]" and secret.equal(r.stdout, job.secret))`,
			"a signal":           `local r = assert(c:run{argv = {"sh", "-c", "kill -9 $$"}}) assert(r.status == -1 and r.signal == "KILL")`,
			"a long output":      `local r = assert(c:run{argv = {"head", "-c", "100000", "/dev/zero"}, max = 10}) assert(#r.stdout == 10 and r.truncated and r.status == 0)`,
			"no such program":    `local r = assert(c:run{argv = {"/no/such"}}) assert(r.status == 127)`,
			"a slow one":         failsWith(`c:run{argv = {"sleep", "60"}, timeout = 3}`, sdk.ClassUnreachable, "deadline", false),
			"a closed one":       `c:close() ` + failsWith(`c:run{argv = {"true"}}`, sdk.ClassUnreachable, "connection", true),
			"two after another":  `assert(c:run{argv = {"true"}}) assert(c:run{argv = {"false"}}).status = 1`,
			"a secret argument":  refused(`c:run{argv = {"echo", job.secret}}`, "seen by everybody"),
			"a glued argument":   refused(`c:run{argv = {"echo", "a" .. job.secret}}`, "placeholder"),
			"a string":           refused(`c:run{argv = "echo a"}`, "want a table"),
			"nothing":            refused(`c:run{argv = {}}`, "the program first"),
			"a line break":       refused(`c:run{argv = {"echo", "a\nid"}}`, "line break"),
			"NUL":                refused(`c:run{argv = {"echo", "a\0b"}}`, "NUL"),
			"half a list":        refused(`c:run{argv = {"echo", x = "y"}}`, "without names"),
			"an unknown option":  refused(`c:run{argv = {"true"}, env = {}}`, "no option env"),
			"a shell of Unix":    `local d = assert(c:shell()) assert(d:send("echo $((6*7))")) assert(d:expect{"(?m)^42$", timeout = 10})`,
			"a value as a text":  `assert(tostring(c) == "ssh.connection" and not getmetatable(c))`,
			"a stray connection": refused(`c.run({argv = {"true"}})`, "value:run"),
		} {
			if err := h.run(t, code); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})

	t.Run("files", func(t *testing.T) {
		in := func(name string) string { return filepath.Join(h.user.Home, name) }
		write := func(name string, mode os.FileMode) {
			t.Helper()
			if err := errors.Join(os.WriteFile(in(name), []byte("before\n"), mode), os.Chmod(in(name), mode), os.Chown(in(name), h.user.UID, h.user.GID)); err != nil {
				t.Fatal(err)
			}
		}
		write("config", 0o640)
		write("readable", 0o644)
		write("left.rotunda-lock", 0o600)
		long := time.Now().Add(-time.Hour)
		if err := errors.Join(os.Chtimes(in("left.rotunda-lock"), long, long), os.WriteFile(in("left"), []byte("1"), 0o600), os.Chown(in("left"), h.user.UID, h.user.GID)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Symlink(in("config"), in("link")), os.Mkdir(in("folder"), 0o700)); err != nil {
			t.Fatal(err)
		}
		for name, code := range map[string]string{
			"a new file":       `assert(c:put(job.home .. "/new", job.secret)) local s = assert(c:stat(job.home .. "/new")) assert(s.mode == "0600" and s.kind == "file" and s.size == 21, s.mode)`,
			"a new one's mode": `assert(c:put(job.home .. "/mode", "x", {mode = "0644"})) assert(assert(c:stat(job.home .. "/mode")).mode == "0644")`,
			"one that is there": `assert(c:put(job.home .. "/config", job.text)) local s = assert(c:stat(job.home .. "/config")) assert(s.mode == "0640")
				assert(c:get(job.home .. "/config") == job.text)`,
			"a secret in one":   `assert(c:put(job.home .. "/s", job.secret)) local got = assert(c:get(job.home .. "/s", {secret = true})) assert(tostring(got) == "[secret]" and secret.equal(got, job.secret))`,
			"a link":            failsWith(`c:put(job.home .. "/link", "x")`, sdk.ClassConflict, "sftp.kind", true),
			"a folder":          failsWith(`c:put(job.home .. "/folder", "x")`, sdk.ClassConflict, "sftp.kind", true),
			"no such folder":    failsWith(`c:put(job.home .. "/none/x", "x")`, sdk.ClassNotFound, "sftp.missing", true),
			"another's folder":  failsWith(`c:put("/etc/rotunda-x", "x")`, sdk.ClassPermission, "sftp.permission", true),
			"reading none":      failsWith(`c:get(job.home .. "/none")`, sdk.ClassNotFound, "sftp.missing", true),
			"reading another's": failsWith(`c:get("/etc/shadow")`, sdk.ClassPermission, "sftp.permission", true),
			"reading too much":  failsWith(`c:get("/etc/passwd", {max = 10})`, sdk.ClassUnsupported, "sftp.too_large", true),
			"reading endlessly": failsWith(`c:get("/dev/zero")`, sdk.ClassConflict, "sftp.kind", true),
			"what a link is":    `assert(assert(c:stat(job.home .. "/link")).kind == "link")`,
			"what a folder is":  `assert(assert(c:stat(job.home .. "/folder")).kind == "directory")`,
			"a path that turns": refused(`c:get(job.home .. "/../x")`, "whole path"),
			"a path from here":  refused(`c:get("x")`, "whole path"),
			"a secret path":     refused(`c:get(job.secret)`, "want a text"),
			"as it was read":    `assert(c:put(job.home .. "/was", "1")) assert(c:put(job.home .. "/was", "2", {was = "1"})) assert(c:put(job.home .. "/was", "", {was = secret.of("2")})) assert(c:put(job.home .. "/was", "3", {was = ""})) assert(c:get(job.home .. "/was") == "3")`,
			"changed since":     `assert(c:put(job.home .. "/other", "12")) ` + failsWith(`c:put(job.home .. "/other", "2", {was = "1"})`, sdk.ClassConflict, "sftp.changed", true) + ` assert(c:get(job.home .. "/other") == "12")`,
			"changed, emptied":  `assert(c:put(job.home .. "/emptied", "")) ` + failsWith(`c:put(job.home .. "/emptied", "2", {was = "1"})`, sdk.ClassConflict, "sftp.changed", true),
			"gone since":        failsWith(`c:put(job.home .. "/gone", "2", {was = "1"})`, sdk.ClassConflict, "sftp.changed", true),
			"a lock left":       `assert(c:put(job.home .. "/left", "2", {was = "1"})) assert(c:get(job.home .. "/left") == "2")`,
			"no lock there":     failsWith(`c:put("/etc/passwd", "x", {was = "x"})`, sdk.ClassPermission, "sftp.permission", true),
			"a mode":            refused(`c:put(job.home .. "/x", "x", {mode = "rw"})`, "mode"),
		} {
			if err := h.run(t, code); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if left, err := filepath.Glob(in("*.rotunda-lock")); err != nil || len(left) > 0 {
			t.Errorf("locks left behind: %v, %v", left, err)
		}
		if left, err := filepath.Glob(in(".rotunda-*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if _, err := os.Stat("/etc/rotunda-x"); err == nil {
			t.Error("a file in another's folder was written")
		}
	})
}

// refused is code that calls what raises an error with that text.
func refused(call, text string) string {
	return fmt.Sprintf(`local ok, e = pcall(function() return %s end) assert(not ok and tostring(e):find(%q, 1, true), tostring(e))`, call, text)
}

// A server that asks nobody has judged no secret.
func TestSSHNotAsked(t *testing.T) {
	d := &device{enable: "x"}
	d.overSSH(t)
	_, err := d.with(t, []string{"ssh"}, `return ssh.connect{login = "admin", secret = job.admin}`)
	if e := errorFrom(t, err); e.Class != sdk.ClassUnsupported || e.Reason != sshUnproven || !e.NotSent {
		t.Errorf("%v", e)
	}
}

// A server that asks on after the secret, for a second factor or a new password, has not said
// that it is wrong.
func TestSSHAsksForMore(t *testing.T) {
	asks := func(questions ...string) func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		return func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			for _, q := range questions {
				if _, err := ask("", "", []string{q}, []bool{false}); err != nil {
					return nil, err
				}
			}
			return nil, errors.New("no")
		}
	}
	password := func(err error) func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
		return func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, err }
	}
	// The library's server never says SSH_MSG_USERAUTH_PASSWD_CHANGEREQ. A question of a
	// dialogue has the same number: so one that has ended asks on when the password comes.
	var late ssh.KeyboardInteractiveChallenge
	change := ssh.ServerConfig{KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		late = ask
		return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
			PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
				_, err := late("", "", []string{"New password: "}, []bool{false})
				return nil, err
			},
			KeyboardInteractiveCallback: asks("Password: "),
		}}
	}}
	for name, row := range map[string]struct {
		config ssh.ServerConfig
		class  sdk.Class
		reason string
	}{
		"a second factor":  {ssh.ServerConfig{KeyboardInteractiveCallback: asks("Password: ", "Verification code: ")}, sdk.ClassUnsupported, "ssh.dialogue"},
		"a new password":   {ssh.ServerConfig{KeyboardInteractiveCallback: asks("Password: ", "New password: ", "Again: ")}, sdk.ClassUnsupported, "ssh.dialogue"},
		"one question":     {ssh.ServerConfig{KeyboardInteractiveCallback: asks("Password: ")}, sdk.ClassAuth, "bad_secret"},
		"a change request": {change, sdk.ClassUnsupported, "ssh.dialogue"},
		"a password":       {ssh.ServerConfig{PasswordCallback: password(errors.New("no"))}, sdk.ClassAuth, "bad_secret"},
		"after a refusal":  {ssh.ServerConfig{PasswordCallback: password(errors.New("no")), KeyboardInteractiveCallback: asks("Password: ")}, sdk.ClassAuth, "bad_secret"},
		"after the right one": {ssh.ServerConfig{PasswordCallback: password(&ssh.PartialSuccessError{
			Next: ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: asks("Verification code: ")},
		})}, sdk.ClassUnsupported, "ssh.dialogue"},
	} {
		d := &device{}
		d.serveSSH(t, &row.config)
		_, err := d.with(t, []string{"ssh"}, `return ssh.connect{login = "admin", secret = job.admin}`)
		if e := errorFrom(t, err); e.Class != row.class || e.Reason != row.reason || !e.NotSent {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// A server that says nothing is given up in time.
func TestSSHSilent(t *testing.T) {
	d := &device{at: sdk.Resource{Address: serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)); _, _ = c.Read(make([]byte, 1)) })}, pins: make([]byte, 32)}
	_, err := d.with(t, []string{"ssh"}, `return ssh.connect{login = "admin", secret = job.admin, timeout = 0.3}`)
	if e := errorFrom(t, err); e.Class != sdk.ClassUnreachable || e.Reason != "deadline" || !e.NotSent {
		t.Errorf("%v", e)
	}
}
