package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hung: one target that accepts and never answers, and one that takes seconds for
// everything, among many on one agent. The others' latency is measured in a steady
// stream of due runs, without the two and then with them.
func hung(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, o.resources, 4)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	others := w.resources[2:]
	stream := func(label string, perSecond int) (took []time.Duration, err error) {
		n := o.seconds * perSecond
		accounts, err := w.addAccounts(ctx, n, label, others, nil)
		if err != nil {
			return nil, err
		}
		first := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
		at := func(i int) time.Time { return first.Add(time.Duration(i) * time.Second / time.Duration(perSecond)) }
		if err := w.due(ctx, accounts, at); err != nil {
			return nil, err
		}
		runs, err := w.ended(ctx, accounts, first, nil)
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
	_ = stream
	return nil, fmt.Errorf("not yet")
}
