//go:build unix

package main

import (
	"os/exec"
	"syscall"
	"time"
)

// asGroup has the Go tools and the tests that they run stopped together: they are asked as
// by a terminal, and have the time to clean up. What it gives kills whoever is left.
func asGroup(cmd *exec.Cmd) (kill func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
