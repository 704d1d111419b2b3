package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// floor does by the bare client library what a rotation does to the target: for a time,
// n at once, each on a session of its own.
func floor(ctx context.Context, t target, accounts []account, verify string, n int, span time.Duration) (sample, error) {
	if err := t.warm(ctx, n); err != nil {
		return sample{}, err
	}
	before := cpuTimes(map[string]int{"target": t.pid()})
	self := ownCPU()
	var next atomic.Int64
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	began := time.Now()
	var all sync.WaitGroup
	for w := range n {
		all.Go(func() {
			for time.Since(began) < span && errs[w] == nil {
				a := accounts[int(next.Add(1))%len(accounts)]
				start := time.Now()
				errs[w] = t.rotate(ctx, w, a.login, verify)
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return sample{}, err // one says it
		}
	}
	var s sample
	for _, t := range took {
		s.took = append(s.took, t...)
	}
	s.perSecond = float64(len(s.took)) / elapsed.Seconds()
	s.cpu = perRun(before, cpuTimes(map[string]int{"target": t.pid()}), len(s.took))
	if s.cpu != nil {
		s.cpu["client library"] = (ownCPU() - self) / time.Duration(len(s.took))
	}
	return s, nil
}
