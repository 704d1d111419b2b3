package installation

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds the programs into dir by the Makefile, so that what is tested is
// built as what is shipped. The tag "fault" adds fault points. Plugins that make test has
// built are taken.
func Build(dir string, tags ...string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	cmd := exec.Command("make", "-s", "build", "BIN="+dir, "TAGS="+strings.Join(tags, ","), "PLUGINS_OF="+os.Getenv("ROTUNDA_BIN"))
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make build: %w: %s", err, out)
	}
	// Plugins run as users of their own: they execute copies, but the folder of the
	// programs must not be anybody's to write.
	return os.Chmod(filepath.Join(dir, "plugins"), 0o755)
}
