//go:build unix

package client

import (
	"fmt"
	"os"
	"syscall"
)

// checkPrivate refuses a folder that somebody else owns or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return &Error{
			Class: Refused, Reason: "folder_not_private", Op: "use " + dir,
			Err:  fmt.Errorf("it is not a folder that you alone may enter"),
			Hint: "look who made it; chmod 700 it, or remove it",
		}
	}
	return nil
}
