package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/agent/installed"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/internal/version"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const info = trustv1.Action_ACTION_INFO

// deliver has the agent take one command.
func deliver(t *testing.T, a *Agent, frame *trustv1.CommandFrame) error {
	return a.deliver(t.Context(), []*trustv1.CommandFrame{frame})[0]
}

// A command that holds is journalled and answered: by a signed reply that only the device
// that asked can read. Delivered again it is acknowledged, told of, and not answered.
func TestReply(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	frame := w.command(info)
	must(t, deliver(t, a, frame))
	a.work.Wait()
	replies := w.vault.replies()
	if len(replies) != 1 {
		t.Fatalf("%d replies", len(replies))
	}
	result, detail := w.opened(a, replies[0])
	i := detail.GetInfo()
	if result.Phase != trustv1.Phase_PHASE_REPLIED || result.Credential != trustv1.Outcome_OUTCOME_DONE ||
		i.GetVersion() != version.Version || i.GetLogEpoch() != w.log.Head().Epoch || time.Since(time.UnixMilli(i.GetClock())).Abs() > time.Minute {
		t.Errorf("%+v, %+v", result, detail)
	}
	if open, err := a.journal.OpenCommands(); err != nil || len(open) != 0 {
		t.Errorf("open commands: %v, %v", open, err)
	}

	must(t, deliver(t, a, frame))
	a.work.Wait()
	if n := len(w.vault.replies()); n != 1 {
		t.Errorf("%d replies to one command", n)
	}
	if r := soon(t, "an event", a.refusals); r.Name != "command.refused" || r.Reason != string(trust.Replayed) {
		t.Errorf("event: %+v", r)
	}
}

// An agent says of each plugin that it may start whether it was built with it.
func TestReplyOnPlugins(t *testing.T) {
	w := newWorld(t)
	own, logged := seal.Hash([]byte("own")), seal.Hash([]byte("logged"))
	for _, sum := range []seal.Digest{own, logged} {
		must(t, os.WriteFile(filepath.Join(w.dir, "plugins", installed.FileName("acme", sum)), nil, 0o755))
	}
	builtinPlugins = "acme@" + own.String()
	t.Cleanup(func() { builtinPlugins = "" })
	w.change(trust.PluginOp(trust.Plugin{Name: "acme", Version: "1", OS: runtime.GOOS, Arch: runtime.GOARCH, SHA256: logged}))
	a := w.start()
	defer w.end(a)
	must(t, deliver(t, a, w.command(info)))
	a.work.Wait()
	_, detail := w.opened(a, w.vault.replies()[0])
	said := map[string]string{}
	for _, p := range detail.Plugins {
		said[seal.Digest(p.Sha256).String()] = p.Source
	}
	if want := map[string]string{own.String(): "built-in", logged.String(): "log"}; !maps.Equal(said, want) {
		t.Errorf("%v, want %v", said, want)
	}
}

