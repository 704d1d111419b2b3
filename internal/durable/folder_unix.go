//go:build unix

// Package durable makes files outlast a power cut.
package durable

import (
	"errors"
	"os"
)

// Folder makes the names in a folder durable: those of files that were made in it, or
// renamed into it. The files' contents are synced by whoever wrote them.
func Folder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
