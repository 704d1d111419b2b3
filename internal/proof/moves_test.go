//go:build unix

package proof

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Work moves: what an agent had goes on with another agent of its pool. Each round fills
// the first agent with runs that stand at a step, as many as the resource takes at once,
// and has a schedule fire while the second agent is away: so the first is told of one
// more run, which waits for its turn. Then the second agent comes, and the first dies, or
// drains.

// What the manual says of work that moves. On an idle machine what was queued is done in a
// second or two, and what was staged as soon as its lease has run out.
const (
	promised = 10 * time.Second // an agent's death is noticed
	moved    = 10 * time.Second // what was queued is another's; what nobody hands over is told of again after 14 s and more
	takenUp  = 20 * time.Second // what was staged is another's; by its next turn alone it would be after 22 s and more
)

// within asserts that what was handed over was done in time.
func within(t *testing.T, what string, bound time.Duration, took ...time.Duration) {
	t.Helper()
	for _, d := range took {
		if d > bound {
			t.Errorf("%s was done by another agent after %s, promised within %s", what, d, bound)
		}
	}
}

type moves struct {
	*world
	second *installation.Agent
	pg     *targets.PG
	kind   kindOfTarget
	made   int
	runs   []*moving // whose end was waited for
}

// moving is a run whose end was waited for.
type moving struct{ done, lost bool }

func newMoves(t *testing.T) *moves {
	t.Helper()
	w := &moves{world: newWorld(t, "fault"), pg: targets.Postgres(t)}
	w.kind = kindOfTarget{name: "postgres", kind: sdk.Password, accepts: func(ctx context.Context, title string, c sdk.Credential) (bool, error) {
		return w.pg.Accepts(ctx, title, c.Secret)
	}}
	must(t, w.AddPostgres(t.Context(), "db", w.pg))
	var err error
	w.second, err = w.AddAgent(t.Context(), "gw2", installation.Pool)
	must(t, err)
	return w
}

// account is an account that the first agent has rotated: it knows how many runs the
// resource takes at once.
func (w *moves) account(t *testing.T, rotated bool) (title string) {
	t.Helper()
	w.made++
	title = fmt.Sprint("app", w.made)
	_, err := w.AddRole(t.Context(), w.pg, "db", title, title)
	must(t, err)
	if rotated {
		if o, err := w.Rotate(t.Context(), title, "--agent", w.agent.Name); err != nil {
			t.Fatalf("the honest case: %v: %+v", err, o)
		}
	}
	return title
}

// laden has the first agent stand at these points, with a scheduled run that waits for
// its turn, and the second agent at hand.
func (w *moves) laden(t *testing.T, points ...string) (standing []string, queued string) {
	t.Helper()
	for range points {
		standing = append(standing, w.account(t, true))
	}
	queued = w.account(t, false) // agents refuse a schedule soon after a change
	for i, point := range points {
		armed := filepath.Join(w.agent.Fault, point)
		must(t, os.WriteFile(armed, []byte("block"), 0o600))
		if o, err := w.Rotate(t.Context(), standing[i], "--no-wait", "--agent", w.agent.Name); err != nil {
			t.Fatalf("%v: %+v", err, o)
		}
		w.until(t, point+" is reached", 30*time.Second, func() bool { _, err := os.Stat(armed); return os.IsNotExist(err) })
	}
	w.second.Stop()
	w.until(t, "the second agent is gone", 30*time.Second, func() bool {
		var list struct {
			Agents []struct{ Name, State string } `json:"agents"`
		}
		must(t, w.JSON(t.Context(), &list, nil, "agent", "list"))
		for _, a := range list.Agents {
			if a.Name == w.second.Name {
				return a.State != "connected"
			}
		}
		return false
	})
	_, err := w.CLI(t.Context(), nil, "rotation", "set", queued, "--at", time.Now().Add(6*time.Second).Format(time.RFC3339Nano), "--min-interval", "1m")
	must(t, err)
	w.until(t, "the first agent is told of the scheduled run", 30*time.Second, func() bool {
		r, ok := w.newest(t, queued)
		return ok && strings.HasSuffix(r.AgentName, w.agent.Name)
	})
	must(t, w.second.Start(t.Context()))
	if r, _ := w.newest(t, queued); r.State != "queued" {
		t.Fatalf("the scheduled run does not wait for its turn: %+v", r)
	}
	return standing, queued
}

// until polls what gives no signal: other programs.
func (w *moves) until(t *testing.T, what string, patience time.Duration, ok func() bool) {
	t.Helper()
	p := pauses{}
	for end := time.Now().Add(patience); !ok(); p.sleep() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s\n%s", patience, what, w.agent.Tail())
		}
	}
}

