//go:build unix

package agent

import (
	"fmt"
	"io/fs"
)

// ownerOnly refuses a key file that others may read.
func ownerOnly(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("key file %s has mode %04o: others may read it. If nobody did, run chmod 600 %s; else enrol anew", path, mode, path)
	}
	return nil
}