// Commands that come together are answered each for itself: one that comes twice is
// begun once and told of, and one that fails a check takes no other along.
func TestDeliveredTogether(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	twice, broken := w.command(info), w.command(info)
	broken.Sealed = broken.Sealed[:len(broken.Sealed)-1]
	answers := a.deliver(t.Context(), []*trustv1.CommandFrame{twice, broken, twice, w.command(info)})
	a.work.Wait()
	for i, err := range answers {
		if (err != nil) != (i == 1) {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if n := len(w.vault.replies()); n != 2 {
		t.Errorf("%d replies, want 2", n)
	}
	if r := soon(t, "an event", a.refusals); r.Name != "command.refused" || r.Reason != string(trust.Replayed) {
		t.Errorf("event: %+v", r)
	}
}

// A command that fails a check is refused for good, with its reason, and leaves no trace in
// the journal. What is the agent's own trouble is no refusal: the command comes again.
func TestIntake(t *testing.T) {
	other := seal.NewID()
	for name, c := range map[string]struct {
		frame func(w *world) *trustv1.CommandFrame
		edit  func(w *world, a *Agent)
		want  trust.Reason // "": no refusal, an error
	}{
		"no frame":    {frame: func(*world) *trustv1.CommandFrame { return nil }, want: trust.Malformed},
		"empty frame": {frame: func(*world) *trustv1.CommandFrame { return &trustv1.CommandFrame{} }, want: trust.Malformed},
		"too large": {frame: func(w *world) *trustv1.CommandFrame {
			f := w.command(info)
			f.Sealed = make([]byte, 1<<20)
			return f
		}, want: trust.TooLarge},
		"altered": {frame: func(w *world) *trustv1.CommandFrame {
			f := w.command(info)
			f.Sealed[len(f.Sealed)-1] ^= 1
			return f
		}, want: trust.SealOpen},
		"of another frame": {frame: func(w *world) *trustv1.CommandFrame {
			f := proto.CloneOf(w.command(info))
			f.Id = other.Bytes()
			return f
		}, want: trust.SealOpen},
		"too late": {
			frame: func(w *world) *trustv1.CommandFrame { return w.command(info) },
			edit:  func(_ *world, a *Agent) { a.now = later(time.Hour); a.dir.now = a.now }, want: trust.Expired,
		},
		"from the future": {
			frame: func(w *world) *trustv1.CommandFrame { return w.command(info) },
			edit:  func(_ *world, a *Agent) { a.now = later(-time.Hour); a.dir.now = a.now }, want: trust.NotYet,
		},
		"of an action that this agent has not": {
			frame: func(w *world) *trustv1.CommandFrame {
				return w.command(trustv1.Action_ACTION_SESSION, w.onAccount(w.account(), seal.NewID()))
			}, want: trust.UnknownField,
		},
		"that the local policy forbids": {
			frame: func(w *world) *trustv1.CommandFrame { return w.command(info) },
			edit:  func(_ *world, a *Agent) { a.cfg.Policy = only(t, "rotate") }, want: trust.LocalPolicy,
		},
		"to run scripts, which the local policy forbids": {
			frame: func(w *world) *trustv1.CommandFrame {
				return w.command(trustv1.Action_ACTION_RUN_SCRIPT, w.onAccount(w.account(), seal.NewID()))
			},
			edit: func(_ *world, a *Agent) { a.cfg.Policy = only(t, "rotate") }, want: trust.LocalPolicy,
		},
		"of a device that was removed": {frame: func(w *world) *trustv1.CommandFrame {
			f := w.command(info)
			w.change(trust.RemoveOp(w.device.id))
			return f
		}, want: trust.SignerUnknown},
		"while it drains": {
			frame: func(w *world) *trustv1.CommandFrame { return w.command(info) },
			edit:  func(_ *world, a *Agent) { a.draining.Store(true) },
		},
		"while the journal does not write": {
			frame: func(w *world) *trustv1.CommandFrame { return w.command(info) },
			edit:  func(_ *world, a *Agent) { must(t, a.journal.Close()) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.start()
			defer w.end(a)
			frame := c.frame(w)
			if c.edit != nil {
				c.edit(w, a)
			}
			err := deliver(t, a, frame)
			var refusal channel.Refusal
			switch refused := errors.As(err, &refusal); {
			case refused != (c.want != "") || string(refusal) != string(c.want):
				t.Errorf("%v, want %q", err, c.want)
			case err == nil:
				t.Error("taken")
			}
			a.work.Wait()
			if n := len(w.vault.replies()); n != 0 {
				t.Errorf("%d replies", n)
			}
			if open, err := a.journal.OpenCommands(); err == nil && len(open) != 0 {
				t.Errorf("journalled: %v", open)
			}
		})
	}
}

func later(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(d) }
}

func only(t *testing.T, actions ...string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(fmt.Sprintf("actions.allow = [%q]", strings.Join(actions, `","`)))
	must(t, err)
	return p
}

// A vault that is away for a while is no obstacle: what is known of the log serves while
// its time lasts, and the reply is given when the vault is back.
func TestVaultAway(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	w.vault.set(func(v *fakeVault) { v.down = true })
	must(t, deliver(t, a, w.command(info)))
	until(t, "some tries in vain", func() bool {
		w.vault.mu.Lock()
		defer w.vault.mu.Unlock()
		return w.vault.refused >= 3
	})
	if n := len(w.vault.replies()); n != 0 {
		t.Fatalf("%d replies", n)
	}
	w.vault.set(func(v *fakeVault) { v.down = false })
	until(t, "the reply comes", func() bool { return len(w.vault.replies()) == 1 })
	a.work.Wait()
	if open, err := a.journal.OpenCommands(); err != nil || len(open) != 0 {
		t.Errorf("open commands: %v, %v", open, err)
	}
}

// What was taken and not answered is answered after the next start; a run that was begun
// is taken up again.
func TestResume(t *testing.T) {
	for _, action := range []trustv1.Action{trustv1.Action_ACTION_ROTATE, trustv1.Action_ACTION_RUN_SCRIPT} {
		w := newWorld(t)
		a := w.start()
		w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpReport] = ksm.CodeAccessDenied })
		must(t, deliver(t, a, w.command(info)))
		a.work.Wait()
		account, id := w.account(), seal.NewID()
		w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpLease] = ksm.CodeAccessDenied })
		must(t, deliver(t, a, w.command(action, w.onAccount(account, id))))
		a.work.Wait()
		if open, err := a.journal.OpenCommands(); err != nil || len(open) != 2 {
			t.Fatalf("open commands: %d, %v", len(open), err)
		}
		w.end(a)

		w.vault.set(func(v *fakeVault) { clear(v.refuse) })
		a = w.start()
		defer w.end(a)
		must(t, a.resume())
		if r := soon(t, "a lease", w.vault.leases); string(r.RunID) != string(id[:]) || r.Cause != "command" {
			t.Errorf("leased: %+v", r)
		}
		a.work.Wait()
		if n := len(w.vault.replies()); n != 1 {
			t.Errorf("%d replies", n)
		}
		if open, err := a.journal.OpenCommands(); err != nil || len(open) != 0 {
			t.Errorf("open commands: %v, %v", open, err)
		}
	}
}

