package local

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// search opens a folder in order to go through it, which needs no right to list it.
const search = unix.O_PATH

// An access list stands beside the mode, whose group is then the most that the list gives:
// without the list the file's group would get that.
const access = "system.posix_acl_access"

func accessList(f *os.File) ([]byte, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(int(f.Fd()), access, b)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// setAccessList gives a file its list, and then its mode, which bounds the list.
func setAccessList(f *os.File, list []byte, mode uint32) error {
	if len(list) == 0 {
		return nil
	}
	if err := unix.Fsetxattr(int(f.Fd()), access, list, 0); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), mode)
}
