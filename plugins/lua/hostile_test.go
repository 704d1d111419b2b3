package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// attack is a script that means harm, and how it ends. docs/scripts/security.md has them
// all: TestPageOfAttacks.
type attack struct {
	name     string
	modules  []string
	manifest string
	code     string
	limit    time.Duration // of the call; 0: ten seconds
	ends     []string      // reasons, any of which may be the one that it ends with
}

// hostile are run in the agent's own plugin host, each as a plugin shut in as every script is.
var hostile = []attack{
	{name: "memory by doubling", code: `local s = "x" while true do s = s .. s end`, ends: []string{"plugin_crashed", "plugin_deaf", "script.error"}},
	{name: "memory by a table", code: `local t = {} for i = 1, 1e9 do t[i] = {i, i, i} end`, ends: []string{"plugin_crashed", "plugin_deaf"}},
	{name: "memory by string.rep", code: `return string.rep("a", 2^31)`, ends: []string{"script.error"}},
	{name: "memory by table.concat", code: `local t, s = {}, string.rep("a", 2^23) for i = 1, 200 do t[i] = s end return #table.concat(t)`, ends: []string{"plugin_crashed", "plugin_deaf", "script.error"}},
	{name: "a loop without an end", code: `while true do end`, limit: time.Second, ends: []string{"plugin_deadline", "plugin_deaf", "deadline"}},
	{name: "a loop that catches its end", code: `while true do pcall(function() while true do end end) end`, limit: time.Second, ends: []string{"plugin_deadline", "plugin_deaf", "deadline"}},
	{name: "a pattern that never returns", code: `return (("a"):rep(200000)):gsub(".-.-.-.-b", "")`, limit: time.Second, ends: []string{"plugin_deaf", "plugin_crashed"}},
	{name: "a loop in a coroutine", code: `return coroutine.wrap(function() while true do end end)()`, limit: time.Second, ends: []string{"plugin_deadline", "plugin_deaf", "deadline"}},
	{name: "coroutines without a number", code: `local t = {} while true do t[#t + 1] = coroutine.create(function() coroutine.yield() end) coroutine.resume(t[#t]) end`, limit: 20 * time.Second, ends: []string{"plugin_crashed", "plugin_deaf", "plugin_deadline", "deadline"}},
	{name: "a sleep for ever", modules: []string{"time"}, code: `while true do time.sleep(3600) end`, limit: time.Second, ends: []string{"plugin_deadline", "script.error", "deadline"}},
	{name: "a log without an end", modules: []string{"log"}, code: `while true do log.info(string.rep("x", 1000)) end`, ends: []string{"script.error"}},
	{name: "an output of a gigabyte", modules: []string{"log"}, code: `local s = string.rep("x", 2^24) for i = 1, 64 do log.info(s) end`, ends: []string{"script.error"}},
	{name: "a recursion without an end", code: `local function f() return 1 + f() end return f()`, ends: []string{"script.error"}},
	{name: "one that ends its host", code: `os.exit(0)`, ends: []string{"script.error"}},
	{name: "code in a text", code: `return loadstring("return 1")()`, ends: []string{"script.error"}},
	{name: "bytecode", code: `return string.dump(run)`, ends: []string{"script.error"}},
	{name: "a file of the agent's host", code: `return io.open("/etc/shadow")`, ends: []string{"script.error"}},
	{name: "a module of no manifest", code: `return require("exec").run("/bin/sh")`, ends: []string{"script.error"}},
	{name: "the metatable of texts", code: `getmetatable("").__index = function() return "x" end`, ends: []string{"script.error"}},
	{name: "the metatable of secrets", manifest: `needs = ["secret"]`, code: `getmetatable(job.secret).__tostring = function() return "x" end`, ends: []string{"script.error"}},
	{name: "reveal that nobody allowed", manifest: `needs = ["secret"]`, code: `return job.secret:reveal()`, ends: []string{"script.error"}},
	{name: "a secret in an error", manifest: "needs = [\"secret\"]\nreveals = \"to lose it\"", code: `error("it is " .. job.secret:reveal())`, ends: []string{"script.error"}},
	{name: "a secret in a reason", manifest: "needs = [\"secret\"]\nreveals = \"to lose it\"", code: `return sdk.unchanged("policy", job.secret:reveal())`, ends: []string{"malformed"}},
	{name: "a secret in the log", modules: []string{"log", "base64", "http"}, manifest: "needs = [\"secret\"]\nreveals = \"to lose it\"", code: `log.info(job.secret:reveal()) log.info(base64.encode(job.secret:reveal())) log.info(http.path(job.secret:reveal())) log.warn((job.secret:reveal():gsub(".", function(c) return string.format("%02x", c:byte()) end))) return sdk.unchanged("policy", "said")`, ends: []string{"said"}},
	{name: "many questions about a secret", modules: []string{"secret"}, manifest: `needs = ["secret"]`, code: `for i = 1, 1e6 do if secret.equal(job.secret, tostring(i)) then return sdk.unchanged("policy", "guessed") end end`, ends: []string{"script.error"}},
}

