//go:build fault && unix

package fault_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func hit(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "point.hit")); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the point was not reached")
		}
	}
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	arm(t, dir, "point", "kill\n")
	cmd := reach(t, dir)
	out, err := cmd.Output()
	if err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || strings.Contains(string(out), "went on") {
		t.Errorf("%v, %s", err, out)
	}
	hit(t, dir)
}

func TestStop(t *testing.T) {
	dir := t.TempDir()
	arm(t, dir, "point", "stop")
	cmd := reach(t, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(cmd.Process.Pid, &ws, syscall.WUNTRACED, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if !ws.Stopped() {
		t.Errorf("not stopped: %v", ws)
	}
	hit(t, dir)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// Block holds the caller until the marker goes, and the point fires once.
func TestBlock(t *testing.T) {
	dir := t.TempDir()
	arm(t, dir, "point", "block")
	cmd := reach(t, dir)
	done := make(chan error, 1)
	go func() { _, err := cmd.Output(); done <- err }()
	hit(t, dir)
	select {
	case err := <-done:
		t.Fatalf("went on: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.Remove(filepath.Join(dir, "point.hit")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still blocked")
	}
}

// What was said is written down where somebody wants it, and nowhere else.
func TestHeard(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []string{"", "\nframe: what was said", "\nframe: what was said\nframe: what was said"} {
		if out, err := reach(t, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		heard, err := os.ReadFile(filepath.Join(dir, "heard"))
		if want == "" {
			if !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("it is written down unasked: %q, %v", heard, err)
			}
			arm(t, dir, "heard", "")
		} else if string(heard) != want || err != nil {
			t.Errorf("%q, %v, want %q", heard, err, want)
		}
	}
}

func TestClock(t *testing.T) {
	dir := t.TempDir()
	arm(t, dir, "clock", "-24h")
	out, err := reach(t, dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, strings.Fields(string(out))[0])
	if off := time.Since(at); err != nil || off < 23*time.Hour || off > 25*time.Hour {
		t.Errorf("off by %v, %v", off, err)
	}
}