// newest is the account's newest run; there may be none.
func (w *moves) newest(t *testing.T, title string) (r client.Run, ok bool) {
	t.Helper()
	account, err := w.record(t.Context(), title)
	must(t, err)
	runs, _, err := w.reader.Runs(t.Context(), client.RunFilter{Account: account.Ref.Record, Limit: 1})
	must(t, err)
	if len(runs) == 0 {
		return r, false
	}
	return runs[0], true
}

// done waits for the end of an account's newest run, by whom it must be, and says how
// long after a moment that was. A password's run is over with its commit.
func (w *moves) done(t *testing.T, title string, by *installation.Agent, since time.Time) time.Duration {
	t.Helper()
	var r client.Run
	m := &moving{}
	w.runs = append(w.runs, m)
	w.until(t, title+" is rotated", patienceToSettle, func() bool { r, _ = w.newest(t, title); return !r.Finished.IsZero() })
	m.done = r.Credential == trustv1.Outcome_OUTCOME_DONE && strings.HasSuffix(r.AgentName, by.Name)
	if !m.done {
		t.Errorf("%s, to be done by %s: %+v\n%s", title, by.Name, r, w.story(t.Context(), w.kind, title, w.agent, w.second))
	}
	must(t, w.settled(t.Context(), title))
	if err := w.opens(t.Context(), w.kind, title); err != nil {
		m.lost = true
		t.Error(err)
	}
	return r.Finished.Sub(since)
}

// rests waits until no run is unfinished.
func (w *moves) rests(t *testing.T) {
	t.Helper()
	w.until(t, "no run is unfinished", patienceToSettle, func() bool {
		runs, _, err := w.reader.Runs(t.Context(), client.RunFilter{State: "unfinished", Limit: 1})
		must(t, err)
		return len(runs) == 0
	})
}

// event waits for the first event of a name since a moment.
func (w *moves) event(t *testing.T, name string, since time.Time) (after time.Duration) {
	t.Helper()
	w.until(t, name, time.Minute, func() bool {
		for _, at := range w.events(t, name) {
			if !at.Before(since.Truncate(time.Millisecond)) {
				after = at.Sub(since)
				return true
			}
		}
		return false
	})
	return after
}