// hostHarness is an agent's plugin host with the plugin lua, as built.
type hostHarness struct {
	*pluginhost.Host
	plugin pluginhost.Plugin
	log    *lockedBuffer

	mu      sync.Mutex
	dialled []string // by the agent, which looks names up then and not before
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHost(t *testing.T) *hostHarness {
	t.Helper()
	binary := conformance.Build(t, ".")
	dir, err := os.MkdirTemp("", "rtlua")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	h := &hostHarness{plugin: pluginhost.Plugin{Name: script.Plugin, SHA256: sha256.Sum256(b)}, log: new(lockedBuffer)}
	plugins := filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(plugins, h.plugin.String()), b, 0o755); err != nil {
		t.Fatal(err)
	}
	catalogue, err := pluginhost.NewCatalogue(plugins, []string{h.plugin.String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Host, err = pluginhost.New(pluginhost.Config{Dir: filepath.Join(dir, "run"), Catalogue: catalogue, Dial: h.dial, Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = h.Close(ctx)
	})
	return h
}

func (h *hostHarness) dial(ctx context.Context, network, address string) (net.Conn, error) {
	h.mu.Lock()
	h.dialled = append(h.dialled, address)
	h.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, address)
}

const lost = "hunter2 & hunter2 & hunter2"

// after runs a script once.
func (h *hostHarness) after(ctx context.Context, text, resource string, allow ...string) (sdk.AfterResponse, error) {
	return h.Run(ctx, pluginhost.Scripted(h.plugin, []byte(text)), pluginhost.Job{
		Target: pluginhost.Target{Key: resource, Resource: sdk.Resource{Address: "127.0.0.1:1"}, Allow: allow},
	}, sdk.AfterRequest{Secret: password(lost)})
}

func (a attack) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "--[[ rotunda\nname = \"attack\"\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"Means harm\"\n%s\nmodules = [", a.manifest)
	for _, m := range a.modules {
		fmt.Fprintf(&b, "%q, ", m)
	}
	b.WriteString("]\n]]\n")
	for _, m := range a.modules {
		fmt.Fprintf(&b, "local %s = require %q\n", m, m)
	}
	return b.String() + "function run(job)\n" + a.code + "\nend\n"
}

// honest is a script that does its work while another one does harm.
var honest = attack{name: "honest", modules: []string{"text"}, manifest: `needs = ["secret"]`, code: `text.concat("a", job.secret) return sdk.changed`}

// Scripts that mean harm end by themselves or by force, with a reason that has a name; what
// they know is in no log and no answer; and who runs beside them does not notice.
func TestHostileScripts(t *testing.T) {
	h := newHost(t)
	for _, a := range hostile {
		t.Run(a.name, func(t *testing.T) {
			limit := a.limit
			if limit == 0 {
				limit = 10 * time.Second
			}
			var beside sync.WaitGroup
			beside.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if got, err := h.after(ctx, honest.text(), "honest"); err != nil || got.Outcome != sdk.Changed {
					t.Errorf("an honest script beside it: %+v, %v", got, err)
				}
			})
			var got sdk.AfterResponse
			var err error
			var why string
			for {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				got, err = h.after(ctx, a.text(), "attacked")
				cancel()
				if why = got.Reason; err != nil {
					why = pluginhost.ReasonOf(err)
				}
				// On a machine under load its time may be over before it has begun.
				begun := !slices.Contains([]string{string(pluginhost.PluginBusy), string(pluginhost.PluginStart), string(pluginhost.PluginDeadline), "deadline"}, why)
				if limit *= 2; begun || slices.Contains(a.ends, why) || limit > time.Minute {
					break
				}
			}
			beside.Wait()
			t.Logf("it ended with %q", why)
			if got.Outcome == sdk.Changed || !slices.Contains(a.ends, why) {
				t.Errorf("it ended with %+v, %v; want one of %v", got, err, a.ends)
			}
			for what, said := range map[string]string{"log": h.log.String(), "output": got.Output, "error": fmt.Sprint(err)} {
				for _, form := range []string{lost, fmt.Sprintf("%x", lost), base64.RawStdEncoding.EncodeToString([]byte(lost)), url.QueryEscape(lost)} {
					if strings.Contains(said, form) {
						t.Errorf("the secret is in the %s as %s", what, form)
					}
				}
			}
		})
	}
}

