package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	garbage      = 32 << 20 // bytes that may lie about in a small server
	leastPercent = 25       // of what is in use, in a large one
	leanEvery    = 5 * time.Second
)

// stayLean has the collector come before garbage is as much as what is in use, where that
// is much: the agents of a large server only stand there, and their memory would be
// taken twice. GOGC in the environment goes before.
func stayLean(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(leanEvery)
	defer tick.Stop()
	for now := 100; ; {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if next := percentFor(live[0].Value.Uint64()); next != now {
			debug.SetGCPercent(next)
			now = next
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// percentFor is the collector's target (GOGC) for so many bytes in use.
func percentFor(live uint64) int {
	return max(leastPercent, min(100, int(garbage*100/max(1, live))))
}

// inUse is the memory of objects, those included that the collector has not found to be
// dead yet, and of stacks.
func inUse() uint64 {
	use := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(use)
	return use[0].Value.Uint64() + use[1].Value.Uint64()
}
