package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/ssh"
)

var sshModule = module{
	about: "Logs in by SSH where the host's key is pinned, runs programs, speaks with shells of network devices and moves files.",
	functions: []function{
		{
			name: "connect", takes: "options: table", gives: "ssh.connection|nil, sdk.error?",
			about: "Logs in. The options: address (the resource's), login, secret (a password, or a private key), timeout in seconds (30). " +
				"The secret is given once, to a host whose key the statement pins. An error's reason is bad_secret where the host judged the secret and refused it, " +
				"target_identity where it showed another key, ssh.not_asked where it lets everybody in, ssh.dialogue where it asks for more than the secret, such as a code or a new password: whether the secret was right is not known then.",
			example: `local c, err = ssh.connect{login = job.admin.login, secret = job.admin.secret}
if not c then
  return sdk.unchanged(err.class, err.reason) -- nothing was sent
end
c:close()`,
			do: sshConnect,
		},
		{
			name: "quote", takes: "argv: string[]", gives: "string",
			about:   "Writes a list of arguments as one line for a POSIX shell, each in single quotes where it needs them, as run does. NUL, line breaks and secrets are refused.",
			example: `assert(ssh.quote({"echo", "a b", "it's"}) == [[echo 'a b' 'it'\''s']])`,
			do:      func(a *args) int { return a.push(lua.LString(a.command(1))) },
		},
	},
	objects: []object{sshConnection, dialogueObject},
}

var sshConnection = object{
	name: "ssh.connection", about: "A connection on which somebody is logged in.",
	functions: []function{
		{
			name: "run", acts: true, takes: "options: table", gives: "table|nil, sdk.error?",
			about: "Runs a program and waits for its end. The options: argv, a list of arguments that hold no secret, no NUL and no line break, quoted for a POSIX shell; " +
				"stdin, a text or a secret; timeout in seconds (60), after which the connection ends; max, bytes of each output that are kept (1 MiB); secret = true makes secrets of the outputs, of at most 256 KiB. " +
				"The result has status (-1 where a signal ended it, which is in signal), stdout, stderr and truncated. An error has not_sent where the program was not started.",
			example: `local c = assert(ssh.connect{login = "root", secret = job.admin.secret})
local r = assert(c:run{argv = {"chpasswd"}, stdin = text.concat("app:", job.secret, "\n")})
assert(r.status == 0)`,
			do: sshRun,
		},
		{
			name: "shell", takes: "options?: table", gives: "dialogue|nil, sdk.error?",
			about: "Opens a shell on a terminal, for devices that have nothing else. The options: timeout in seconds (30).",
			example: `local c = assert(ssh.connect{login = "admin", secret = job.admin.secret})
local d = assert(c:shell())
assert(d:expect{[[(?m)^[\w-]+#\s?\z]]})
d:send("write memory")`,
			do: sshShell,
		},
		{
			name: "get", takes: "path: string, options?: table", gives: "string|secret|nil, sdk.error?",
			about: "Reads a file by SFTP. The options: max bytes (1 MiB, at most 16 MiB), timeout in seconds (60), secret = true makes a secret of it, of at most 256 KiB: " +
				"for a file with other people's secrets in it, which are then in no log. " + fileReasons + ", sftp.kind (conflict: no regular file) and sftp.too_large (unsupported).",
			example: `local c = assert(ssh.connect{login = "root", secret = job.admin.secret})
local pgpass = assert(c:get("/home/app/.pgpass", {secret = true})) -- it has others' secrets in it`,
			do: sftpGet,
		},
		{
			name: "put", acts: true, takes: "path: string, content: string|secret, options?: table", gives: "true|nil, sdk.error?",
			about: "Writes a file by SFTP in one step: beside it, then in its place. It keeps the mode and the owner of the file that is there; a new one gets the mode 0600. A link is refused. " +
				"The options: mode, such as \"0644\"; timeout in seconds (60); was, what the script has read there: where something else is in the file by then, as by another agent, it stays as it is, and the reason is sftp.changed (conflict): read it again. " +
				"All who say was take turns, by a file with .rotunda-lock after the name; one that is older than 10 seconds is taken over, and who held it then changes nothing any more. Who writes without it, as a person does, is noticed up to the last answer before the file is replaced. " +
				"An error has not_sent where the file is as it was. " +
				fileReasons + ", sftp.kind (conflict: no regular file), sftp.locked (conflict: another one holds the lock) and sftp.rename (unsupported: the host cannot replace a file in one step).",
			example: `local c = assert(ssh.connect{login = "root", secret = job.admin.secret})
assert(c:put("/etc/app/password", job.secret, {mode = "0640"}))
local was = assert(c:get("/etc/app/env", {secret = true}))
local ok, err = c:put("/etc/app/env", assert(text.put_env(was, "PASSWORD", job.secret)), {was = was})`,
			do: sftpPut,
		},
		{
			name: "stat", takes: "path: string, options?: table", gives: "table|nil, sdk.error?",
			about: "Says of a file what it is: kind (file, directory, link, other), size, mode such as \"0644\", modified in seconds since 1970, uid and gid. A link is not followed. The options: timeout in seconds (60). " + fileReasons + ".",
			example: `local c = assert(ssh.connect{login = "root", secret = job.admin.secret})
assert(c:stat("/etc/app/password").kind == "file")`,
			do: sftpStat,
		},
		{name: "close", about: "Ends the connection, and what runs on it.", example: `local c = assert(ssh.connect{login = "root", secret = job.admin.secret})
c:close()`, do: func(a *args) int {
			a.self.(*sshConn).close()
			return 0
		}},
	},
}