// A script reaches the places of its job and no others, whatever it calls them; each
// attempt is in the agent's log.
func TestNoOtherPlace(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	knocked := make(chan struct{}, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			knocked <- struct{}{}
			_, _ = io.WriteString(c, "hello\r\n")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	h := newHost(t)
	try := func(address, allowed string) (sdk.AfterResponse, error) {
		a := attack{modules: []string{"telnet"}, manifest: fmt.Sprintf("hosts = [%q]", allowed), code: fmt.Sprintf(`
			local c, err = telnet.connect{address = %q, timeout = 5}
			if not c then return nil, err end
			local n, said = c:expect{"hello"}
			if not n then return nil, said end
			return sdk.changed`, address)}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return h.Run(ctx, pluginhost.Scripted(h.plugin, []byte(a.text())), pluginhost.Job{Target: pluginhost.Target{
			Key: "attacked", Resource: sdk.Resource{Address: address, TLS: sdk.TLS{Mode: sdk.TLSOff}}, Allow: []string{allowed},
		}}, sdk.AfterRequest{})
	}
	to := l.Addr().String()
	if got, err := try(to, to); err != nil || got.Outcome != sdk.Changed || len(knocked) != 1 {
		t.Fatalf("the place that is allowed: %+v, %v", got, err)
	}
	<-knocked
	_, port, _ := net.SplitHostPort(to)
	for _, address := range []string{to, "localhost:" + port, "[::ffff:127.0.0.1]:" + port, "127.1:" + port, "2130706433:" + port, "169.254.169.254:80", "evil.example.org:443"} {
		got, err := try(address, "127.0.0.1:9")
		if got.Outcome == sdk.Changed || got.Reason != "dial.refused" {
			t.Errorf("%s: %+v, %v; want dial.refused", address, got, err)
		}
	}
	// A request in clear is refused as any other, and not for being in clear.
	clear := attack{modules: []string{"http"}, manifest: `hosts = ["127.0.0.1:9"]`, code: fmt.Sprintf(`local r, err = http.get("http://%s/") return sdk.unchanged(err.class, err.reason)`, to)}
	if got, err := h.after(t.Context(), clear.text(), "attacked", "127.0.0.1:9"); err != nil || got.Reason != "dial.refused" {
		t.Errorf("in clear: %+v, %v", got, err)
	}
	if len(knocked) > 0 {
		t.Error("somebody knocked")
	}
	// How long an answer takes tells nothing of a place: nobody has looked for it.
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.dialled, []string{to}) {
		t.Errorf("the agent dialled, or looked up, %v", h.dialled)
	}
	if said := h.log.String(); !strings.Contains(said, "evil.example.org:443") {
		t.Errorf("the agent's log does not tell of what was asked for: %s", said)
	}
}

// docs/scripts/security.md lists each attack.
func TestPageOfAttacks(t *testing.T) {
	page, err := os.ReadFile("../../docs/scripts/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range hostile {
		_, row, ok := strings.Cut(string(page), "| "+a.name+" |")
		if !ok {
			t.Errorf("the page does not list %q", a.name)
			continue
		}
		row, _, _ = strings.Cut(row, "\n")
		for _, end := range a.ends {
			if end != "said" && !strings.Contains(row, "`"+end+"`") {
				t.Errorf("the page does not say that %q may end with %s", a.name, end)
			}
		}
	}
}
