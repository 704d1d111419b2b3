package pluginhost

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func TestRotation(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	ctx := t.Context()
	t.Logf("isolation: %+v", f.Isolation())
	steps := make(chan string, 8)
	job := srv.job("r1")
	job.Progress = func(s string) { steps <- s }
	s := f.open(ctx, job)
	r, err := apply(ctx, s, "app", "app-second")
	if err != nil || r.Outcome != sdk.Changed {
		t.Fatalf("apply: %+v, %v", r, err)
	}
	for secret, want := range map[string]sdk.VerifyResponse{
		"app-second": {Verdict: sdk.Accepted},
		"app-first":  {Verdict: sdk.Rejected, Reason: "bad_secret"},
	} {
		v, err := f.Verify(ctx, guest(), VerifyJob{Target: srv.target("r1"), Account: sdk.Account{Name: "app"}, Credential: password(secret)})
		if err != nil || v != want {
			t.Errorf("verify %s: %+v, %v; want %+v", secret, v, err, want)
		}
	}
	retired, err := s.Retire(ctx, sdk.RetireRequest{Keep: password("a"), Old: password("b")})
	if err != nil || retired.Outcome != sdk.Changed {
		t.Errorf("retire: %+v, %v", retired, err)
	}
	read, err := s.Readback(ctx, sdk.ApplyRequest{Candidate: password("a")})
	if err != nil || read.Verdict != sdk.Accepted {
		t.Errorf("readback: %+v, %v", read, err)
	}
	if n := len(f.pids()); n != 1 {
		t.Errorf("%d processes for one resource", n)
	}
	f.logs.has(t, "opening")
	if strings.Contains(f.logs.String(), adminSecret) {
		t.Errorf("secret in the log:\n%s", f.logs)
	}
	select { // told beside the calls, and so perhaps after them
	case step := <-steps:
		if step != "logging in" || len(steps) > 0 {
			t.Errorf("progress: %q, and %d more", step, len(steps))
		}
	case <-time.After(10 * time.Second):
		t.Error("no progress was told")
	}
}

func TestDescribe(t *testing.T) {
	f := newFixture(t, nil)
	d, err := f.Describe(t.Context(), guest())
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "guest" || d.Version != "1.2.3" || len(d.Overlap) != 2 || len(d.Minted) != 1 || d.Minted[0] != sdk.APIKey || !d.Readback || d.Self || d.Concurrency != 4 ||
		d.LoginTries != 2 || d.OldLives != time.Hour || d.Settle != time.Second || d.SettleIf != "many" || d.MaxLen != 99 || d.Forbid != "'" ||
		len(d.Kinds) != 2 || d.Kinds[0] != sdk.Password {
		t.Errorf("manifest: %+v", d.Manifest)
	}
	if !strings.Contains(string(d.Schema), `"greeting"`) {
		t.Errorf("schema: %s", d.Schema)
	}
}

// Everything that goes wrong between agent and plugin has its reason, and the next
// call on another plugin works.
func TestReasons(t *testing.T) {
	for name, c := range map[string]struct {
		reason  Reason
		started bool // the failure comes after the start, from Describe
	}{
		"garbage":   {reason: PluginProtocol},
		"flood":     {reason: PluginProtocol},
		"mute":      {reason: PluginStart},
		"exits":     {reason: PluginCrashed},
		"netrpc":    {reason: PluginProtocol},
		"elsewhere": {reason: PluginProtocol},
		"future":    {reason: PluginProtocol},
		"greedy":    {reason: PluginManifest},
		"liar":      {reason: PluginManifest},
		"huge":      {reason: PluginProtocol},
		"headers":   {reason: PluginProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(c *Config) {
				if name == "mute" {
					c.StartTimeout = 6 * time.Second // another has to start in it
				}
			}, name)
			_, err := f.Open(t.Context(), hostile(name), newServer(t).job("r"))
			if ReasonOf(err) != string(c.reason) {
				t.Errorf("%v (%s), want %s", err, ReasonOf(err), c.reason)
			}
			if !NotSent(err) && c.reason != PluginProtocol {
				t.Errorf("a plugin that never ran may have sent something: %v", err)
			}
			if _, err := f.Describe(t.Context(), guest()); err != nil {
				t.Errorf("the next plugin: %v", err)
			}
		})
	}
}

