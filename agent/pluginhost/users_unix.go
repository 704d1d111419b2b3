//go:build unix

package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// users hands out user ids. A locked file for each keeps two agents of one machine
// from giving the same to two plugins; the kernel unlocks it when the agent dies. In
// the file stands the start of the machine since which the user is the agents' own.
type users struct{ UserIDs }

const userLocks = "/run/rotunda-plugin-users"

// take gives out the first user id that is nobody's. fit has the last word; ours says
// whether agents have had it before, so that what runs under it is a plugin's.
func (u users) take(fit func(uid int, ours bool) (bool, error)) (uid int, release func(), err error) {
	if err := os.MkdirAll(userLocks, 0o700); err != nil {
		return 0, nil, err
	}
	for uid := u.First; uid <= u.Last; uid++ {
		f, err := u.lock(uid, fit)
		if err != nil {
			return 0, nil, err
		}
		if f != nil {
			return uid, func() { _ = f.Close() }, nil
		}
	}
	return 0, nil, fmt.Errorf("no user id from %d to %d is free: give others in the agent's settings (plugin_users)", u.First, u.Last)
}

// lock is nil where the user id is somebody's.
func (u users) lock(uid int, fit func(uid int, ours bool) (bool, error)) (*os.File, error) {
	if known(uid) {
		return nil, nil
	}
	f, err := os.OpenFile(filepath.Join(userLocks, strconv.Itoa(uid)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	mark, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	now := machineStart()
	ours := bytes.Equal(mark, now)
	if free, err := fit(uid, ours); !free || err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !ours {
		_, err := f.WriteAt(now, 0)
		if err := errors.Join(err, f.Truncate(int64(len(now)))); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// machineStart names the start of the machine, since which processes can be running.
func machineStart() []byte {
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		return bytes.TrimSpace(id)
	}
	return []byte("ours")
}

// known reports whether the system's user database has a user or group of that number.
func known(id int) bool {
	n := strconv.Itoa(id)
	if _, err := user.LookupId(n); err == nil {
		return true
	}
	_, err := user.LookupGroupId(n)
	return err == nil
}
