//go:build unix

package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// users hands out user ids. A locked file for each keeps two agents of one machine
// from giving the same to two plugins; the kernel unlocks it when the agent dies.
type users struct{ first int }

const (
	userRange = 1024
	userLocks = "/run/rotunda-plugin-users"
)

func (u users) take() (uid int, release func(), err error) {
	if err := os.MkdirAll(userLocks, 0o700); err != nil {
		return 0, nil, err
	}
	for uid := u.first; uid < u.first+userRange; uid++ {
		f, err := os.OpenFile(filepath.Join(userLocks, strconv.Itoa(uid)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return 0, nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return uid, func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, nil, err
		}
	}
	return 0, nil, fmt.Errorf("no user id from %d to %d is free", u.first, u.first+userRange-1)
}
