package main

import (
	"strings"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

var execModule = module{
	about: "Runs programs on the agent's host. The manifest's programs name them, and so must the local policy of the host (scripts.programs).",
	functions: []function{
		{
			name: "run", acts: true, takes: "options: exec.run", gives: "exec.result|nil, sdk.error?",
			about: "Runs a program as the agent's user, without a shell, and waits for its end. The options: argv, the program's whole path and its arguments, which are passed as they are and hold no secret and no NUL; " +
				"stdin, a text or a secret of at most 1 MiB; timeout in seconds (60), after which the program is ended with all that it started; secret = true makes secrets of the outputs. " +
				"Its environment is a PATH, its folder /. A program that begins an argument of yours with - for an option takes it for one: put -- before what comes from elsewhere. " +
				"The result has status (-1 where a signal ended it, which is in signal), stdout, stderr (64 KiB of each) and truncated. " +
				"What it leaves running is ended with it. An error has not_sent where the program was not started; its reason is local.policy or local.manifest where it may not be, " +
				"local.program where it cannot be or others than root could change it, local.deadline where its time was over, local.busy beside another request of the run.",
			example: `local r = assert(exec.run{argv = {"/usr/bin/systemctl", "reload", "--", "app.service"}})
if r.status ~= 0 then
  return sdk.unchanged("conflict", "unit.reload")
end`,
			do: execRun,
		},
	},
}

func execRun(a *args) int {
	o := a.options(1, "argv", "stdin", "timeout", "secret")
	argv := a.argv(o.table("argv"))
	stdin, _ := o.bytes("stdin")
	defer clear(stdin)
	if len(stdin) > pluginv1.MaxLocalBody {
		a.bad(1, "stdin: it has more than %d bytes", pluginv1.MaxLocalBody)
	}
	limit, hide := o.seconds("timeout", time.Minute), o.bool("secret")
	answer, out, failed := a.onHost(limit+hostGrace, pluginv1.LocalRequest{Exec: &pluginv1.LocalExec{
		Program: argv[0], Args: argv[1:], Timeout: max(limit.Milliseconds(), 1),
	}}, stdin)
	if failed != nil {
		return a.fail(failed)
	}
	defer clear(out)
	if answer.Stdout < 0 || answer.Stdout > len(out) {
		a.wrong("the agent's answer makes no sense")
	}
	t := a.L.NewTable()
	t.RawSetString("status", lua.LNumber(answer.Exit))
	if answer.Signal != "" {
		t.RawSetString("signal", lua.LString(answer.Signal))
	}
	for name, b := range map[string][]byte{"stdout": out[:answer.Stdout], "stderr": out[answer.Stdout:]} {
		if hide {
			t.RawSetString(name, a.secretBytes(b))
		} else {
			t.RawSetString(name, lua.LString(b))
		}
	}
	t.RawSetString("truncated", lua.LBool(answer.Dropped > 0))
	return a.push(t)
}

// hostGrace is what the agent has, beyond a program's own time, to end it and to answer.
const hostGrace = 10 * time.Second

// argv is a program with its arguments.
func (a *args) argv(t *lua.LTable) []string {
	if t == nil {
		a.bad(1, "argv: want a list, the program's whole path first")
	}
	items, secrets, why := textList(t)
	names, _ := sortedKeys(t)
	switch {
	case why != "":
		a.bad(1, "argv: %s", why)
	case secrets:
		a.bad(1, "argv: a secret among the arguments is seen by everybody on the host: give it as stdin")
	case len(items) == 0 || len(items[0]) == 0:
		a.bad(1, "argv: want a list, the program's whole path first")
	case len(names) > 1:
		a.bad(1, "argv: want a list, without names")
	case len(items) > pluginv1.MaxArgs:
		a.bad(1, "argv: want at most %d arguments", pluginv1.MaxArgs)
	}
	out, size := make([]string, 0, len(items)), 0
	for n, one := range items {
		text := string(one)
		if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
			a.bad(1, "argv: item %d: it holds a NUL, or is no UTF-8", n+1)
		}
		if err := a.seen(text); err != nil {
			a.bad(1, "argv: item %d: %v", n+1, err)
		}
		if size += len(text); size > pluginv1.MaxArgBytes {
			a.bad(1, "argv: more than %d bytes of arguments: hand long things over by stdin", pluginv1.MaxArgBytes)
		}
		out = append(out, text)
	}
	return out
}
