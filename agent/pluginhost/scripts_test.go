package pluginhost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

func scripts() Plugin { return Plugin{Name: "scripts", SHA256: built.guest} }

func script(text string) Plugin { return Scripted(scripts(), []byte(text)) }

// run has a script do what an account's name asks for.
func (f *fixture) run(ctx context.Context, p Plugin, j Job, account string) (sdk.AfterResponse, error) {
	return f.Run(ctx, p, j, sdk.AfterRequest{Account: sdk.Account{Name: account, Scope: "scope"}, Secret: password("the.new.one"), Former: password("the.former.one")})
}

func TestScript(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	ctx, restart := t.Context(), script("after restart")
	d, err := f.Describe(ctx, restart)
	if err != nil || d.Name != "restart" || !d.After || d.Dependents || len(d.Kinds) != 0 {
		t.Fatalf("manifest: %+v, %v", d, err)
	}
	j := srv.job("r")
	j.Resource.Config = json.RawMessage(`{"unit":"app"}`)
	req := sdk.AfterRequest{
		Account: sdk.Account{Name: "tell", Scope: "scope"}, Secret: password("the.new.one"), Former: password("the.former.one"),
		Records: []sdk.Record{
			{Resource: sdk.Resource{Address: "router:22"}, Account: sdk.Account{Name: "root"}, Secret: password("the.router's"), Pins: map[string][]byte{"router:22": []byte("pin")}},
			{Resource: sdk.Resource{Address: "web:443"}},
		},
		RunID: "run-7", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	for n := 1; n <= 2; n++ { // the process stays
		want := fmt.Sprintf(`restart %d %s admin {"unit":"app"} scope run-7 03:04:05 %d 11 14 router:22 root pin 12 web:443   0: [secret] [secret]  [secret] [secret]`, n, srv.addr(), len(adminSecret))
		if a, err := f.Run(ctx, restart, j, req); err != nil || a != (sdk.AfterResponse{Outcome: sdk.Changed, Output: want}) {
			t.Errorf("%+v, %v; want %q", a, err, want)
		}
	}
	f.logs.has(t, "script=restart resource=r")

	// Another script is another process, and so is this one on another resource.
	if a, err := f.run(ctx, script("after reload"), j, "tell"); err != nil || !strings.HasPrefix(a.Output, "reload 1 ") {
		t.Errorf("another script: %+v, %v", a, err)
	}
	if a, err := f.run(ctx, restart, srv.job("s"), "tell"); err != nil || !strings.HasPrefix(a.Output, "restart 1 ") {
		t.Errorf("another resource: %+v, %v", a, err)
	}
	if n := f.Running(); len(n) != 1 || n[scripts()] != 4 {
		t.Errorf("processes: %v, want those of three runs and a description", n)
	}

	// It is no rotator, nor anything else.
	_, opened := f.Open(ctx, restart, j)
	_, verified := f.Verify(ctx, restart, VerifyJob{Target: j.Target})
	_, planned := f.Plan(ctx, restart, j, sdk.ApplyRequest{})
	_, made := f.Provision(ctx, restart, j, sdk.ApplyRequest{})
	for what, err := range map[string]error{"open": opened, "verify": verified, "plan": planned, "provision": made} {
		if ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, one := range []string{"the.new.one", "the.former.one", "router's", adminSecret} {
		if strings.Contains(f.logs.String(), one) {
			t.Errorf("secret in the log:\n%s", f.logs)
		}
	}
}

// A script may be a rotator, of 256 KiB.
func TestScriptedRotator(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	text := "rotator own\n"
	p := script(text + strings.Repeat("-", pluginv1.MaxScript-len(text)))
	if d, err := f.Describe(t.Context(), p); err != nil || d.MaxLen != pluginv1.MaxScript || len(d.Kinds) != 1 {
		t.Fatalf("manifest: %+v, %v", d.Manifest, err)
	}
	s, err := f.Open(t.Context(), p, srv.job("r"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if a, err := apply(t.Context(), s, "app", "app-second"); err != nil || a.Outcome != sdk.Changed {
		t.Errorf("apply: %+v, %v", a, err)
	}
	v, err := f.Verify(t.Context(), p, VerifyJob{Target: srv.target("r"), Account: sdk.Account{Name: "app"}, Credential: password("app-second")})
	if err != nil || v.Verdict != sdk.Accepted {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if _, err := f.run(t.Context(), p, srv.job("r"), ""); ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
		t.Errorf("it does nothing after a rotation: %v", err)
	}
}

// A script that does not come to be one ends in its reason, and nothing was sent.
func TestLoadFails(t *testing.T) {
	for name, c := range map[string]struct {
		plugin       func() Plugin
		reason, says string
	}{
		"a mistake":       {func() Plugin { return script("before that") }, "script", `line 1: "before" is no kind`},
		"no name":         {func() Plugin { return script("after Upper Case") }, "script", "name must match"},
		"too long":        {func() Plugin { return script("after x\n" + strings.Repeat("-", pluginv1.MaxScript)) }, string(BadRequest), "at most 262144"},
		"it hangs":        {func() Plugin { return script("hang") }, string(PluginStart), "did not load the script"},
		"it crashes":      {func() Plugin { return script("crash") }, string(PluginCrashed), ""},
		"runs no scripts": {func() Plugin { return Scripted(guest(), []byte("after x")) }, "verb.load", ""},
		"two plugins":     {func() Plugin { return Scripted(hostile("split"), []byte("after x")) }, string(PluginManifest), "it lists 2 plugins"},
		"in no list":      {func() Plugin { return Scripted(Plugin{Name: "lua", SHA256: built.guest}, []byte("after x")) }, string(PluginUnknown), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, srv := newFixture(t, func(c *Config) {
				if name == "it hangs" {
					c.StartTimeout = 10 * time.Second // the program has to start in it
				}
			}, "scripts", "split"), newServer(t)
			_, err := f.run(t.Context(), c.plugin(), srv.job("r"), "")
			if ReasonOf(err) != c.reason || !strings.Contains(err.Error(), c.says) || !NotSent(err) {
				t.Errorf("%v (%s)", err, ReasonOf(err))
			}
			for f.process(c.plugin(), "r") != nil { // its end is counted
				time.Sleep(time.Millisecond)
			}
			f.mu.Lock()
			late := f.failures[processKey{c.plugin(), "r"}].n
			f.mu.Unlock()
			if c.reason == "script" && late != 0 {
				t.Error("a script with a mistake counts as a crash")
			}
			if _, err := f.run(t.Context(), script("after other"), srv.job("r"), ""); err != nil {
				t.Errorf("the next script: %v", err)
			}
		})
	}
}

func TestRunOutcomes(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts", "answers"), newServer(t)
	hostile := Scripted(hostile("answers"), []byte("text"))
	none := sdk.AfterResponse{}
	for name, c := range map[string]struct {
		plugin  Plugin
		account string
		want    sdk.AfterResponse
		reason  string
	}{
		"done":                  {script("after x"), "", sdk.AfterResponse{Outcome: sdk.Changed}, ""},
		"refused":               {script("after x"), "refuse", sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "unit.masked", Output: "not that one"}, ""},
		"a secret for a code":   {script("after x"), "code", sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "malformed"}, ""},
		"an error":              {script("after x"), "leak", none, "leaks"},
		"an end":                {script("after end"), "crash", none, string(PluginCrashed)},
		"nonsense":              {hostile, "", sdk.AfterResponse{Class: sdk.ClassInternal, Reason: "malformed"}, ""},
		"its secret for a code": {hostile, "code", sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "malformed"}, ""},
		"output too long":       {hostile, "long", sdk.AfterResponse{Outcome: sdk.Changed, Output: strings.Repeat("x", pluginv1.MaxOutput-4) + "[sec"}, ""},
		"a character too long":  {hostile, "odd", sdk.AfterResponse{Outcome: sdk.Changed, Output: "x" + strings.Repeat("é", pluginv1.MaxOutput/2-1)}, ""},
		"an answer of 2 MiB":    {hostile, "huge", none, string(PluginProtocol)},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := f.run(t.Context(), c.plugin, srv.job("r"), c.account)
			if a != c.want || ReasonOf(err) != c.reason || !utf8.ValidString(a.Output) {
				t.Errorf("%+v, %v", a, err)
			}
			if err != nil && (NotSent(err) || strings.Contains(err.Error(), "the.new.one")) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRunEndsAtItsDeadline(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	p := script("after x")
	for _, c := range []struct {
		account, reason string
		notSent         bool
	}{
		{"wait", "gave.up", true},
		{"hang", string(PluginDeaf), false},
	} {
		if _, err := f.run(t.Context(), p, srv.job("r"), ""); err != nil { // the process runs: the deadline is the call's alone
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // it has to get there
		a, err := f.run(ctx, p, srv.job("r"), c.account)
		cancel()
		if a.Outcome != sdk.Unknown || ReasonOf(err) != c.reason || NotSent(err) != c.notSent {
			t.Errorf("%s: %+v, %v (%s)", c.account, a, err, ReasonOf(err))
		}
	}
	if a, err := f.run(t.Context(), p, srv.job("r"), ""); err != nil || a.Outcome != sdk.Changed {
		t.Errorf("the next: %+v, %v", a, err)
	}
}

// The limit of a job is its call's: who waits for his turn loses none of it, and waits no
// longer than that.
func TestLimitOfARun(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	p := script("after x")
	if _, err := f.run(t.Context(), p, srv.job("r"), ""); err != nil { // the process runs
		t.Fatal(err)
	}
	limited := func(d time.Duration) Job {
		j := srv.job("r")
		j.Limit = d
		return j
	}
	if _, err := f.run(t.Context(), p, limited(time.Second), "wait"); ReasonOf(err) != "gave.up" {
		t.Errorf("a call of its own length: %v", err)
	}

	asked, answer := make(chan struct{}), make(chan struct{})
	holds := srv.job("r")
	holds.Local = func(_ context.Context, c net.Conn) {
		close(asked)
		<-answer
		_, _ = fmt.Fprintln(c, "answer")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if a, err := f.run(t.Context(), p, holds, "local local"); err != nil || a.Outcome != sdk.Changed {
			t.Errorf("the one before: %+v, %v", a, err)
		}
	})
	<-asked
	if _, err := f.run(t.Context(), p, limited(50*time.Millisecond), ""); ReasonOf(err) != string(PluginBusy) || !NotSent(err) {
		t.Errorf("while another has the turn: %v", err)
	}
	close(answer)
	wg.Wait()
}

// What a job may ask of the agent's own machine, it asks at an address that no other job
// has; and when it is over, so is that.
func TestLocal(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	p := script("after x")
	answers := func(_ context.Context, c net.Conn) {
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil {
			_, _ = fmt.Fprintln(c, "answer to", strings.TrimSpace(line))
		}
	}
	for name, c := range map[string]struct {
		local  func(context.Context, net.Conn)
		asks   string
		output string
		reason string
	}{
		"asked and answered":      {answers, "local local", "answer to question of local", ""},
		"there is none":           {nil, "local local", "", "dial.refused"},
		"another address":         {answers, "local elsewhere", "", "dial.refused"},
		"an address of the job's": {answers, "local " + srv.addr(), "", "dial.refused"},
		"hung up":                 {func(context.Context, net.Conn) {}, "local local", "", "unclassed"},
	} {
		t.Run(name, func(t *testing.T) {
			j := srv.job("r")
			j.Local = c.local
			a, err := f.run(t.Context(), p, j, c.asks)
			if a.Output != c.output || ReasonOf(err) != c.reason {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	// Whatever ends the job ends what is done for it, before Run returns.
	for name, c := range map[string]struct {
		asks   string
		within time.Duration // of Run; 0: as long as it likes
		reason []string
	}{
		"the script left":  {"leave", 0, []string{""}},
		"the deadline":     {"local local", 2 * time.Second, []string{string(PluginDeadline), deadline}}, // the plugin's clock may ring before ours
		"the process ends": {"leave crash", 0, []string{string(PluginCrashed)}},
	} {
		t.Run(name, func(t *testing.T) {
			var served, ended atomic.Int32
			j := srv.job("r")
			j.Local = func(ctx context.Context, conn net.Conn) {
				served.Add(1)
				<-ctx.Done()
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err := conn.Read(make([]byte, 1))
				for err == nil { // what the script had sent before
					_, err = conn.Read(make([]byte, 1))
				}
				if errors.Is(err, os.ErrDeadlineExceeded) { // else one side or the other has hung up
					t.Errorf("its connection is open: %v", err)
				}
				ended.Add(1)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.within > 0 {
				ctx, cancel = context.WithTimeout(ctx, c.within)
				defer cancel()
			}
			_, err := f.run(ctx, p, j, c.asks)
			if !slices.Contains(c.reason, ReasonOf(err)) || served.Load() != 1 || ended.Load() != 1 {
				t.Errorf("%v; served %d, ended %d", err, served.Load(), ended.Load())
			}
		})
	}
}

// Jobs with something of the machine's own share no session: each asks by its own.
func TestLocalSharesNoSession(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	p := script("rotator own")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			j := srv.job("r")
			j.Local = func(context.Context, net.Conn) {}
			s, err := f.Open(t.Context(), p, j)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.logins != 3 {
		t.Errorf("%d logins of the administrator, want 3", srv.logins)
	}
}

// Only so many manifests of scripts are kept, and those of plugins always.
func TestManifestsAreBounded(t *testing.T) {
	h := &Host{manifests: map[Plugin]Description{}}
	remember := func(p Plugin) { h.remember(&process{plugin: p}) }
	remember(guest())
	for i := range 3 * maxDescribed {
		remember(script(fmt.Sprint(i)))
	}
	if _, ok := h.manifests[guest()]; !ok || len(h.manifests) != maxDescribed {
		t.Errorf("%d are kept, the plugin's: %t", len(h.manifests), ok)
	}
	if _, ok := h.manifests[script(fmt.Sprint(3*maxDescribed-1))]; !ok {
		t.Error("the last is not")
	}
}
