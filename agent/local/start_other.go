//go:build unix && !linux

package local

import (
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a program to its end. What it started is ended with it as long as it stays in
// its process group: this system gives no way to find what leaves it.
func start(cmd *exec.Cmd, _ *os.File, real string, argv []string, e *end) error {
	cmd.Path, cmd.Args, cmd.Err = real, argv, nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var ended atomic.Bool
	var hard *time.Timer
	cmd.Cancel = func() error {
		ended.Store(true)
		group := -cmd.Process.Pid
		hard = time.AfterFunc(endGrace, func() { _ = unix.Kill(group, unix.SIGKILL) })
		return unix.Kill(group, unix.SIGTERM)
	}
	if err := cmd.Start(); err != nil {
		return notStarted(argv[0], errors.New(whyNot(err)))
	}
	_ = cmd.Wait()
	if hard != nil {
		hard.Stop()
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	e.ended = ended.Load()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		e.status(s)
	}
	return nil
}
