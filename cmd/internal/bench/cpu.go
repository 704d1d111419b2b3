package main

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is what Linux counts processor time in (USER_HZ).
const tick = 10 * time.Millisecond

// cpuTimes is the processor time that processes have used so far: each of the named
// ones, and for "agent" its plugins apart, and with "postgres" its server processes,
// those that have ended too. Nil where the system does not tell.
func cpuTimes(pids map[string]int) map[string]time.Duration {
	all := processes()
	if len(all) == 0 {
		return nil
	}
	out := map[string]time.Duration{}
	for name, pid := range pids {
		p := all[pid]
		out[name] = p.own
		if name == "postgres" {
			out[name] += p.reaped
		}
		for _, c := range all {
			switch {
			case c.parent != pid:
			case name == "postgres":
				out[name] += c.own + c.reaped
			case name == "agent":
				out["plugin"] += c.own
			}
		}
	}
	return out
}

type process struct {
	parent      int
	own, reaped time.Duration
}

// processes reads /proc; what ends meanwhile is left out.
func processes() map[int]process {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	out := map[int]process{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		// The name, in parentheses, may hold anything: the fields are counted behind it.
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 15 {
			continue
		}
		n := func(i int) int64 { v, _ := strconv.ParseInt(f[i], 10, 64); return v }
		out[pid] = process{int(n(1)), time.Duration(n(11)+n(12)) * tick, time.Duration(n(13)+n(14)) * tick}
	}
	return out
}

func ownCPU() time.Duration { return processes()[os.Getpid()].own }

// perRun is what was used between two readings, for each of n rotations.
func perRun(before, after map[string]time.Duration, n int) map[string]time.Duration {
	if before == nil || after == nil || n == 0 {
		return nil
	}
	out := maps.Clone(after)
	for name := range out {
		out[name] = max(0, out[name]-before[name]) / time.Duration(n)
	}
	return out
}
