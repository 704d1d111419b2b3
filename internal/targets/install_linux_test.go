package targets

import (
	"bufio"
	"bytes"
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
	done := make(chan error, 1)
	go func() { done <- Install(t.Context(), func(string) {}, OpenSSHD) }()
	for look := time.NewTicker(time.Millisecond); !waitedFor(t, name); {
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

// waitedFor says whether somebody waits for a lock, as the kernel tells (proc_locks(5)).
func waitedFor(t *testing.T, name string) bool {
	t.Helper()
	s, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", s.Sys().(*syscall.Stat_t).Ino)
	for lines := bufio.NewScanner(bytes.NewReader(locks)); lines.Scan(); {
		if strings.Contains(lines.Text(), "-> FLOCK") && strings.Contains(lines.Text(), inode) {
			return true
		}
	}
	return false
}
