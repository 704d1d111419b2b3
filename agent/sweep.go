package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// A server that was put back from a backup says so when the agent connects. Then the
// agent goes once through all that it remembers, page by page: changes of the log and
// statements that the server lacks are sent back, and each account of which it keeps a
// newer secret gets a run of its own, which asks the target first (run/kept.go).

const (
	sweepPage   = 50                     // records compared at a time
	sweepRuns   = 8                      // runs of a sweep at once: others want targets, too
	sweepPasses = 6                      // looks at the accounts, while some are still behind
	sweepJitter = 10 * time.Second       // agents that come back together do not begin together
	sweepAgain  = 15 * time.Second       // before the second pass; it doubles
	sweepEvery  = time.Hour              // a server that says so all the time is heard so often
	sweepRetry  = 500 * time.Millisecond // before a page is asked for again; it doubles
)

// sweep counts what this agent has brought back since its start.
type sweep struct {
	jitter, again time.Duration // sweepJitter, sweepAgain; shorter in tests

	wanted     chan time.Time // when the server was restored; the newest
	active     atomic.Bool
	statements atomic.Uint64
	runs       atomic.Uint64
}

// restored is the server's word, at each connection.
func (a *Agent) restored(at time.Time) {
	for {
		select {
		case a.sweep.wanted <- at:
			return
		default:
		}
		select {
		case <-a.sweep.wanted:
		default:
		}
	}
}

// sweeps does what restored asks for, until ctx ends.
func (a *Agent) sweeps(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-a.sweep.wanted:
			if err := a.sweepOnce(ctx, at); err != nil && ctx.Err() == nil {
				a.log.Error("what the restored server has lost was not all sent back; the next connection tries again", "error", err)
			}
		}
	}
}

// sweepOnce sweeps unless it was done for that restore already.
func (a *Agent) sweepOnce(ctx context.Context, at time.Time) error {
	last, err := a.journal.Sweep()
	if err != nil || last.Done && last.Restored.Equal(at) {
		return err
	}
	wait := rand.N(a.sweep.jitter)
	if !last.Restored.Equal(at) {
		wait = max(wait, last.Begun.Add(sweepEvery).Sub(a.now()))
		wait = min(wait, sweepEvery)
	}
	if err := pause(ctx, wait); err != nil {
		return err
	}
	now := journal.Sweep{Restored: at, Begun: a.now()}
	if err := a.journal.NoteSweep(now); err != nil {
		return err
	}
	a.sweep.active.Store(true)
	defer a.sweep.active.Store(false)
	changes, statements := a.dir.sent.Load(), a.sweep.statements.Load()
	a.log.Info("the server was restored from a backup: sending back what it has lost", "restored", at.UTC())
	if err := persevere(ctx, func() error { return a.dir.Fetch(ctx) }); err != nil {
		return err
	}
	err = a.pages(ctx, a.journal.StatedRecords, func(page []trust.Ref) error {
		n, err := a.engine.Restate(ctx, page)
		a.sweep.statements.Add(uint64(n))
		return err
	})
	if err != nil {
		return err
	}
	left, err := a.sweepValues(ctx)
	if err != nil {
		return err
	}
	a.log.Info("what the restored server had lost was sent back", "changes", a.dir.sent.Load()-changes, "statements", a.sweep.statements.Load()-statements, "accounts_left", left)
	now.Done = true
	return a.journal.NoteSweep(now)
}

// sweepValues looks for accounts that are behind until there are none, or as often as is
// worth it: an account may be under way, its target or another agent's statement missing.
// Those that are left heal by their next run.
func (a *Agent) sweepValues(ctx context.Context) (left int, err error) {
	again := a.sweep.again
	for range sweepPasses {
		left = 0
		var under sync.WaitGroup
		slots := make(chan struct{}, sweepRuns)
		err := a.pages(ctx, a.journal.KeptAccounts, func(page []trust.Ref) error {
			jobs, err := a.engine.Lost(ctx, page)
			if err != nil {
				return err
			}
			for _, job := range jobs {
				left++
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				under.Add(1)
				if done := func() { <-slots; under.Done() }; !a.startThen(job, done) {
					done()
				} else {
					a.sweep.runs.Add(1)
				}
			}
			return nil
		})
		under.Wait()
		if err != nil || left == 0 {
			return left, err
		}
		a.log.Info("accounts of which the restored server had lost something were looked at", "accounts", left)
		if err := pause(ctx, again/2+rand.N(again)); err != nil {
			return left, err
		}
		again *= 2
	}
	return left, nil
}

// pages goes through a list of the journal's. After each page it rests about as long as
// the page took, so that many agents at once are no storm.
func (a *Agent) pages(ctx context.Context, list func(after trust.Ref, limit int) ([]trust.Ref, error), do func([]trust.Ref) error) error {
	var after trust.Ref
	for {
		page, err := list(after, sweepPage)
		if err != nil || len(page) == 0 {
			return err
		}
		began := time.Now()
		if err := inParts(ctx, page, do); err != nil {
			return err
		}
		if err := pause(ctx, time.Duration(float64(time.Since(began))*(0.5+rand.Float64()))); err != nil {
			return err
		}
		after = page[len(page)-1]
	}
}

// inParts does a page, in halves where it is more than one answer may hold.
func inParts(ctx context.Context, page []trust.Ref, do func([]trust.Ref) error) error {
	err := persevere(ctx, func() error { return do(page) })
	if !errors.Is(err, &ksm.Error{Code: ksm.CodeTooLarge}) || len(page) == 1 {
		return err
	}
	half := len(page) / 2
	return errors.Join(inParts(ctx, page[:half], do), inParts(ctx, page[half:], do))
}

// persevere repeats what the vault did not answer, for some minutes. A refusal is an answer.
func persevere(ctx context.Context, do func() error) error {
	for wait := sweepRetry; ; wait *= 2 {
		err := do()
		var refused *ksm.Error
		switch {
		case err == nil || trust.ReasonOf(err) != "" || wait > 2*time.Minute:
			return err
		case errors.As(err, &refused) && refused.Code != ksm.CodeThrottled:
			return err
		}
		if err := pause(ctx, wait/2+rand.N(wait)); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