// What waited for the next start is judged again: by the log, and by the host's policy.
func TestResumedReplyIsJudgedAgain(t *testing.T) {
	forbids, err := policy.Parse("[actions]\nallow = [\"rotate\"]\n")
	must(t, err)
	for reason, since := range map[trust.Reason]func(*world){
		trust.NotAllowed:  func(w *world) { w.change(trust.GrantOp(w.folder, w.id.Pool, 0)) },
		trust.LocalPolicy: func(w *world) { w.policy = forbids },
	} {
		w := newWorld(t)
		a := w.start()
		w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpReport] = ksm.CodeAccessDenied })
		must(t, deliver(t, a, w.command(info)))
		a.work.Wait()
		w.end(a)

		w.vault.set(func(v *fakeVault) { clear(v.refuse) })
		since(w)
		a = w.start()
		must(t, a.resume())
		a.work.Wait()
		replies := w.vault.replies()
		if len(replies) != 1 {
			t.Fatalf("%s: %d replies", reason, len(replies))
		}
		if result, detail := w.opened(a, replies[0]); result.Credential != trustv1.Outcome_OUTCOME_FAILED || result.Reason != string(reason) || detail.Info != nil {
			t.Errorf("%s: %+v, %+v", reason, result, detail)
		}
		w.end(a)
	}
}

// A server that shows what is known already, under a greater number, is not asked for ever.
func TestLogThatGoesNowhere(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	w.vault.set(func(v *fakeVault) {
		v.logAnswer = func(a *ksm.LogAnswer) { a.Epoch, a.Changes = 1<<40, v.w.signed[:1] }
	})
	if err := a.dir.Fetch(t.Context()); trust.ReasonOf(err) != trust.LogGap {
		t.Errorf("%v", err)
	}
}

// A run that broke off and waits to be started again holds up no drain: the journal has
// it for the next start.
func TestDrainWaitsForNoLaterStart(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpLease] = ksm.CodeAccessDenied })
	must(t, deliver(t, a, w.command(trustv1.Action_ACTION_ROTATE, w.onAccount(w.account(), seal.NewID()))))
	a.work.Wait()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, time.Hour) }()
	stop()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the agent waits for what may start later")
	}
}

