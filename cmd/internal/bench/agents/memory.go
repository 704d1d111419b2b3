package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory of a process, in bytes, as the kernel counts it.
type memory struct {
	Resident     int64 `json:"resident"`
	Proportional int64 `json:"proportional"` // pages shared with others count in part
	Peak         int64 `json:"peak"`         // resident, since its start
}

func memoryOf(pid int) (m memory, err error) {
	read := func(file, field string) int64 {
		b, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if readErr != nil {
			err = errors.Join(err, readErr)
			return 0
		}
		for line := range bytes.Lines(b) {
			if rest, ok := strings.CutPrefix(string(line), field+":"); ok {
				kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				return kb << 10
			}
		}
		err = errors.Join(err, fmt.Errorf("%s of process %d holds no %s", file, pid, field))
		return 0
	}
	m.Resident = read("smaps_rollup", "Rss")
	m.Proportional = read("smaps_rollup", "Pss")
	m.Peak = read("status", "VmHWM")
	return m, err
}
