//go:build unix

package main

import (
	"os/exec"
	"syscall"
	"time"
)

// asGroup has the Go tools and the test program that they run stopped together: they are asked
// as by a terminal, and what it gives kills whoever is left of them. A server that a test
// started in a group of its own is for that test to end.
func asGroup(cmd *exec.Cmd) (kill func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
