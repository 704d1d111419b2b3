package installed

import (
	"fmt"
	"os"
)

// lock only sees that the folder is there: nothing keeps two commands apart on Windows.
func lock(dir string) (unlock func(), err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("plugin folder: %w: set plugin_dir to the folder of plugin binaries", err)
	}
	return func() {}, nil
}
