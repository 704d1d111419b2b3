package targets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A package has its program some seconds before its user is made: while one process installs,
// no other may take what it sees for a server that is ready.
func TestInstallWaitsForWhoInstalls(t *testing.T) {
	if os.Getuid() != 0 || !exists("/usr/bin/apt-get") {
		t.Skip("only root installs test servers, by apt-get")
	}
	if err := Install(t.Context(), func(string) {}, OpenSSHD); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	root, err := base()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, installLock)
	unlock, err := lockFile(name, true)
	if err != nil {
		t.Fatal(err)
	}
	if !listed(t, name, "FLOCK") {
		t.Skip("/proc/locks does not tell of locks here")
	}
	done := make(chan error, 1)
	go func() { done <- Install(t.Context(), func(string) {}, OpenSSHD) }()
	for look := time.NewTicker(time.Millisecond); !listed(t, name, "-> FLOCK"); {
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-look.C:
		}
	}
	unlock()
	if err := <-done; err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// listed says whether the kernel tells of a lock of this kind, "->" one that is waited for
// (proc_locks(5)).
func listed(t *testing.T, name, kind string) bool {
	t.Helper()
	s, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", s.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, kind) && strings.Contains(line, inode) {
			return true
		}
	}
	return false
}
