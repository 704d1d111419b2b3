package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cpuOf is the processor time that a process has used so far, by the scheduler's clock:
// what a second of idling costs is far below a clock tick. Zero where the system does
// not tell.
func cpuOf(pid int) (sum time.Duration) {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		ns, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(ns)
	}
	return sum
}

// children are the processes that a process has started: an agent's plugins.
func children(pid int) (pids []int) {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	seen := map[int]bool{}
	add := func(text string) {
		for _, f := range strings.Fields(text) {
			if n, err := strconv.Atoi(f); err == nil && !seen[n] {
				seen[n] = true
				pids = append(pids, n)
			}
		}
	}
	add(string(b))
	// Any thread may have forked.
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		add(string(b))
	}
	return pids
}

func cpuOfAll(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		sum += cpuOf(pid)
	}
	return sum
}

// memory is what a process holds in memory now, in MiB; most is the most so far.
func memory(pid int) (now, most float64) {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for text := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(text, ":")
		kb, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, _ := strconv.ParseFloat(kb, 64)
		switch name {
		case "VmRSS":
			now = n / 1024
		case "VmHWM":
			most = n / 1024
		}
	}
	return now, most
}

// percentile of times, in any order.
func percentile(l []time.Duration, p int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	l = slices.Sorted(slices.Values(l))
	return l[min(len(l)-1, len(l)*p/100)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
