package main

import (
	"context"
	"time"

	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
)

// bare does by the client library what a rotation does to the target: for a time, n at
// once, each on a session of its own.
func bare(ctx context.Context, t floor.Target, accounts []*floor.Account, verify string, n int, span time.Duration) (s sample, err error) {
	if err := t.Warm(ctx, n); err != nil {
		return s, err
	}
	before := floor.CPU(map[string]int{"target": t.Pid()})
	self := floor.OwnCPU()
	s.took, s.perSecond, err = floor.Times(ctx, n, span, accounts, func(ctx context.Context, worker int, a *floor.Account) error {
		return t.Rotate(ctx, worker, a, verify)
	})
	if err != nil {
		return s, err
	}
	s.cpu = floor.PerRun(before, floor.CPU(map[string]int{"target": t.Pid()}), len(s.took))
	if s.cpu != nil {
		s.cpu["client library"] = (floor.OwnCPU() - self) / time.Duration(len(s.took))
	}
	return s, nil
}
