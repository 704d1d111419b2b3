//go:build unix

package targets

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

func ownedByUs(dir string) (bool, error) {
	i, err := os.Lstat(dir)
	if err != nil {
		return false, err
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	return ok && i.IsDir() && int(st.Uid) == os.Getuid() && i.Mode().Perm()&0o022 == 0, nil
}

// lockFile locks a file until unlock, which the system calls when this process dies.
func lockFile(name string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// account is the user that a server runs as.
type account struct{ uid, gid int }

func lookup(name string) (*account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &account{uid, gid}, nil
}

func runAs(cmd *exec.Cmd, a *account) {
	// A group of its own, so that a terminal's interrupt reaches only the one who is to
	// stop the servers in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
}

// Pause makes the server deaf without ending it: connections are taken by the system
// and get no answer.
func (p *process) pause() error  { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

var (
	interrupt = os.Signal(syscall.SIGINT)
	terminate = os.Signal(syscall.SIGTERM)
)
