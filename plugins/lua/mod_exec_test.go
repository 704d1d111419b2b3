package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// agentsHost is a dialer of a bench whose agent gives scripts something of its host.
type agentsHost struct {
	*bench
	serve func(context.Context, net.Conn)
}

func (h agentsHost) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != pluginv1.LocalNetwork || address != pluginv1.LocalAddress {
		return h.bench.DialContext(ctx, network, address)
	}
	ours, theirs := net.Pipe()
	go h.serve(h.t.Context(), theirs)
	return ours, nil
}

// onHost runs code with an agent that has /bin/sh and a folder's files for it.
func onHost(t *testing.T, dir, code string) (*bench, error) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("left out: agents on Windows do nothing on their hosts")
	}
	b := newBench(t, []string{"exec", "file", "text", "secret", "log", "base64"}, fmt.Sprintf(
		"needs = [\"secret\"]\nreveals = \"to try to lose it\"\nprograms = [\"/bin/sh\", \"/bin/ls\"]\nfiles = [%q]", dir+"/a.conf"), code)
	p, err := policy.Parse(fmt.Sprintf("[scripts]\nprograms = [\"/bin/sh\"]\nfiles = [%q]\n", dir+"/*"))
	if err != nil {
		t.Fatal(err)
	}
	values, err := b.p.manifest.Values(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.host.Dialer = agentsHost{b, local.Handler(p, nil)(b.p.manifest, values, putAway{}, nil)}
	_, err = b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("secret", s.secret(secret{Secret: sdk.NewSecret([]byte("hunter2hunter2"))}))
		job.RawSetString("file", lua.LString(dir+"/a.conf"))
	})
	return b, err
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExecModule(t *testing.T) {
	for name, code := range map[string]string{
		"arguments, outputs, a status": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "printf '%s|' \"$@\"; echo err >&2; exit 3", "sh", "a b", "$(id)", 7, ""}})
			assert(r.status == 3 and r.stdout == "a b|$(id)|7||" and r.stderr == "err\n" and r.truncated == false and r.signal == nil)`,
		"a secret on standard input": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "wc -c | tr -d ' \n'"}, stdin = text.concat(job.secret, "\n")})
			assert(r.stdout == "15")`,
		"secret outputs": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "cat; cat >&2"}, stdin = job.secret, secret = true})
			assert(type(r.stdout) == "userdata" and secret.equal(r.stdout, job.secret) and r.stderr:empty())`,
		"an output that is a secret is not logged": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "cat"}, stdin = job.secret})
			log.info(r.stdout)`,
		"a signal": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "kill -KILL $$"}})
			assert(r.status == -1 and r.signal == "SIGKILL")`,
		"much output": `
			local r = assert(exec.run{argv = {"/bin/sh", "-c", "head -c 100000 /dev/zero"}})
			assert(r.truncated and #r.stdout == 65536)`,
		"a time that is over": `
			local r, err = exec.run{argv = {"/bin/sh", "-c", "sleep 1000"}, timeout = 2}
			assert(r == nil and err.class == "unreachable" and err.reason == "local.deadline" and not err.not_sent)`,
		"a program that the manifest has not": `
			local r, err = exec.run{argv = {"/bin/cat"}}
			assert(r == nil and err.class == "permission" and err.reason == "local.manifest" and err.not_sent)`,
		"one that the policy has not": `
			local r, err = exec.run{argv = {"/bin/ls"}}
			assert(r == nil and err.class == "permission" and err.reason == "local.policy" and err.not_sent and err.text:find("scripts.programs"))`,
		"one after the other": `
			for i = 1, 3 do assert(exec.run{argv = {"/bin/sh", "-c", "exit 0"}}.status == 0) end`,
	} {
		t.Run(name, func(t *testing.T) {
			b, err := onHost(t, folder(t), code)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(b.logged.String(), "hunter2") {
				t.Errorf("the log says the secret: %s", b.logged)
			}
		})
	}
}

