//go:build unix

package release

import "syscall"

// noWait has opening wait for nothing, such as the other end of a pipe.
const noWait = syscall.O_NONBLOCK
