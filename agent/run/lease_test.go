package run

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

func TestLeaseEndsEightSecondsAfterTheLastAcknowledgedHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var acked atomic.Pointer[time.Time]
		acked.Store(&time.Time{})
		held := -1
		l := NewLeases(func() time.Time { return *acked.Load() }, func(n int) { held = n }, time.Now)
		go l.Watch(t.Context())
		ctx, hold := l.Guard(t.Context())
		hold.Taken(start)
		if held != 1 {
			t.Fatalf("%d leases held", held)
		}
		later := start.Add(3 * time.Second)
		acked.Store(&later)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Fatal("ended although a heartbeat was acknowledged")
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), ErrLeaseLost) {
			t.Fatalf("cause %v", context.Cause(ctx))
		}
		hold.End()
		if held != 0 {
			t.Fatalf("%d leases held after release", held)
		}
	})
}

// An agent was stopped, and its heartbeats go through again before anybody looked at its
// leases: others may have had them.
func TestLateHeartbeatKeepsNothing(t *testing.T) {
	start := time.Now()
	now, acked := start, time.Time{}
	l := NewLeases(func() time.Time { return acked }, func(int) {}, func() time.Time { return now })
	_, hold := l.Guard(t.Context())
	defer hold.End()
	hold.Taken(start)
	for range 3 { // each within the time of the one before
		acked = now.Add(LeaseWork - time.Second)
		now = acked
		if err := hold.Check(); err != nil {
			t.Fatalf("%v after it began: %v", now.Sub(start), err)
		}
	}
	acked = now.Add(LeaseWork)
	now = acked
	for range 2 { // and it stays lost
		if err := hold.Check(); !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("after it was stopped for %v: %v", LeaseWork, err)
		}
		acked = now
	}
}

// A vault that is slow to answer, to an agent whose heartbeats it acknowledges.
func TestLeaseThatWasLongAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration // heartbeats
		lost  bool
	}{
		"heartbeats went on":    {2 * time.Second, false},
		"the agent stood still": {2 * LeaseWork, true},
	} {
		start := time.Now()
		now, acked := start, time.Time{}
		l := NewLeases(func() time.Time { return acked }, func(int) {}, func() time.Time { return now })
		_, hold := l.Guard(t.Context())
		for now.Before(start.Add(2 * LeaseWork)) {
			now = now.Add(c.every)
			acked = now
			l.expire()
		}
		hold.Taken(start)
		if err := hold.Check(); errors.Is(err, ErrLeaseLost) != c.lost {
			t.Errorf("%s: %v", name, err)
		}
		hold.End()
	}
}

// A process that was stopped goes on where it stood, before the watch has had its turn.
func TestCheckNeedsNoWatch(t *testing.T) {
	var now time.Time
	l := NewLeases(func() time.Time { return time.Time{} }, func(int) {}, func() time.Time { return now })
	ctx, hold := l.Guard(t.Context())
	start := time.Now()
	now = start.Add(time.Hour)
	if err := hold.Check(); err != nil {
		t.Fatalf("no lease was taken, and it is lost: %v", err)
	}
	now = start
	hold.Taken(start)
	if err := hold.Check(); err != nil || ctx.Err() != nil {
		t.Fatalf("at once: %v, %v", err, ctx.Err())
	}
	now = start.Add(LeaseWork)
	if err := hold.Check(); !errors.Is(err, ErrLeaseLost) || !errors.Is(context.Cause(ctx), ErrLeaseLost) {
		t.Fatalf("past its time: %v, %v", err, context.Cause(ctx))
	}
}

// changesAt counts what a run has changed on the target when it is stopped before one of
// the steps that change something, where an earlier run has left a secret to be ended.
var changesAt = map[string]struct{ applied, retired int }{
	"prepare": {0, 0}, // which ends what the earlier run left
	"apply":   {0, 1},
	"retire":  {1, 1},
}

// stopsBefore runs into what stop makes of the run before a step: nothing more is changed
// on the target. After mend the same run changes the rest.
func (w *world) stopsBefore(step string, stop func(*Run), mend func()) error {
	w.t.Helper()
	w.target.manifest.Overlap, w.target.retire = []sdk.Kind{sdk.Password}, sdk.Unchanged
	if out, err := w.run(seal.NewID()); err != nil || out.Reason != "retire.pending" {
		w.t.Fatalf("the earlier run: %+v, %v", out, err)
	}
	w.later(2 * time.Minute)
	w.target.retire, w.target.applied, w.target.retired = 0, nil, nil

	r := &Run{e: w.engine, job: Job{ID: seal.NewID(), Account: w.account}, state: Queued, as: "rotate"}
	ctx, hold := w.engine.Leases.Guard(w.t.Context())
	defer hold.End()
	r.hold = hold
	w.engine.Hint = func(_ seal.ID, _ trust.Ref, phase string) {
		if phase == step {
			stop(r)
		}
	}
	stopped := r.drive(ctx)
	r.leave()
	want := changesAt[step]
	if stopped == nil || len(w.target.applied) != want.applied || len(w.target.retired) != want.retired || !w.kept() {
		w.t.Errorf("stopped before %s: %v: applied %d, ended %d, want %+v; what opens the target is kept: %v", step, stopped, len(w.target.applied), len(w.target.retired), want, w.kept())
	}

	mend()
	w.engine.Hint = func(seal.ID, trust.Ref, string) {}
	if out, err := w.run(r.job.ID); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 1 || len(w.target.retired) != 2 {
		w.t.Errorf("stopped before %s, the same run again: %+v, %v: applied %d, ended %d", step, out, err, len(w.target.applied), len(w.target.retired))
	}
	return stopped
}

// Nobody watches here, and no context ends by itself: a run that goes on past its lease
// changes nothing on the target, be it to set a secret, to end one, or to end what an
// earlier run left.
func TestPastItsLeaseARunChangesNothing(t *testing.T) {
	for step := range changesAt {
		w := newWorld(t, false)
		var slept time.Duration
		w.engine.Leases = NewLeases(func() time.Time { return time.Time{} }, func(int) {}, func() time.Time { return time.Now().Add(slept) })
		err := w.stopsBefore(step, func(*Run) { slept = LeaseWork }, func() { slept = 0 })
		if !errors.Is(err, ErrLeaseLost) || errors.As(err, new(*Stop)) { // and says nothing of the target
			t.Errorf("stopped before %s: %v", step, err)
		}
	}
}

// What a run gave to its journal is there before anything is changed on the target.
func TestNothingIsChangedThatTheJournalDoesNotHave(t *testing.T) {
	full := errors.New("no space left")
	for step := range changesAt {
		w := newWorld(t, false)
		err := w.stopsBefore(step, func(r *Run) { r.inJournal(func() error { return full }) }, func() {})
		if !errors.Is(err, full) {
			t.Errorf("stopped before %s: %v", step, err)
		}
	}
}

func TestElapsedIsTheLargerOfTheClocks(t *testing.T) {
	from := time.Now()
	suspended := from.Add(time.Second).Round(0).Add(time.Hour) // wall clock alone
	if d := elapsed(from, suspended); d < time.Hour {
		t.Fatalf("a suspend went unseen: %v", d)
	}
}
