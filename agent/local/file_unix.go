//go:build unix

package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/sdk"
)

// place is a file's folder, opened, and its name there. Nobody can change what lies on the
// way to it but root, the agent's own user, and, where that is the only other one, the owner of
// the file.
type place struct {
	path  string
	name  string
	fd    int
	folks []uint32 // owners of the folders, others than root and the agent's user
}

func (p place) close() { _ = unix.Close(p.fd) }

// open goes to a file's folder step by step, and follows no link.
func open(path string) (place, error) {
	p := place{path: path, name: filepath.Base(path)}
	fd, err := unix.Open("/", search|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return p, wrongFile("/", err)
	}
	at := "/"
	var mode uint32
	for _, name := range names(filepath.Dir(path)) {
		at = filepath.Join(at, name)
		next, err := unix.Openat(fd, name, search|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			err = wrongFolder(fd, name, at, err)
			_ = unix.Close(fd)
			return p, err
		}
		_ = unix.Close(fd)
		fd = next
		if mode, err = p.step(fd, at); err != nil {
			_ = unix.Close(fd)
			return p, err
		}
	}
	if mode&0o022 != 0 { // and sticky: what others put there stays, and may have any name
		_ = unix.Close(fd)
		return p, openToOthers(at, mode)
	}
	p.fd = fd
	return p, nil
}

// step looks at a folder on the way.
func (p *place) step(fd int, at string) (mode uint32, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, wrongFile(at, err)
	}
	mode = uint32(st.Mode)
	if mode&0o022 != 0 && mode&unix.S_ISVTX == 0 {
		return 0, openToOthers(at, mode)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) && !slices.Contains(p.folks, st.Uid) {
		p.folks = append(p.folks, st.Uid)
	}
	return mode, nil
}

// ownedBy wants that the folders on the way are root's, the agent's, or the file's owner's:
// anybody else could put another file there, and get what is written.
func (p place) ownedBy(uid uint32) error {
	for _, u := range p.folks {
		if u != uid {
			return refuse(sdk.ClassPermission, File, fmt.Errorf("%s: a folder on the way belongs to user %d, who could put another file there: chown it to root, or to the file's owner", p.path, u))
		}
	}
	return nil
}

func openToOthers(folder string, mode uint32) error {
	return refuse(sdk.ClassPermission, File, fmt.Errorf("%s can be changed by others than its owner (mode %04o), who could put another file there: chmod go-w %s", folder, mode&0o7777, folder))
}

// wrongFolder tells a link from what is no folder, or not there.
func wrongFolder(fd int, name, at string, err error) error {
	var st unix.Stat_t
	if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return isLink(at)
	}
	return wrongFile(at, err)
}

func isLink(path string) error {
	return refuse(sdk.ClassPermission, Link, fmt.Errorf("%s is a link: name the file by its own path (readlink -f %s), in the script's parameters and in the local policy", path, path))
}

func wrongFile(path string, err error) error {
	class := sdk.ClassInternal
	switch {
	case errors.Is(err, unix.ENOENT):
		class = sdk.ClassNotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		class = sdk.ClassPermission
		if errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w: a service sees most of the system so; its unit may say ReadWritePaths=%s", err, filepath.Dir(path))
		}
	}
	return refuse(class, File, &os.PathError{Op: "file", Path: path, Err: err})
}

// file opens what is at the place: a regular file with no second name. It is nil where there
// is none.
func (p place) file() (*os.File, *unix.Stat_t, error) {
	var st unix.Stat_t
	// A device may do something when it is opened, so it is not.
	switch err := unix.Fstatat(p.fd, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return nil, nil, nil
	case err != nil:
		return nil, nil, wrongFile(p.path, err)
	}
	if err := p.regular(&st); err != nil {
		return nil, nil, err
	}
	fd, err := unix.Openat(p.fd, p.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ELOOP || err == unix.EMLINK: // FreeBSD's word for it
		return nil, nil, isLink(p.path)
	case err != nil:
		return nil, nil, wrongFile(p.path, err)
	}
	f := os.NewFile(uintptr(fd), p.path)
	looked := st
	switch err = unix.Fstat(fd, &st); {
	case err != nil:
		err = wrongFile(p.path, err)
	// A second name may be gone again by now: that there was none is known of the one
	// that was looked at under this name.
	case st.Dev != looked.Dev || st.Ino != looked.Ino:
		err = p.changed()
	default:
		if err = p.regular(&st); err == nil {
			err = p.ownedBy(st.Uid)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, &st, nil
}

func (p place) changed() error {
	return refuse(sdk.ClassConflict, File, fmt.Errorf("%s was changed by somebody else meanwhile: nothing is done", p.path))
}

func (p place) regular(st *unix.Stat_t) error {
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		return isLink(p.path)
	case kind != unix.S_IFREG:
		return refuse(sdk.ClassInvalid, File, fmt.Errorf("%s is not a regular file", p.path))
	case st.Nlink > 1:
		return refuse(sdk.ClassPermission, Link, fmt.Errorf("%s has %d names (hard links): what is done to it by one is done to the others; make it a file of its own: cp -p it, and mv the copy over it", p.path, st.Nlink))
	}
	return nil
}

// readFile reads a whole file of at most so many bytes.
func readFile(path string, most int) ([]byte, error) {
	p, err := open(path)
	if err != nil {
		return nil, err
	}
	defer p.close()
	f, _, err := p.file()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, wrongFile(path, unix.ENOENT)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, wrongFile(path, err)
	}
	if len(b) > most {
		clear(b)
		return nil, refuse(sdk.ClassInvalid, File, fmt.Errorf("%s has more than %d bytes", path, most))
	}
	return b, nil
}
