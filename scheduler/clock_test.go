package scheduler

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// The server's clock is ahead for a moment. What it put off by that comes when it should.
func TestTheClockWasAhead(t *testing.T) {
	nightly := &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: "0 3 * * *"}}
	year := 365 * 24 * time.Hour
	for _, row := range []struct {
		name    string
		ahead   time.Duration
		during  func(w *world, account seal.ID) // behind the firing that comes by that clock
		restart bool
		state   string
		told    int // of a run, when the clock is right again
	}{
		{"the run ended", year, func(w *world, a seal.ID) { w.succeed(a) }, false, Scheduled, 0},
		{"and the server was restarted", year, func(w *world, a seal.ID) { w.succeed(a) }, true, Scheduled, 0},
		{"the run failed, and is tried again at once", year, func(w *world, a seal.ID) { w.fail(a, "timeout") }, false, Running, 1},
		{"the run waits for its agent", year, func(*world, seal.ID) {}, false, Running, 1},
		{"the same, after a restart", year, func(*world, seal.ID) {}, true, Running, 1},
		{"by a night", 24 * time.Hour, func(w *world, a seal.ID) { w.succeed(a) }, false, Scheduled, 0},
		{"by a minute", time.Minute, func(*world, seal.ID) {}, false, Scheduled, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			right := w.clock()
			account := w.account(nightly)
			w.here(w.a)
			w.pass()
			w.set(right.Add(row.ahead))
			w.pass()
			row.during(w, account)
			w.told(w.a)

			w.set(right)
			if row.restart {
				w.s = w.scheduler()
			}
			w.pass()
			rot := w.rotation(account)
			if got, want := time.UnixMilli(rot.NextDue), right.Add(3*time.Hour); !got.Equal(want) || rot.State != row.state {
				t.Errorf("due at %v in state %q, want %v in %q", got.UTC(), rot.State, want, row.state)
			}
			if n := len(w.told(w.a)); n != row.told {
				t.Errorf("the agent was told of %d runs, want %d", n, row.told)
			}
		})
	}
}

// An agent took a lease by a clock that was an hour ahead, and died. When the clock is
// right again the lease runs out as any other, and the run goes on elsewhere.
func TestTheClockWasAheadOfALease(t *testing.T) {
	w := newWorld(t)
	w.here(w.a, w.b)
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	run := w.last(account)
	right := w.clock()
	w.set(right.Add(time.Hour))
	w.lease(w.a, account, run.RunID)
	w.beat(w.a)
	w.write(func(q *db.Queries) error {
		ctx := context.Background()
		if err := q.AgentGone(ctx, db.AgentGoneParams{Org: w.org, AgentID: w.a.ID[:], Node: "one"}); err != nil {
			return err
		}
		return q.MoveRun(ctx, db.MoveRunParams{
			State: "staged", AgentID: w.a.ID[:], Attempt: 1, NextAttempt: w.clock().UnixMilli(), Org: w.org, RunID: run.RunID,
		})
	})
	w.pass()
	w.told(w.b)

	w.set(right)
	w.pass()
	if n := len(w.told(w.b)); n != 0 {
		t.Error("another agent was sent at once: the holder may be alive")
	}
	w.later(leaseTerm + time.Second)
	w.pass()
	if told := w.told(w.b); len(told) != 1 || told[0].Action != "recover" || !bytes.Equal(told[0].RunId, run.RunID) {
		t.Errorf("told %v", told)
	}
	w.lease(w.b, account, run.RunID)
}