// fileReasons begins the list of what an error's reason may be.
const fileReasons = "An error's reason, with its class: sftp.missing (not_found), sftp.permission (permission), sftp.refused (conflict: the host says no more), " +
	"sftp, connection and deadline (unreachable)"

// sshConn is a connection with the SFTP client that was opened on it, if any.
type sshConn struct {
	client *ssh.Client
	files  *sftp.Client
	once   sync.Once
}

// close says goodbye to nobody: whoever is deaf would be waited for.
func (c *sshConn) close() {
	c.once.Do(func() {
		if c.client != nil { // a dry run has none
			_ = c.client.Close()
		}
	})
}

func sshConnect(a *args) int {
	o := a.options(1, "address", "login", "secret", "timeout")
	at := o.address()
	name, of := o.login()
	if name == "" {
		a.bad(1, "login: want a name")
	}
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	client, failed := sshLogin(ctx, a.host, at, name, of)
	if failed != nil {
		return a.fail(failed)
	}
	c := &sshConn{client: client}
	a.later(c.close)
	return a.push(sshConnection.of(a.state, c))
}

// command is a list of arguments as a line for a shell.
func (a *args) command(n int) string {
	line, why := commandLine(a.table(n))
	if why != "" {
		a.bad(n, "%s", why)
	}
	if err := a.seen(line); err != nil {
		a.bad(n, "%v", err)
	}
	return line
}

func commandLine(t *lua.LTable) (line, why string) {
	items, secrets, why := textList(t)
	switch {
	case why != "":
		return "", why
	case secrets:
		return "", "a secret among the arguments is seen by everybody on the host: give it as stdin"
	case len(items) == 0 || len(items[0]) == 0:
		return "", "want a list of arguments, the program first"
	case len(items) > 1000:
		return "", "want at most 1000 arguments"
	}
	if names, _ := sortedKeys(t); len(names) > 1 {
		return "", "want a list, without names"
	}
	var quoted []string
	for _, one := range items {
		if bytes.ContainsAny(one, "\x00\n\r") {
			return "", "an argument holds NUL or a line break, which no shell keeps"
		}
		quoted = append(quoted, shellQuote(string(one)))
	}
	return strings.Join(quoted, " "), ""
}

// shellQuote is an argument for a POSIX shell: in single quotes nothing has a meaning.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:,@+", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func sshRun(a *args) int {
	c := a.self.(*sshConn)
	o := a.options(1, "argv", "stdin", "timeout", "max", "secret")
	argv := o.table("argv")
	if argv == nil {
		a.bad(1, "argv: want a list of arguments")
	}
	line, why := commandLine(argv)
	if why != "" {
		a.bad(1, "argv: %s", why)
	}
	if err := a.seen(line); err != nil {
		a.bad(1, "argv: %v", err)
	}
	stdin, _ := o.bytes("stdin")
	defer clear(stdin)
	limit, hide := o.answer()
	ctx, cancel := a.within(o.seconds("timeout", time.Minute))
	defer cancel()

	// A context that ends takes the connection with it: a dead peer answers neither the
	// opening of a session nor its end.
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	s, err := c.client.NewSession()
	if err != nil {
		return a.fail(unreached(ctx, err))
	}
	defer s.Close()
	stdout, stderr := &kept{left: limit}, &kept{left: limit}
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), stdout, stderr
	err = s.Run(line)
	t := a.L.NewTable()
	var exit *ssh.ExitError
	switch {
	case err == nil:
		t.RawSetString("status", lua.LNumber(0))
	case errors.As(err, &exit) && exit.Signal() != "":
		t.RawSetString("status", lua.LNumber(-1))
		t.RawSetString("signal", lua.LString(exit.Signal()))
	case errors.As(err, &exit):
		t.RawSetString("status", lua.LNumber(exit.ExitStatus()))
	default:
		failed := unreached(ctx, err)
		failed.NotSent = false
		return a.fail(failed)
	}
	for name, out := range map[string]*kept{"stdout": stdout, "stderr": stderr} {
		if hide {
			t.RawSetString(name, a.secretBytes(out.b.Bytes()))
		} else {
			t.RawSetString(name, lua.LString(out.b.String()))
		}
	}
	t.RawSetString("truncated", lua.LBool(stdout.more || stderr.more))
	return a.push(t)
}

// kept is the beginning of an output.
type kept struct {
	b    bytes.Buffer
	left int
	more bool // there was more than that
}

func (k *kept) Write(b []byte) (int, error) {
	n := min(len(b), k.left)
	k.left -= n
	k.b.Write(b[:n])
	k.more = k.more || n < len(b)
	return len(b), nil
}

func sshShell(a *args) int {
	c := a.self.(*sshConn)
	o := a.options(1, "timeout")
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	s, in, out, err := openShell(c.client)
	if err != nil {
		return a.fail(unreached(ctx, err))
	}
	d := newDialogue(out, in, func() { _ = s.Close() }, c.close, "\r")
	a.later(d.close)
	return a.push(dialogueObject.of(a.state, d))
}

// openShell asks for a terminal that is wide, so that nothing is wrapped, and does not echo.
func openShell(client *ssh.Client) (s *ssh.Session, in io.Writer, out io.Reader, err error) {
	if s, err = client.NewSession(); err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if in, err = s.StdinPipe(); err != nil {
		return nil, nil, nil, err
	}
	if out, err = s.StdoutPipe(); err != nil {
		return nil, nil, nil, err
	}
	if err = s.RequestPty("vt100", 512, 511, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		return nil, nil, nil, err
	}
	return s, in, out, s.Shell()
}
