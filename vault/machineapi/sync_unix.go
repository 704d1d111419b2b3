//go:build unix

package machineapi

import "os"

// syncDir makes a rename within a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
