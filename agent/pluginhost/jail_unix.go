//go:build unix && !linux

package pluginhost

import (
	"os"
	"os/exec"
	"syscall"
)

type jail struct {
	iso   Isolation
	users users
}

func newJail(ids UserIDs, _ bounds) *jail {
	j := &jail{users: users{ids}}
	j.iso.User = os.Geteuid() == 0
	j.iso.Note = "plugins share the agent's network on this system: one that is hostile can connect by itself"
	if !j.iso.User {
		j.iso.Note = "plugins are not isolated: they run as the agent's own user; run the agent as root"
	}
	return j
}

func (j *jail) user() (uid int, release func(), err error) {
	if !j.iso.User {
		return -1, func() {}, nil
	}
	return j.users.take(func(int, bool) (bool, error) { return true, nil })
}

func (j *jail) start(cmd *exec.Cmd, c confinement) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.uid >= 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ch := &child{cmd: cmd, exited: make(chan struct{})}
	ch.kill = func() {
		_ = cmd.Process.Kill()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	go func() {
		defer close(ch.exited)
		_ = cmd.Wait()
	}()
	return ch, nil
}
