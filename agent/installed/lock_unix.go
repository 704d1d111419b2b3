//go:build unix

package installed

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// lock keeps two commands from changing the folder at once.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("plugin folder: %w: set plugin_dir to the folder of plugin binaries", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = refuse(exitcode.Conflict, "%s is being changed by another command: wait until it has ended", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
