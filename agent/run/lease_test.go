package run

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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

// A process that was stopped goes on where it stood, before the watch has had its turn.
func TestLeaseIsLookedAtBeforeTheTargetIsTouched(t *testing.T) {
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

func TestElapsedIsTheLargerOfTheClocks(t *testing.T) {
	from := time.Now()
	suspended := from.Add(time.Second).Round(0).Add(time.Hour) // wall clock alone
	if d := elapsed(from, suspended); d < time.Hour {
		t.Fatalf("a suspend went unseen: %v", d)
	}
}
