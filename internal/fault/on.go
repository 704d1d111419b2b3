//go:build fault

package fault

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Built says whether this build has fault points.
const Built = true

// dir is read once: a process keeps its folder.
var dir = os.Getenv("ROTUNDA_FAULT_DIR")

// At is a named point.
func At(name string) {
	if dir == "" {
		return
	}
	armed := filepath.Join(dir, name)
	action, err := os.ReadFile(armed)
	if err != nil {
		return
	}
	hit := armed + ".hit"
	if os.Rename(armed, hit) != nil {
		return // another goroutine took it
	}
	switch strings.TrimSpace(string(action)) {
	case "kill":
		kill()
	case "stop":
		stop()
	case "block":
		for {
			if _, err := os.Stat(hit); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond) // a file's removal gives no signal everywhere
		}
	}
}

// On is a named switch.
func On(name string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// Heard writes down what others sent to this process, whole in one write: what is
// searched for may not be cut in two by what somebody else sends meanwhile.
func Heard(what string, said []byte) {
	if dir == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "heard"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return // nobody listens
	}
	_, err = f.Write(slices.Concat([]byte("\n"+what+": "), said))
	if err = errors.Join(err, f.Close()); err != nil {
		panic(err) // what is not written down would count as not said
	}
}

// Now is the time, off by what the file "clock" says.
func Now() time.Time {
	if dir == "" {
		return time.Now()
	}
	text, err := os.ReadFile(filepath.Join(dir, "clock"))
	if err != nil {
		return time.Now()
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return time.Now()
	}
	hit := filepath.Join(dir, "clock.hit")
	if _, err := os.Stat(hit); err != nil {
		_ = os.WriteFile(hit, nil, 0o600)
	}
	return time.Now().Add(off)
}
