//go:build fault && unix

package fault

import "syscall"

func kill() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

func stop() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) }
