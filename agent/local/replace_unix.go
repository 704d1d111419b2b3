//go:build unix

package local

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

const (
	partPrefix = ".rotunda-"        // of files that are not whole yet
	partLives  = time.Hour          // after which it was left by an agent that died
	maxBackup  = 64 << 20           // bytes of a file that is kept
	allBits    = uint32(0o1777)     // of a mode: what others wrote runs as nobody but who starts it
	newMode    = os.FileMode(0o600) // of a file that is not whole yet, and of a new one
)

// writeFile puts a file with this content in the place of the one that is there. Whoever
// looks finds the one or the other, whole, whatever ends this in between. It says whether
// anything was changed: a script that is run again finds its work done, and the backup is that
// of before.
func writeFile(path string, content []byte, mode *uint32, backup bool) (changed bool, err error) {
	p, err := open(path)
	if err != nil {
		return false, err
	}
	defer p.close()
	old, st, err := p.file()
	if err != nil {
		return false, err
	}
	like := shape{mode: uint32(newMode), uid: -1, gid: -1}
	if old == nil {
		if err := p.ownedBy(uint32(os.Geteuid())); err != nil {
			return false, err
		}
	} else {
		defer func() { _ = old.Close() }()
		like = shape{mode: uint32(st.Mode) & allBits, uid: int(st.Uid), gid: int(st.Gid)}
		if like.access, err = accessList(old); err != nil {
			return false, wrongFile(path, err)
		}
	}
	kept := like
	if mode != nil {
		like.mode = *mode
	}
	if old != nil && like.mode == kept.mode && holds(old, content) {
		return false, nil
	}
	p.sweep()
	if backup && old != nil {
		if st.Size > maxBackup {
			return false, refuse(sdk.ClassInvalid, File, fmt.Errorf("%s has %d bytes, of which no backup is made", path, st.Size))
		}
		if _, err := old.Seek(0, io.SeekStart); err != nil {
			return false, wrongFile(path, err)
		}
		if err := p.put(p.name+backupName, io.LimitReader(old, maxBackup), kept, nil); err != nil {
			return false, err
		}
	}
	if err := p.put(p.name, bytes.NewReader(content), like, st); err != nil {
		return false, err
	}
	return true, nil
}

// shape is what a file has besides what it holds.
type shape struct {
	mode     uint32
	uid, gid int    // -1: that of whoever makes it
	access   []byte // the list of who may do what, where the system has one
}

// holds says whether a file holds just this.
func holds(f *os.File, content []byte) bool {
	b, err := io.ReadAll(io.LimitReader(f, pluginv1.MaxLocalBody+1))
	defer clear(b)
	return err == nil && bytes.Equal(b, content)
}

// put makes a file of a name in the folder: written under another name, made durable, and
// then given the name in one step. Where was says which file has the name, it must be that one
// still.
func (p place) put(name string, content io.Reader, like shape, was *unix.Stat_t) (err error) {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	part := partPrefix + hex.EncodeToString(random)
	fd, err := unix.Openat(p.fd, part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(newMode))
	if err != nil {
		return wrongFile(p.path, err)
	}
	f := os.NewFile(uintptr(fd), p.path)
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = unix.Unlinkat(p.fd, part, 0)
		}
	}()
	if _, err := io.Copy(f, content); err != nil {
		return wrongFile(p.path, err)
	}
	if err := like.give(f); err != nil {
		return wrongFile(p.path, fmt.Errorf("its owner and permissions cannot be kept: %w", err))
	}
	if err := f.Sync(); err != nil {
		return wrongFile(p.path, err)
	}
	if err := p.still(name, was); err != nil {
		return err
	}
	if err := unix.Renameat(p.fd, part, p.fd, name); err != nil {
		return wrongFile(p.path, err)
	}
	if err := p.sync(); err != nil {
		return &sdk.Error{Class: sdk.ClassInternal, Reason: File, Err: fmt.Errorf("%s is written, and may be as before after a power cut: %w", p.path, err)}
	}
	return nil
}

// give gives a file its owner first: permissions may go when he is another.
func (s shape) give(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if s.uid >= 0 && (int(st.Uid) != s.uid || int(st.Gid) != s.gid) {
		if err := unix.Fchown(int(f.Fd()), s.uid, s.gid); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(f.Fd()), s.mode); err != nil {
		return err
	}
	return setAccessList(f, s.access, s.mode)
}

// still wants that the file of a name is the one that was looked at.
func (p place) still(name string, was *unix.Stat_t) error {
	if was == nil {
		return nil
	}
	var now unix.Stat_t
	err := unix.Fstatat(p.fd, name, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && now.Dev == was.Dev && now.Ino == was.Ino && now.Size == was.Size && now.Nlink == was.Nlink {
		return nil
	}
	return p.changed()
}

// sync makes the names in the folder durable.
func (p place) sync() error {
	fd, err := unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

// sweep removes what agents that died have left half written.
func (p place) sweep() {
	fd, err := unix.Openat(p.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), p.path)
	defer func() { _ = dir.Close() }()
	all, _ := dir.Readdirnames(-1)
	for _, name := range all {
		var st unix.Stat_t
		if len(name) == len(partPrefix)+32 && strings.HasPrefix(name, partPrefix) &&
			unix.Fstatat(p.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG &&
			time.Since(time.Unix(st.Mtim.Unix())) > partLives {
			_ = unix.Unlinkat(p.fd, name, 0)
		}
	}
}