// One account has one run at a time: a command waits for the run under way, a due run is
// not begun. Other accounts do not wait.
func TestOneRunPerAccount(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	w.vault.lease = func(ksm.LeaseRequest) (ksm.LeaseAnswer, bool) { <-hold; return ksm.LeaseAnswer{}, false }
	a := w.start()
	defer w.end(a)
	defer release()
	account, other := w.account(), w.account()
	first, second, third, due := seal.NewID(), seal.NewID(), seal.NewID(), seal.NewID()
	leased := func() seal.ID {
		t.Helper()
		return seal.ID(soon(t, "a lease", w.vault.leases).RunID)
	}
	rotate := trustv1.Action_ACTION_ROTATE
	must(t, deliver(t, a, w.command(rotate, w.onAccount(account, first))))
	if got := leased(); got != first {
		t.Errorf("leased %s", got)
	}
	must(t, deliver(t, a, w.command(rotate, w.onAccount(account, second))))
	a.runDue(t.Context(), &channelv1.RunDue{RunId: due.Bytes(), Account: account.Proto()})
	must(t, deliver(t, a, w.command(rotate, w.onAccount(other, third))))
	if got := leased(); got != third {
		t.Errorf("leased %s: another account has to wait", got)
	}
	if n := a.activeRuns(); n != 2 {
		t.Errorf("%d accounts at work", n)
	}
	release()
	if got := leased(); got != second {
		t.Errorf("leased %s after the first", got)
	}
	a.work.Wait()
	if n := len(w.vault.leases); n != 0 || a.activeRuns() != 0 {
		t.Errorf("%d further leases, %d at work", n, a.activeRuns())
	}
	a.runDue(t.Context(), &channelv1.RunDue{RunId: due.Bytes(), Account: account.Proto()})
	if got := leased(); got != due {
		t.Errorf("leased %s", got)
	}
	a.work.Wait()
}

// A run whose lease is lost is taken up at once, and then after a while, however often the
// vault says so and the router announces it.
func TestRunsThatBreakOffRest(t *testing.T) {
	w := newWorld(t)
	var leases atomic.Int32
	w.vault.lease = func(ksm.LeaseRequest) (ksm.LeaseAnswer, bool) {
		return ksm.LeaseAnswer{Epoch: 1}, leases.Add(1) < 100 // a run that does not rest ends then
	}
	w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpReport] = ksm.CodeEpochOld })
	a := w.start()
	a.againAfter = time.Hour
	account, id := w.account(), seal.NewID()
	rest := func(waits int) {
		t.Helper()
		for range 2 {
			soon(t, "a lease", w.vault.leases)
		}
		until(t, "it rests", func() bool { return a.activeRuns() == 0 })
		a.mu.Lock()
		defer a.mu.Unlock()
		if n := len(w.vault.leases); n != 0 || len(a.waits) != waits {
			t.Fatalf("%d more leases; %d runs wait, want %d", n, len(a.waits), waits)
		}
	}
	must(t, deliver(t, a, w.command(trustv1.Action_ACTION_ROTATE, w.onAccount(account, id))))
	rest(1)
	for range 3 {
		a.runDue(t.Context(), &channelv1.RunDue{RunId: id.Bytes(), Account: account.Proto()})
		rest(2)
	}
	w.end(a)

	// The next start waits for nothing, once.
	for _, leases := range []int{1, 0} {
		a = w.start()
		a.againAfter = time.Hour
		must(t, a.resume())
		until(t, "it rests", func() bool { return a.activeRuns() == 0 })
		if n := len(w.vault.leases); n != leases || len(a.waits) != 1 {
			t.Errorf("%d leases, want %d; %d runs wait", n, leases, len(a.waits))
		}
		for len(w.vault.leases) > 0 {
			<-w.vault.leases
		}
		must(t, a.journal.NoteAgain(account, time.Now())) // as a run does that comes to the target
		must(t, a.journal.BeginRun(journal.Run{ID: id, Folder: account.Folder, Account: account.Record, Command: seal.NewID()}, false))
		a.runDue(t.Context(), &channelv1.RunDue{RunId: id.Bytes(), Account: account.Proto()})
		a.work.Wait()
		if n := len(w.vault.leases); n != 0 || len(a.waits) != 1 {
			t.Errorf("announced: %d leases; %d runs wait", n, len(a.waits))
		}
		w.end(a)
	}
}