// A secret never becomes an argument, nor the placeholder of one: others on the host read
// arguments.
func TestNoSecretArguments(t *testing.T) {
	for name, c := range map[string]struct{ code, want string }{
		"as it is":            {`exec.run{argv = {"/bin/sh", "-c", job.secret}}`, "give it as stdin"},
		"as the program":      {`exec.run{argv = {job.secret}}`, "give it as stdin"},
		"its placeholder":     {`exec.run{argv = {"/bin/sh", "-c", "x" .. job.secret}}`, "placeholder"},
		"what is made of it":  {`exec.run{argv = {"/bin/sh", text.concat("--password=", job.secret)}}`, "give it as stdin"},
		"revealed":            {`exec.run{argv = {"/bin/sh", "--password=" .. job.secret:reveal()}}`, "it holds a secret"},
		"revealed, in base64": {`exec.run{argv = {"/bin/sh", base64.encode(job.secret:reveal())}}`, "it holds a secret"},
		"a NUL":               {`exec.run{argv = {"/bin/sh", "a\0b"}}`, "NUL"},
		"no UTF-8":            {`exec.run{argv = {"/bin/sh", "\255"}}`, "UTF-8"},
		"no list":             {`exec.run{argv = {program = "/bin/sh"}}`, "want a list"},
		"a line for a shell":  {`exec.run{argv = "/bin/sh -c id"}`, "want a table"},
		"no program":          {`exec.run{stdin = "x"}`, "want a list"},
		"an unknown option":   {`exec.run{argv = {"/bin/sh"}, env = {A = "b"}}`, "no option env"},
		"a table of no end":   {`local t = {"/bin/sh"} for i = 1, 300 do t[i + 1] = "x" end exec.run{argv = t}`, "at most 256"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := onHost(t, folder(t), c.code)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v: want an error with %q", err, c.want)
			}
		})
	}
}

func TestFileModule(t *testing.T) {
	for name, c := range map[string]struct{ code, before, after string }{
		"a file is read": {`assert(file.read(job.file) == "old\n" and file.read(job.file, {max = 4}) == "old\n")`, "old\n", "old\n"},
		"as a secret":    {`local s = assert(file.read(job.file, {secret = true})) assert(type(s) == "userdata" and secret.equal(s, "old\n"))`, "old\n", "old\n"},
		"too large": {`local s, err = file.read(job.file, {max = 3})
			assert(s == nil and err.reason == "local.file" and err.class == "invalid" and err.not_sent)`, "old\n", "old\n"},
		"written": {`assert(file.write(job.file, "new\n") == true)
			local changed, err = file.write(job.file, "new\n") assert(changed == false and err == nil)`, "old\n", "new\n"},
		"with a secret":         {`assert(file.write(job.file, text.concat("password = ", job.secret, "\n"), {mode = "0640", backup = true}))`, "old\n", "password = hunter2hunter2\n"},
		"not with what is none": {`local ok = pcall(file.write, job.file, "password = " .. job.secret) assert(not ok)`, "old\n", "old\n"},
		"not for everybody": {`for _, mode in ipairs{"0666", "0777", "1755", "u+x", "8", ""} do
			assert(not pcall(file.write, job.file, "new", {mode = mode}), mode) end`, "old\n", "old\n"},
		"not another": {`local ok, err = file.write(job.file .. "2", "x") assert(ok == nil and err.reason == "local.manifest" and err.not_sent)
			ok, err = file.read("/etc/passwd") assert(ok == nil and err.reason == "local.manifest")`, "old\n", "old\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			if err := os.WriteFile(dir+"/a.conf", []byte(c.before), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := onHost(t, dir, c.code); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(dir + "/a.conf"); err != nil || string(got) != c.after {
				t.Errorf("the file holds %q, %v; want %q", got, err, c.after)
			}
		})
	}
}

