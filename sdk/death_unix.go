//go:build unix

package sdk

import (
	"os"
	"strconv"
	"syscall"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// watchDeath ends the process when the agent closes its end of the death pipe: to
// stop it, or by dying itself. go-plugin alone would leave an orphan behind.
func watchDeath() {
	fd, err := strconv.Atoi(os.Getenv(pluginv1.EnvDeath))
	if err != nil {
		return
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "death")
	go func() {
		_, _ = f.Read(make([]byte, 1))
		os.Exit(0)
	}()
}