// One that rested is started again.
func TestRunsThatRestedGoOn(t *testing.T) {
	w := newWorld(t)
	w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpReport] = ksm.CodeEpochOld })
	w.vault.lease = func(ksm.LeaseRequest) (ksm.LeaseAnswer, bool) { return ksm.LeaseAnswer{Epoch: 1}, true }
	a := w.start()
	defer w.end(a)
	a.againAfter = time.Millisecond
	must(t, deliver(t, a, w.command(trustv1.Action_ACTION_ROTATE, w.onAccount(w.account(), seal.NewID()))))
	for range 5 {
		soon(t, "a lease", w.vault.leases)
	}
}

// Words of the router's that name nothing begin nothing; nor does one that comes when the
// agent drains, may not rotate, or has more than enough to do.
func TestRunsThatAreNotBegun(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	good := &channelv1.RunDue{RunId: seal.NewID().Bytes(), Account: w.account().Proto()}
	for name, due := range map[string]*channelv1.RunDue{
		"nothing":    {},
		"no account": {RunId: good.RunId},
		"no run":     {Account: good.Account},
		"short run":  {RunId: good.RunId[:15], Account: good.Account},
		"half a ref": {RunId: good.RunId, Account: &trustv1.Ref{FolderUid: w.folder.Bytes()}},
		"long ref":   {RunId: good.RunId, Account: &trustv1.Ref{FolderUid: make([]byte, 1<<16), RecordUid: make([]byte, 16)}},
	} {
		a.runDue(t.Context(), due)
		if a.activeRuns() != 0 {
			t.Fatalf("%s begins a run", name)
		}
	}
	idle := func(what string) {
		t.Helper()
		a.runDue(t.Context(), good)
		a.work.Wait()
		if len(w.vault.leases) != 0 {
			t.Fatalf("a run begins %s", what)
		}
	}
	a.draining.Store(true)
	idle("while the agent drains")
	a.draining.Store(false)
	a.cfg.Policy = only(t, "verify")
	idle("though the local policy forbids it")
	a.cfg.Policy = &policy.Policy{}
	for range maxActive {
		a.active[w.account()] = []run.Job{{}}
	}
	idle("beyond what an agent takes on")
	clear(a.active)
	a.runDue(t.Context(), good)
	a.work.Wait()
	if len(w.vault.leases) != 1 {
		t.Error("a good one does not begin a run")
	}
}

// Events that nobody takes away are dropped, and hold nobody up.
func TestRefusalsAreBounded(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	for range 10_000 {
		a.refuse(ksm.Refusal{Name: "command.refused"})
	}
	if n := len(a.refusals); n != cap(a.refusals) || n > 1000 {
		t.Errorf("%d are kept", n)
	}
}

