package sdk

import (
	"golang.org/x/sys/unix"
)

// harden keeps secrets out of core dumps, and other processes of the same user out
// of this one's memory. Failing is no reason to stop.
func harden() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
