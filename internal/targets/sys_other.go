//go:build !unix

package targets

import (
	"fmt"
	"os"
	"os/exec"
)

func ownedByUs(dir string) (bool, error) {
	i, err := os.Lstat(dir)
	return err == nil && i.IsDir(), err
}

func lockFile(name string, _ bool) (unlock func(), err error) {
	return nil, fmt.Errorf("lock %s: %w", name, ErrUnavailable)
}

type account struct{ uid, gid int }

func lookup(string) (*account, error) { return nil, ErrUnavailable }
func runAs(*exec.Cmd, *account)       {}

func (p *process) pause() error  { return ErrUnavailable }
func (p *process) resume() error { return ErrUnavailable }

var interrupt, terminate = os.Interrupt, os.Kill
