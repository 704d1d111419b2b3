package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
)

// lockFolder keeps a second server from the same folder: both would believe what
// they keep in memory. A file that is shared with nobody is the lock.
func lockFolder(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockName)
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	const sharingViolation = syscall.Errno(32)
	if errors.Is(err, sharingViolation) {
		return nil, folderInUse(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("data folder: lock %s: %w", path, err)
	}
	return func() { _ = syscall.CloseHandle(h) }, nil
}
