//go:build !linux

package pluginhost

import "os"

// folder is a plugin's private folder, on disk.
type folder struct {
	dir string // as the plugin sees it
	at  string // as the agent does
}

// folder makes the private folder of a process.
func (*jail) folder(dir string, uid int) (folder, func(), error) {
	err := os.Mkdir(dir, 0o700)
	if err == nil && uid >= 0 {
		err = os.Chown(dir, uid, uid)
	}
	return folder{dir, dir}, func() { _ = os.RemoveAll(dir) }, err
}