// An agent that serves nothing of its host says so, and a call that ends takes the request
// with it.
func TestHostIsNotThere(t *testing.T) {
	b := newBench(t, []string{"exec"}, `programs = ["/bin/sh"]`, `
		local r, err = exec.run{argv = {"/bin/sh"}}
		assert(r == nil and err.not_sent and err.reason == "dial.denied")`)
	if _, err := b.run(nil); err != nil {
		t.Error(err)
	}
	b = newBench(t, []string{"exec"}, `programs = ["/bin/sh"]`, `
		local r, err = exec.run{argv = {"/bin/sh"}}
		assert(r == nil and not err.not_sent and err.class == "unreachable" and err.reason == "local.lost")`)
	b.host.Dialer = agentsHost{b, func(_ context.Context, c net.Conn) {
		var r pluginv1.LocalRequest
		_, _ = pluginv1.ReadLocal(c, &r)
		_ = c.Close()
	}}
	if _, err := b.run(nil); err != nil {
		t.Error(err)
	}
	if _, err := load([]byte("--[[ rotunda\nname = \"a\"\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"A.\"\nmodules = [\"exec\"]\nprograms = [\"/bin/sh\"]\n]]\nlocal exec = require \"exec\"\nexec.run{argv = {\"/bin/sh\"}}\nfunction run() end\n")); err == nil || !strings.Contains(err.Error(), "move it into one") {
		t.Errorf("at the top level: %v", err)
	}
}

// The same through the agent's own plugin host, from a process that is shut in: what both
// lists have is done, a job without a host has none, and the end of a run is its program's.
func TestHostOfAShutInScript(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: only Linux shuts plugins in")
	}
	dir := folder(t)
	pipe := dir + "/pipe"
	if out, err := osexec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	p, err := policy.Parse(fmt.Sprintf("[scripts]\nprograms = [\"/bin/sh\"]\nfiles = [%q]\n", dir+"/*"))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	run := func(ctx context.Context, code string, serve bool) (sdk.AfterResponse, error) {
		text := attack{
			modules: []string{"exec", "file", "text"}, code: code,
			manifest: fmt.Sprintf("needs = [\"secret\"]\nprograms = [\"/bin/sh\"]\nfiles = [%q]", dir+"/a.conf"),
		}.text()
		m, err := script.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		target := pluginhost.Target{Key: "db1", Resource: sdk.Resource{Address: "127.0.0.1:1"}}
		if serve {
			target.Local = local.Handler(p, nil)(m, nil, nil, nil)
		}
		return h.Run(ctx, pluginhost.Scripted(h.plugin, []byte(text)), pluginhost.Job{Target: target}, sdk.AfterRequest{Secret: password(lost)})
	}
	got, err := run(t.Context(), fmt.Sprintf(`
		assert(file.write(%[1]q, text.concat("password = ", job.secret, "\n")))
		local r = assert(exec.run{argv = {"/bin/sh", "-c", "cat %[1]s -"}, stdin = job.secret, secret = true})
		assert(r.status == 0 and type(r.stdout) == "userdata")
		assert(file.write(%[1]q, r.stdout))
		return sdk.changed`, dir+"/a.conf"), true)
	if err != nil || got.Outcome != sdk.Changed {
		t.Fatalf("%+v, %v", got, err)
	}
	if is, err := os.ReadFile(dir + "/a.conf"); err != nil || string(is) != "password = "+lost+"\n"+lost {
		t.Errorf("the file holds %d bytes, %v", len(is), err)
	}
	got, err = run(t.Context(), `local r, err = exec.run{argv = {"/bin/sh", "-c", "true"}} return nil, err`, false)
	if err != nil || got.Outcome == sdk.Changed || got.Reason != "dial.refused" {
		t.Errorf("a job without a host: %+v, %v", got, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := make(chan *os.File, 1)
	go func() {
		f, _ := os.Open(pipe) // when the program has opened it, too
		opened <- f
		cancel()
	}()
	if got, err := run(ctx, fmt.Sprintf(`exec.run{argv = {"/bin/sh", "-c", "trap '' TERM; exec 3>%s; sleep 1000; sleep 1000"}, timeout = 1000}`, pipe), true); err == nil && got.Outcome == sdk.Changed {
		t.Errorf("a run that was ended: %+v", got)
	}
	f := <-opened
	if _, err := io.ReadAll(f); err != nil { // until nobody has it open
		t.Error(err)
	}
}
