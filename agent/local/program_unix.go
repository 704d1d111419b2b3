//go:build unix

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/sdk"
)

const maxLinks = 40 // on the way to a program, as the kernel has it

// CheckProgram says what is wrong with a program that the local policy names.
func CheckProgram(path string) error {
	f, _, err := findProgram(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	return f.Close()
}

// findProgram opens a program's file, and gives its path without links. Only root can change
// the file, and every folder and link on the way to it: so nobody else can lead the way
// elsewhere, neither before this look nor between it and the start.
func findProgram(path string) (*os.File, string, error) {
	fail := func(err error) (*os.File, string, error) {
		class := sdk.ClassPermission
		if errors.Is(err, fs.ErrNotExist) {
			class, err = sdk.ClassNotFound, fmt.Errorf("%w: put the program there, or name another", err)
		}
		return nil, "", refuse(class, Program, err)
	}
	at, left, links := "/", names(path), 0
	if err := rootsOwn(at); err != nil {
		return fail(err)
	}
	for {
		next := filepath.Join(at, left[0]) // at has no links, so that .. is its parent
		left = left[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return fail(err)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(next)
			if links++; err != nil || links > maxLinks {
				return fail(fmt.Errorf("%s: its links lead nowhere", path))
			}
			if filepath.IsAbs(to) {
				at = "/"
			}
			left = append(names(to), left...)
		case len(left) > 0:
			at = next
			err = rootsOwn(at)
		default:
			f, err := openProgram(next)
			if err != nil {
				return fail(err)
			}
			return f, next, nil
		}
		if err != nil {
			return fail(err)
		}
	}
}

func openProgram(path string) (*os.File, error) {
	// Opening it must wait for nothing, such as the other end of a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file: name the program's file", path)
	case info.Mode().Perm()&0o111 == 0:
		err = fmt.Errorf("%s is not executable: chmod 755 %s", path, path)
	default:
		err = ownedByRoot(path, info)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func rootsOwn(folder string) error {
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %w", folder, syscall.ENOTDIR)
	}
	return ownedByRoot(folder, info)
}

// ownedByRoot wants that nobody but root can change a file or a folder. An access list that
// lets others write shows in the group's permissions.
func ownedByRoot(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return fmt.Errorf("%s: this system does not say whose it is", path)
	case st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, who could put something else in the program's place: chown root %s", path, st.Uid, path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be changed by others than root (mode %04o), who could put something else in the program's place: chmod go-w %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// names are the parts of a path. There is always one: a path that ends in a slash means
// what it leads to.
func names(path string) []string {
	var out []string
	for _, n := range strings.Split(path, "/") {
		if n != "" {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		out = []string{"."}
	}
	return out
}