func TestHash(t *testing.T) {
	srv := newServer(t)
	t.Run("in no list", func(t *testing.T) {
		f := newFixture(t, nil)
		f.add("other", "guest", built.guest)
		_, err := f.Open(t.Context(), Plugin{Name: "other", SHA256: built.guest}, srv.job("r"))
		if ReasonOf(err) != string(PluginUnknown) {
			t.Errorf("%v", err)
		}
		if _, err := f.cfg.Catalogue.Find("other"); ReasonOf(err) != string(PluginUnknown) {
			t.Errorf("found: %v", err)
		}
	})
	t.Run("file replaced", func(t *testing.T) {
		f := newFixture(t, nil)
		path := filepath.Join(f.plugins, guest().String())
		if err := errors.Join(os.Remove(path), os.Link(filepath.Join(built.dir, "hostile"), path)); err != nil {
			t.Fatal(err)
		}
		_, err := f.Open(t.Context(), guest(), srv.job("r"))
		if ReasonOf(err) != string(PluginUnknown) {
			t.Errorf("%v", err)
		}
	})
	t.Run("file replaced after the first start", func(t *testing.T) {
		f := newFixture(t, nil)
		f.open(t.Context(), srv.job("r1")).Close()
		path := filepath.Join(f.plugins, guest().String())
		if err := errors.Join(os.Remove(path), os.Link(filepath.Join(built.dir, "hostile"), path)); err != nil {
			t.Fatal(err)
		}
		f.open(t.Context(), srv.job("r2")) // the private copy runs
	})
	t.Run("taken back by the log", func(t *testing.T) {
		dir := tempDir(t)
		var allowed atomic.Bool
		allowed.Store(true)
		cat, err := NewCatalogue(dir, nil, func(p Plugin) bool { return allowed.Load() && p.Name == "logged" })
		if err != nil {
			t.Fatal(err)
		}
		f := newFixture(t, func(c *Config) { c.Catalogue = cat })
		f.plugins = dir
		p := f.add("logged", "hostile", built.hostile)
		if got, err := cat.Find("logged"); err != nil || got != p {
			t.Fatalf("find: %v, %v", got, err)
		}
		if _, err := f.Open(t.Context(), p, srv.job("r")); err != nil {
			t.Fatal(err)
		}
		allowed.Store(false)
		if _, err := f.Open(t.Context(), p, srv.job("r")); ReasonOf(err) != string(PluginUnknown) {
			t.Errorf("after it was dropped: %v", err)
		}
	})
}

