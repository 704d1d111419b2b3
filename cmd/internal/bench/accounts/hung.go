package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/trust"
)

const (
	perSecond = 4               // due runs of the others
	slowness  = 3 * time.Second // of each answer of the slow target
)

// hung: one target that accepts and never answers, and one that takes seconds for
// everything, among many on one agent. The others' latency is measured in a steady
// stream of due runs, without the two and with them.
func hung(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, o.resources, 4)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	deaf, slow, others := w.resources[:1], w.resources[1:2], w.resources[2:]
	if err := w.warmOn(ctx, others[:min(fast, len(others))], "hung"); err != nil {
		return nil, err
	}
	without, err := w.stream(ctx, o, "without", others, nil)
	if err != nil {
		return nil, err
	}
	w.targets[0].wait.Store(-1)
	w.targets[1].wait.Store(int64(slowness))
	// As many as the two may have at once, and more that wait.
	bad, err := w.addAccounts(ctx, 8, "deaf", deaf, nil)
	if err != nil {
		return nil, err
	}
	late, err := w.addAccounts(ctx, 8, "slow", slow, nil)
	if err != nil {
		return nil, err
	}
	with, err := w.stream(ctx, o, "with", others, append(bad, late...))
	if err != nil {
		return nil, err
	}
	ends, lates, err := w.endsOf(ctx, bad, late)
	if err != nil {
		return nil, err
	}
	t := figures("hung", fmt.Sprintf("One target that hangs and one that is slow, among %d on one agent", o.resources))
	for _, p := range []int{50, 99} {
		a, b := percentile(without, p), percentile(with, p)
		t.add(fmt.Sprintf("the other %d, due to verified, p%d of %d runs", len(others), p, len(with)), a, b, b.Seconds()/a.Seconds(), aimed(flat, b.Seconds()/a.Seconds() <= flatBound))
	}
	t.add("the target that hangs, its first run ends after", "30 s", ends.took, ends.took.Seconds()/30, aimed("its deadline", ends.took < 31*time.Second))
	t.add("the slow target, due to verified, p50", 3*slowness, lates, lates.Seconds()/(3*slowness).Seconds(), "")
	t.note("The others' floor is their own latency without the two, in the same run: %d due runs a second, each on another resource, so that most of them start a plugin's process.", perSecond)
	t.note("The run on the target that hangs: state %s, class %s, reason %s. The slow target takes %s for each answer, of which a run needs three.", ends.state, ends.class, ends.reason, span(slowness))
	return []*table{t}, nil
}

// stream has accounts due one after the other, beside those that trouble the agent, which
// are due at its beginning, and gives the time of each from due to verified.
func (w *world) stream(ctx context.Context, o options, label string, on []trust.Ref, trouble []account) (took []time.Duration, err error) {
	accounts, err := w.addAccounts(ctx, o.seconds*perSecond, label, on, nil)
	if err != nil {
		return nil, err
	}
	first := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
	at := func(i int) time.Time { return first.Add(time.Duration(i) * time.Second / perSecond) }
	if err := w.due(ctx, trouble, func(int) time.Time { return first }); err != nil {
		return nil, err
	}
	if err := w.due(ctx, accounts, at); err != nil {
		return nil, err
	}
	time.Sleep(time.Until(at(len(accounts)))) // their due times
	runs, err := w.listed(ctx, accounts, first.Add(-2*time.Second))
	if err != nil {
		return nil, err
	}
	if err := wellDone(accounts, runs); err != nil {
		return nil, err
	}
	for i, a := range accounts {
		took = append(took, time.UnixMilli(runs[a.ref.Record].Finished).Sub(at(i)))
	}
	return took, nil
}

// end is how a run ended.
type end struct {
	took                 time.Duration
	state, class, reason string
}

// endsOf waits for the first end on the target that hangs, and for all on the slow one.
func (w *world) endsOf(ctx context.Context, bad, late []account) (e end, slow time.Duration, err error) {
	since := time.Now().Add(-10 * time.Minute)
	runs, err := w.listed(ctx, late, since)
	if err != nil {
		return e, 0, err
	}
	if err := wellDone(late, runs); err != nil {
		return e, 0, err
	}
	var took []time.Duration
	for _, a := range late {
		r := runs[a.ref.Record]
		took = append(took, time.UnixMilli(r.Finished).Sub(time.UnixMilli(r.Created)))
	}
	for {
		if runs, err = w.runs(ctx, since); err != nil {
			return e, 0, err
		}
		for _, a := range bad {
			r := runs[a.ref.Record]
			if r.GetFinished() == 0 {
				continue
			}
			this := end{time.UnixMilli(r.Finished).Sub(time.UnixMilli(r.Started)), r.State, r.Class, r.Reason}
			if e.took == 0 || this.took < e.took {
				e = this
			}
		}
		if e.took > 0 {
			return e, percentile(took, 50), nil
		}
		select {
		case <-ctx.Done():
			return e, 0, fmt.Errorf("no run on the target that hangs has ended: %w", context.Cause(ctx))
		case <-time.After(250 * time.Millisecond):
		}
	}
}
