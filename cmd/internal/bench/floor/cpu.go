package floor

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

// CPU is the processor time that processes have used so far: each of the named
// ones, and for "agent" its plugins apart, and with "target" all that it has started,
// those that have ended too. Nil where the system does not tell.
func CPU(pids map[string]int) map[string]time.Duration {
	all := processes()
	if len(all) == 0 {
		return nil
	}
	out := map[string]time.Duration{}
	for name, pid := range pids {
		out[name] = all[pid].own
		if name == "target" {
			out[name] = tree(all, pid)
		}
		for _, c := range all {
			if c.parent == pid && name == "agent" {
				out["plugin"] += c.own
			}
		}
	}
	return out
}

// tree is what a process and all below it have used.
func tree(all map[int]process, pid int) time.Duration {
	sum := all[pid].own + all[pid].reaped
	for child, c := range all {
		if c.parent == pid {
			sum += tree(all, child)
		}
	}
	return sum
}

// Written is how many bytes a process has caused to be written to disk so far, which
// Linux tells; else 0.
func Written(pid int) float64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "io"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(n), 64)
			return v
		}
	}
	return 0
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

// OwnCPU is what this process has used.
func OwnCPU() time.Duration { return processes()[os.Getpid()].own }

// PerRun is what was used between two readings, for each of n rotations.
func PerRun(before, after map[string]time.Duration, n int) map[string]time.Duration {
	if before == nil || after == nil || n == 0 {
		return nil
	}
	out := maps.Clone(after)
	for name := range out {
		out[name] = max(0, out[name]-before[name]) / time.Duration(n)
	}
	return out
}