// What a plugin without the SDK answers is believed only as far as it makes sense.
func TestNonsense(t *testing.T) {
	f, srv := newFixture(t, nil, "nonsense"), newServer(t)
	s, err := f.Open(t.Context(), hostile("nonsense"), srv.job("r"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := apply(t.Context(), s, "app", "secret")
	if err != nil || r != (sdk.ApplyResponse{Class: sdk.ClassInternal, Reason: "malformed"}) {
		t.Errorf("apply: %+v, %v", r, err)
	}
	if _, err := s.Retire(t.Context(), sdk.RetireRequest{}); ReasonOf(err) != string(PluginManifest) {
		t.Errorf("undeclared verb: %v", err)
	}
	if _, err := f.Verify(t.Context(), hostile("nonsense"), VerifyJob{Target: srv.target("r")}); ReasonOf(err) != string(PluginManifest) {
		t.Errorf("unimplemented verb: %v", err)
	}
	f.logs.has(t, "flood")
	if n := strings.Count(f.logs.String(), "flood"); n > 2*logBurst {
		t.Errorf("%d log lines got through", n)
	}
}

func TestOutcomes(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	ctx := t.Context()
	s := f.open(ctx, srv.job("r"))
	const secret = `s3cret "quoted" & <more>`
	t.Run("unchanged", func(t *testing.T) {
		r, err := apply(ctx, s, "refuse", secret)
		if err != nil || r != (sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.length"}) {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("text is no code", func(t *testing.T) {
		r, err := apply(ctx, s, "text", secret)
		if err != nil || r.Class != sdk.ClassInternal || r.Reason != "malformed" {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("error with class", func(t *testing.T) {
		r, err := apply(ctx, s, "leak", secret)
		e := (*sdk.Error)(nil)
		if !errors.As(err, &e) || e.Class != sdk.ClassPolicy || e.Reason != "policy.history" || e.NotSent || r.Outcome != sdk.Unknown {
			t.Fatalf("%+v, %v", r, err)
		}
		if strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("text: %v", err)
		}
	})
	t.Run("error without class", func(t *testing.T) {
		_, err := apply(ctx, s, "unclassed", secret)
		e := (*sdk.Error)(nil)
		if !errors.As(err, &e) || e.Class != sdk.ClassInternal || e.Reason != "unclassed" || e.NotSent {
			t.Errorf("%v", err)
		}
	})
	t.Run("error text of 4 MiB", func(t *testing.T) {
		_, err := apply(ctx, s, "huge", secret)
		if ReasonOf(err) != "huge" || len(err.Error()) > 2*maxText {
			t.Errorf("%d bytes, %s", len(err.Error()), ReasonOf(err))
		}
	})
	t.Run("secret of 64 KiB", func(t *testing.T) {
		if r, err := apply(ctx, s, "app", strings.Repeat("x", sdk.MaxSecret-1)); err != nil || r.Outcome != sdk.Changed {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := apply(ctx, s, "app", strings.Repeat("x", sdk.MaxSecret+1)); ReasonOf(err) != string(BadRequest) || !NotSent(err) {
			t.Errorf("over the limit: %v", err)
		}
	})
	t.Run("noise", func(t *testing.T) {
		r, err := apply(ctx, s, "noise", "n01se-secret")
		if err != nil || r.Outcome != sdk.Changed {
			t.Fatalf("%+v, %v", r, err)
		}
		f.logs.has(t, "level=ERROR msg=\"plugin: a level that survives\"")
		f.logs.has(t, "raw line with [secret]")
		if strings.Contains(f.logs.String(), "n01se-secret") {
			t.Errorf("secret in the log:\n%s", f.logs)
		}
	})
	t.Run("progress never blocks", func(t *testing.T) {
		if r, err := apply(ctx, s, "progress", "pr0gress-secret"); err != nil || r.Outcome != sdk.Changed {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("config is strict", func(t *testing.T) {
		j := srv.job("r")
		j.Resource.Config = []byte(`{"greeting":"hello","colour":"red"}`)
		_, err := f.Open(ctx, guest(), j)
		e := (*sdk.Error)(nil)
		if !errors.As(err, &e) || e.Class != sdk.ClassInvalid || e.Reason != "config" || !e.NotSent {
			t.Errorf("%v", err)
		}
	})
	t.Run("administrator refused", func(t *testing.T) {
		j := srv.job("r")
		j.Admin = password("wr0ng-secret")
		_, err := f.Open(ctx, guest(), j)
		e := (*sdk.Error)(nil)
		if !errors.As(err, &e) || e.Class != sdk.ClassAuth {
			t.Errorf("%v", err)
		}
	})
}

func TestSharedSession(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	ctx := t.Context()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s, err := f.Open(ctx, guest(), srv.job("r"))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := apply(ctx, s, "app", "secret"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	logins := func() int { srv.mu.Lock(); defer srv.mu.Unlock(); return srv.logins }
	if n := logins(); n != 1 {
		t.Errorf("%d administrator logins for 20 jobs", n)
	}
	f.Forget("r")
	f.open(ctx, srv.job("r"))
	if n := logins(); n != 2 {
		t.Errorf("%d logins, want a second one after Forget", n)
	}
	srv.mu.Lock()
	srv.secrets["admin"] = "0ther"
	srv.mu.Unlock()
	j := srv.job("r")
	j.Admin = password("0ther")
	f.open(ctx, j)
	if n := logins(); n != 3 {
		t.Errorf("%d logins, want another one with another secret", n)
	}
	self := j
	self.Self = true
	f.open(ctx, self)
	f.open(ctx, self)
	if n := logins(); n != 5 {
		t.Errorf("%d logins, want one for each self job", n)
	}
	fresh := j
	fresh.Fresh = true
	f.open(ctx, fresh)
	if n := logins(); n != 6 {
		t.Errorf("%d logins, want one for a fresh job though an equal session is open", n)
	}
}

func TestCut(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	s := f.open(t.Context(), srv.job("r"))
	done := make(chan error, 1)
	go func() { _, err := apply(t.Context(), s, "read", "secret"); done <- err }()
	f.inFlight("r")
	s.Cut()
	if err := <-done; err == nil {
		t.Error("a call went on over connections that were cut")
	}
	if _, err := apply(t.Context(), s, "app", "secret"); ReasonOf(err) != string(SessionClosed) || !NotSent(err) {
		t.Errorf("after the cut: %v", err)
	}
}

// A session whose lease is lost sends nothing more, also where others share it; whoever
// closed his share in time is not asked any more.
func TestHold(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	ctx := t.Context()
	var over atomic.Bool
	job := srv.job("r")
	job.Hold = func() error {
		if over.Load() {
			return errors.New("the lease is lost")
		}
		return nil
	}
	mine, other := f.open(ctx, job), f.open(ctx, srv.job("r"))
	if _, err := apply(ctx, mine, "app", "while-it-may"); err != nil {
		t.Fatal(err)
	}
	over.Store(true)
	for who, s := range map[string]*Session{"whose lease it was": mine, "who shares the session": other} {
		if _, err := apply(ctx, s, "app", "too-late"); err == nil {
			t.Errorf("%s: the target was changed", who)
		}
	}
	srv.mu.Lock()
	got := srv.secrets["app"]
	srv.mu.Unlock()
	if got != "while-it-may" {
		t.Errorf("the target has %q", got)
	}
	mine.Close()
	other.Close()
	if _, err := apply(ctx, f.open(ctx, srv.job("r")), "app", "of-a-later-run"); err != nil {
		t.Error(err)
	}
}

func TestCapAndIdle(t *testing.T) {
	f, srv := newFixture(t, func(c *Config) { c.Processes = 2 }), newServer(t)
	ctx := t.Context()
	a, b := f.open(ctx, srv.job("a")), f.open(ctx, srv.job("b"))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := f.Open(short, guest(), srv.job("c")); ReasonOf(err) != string(PluginBusy) || !NotSent(err) {
		t.Fatalf("over the cap: %v", err)
	}
	a.Close()
	c := f.open(ctx, srv.job("c")) // a makes room
	if _, err := apply(ctx, b, "app", "abcd"); err != nil {
		t.Errorf("the one in use was stopped: %v", err)
	}
	b.Close()
	c.Close()
	// More resources than places: all get their turn.
	var wg sync.WaitGroup
	for _, key := range strings.Split("defghijk", "") {
		wg.Go(func() {
			s, err := f.Open(ctx, guest(), srv.job(key))
			if err != nil {
				t.Errorf("%s: %v", key, err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
	if n := len(f.pids()); n > 2 {
		t.Errorf("%d processes under a cap of 2", n)
	}
}

func TestIdleStop(t *testing.T) {
	f, srv := newFixture(t, func(c *Config) { c.Idle = 200 * time.Millisecond }), newServer(t)
	s := f.open(t.Context(), srv.job("r"))
	f.mu.Lock()
	p := f.procs[processKey{guest(), "r"}]
	f.mu.Unlock()
	s.Close()
	select {
	case <-p.gone:
	case <-time.After(10 * time.Second):
		t.Error("an idle process goes on")
	}
}

func TestClose(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	s := f.open(t.Context(), srv.job("r"))
	entered := make(chan error, 1)
	go func() { _, err := apply(context.Background(), s, "wait", "secret"); entered <- err }()
	f.inFlight("r")
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := f.Host.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 400*time.Millisecond || took > 20*time.Second {
		t.Errorf("close took %v, want the context's time for the call", took)
	}
	if err := <-entered; ReasonOf(err) != string(PluginCrashed) {
		t.Errorf("the call: %v", err)
	}
	if _, err := f.Open(t.Context(), guest(), srv.job("r")); ReasonOf(err) != string(HostClosed) {
		t.Errorf("open after close: %v", err)
	}
}

func TestConfig(t *testing.T) {
	cat, err := NewCatalogue(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"relative": "x", "too long": "/" + strings.Repeat("x", maxDir)} {
		if _, err := New(Config{Dir: dir, Catalogue: cat}); err == nil {
			t.Errorf("%s folder: no error", name)
		}
	}
	dir := tempDir(t)
	left := filepath.Join(dir, folderPrefix+"left", "dial")
	mine := filepath.Join(dir, "not-ours")
	if err := errors.Join(os.MkdirAll(filepath.Dir(left), 0o700), os.WriteFile(left, nil, 0o600), os.WriteFile(mine, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Dir: dir, Catalogue: cat})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close(t.Context()) }()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("a leftover was not swept: %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("a foreign file was swept: %v", err)
	}
}
