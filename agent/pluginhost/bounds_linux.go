package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mayBound reports whether this system lets a process bound another.
func mayBound() bool { return unix.Prlimit(0, unix.RLIMIT_CORE, nil, &unix.Rlimit{}) == nil }

// bound gives a process its bounds.
func (j *jail) bound(pid, uid int) error {
	if !j.iso.Bounds {
		return nil
	}
	set := map[int]uint64{
		unix.RLIMIT_DATA: j.bounds.memory, unix.RLIMIT_AS: j.bounds.space,
		unix.RLIMIT_FSIZE: j.bounds.file, unix.RLIMIT_NOFILE: j.bounds.files,
		unix.RLIMIT_CORE: 0, unix.RLIMIT_MSGQUEUE: 0,
	}
	if j.iso.User || j.flags&unix.CLONE_NEWUSER != 0 { // else they are counted with the agent's own
		set[unix.RLIMIT_NPROC] = j.bounds.processes
	}
	return asUser(uid, func() error { return limit(pid, set) })
}

// boundStack bounds the stack of the agent itself, whose children have it, too: what one has
// when execve begins is its own again when that ends (finalize_exec), whatever bound it was
// given meanwhile.
func boundStack(most uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_STACK, &now); err != nil {
		return err
	}
	most = min(most, now.Max)
	return unix.Setrlimit(unix.RLIMIT_STACK, &unix.Rlimit{Cur: min(most, now.Cur), Max: most})
}

// tookEarly looks at what a process that has spoken took before it had its bounds: without
// another process and without shared memory, which the filter keeps from it, that is all
// it can have. What is not counted as writable any more is seen by whoever watches it
// (taken).
func (j *jail) tookEarly(c *child) error {
	if !j.iso.Bounds {
		return nil
	}
	pid := c.cmd.Process.Pid
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return nil // it has ended: whoever waits for it says so
	}
	f := strings.Fields(string(statm))
	if len(f) < 6 {
		return fmt.Errorf("the kernel tells its memory as %q", statm)
	}
	for _, n := range []string{f[1], f[5]} { // in memory, and writable
		if pages, err := strconv.ParseUint(n, 10, 64); err != nil || pages > j.bounds.memory/uint64(os.Getpagesize()) {
			return fmt.Errorf("it took %s pages of memory before it could be bounded", n)
		}
	}
	return nil
}

// limit lowers the limits of a process that is to run, or has ended already: whoever waits
// for it says so.
func limit(pid int, set map[int]uint64) error {
	for what, most := range set {
		var now unix.Rlimit
		err := unix.Prlimit(pid, what, nil, &now)
		if err == nil {
			most = min(most, now.Max)
			err = unix.Prlimit(pid, what, &unix.Rlimit{Cur: most, Max: most}, nil)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("prlimit", err)
		}
	}
	return nil
}

// asUser lets the calling thread, which is thrown away, have a plugin's user as its real
// one for a moment: the kernel lets root limit another's processes by that, or by a
// capability that containers and services seldom have.
func asUser(uid int, f func() error) error {
	if uid < 0 {
		return f()
	}
	const keep = ^uintptr(0)
	as := func(id int) error {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(id), keep, keep); e != 0 {
			return os.NewSyscallError("setresgid", e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(id), keep, keep); e != 0 {
			return os.NewSyscallError("setresuid", e)
		}
		return nil
	}
	if err := as(uid); err != nil {
		return err
	}
	return errors.Join(f(), as(0))
}

// used is the processor time that a process has had.
func (*jail) used(c *child) (time.Duration, bool) {
	const ofProcess = 2 // CPUCLOCK_SCHED, as clock_getcpuclockid makes them
	var t unix.Timespec
	if unix.ClockGettime(int32(^c.cmd.Process.Pid)<<3|ofProcess, &t) != nil {
		return 0, false
	}
	return time.Duration(t.Nano()), true
}

// taken is the memory that a process has, however it came to it: of its own, swapped out,
// and for the tables of its addresses.
func (*jail) taken(c *child) (bytes uint64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0 // it has ended
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "RssAnon", "VmSwap", "VmPTE":
			kb, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			bytes += kb << 10
		}
	}
	return bytes
}
