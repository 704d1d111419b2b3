package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

var winrmModule = module{
	about: "Runs programs on Windows hosts by WinRM, over HTTPS alone (port 5986). It could not be tried on a real Windows where this is made: it was written after MS-WSMV and tried on a server of our own.",
	functions: []function{
		{
			name: "run", acts: true, takes: "options: table", gives: "table|nil, sdk.error?",
			about: "Runs a program and waits for its end. The options: address (the resource's); login, such as \"ops\", \"CORP\\\\ops\" or \"ops@corp.example\", and secret; " +
				"argv, the program and its arguments, which hold no secret, quoted as Windows programs read them; stdin, a text or a secret; timeout in seconds (60); " +
				"auth = \"basic\" where the host has no NTLM; max, bytes of each output that are kept (1 MiB); secret_output = true makes secrets of the outputs, of at most 256 KiB. " +
				"The result has status, stdout, stderr and truncated. An error has not_sent where the program was not started; its reason is bad_secret where the host judged the secret and refused it, " +
				"auth.method where it lets nobody in in this way, winrm. with the host's code, or winrm.",
			example: `local r = assert(winrm.run{login = job.admin.login, secret = job.admin.secret, argv = {"sc.exe", "query", "AppPool"}})
assert(r.status == 0)`,
			do: func(a *args) int { return a.onWindows("argv", a.windowsArgv) },
		},
		{
			name: "powershell", acts: true, takes: "options: table", gives: "table|nil, sdk.error?",
			about: "Runs a script of PowerShell, as run does. The options: script in place of argv, at most 8 KiB, which holds no secret: it reads one from its standard input, by [Console]::In.ReadToEnd(). " +
				"An error that nobody catches ends it with status 1.",
			example: `local r = assert(winrm.powershell{
  login = job.admin.login, secret = job.admin.secret, stdin = base64.encode(job.secret),
  script = "$password = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String([Console]::In.ReadToEnd()))",
})
assert(r.status == 0)`,
			do: func(a *args) int { return a.onWindows("script", a.powershell) },
		},
	},
}

// maxPowerShell bounds a script: Windows takes a command line of 32,767 characters.
const maxPowerShell = 8 << 10

// onWindows runs what read makes of the option of that name.
func (a *args) onWindows(what string, read func(options) windowsProgram) int {
	o := a.options(1, "address", "login", "secret", what, "stdin", "timeout", "auth", "max", "secret_output")
	at := o.address()
	name, of := o.login()
	if name == "" || strings.Contains(name, ":") {
		a.bad(1, "login: want a name, without a colon")
	}
	if of.Len() == 0 {
		a.bad(1, "secret: want one")
	}
	auth := o.text("auth", "ntlm")
	if auth != "ntlm" && auth != "basic" {
		a.bad(1, "auth: want ntlm or basic")
	}
	p := read(o)
	if o.has("stdin") {
		if p.stdin, _ = o.bytes("stdin"); p.stdin == nil {
			p.stdin = []byte{}
		}
		defer clear(p.stdin)
	}
	hide := o.bool("secret_output")
	limit := o.integer("max", 1<<20, 1, maxString)
	if hide {
		limit = o.integer("max", 64<<10, 1, maxHidden)
	}
	if at.TLS.Mode == sdk.TLSOff {
		return a.fail(&sdk.Error{Class: sdk.ClassInvalid, Reason: "winrm.clear", NotSent: true, Err: fmt.Errorf("the statement of %s says TLS off, and WinRM is spoken over HTTPS alone: have the host listen on port 5986", at.Address)})
	}
	ctx, cancel := a.within(o.seconds("timeout", time.Minute))
	defer cancel()
	w, failed := newWindows(a.host, at, name, of.Secret, auth == "basic")
	if failed != nil {
		return a.fail(failed)
	}
	defer w.close()
	got, failed := w.run(ctx, p, limit)
	if failed != nil {
		return a.fail(failed)
	}
	t := a.L.NewTable()
	t.RawSetString("status", lua.LNumber(got.status))
	for name, out := range map[string]*kept{"stdout": &got.stdout, "stderr": &got.stderr} {
		if hide {
			t.RawSetString(name, a.secretBytes(out.b.Bytes()))
		} else {
			t.RawSetString(name, lua.LString(out.b.String()))
		}
	}
	t.RawSetString("truncated", lua.LBool(got.stdout.more || got.stderr.more))
	return a.push(t)
}

// windowsArgv reads a program with its arguments.
func (a *args) windowsArgv(o options) windowsProgram {
	argv := a.argv(o.table("argv"))
	for n, one := range argv {
		if !xmlHolds(one) {
			a.bad(1, "argv: item %d: it has a character in it that XML cannot hold", n+1)
		}
	}
	if strings.Contains(argv[0], `"`) {
		a.bad(1, "argv: the program's name has a quote in it")
	}
	return windowsProgram{program: windowsLine(argv[:1]), arguments: windowsLine(argv[1:])}
}

// powershell reads a script. It is handed over in base64, in which no shell finds anything to
// take for its own.
func (a *args) powershell(o options) windowsProgram {
	text := o.text("script", "")
	if text == "" || len(text) > maxPowerShell || !utf8.ValidString(text) {
		a.bad(1, "script: want one in UTF-8, at most %d bytes", maxPowerShell)
	}
	if err := a.seen(text); err != nil {
		a.bad(1, "script: %v", err)
	}
	// Else what it reports of its progress ends on standard error, as XML.
	text = "$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue'\n" + text
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return windowsProgram{
		program:   "powershell.exe",
		arguments: "-NoProfile -NonInteractive -OutputFormat Text -EncodedCommand " + base64.StdEncoding.EncodeToString(b),
	}
}
