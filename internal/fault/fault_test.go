package fault_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// The test's own binary is the process that reaches a point.
func TestMain(m *testing.M) {
	if os.Getenv("FAULT_TEST_POINT") != "" {
		_, _ = os.Stdout.WriteString(fault.Now().UTC().Format(time.RFC3339) + "\n")
		fault.Heard("frame", []byte("what was said"))
		fault.At("point")
		fault.At("point")
		_, _ = os.Stdout.WriteString("went on\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func reach(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "FAULT_TEST_POINT=1", "ROTUNDA_FAULT_DIR="+dir)
	return cmd
}

func arm(t *testing.T, dir, name, action string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(action), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Without the tag nothing from outside reaches a point or the clock.
func TestOff(t *testing.T) {
	if fault.Built {
		t.Skip("this build has fault points")
	}
	dir := t.TempDir()
	arm(t, dir, "point", "kill")
	arm(t, dir, "clock", "-24h")
	arm(t, dir, "heard", "")
	out, err := reach(t, dir).Output()
	if err != nil || !strings.Contains(string(out), "went on") {
		t.Errorf("%v, %s", err, out)
	}
	if at, _ := time.Parse(time.RFC3339, strings.Fields(string(out))[0]); time.Since(at) > time.Hour {
		t.Errorf("the clock is off: %v", at)
	}
	if _, err := os.Stat(filepath.Join(dir, "point")); err != nil {
		t.Errorf("the point was looked at: %v", err)
	}
	if heard, err := os.ReadFile(filepath.Join(dir, "heard")); err != nil || len(heard) > 0 {
		t.Errorf("what was said is written down: %q, %v", heard, err)
	}
}
