// Package lean sets how much garbage a long-running program lets lie about.
package lean

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	garbage      = 24 << 20 // bytes that may lie about
	mostPercent  = 400      // of what is in use, in a small program
	leastPercent = 20       // in a large one
	every        = 5 * time.Second
)

// Stay has the collector come when some 24 MiB of garbage lie about, until ctx ends. By
// itself it comes when garbage is as much as what is in use: in a small program that has
// much to do many times a second, which takes up to a fifth of its work; in a server
// with thousands of agents, which only stand there, so late that their memory is taken
// twice. GOGC in the environment goes before.
func Stay(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(every)
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
	return max(leastPercent, min(mostPercent, int(garbage*100/max(1, live))))
}

// InUse is the memory of objects, those included that the collector has not found to be
// dead yet, and of stacks.
func InUse() uint64 {
	use := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(use)
	return use[0].Value.Uint64() + use[1].Value.Uint64()
}