// Health says what is, and nothing that it should not.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	get := func(path string) (int, string) {
		t.Helper()
		rec := httptest.NewRecorder()
		a.Handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		b, err := io.ReadAll(rec.Result().Body)
		must(t, err)
		return rec.Code, string(b)
	}
	head := w.log.Head()
	h := a.Health()
	if h.OK || h.Connected || h.Authenticated || h.LogEpoch != head.Epoch || !h.LogValidUntil.Equal(head.ValidUntil) || h.LogStale ||
		h.Draining || h.ActiveRuns != 0 || !h.LastRun.IsZero() || h.LastOutcome != "" || h.Version != version.Version {
		t.Errorf("before anything: %+v", h)
	}
	if code, body := get("/healthz"); code != 503 || strings.Contains(body, "lastRun") || !strings.Contains(body, `"authenticated":false`) {
		t.Errorf("%d: %s", code, body)
	}

	before := time.Now()
	must(t, deliver(t, a, w.command(trustv1.Action_ACTION_ROTATE, w.onAccount(w.account(), seal.NewID()))))
	a.work.Wait()
	if h := a.Health(); h.LastRun.Before(before) || h.LastOutcome != "none" || h.ActiveRuns != 0 {
		t.Errorf("after a run: %+v", h)
	}
	w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpLease] = ksm.CodeAccessDenied })
	must(t, deliver(t, a, w.command(trustv1.Action_ACTION_ROTATE, w.onAccount(w.account(), seal.NewID()))))
	a.work.Wait()
	if h := a.Health(); h.LastOutcome != "interrupted" {
		t.Errorf("after a run that was not told: %+v", h)
	}
	code, metrics := get("/metrics")
	for _, line := range []string{
		"rotunda_agent_authenticated 0", "rotunda_agent_active_runs 0", `rotunda_agent_runs_total{credential="none"} 1`,
		`rotunda_agent_runs_total{credential="interrupted"} 1`, fmt.Sprintf("rotunda_agent_log_epoch %d", head.Epoch),
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("%d: the metrics lack %q", code, line)
		}
	}

	// The log grows on, and old.
	w.change(trust.PolicyOp(90, true))
	must(t, a.dir.Fetch(t.Context()))
	if h := a.Health(); h.LogEpoch != head.Epoch+1 {
		t.Errorf("after a change: %+v", h)
	}
	a.now = func() time.Time { return w.log.Head().ValidUntil.Add(time.Hour) }
	if h := a.Health(); !h.LogStale || h.OK {
		t.Errorf("past the log's time: %+v", h)
	}
	a.now = time.Now
	a.draining.Store(true)
	if h := a.Health(); !h.Draining || h.OK {
		t.Errorf("draining: %+v", h)
	}
	if code, _ := get("/nothing"); code != 404 {
		t.Errorf("another path: %d", code)
	}
}

// A thousand runs that begin at once ask for the log once; what the router names as newer
// is fetched at once.
func TestLogIsFetchedWhenItMust(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	asked := func() (n int) { w.vault.set(func(v *fakeVault) { n = v.logs }); return n }
	for range 100 {
		_, err := a.dir.Fresh(t.Context())
		must(t, err)
	}
	if n := asked(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	a.dir.Hint(w.log.Head().Epoch) // known already
	_, err := a.dir.Fresh(t.Context())
	must(t, err)
	if n := asked(); n != 1 {
		t.Errorf("asked %d times, for what is known", n)
	}
	w.change(trust.PolicyOp(90, true))
	a.dir.Hint(w.log.Head().Epoch)
	l, err := a.dir.Fresh(t.Context())
	must(t, err)
	if n := asked(); n != 2 || l.Head() != w.log.Head() {
		t.Errorf("asked %d times, head %+v", n, l.Head())
	}
	a.dir.Hint(1 << 60) // a lie costs one question
	for range 10 {
		_, err = a.dir.Fresh(t.Context())
		must(t, err)
	}
	if n := asked(); n > 3 {
		t.Errorf("asked %d times, for a lie", n)
	}
}

// What the journal could not take is not known either: it is fetched again, and the
// next start finds no gap.
func TestJournalIsFullForOneWrite(t *testing.T) {
	w := newWorld(t)
	a := w.start()
	_, err := a.dir.Fresh(t.Context())
	must(t, err)
	known := a.dir.Known().Head()

	w.change(trust.PolicyOp(90, true))
	must(t, a.journal.Close()) // its next write fails
	if err := a.dir.Fetch(t.Context()); err == nil || a.dir.Known().Head() != known {
		t.Errorf("%v, the log went on to change %d", err, a.dir.Known().Head().Epoch)
	}
	j, _, err := journal.Open(filepath.Join(w.dir, "journal.db"), false, time.Now())
	must(t, err)
	a.journal, a.dir.journal = j, j
	w.change(trust.PolicyOp(80, true))
	must(t, a.dir.Fetch(t.Context()))
	w.end(a)

	a = w.start()
	defer w.end(a)
	if got := a.dir.Known().Head(); got != w.log.Head() {
		t.Errorf("the next start knows change %d, want %d", got.Epoch, w.log.Head().Epoch)
	}
}
