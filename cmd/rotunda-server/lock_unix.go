//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// lockFolder keeps a second server from the same folder: both would believe what
// they keep in memory. The lock ends with the process, however it ends.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return func() { _ = f.Close() }, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, folderInUse(dir)
	}
	return nil, fmt.Errorf("data folder: lock %s: %w", f.Name(), err)
}
