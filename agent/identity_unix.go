//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ownerOnly refuses a key file that others may read.
func ownerOnly(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("key file %s has mode %04o: others may read it. If nobody did, run chmod 600 %s; else enrol anew", path, mode, path)
	}
	return nil
}

// syncFolder makes what is in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
