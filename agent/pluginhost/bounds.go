package pluginhost

import (
	"errors"
	"runtime"
	"time"
)

// bounds are what one plugin process may use. Ours need a tenth of it.
type bounds struct {
	memory    uint64        // bytes of memory of its own
	space     uint64        // bytes of addresses, of which each page costs a table, too
	stack     uint64        // bytes of the first thread's
	folder    uint64        // bytes of the private folder, where that is in memory
	file      uint64        // bytes of one file
	files     uint64        // descriptors
	processes uint64        // processes and threads
	burst     time.Duration // processor time at once
	share     float64       // processors, in the long run
}

func defaultBounds() bounds {
	return bounds{
		memory: 512 << 20, space: 8 << 30, stack: 8 << 20, folder: 16 << 20, file: 32 << 20, files: 1024, processes: 512,
		burst: time.Minute, share: 0.75 * float64(runtime.NumCPU()),
	}
}

// maxInodes bounds the files of a private folder that is in memory.
const maxInodes = 1024

// allowance is the processor time that a process may have used by now: it grows by the
// share, and is never more than the burst above what was used.
type allowance struct {
	until time.Duration
	at    time.Time
}

// Why a plugin is ended that keeps to no bound.
var (
	errProcessor = errors.New("it used more of the processor than a plugin may")
	errMemory    = errors.New("it took more memory than a plugin may")
)

// exceeded takes what the process has used up to now.
func (a *allowance) exceeded(used time.Duration, now time.Time, b bounds) bool {
	if a.at.IsZero() {
		a.until, a.at = b.burst, now
	}
	a.until += time.Duration(b.share * float64(now.Sub(a.at)))
	a.until, a.at = min(a.until, used+b.burst), now
	return used > a.until
}