func (w *moves) events(t *testing.T, name string) (at []time.Time) {
	t.Helper()
	var list struct{ Events []struct{ Time time.Time } }
	must(t, w.JSON(t.Context(), &list, nil, "events", "--name", name))
	for _, e := range list.Events {
		at = append(at, e.Time)
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

func TestWorkMoves(t *testing.T) {
	beside(t)
	w := newMoves(t)
	var killed, silent, drained string
	t.Run("killed", func(t *testing.T) { killed = w.killed(t) })
	t.Run("silent", func(t *testing.T) { silent = w.silent(t) })
	t.Run("drained", func(t *testing.T) { drained = w.drained(t) })
	for _, name := range []string{"run.overdue", "run.failed", "run.alert"} {
		if at := w.events(t, name); len(at) > 0 {
			t.Errorf("%d times %s", len(at), name)
		}
	}
	lines := slices.DeleteFunc([]string{killed, silent, drained}, func(s string) bool { return s == "" }) // it broke off, or was not run
	report(t, "%s", strings.Join(lines, "\n"))
}

// The first agent is killed: with candidates that are staged and not applied, with others
// that the target has and the vault has not, and with a run that it has not begun.
func (w *moves) killed(t *testing.T) string {
	var noticed, staged, waiting []time.Duration
	for range 3 {
		standing, queued := w.laden(t, "before-apply", "after-apply", "before-apply", "after-apply")
		began := time.Now()
		w.agent.Kill()
		after := w.event(t, "agent.disconnected", began)
		if noticed = append(noticed, after); after > promised {
			t.Errorf("the agent's death was noticed after %s", after)
		}
		waiting = append(waiting, w.done(t, queued, w.second, began))
		for _, title := range standing {
			staged = append(staged, w.done(t, title, w.second, began))
		}
		w.event(t, "lease.taken", began)
		disarm(t, w.agent)
		must(t, w.agent.Start(t.Context()))
		w.rests(t) // it has what it left looked at
	}
	within(t, "what was queued", moved, waiting...)
	within(t, "what was staged", takenUp, staged...)
	return fmt.Sprintf("work moves: from SIGKILL noticed after %s (p50/max of %d); committed by another agent after %s, what was staged (of %d), and %s, what was queued (of %d)",
		spread(noticed), len(noticed), spread(staged), len(staged), spread(waiting), len(waiting))
}

// The first agent falls silent, as if its host were gone: it is stopped. When it goes on
// its lease is another's, and what it has in hand does not reach the target.
func (w *moves) silent(t *testing.T) string {
	standing, queued := w.laden(t, "before-apply", "before-apply", "before-verify", "before-commit")
	began := time.Now()
	must(t, w.agent.Pause())
	noticed := w.event(t, "agent.disconnected", began)
	if noticed > promised {
		t.Errorf("the agent's silence was noticed after %s", noticed)
	}
	waiting := w.done(t, queued, w.second, began)
	var staged []time.Duration
	for _, title := range standing {
		staged = append(staged, w.done(t, title, w.second, began))
	}
	within(t, "what was staged", takenUp, staged...)
	mark := w.agent.Mark()
	disarm(t, w.agent)
	must(t, w.agent.Resume())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.agent.WaitLog(ctx, mark, `"msg":"run interrupted"`, "the lease can no longer be relied on"); err != nil {
		t.Error(err)
	}
	must(t, w.agent.WaitConnected(t.Context()))
	w.rests(t)
	for _, title := range standing {
		must(t, w.opens(t.Context(), w.kind, title))
	}
	return fmt.Sprintf("work moves: from silence noticed after %s; committed by another agent after %s, what was staged (of %d), and %s, what was queued",
		spread([]time.Duration{noticed}), spread(staged), len(staged), spread([]time.Duration{waiting}))
}

// The first agent is told to stop. What it has not begun is the other's at once; what is
// under way it finishes, if it can in the time that it has.
func (w *moves) drained(t *testing.T) string {
	var waiting, staged []time.Duration
	w.runs = nil
	t.Run("in time", func(t *testing.T) {
		standing, queued := w.laden(t, "before-apply", "before-verify", "before-stage", "before-commit")
		began := time.Now()
		must(t, syscall.Kill(w.agent.Pid(), syscall.SIGTERM))
		waiting = append(waiting, w.done(t, queued, w.second, began)) // while the first goes on
		disarm(t, w.agent)
		ends(t, "the agent", w.agent.Exit)
		for _, title := range standing {
			w.done(t, title, w.agent, began)
		}
		must(t, w.agent.Start(t.Context()))
		w.rests(t)
	})
	t.Run("out of time", func(t *testing.T) {
		config := filepath.Join(w.agent.Dir, "agent.toml")
		text, err := os.ReadFile(config)
		must(t, err)
		must(t, os.WriteFile(config, fmt.Appendf(nil, "%sgrace = \"1s\"\n", text), 0o600))
		w.agent.Stop()
		must(t, w.agent.Start(t.Context()))
		standing, queued := w.laden(t, "after-apply", "before-apply", "after-stage", "before-verify")
		began, mark := time.Now(), w.agent.Mark()
		must(t, syscall.Kill(w.agent.Pid(), syscall.SIGTERM))
		waiting = append(waiting, w.done(t, queued, w.second, began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.agent.WaitLog(ctx, mark, "the grace is over"); err != nil {
			t.Fatal(err)
		}
		disarm(t, w.agent)
		ends(t, "the agent", w.agent.Exit)
		for _, title := range standing {
			staged = append(staged, w.done(t, title, w.second, began))
		}
		must(t, os.WriteFile(config, text, 0o600))
		must(t, w.agent.Start(t.Context()))
		w.rests(t)
	})
	within(t, "what was queued", moved, waiting...)
	within(t, "what was left staged", takenUp, staged...)
	undone, lost := 0, 0
	for _, m := range w.runs {
		if !m.done {
			undone++
		}
		if m.lost {
			lost++
		}
	}
	return fmt.Sprintf("drain: %d runs, %d lost, %d not done by whom it was to be; another agent committed what was queued after %s (p50/max of %d), what was left staged after %s (of %d)",
		len(w.runs), lost, undone, spread(waiting), len(waiting), spread(staged), len(staged))
}

// disarm lets what stands at a point go on.
func disarm(t *testing.T, a *installation.Agent) {
	t.Helper()
	entries, err := os.ReadDir(a.Fault)
	must(t, err)
	for _, e := range entries {
		must(t, os.Remove(filepath.Join(a.Fault, e.Name())))
	}
}

// spread is the median and the greatest.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "nothing"
	}
	slices.Sort(all)
	r := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	if len(all) == 1 {
		return r(all[0])
	}
	return r(all[len(all)/2]) + " / " + r(all[len(all)-1])
}
