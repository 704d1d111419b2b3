package conformance

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// pids are the plugin's processes: children of this one that run the host's copy of its
// binary.
func (k *kit) pids() []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err == nil && strings.HasPrefix(exe, k.dir+"/") {
			out = append(out, filepath.Base(dir))
		}
	}
	return out
}

// kill ends them, and says how many there were.
func (k *kit) kill() int {
	n := 0
	for _, pid := range k.pids() {
		if id, err := strconv.Atoi(pid); err == nil && syscall.Kill(id, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// sockets are how many each of the plugin's processes has open; nil where the system does
// not show it.
func (k *kit) sockets() map[string]int {
	all := map[string]int{}
	for _, pid := range k.pids() {
		files, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		if err != nil {
			continue
		}
		n := 0
		for _, f := range files {
			if to, err := os.Readlink(filepath.Join("/proc", pid, "fd", f.Name())); err == nil && strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		all[pid] = n
	}
	return all
}

type usage struct{ files, kB int }

// uses is what the plugin's processes hold together.
func (k *kit) uses(t *testing.T) (u usage) {
	t.Helper()
	for _, pid := range k.pids() {
		files, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		if err != nil {
			t.Skipf("this system does not show what the plugin's process holds: %v", err)
		}
		u.files += len(files)
		status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			t.Skipf("this system does not show what the plugin's process holds: %v", err)
		}
		for line := range strings.Lines(string(status)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
				n, _ := strconv.Atoi(fields[1])
				u.kB += n
			}
		}
	}
	return u
}
