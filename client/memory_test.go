package client

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// The memory protects from a server that shows older records: only one that is damaged
// is said to be thrown away.
func TestMemoryThatCannotBeUsed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("wants /dev/full")
	}
	for name, row := range map[string]struct {
		make         func(path string) error
		reason, hint string
	}{
		"no room":               {func(path string) error { return os.Symlink("/dev/full", path) }, "profile_unusable", "make room"},
		"a folder in its place": {func(path string) error { return os.Mkdir(path, 0o700) }, "profile_unusable", "look at the disk"},
		"another file":          {func(path string) error { return os.WriteFile(path, make([]byte, 1<<16), 0o600) }, "profile_damaged", "move "},
		"a log that is none": {func(path string) error {
			return memory{path}.work(func(t *memoryTx) error { return t.addChanges(0, [][]byte{[]byte("no change")}) })
		}, "profile_damaged", "move "},
		"a log with a gap": {func(path string) error {
			return memory{path}.work(func(t *memoryTx) error { return t.addChanges(1, [][]byte{[]byte("one")}) })
		}, "profile_damaged", "move "},
	} {
		path := filepath.Join(t.TempDir(), "memory.db")
		if err := row.make(path); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := &Client{memory: memory{path}, log: trust.NewLog(seal.Hash([]byte("org"))), now: time.Now}
		wantHint(t, name, c.readLog(), row.reason, row.hint)
	}
}

// What else a system refuses; root is refused nothing, so that these are made up.
func TestMemoryRefused(t *testing.T) {
	m := memory{filepath.Join(t.TempDir(), "memory.db")}
	for err, row := range map[error]struct{ reason, hint string }{
		&fs.PathError{Op: "open", Path: m.path, Err: syscall.EROFS}:  {"profile_unusable", "read-only"},
		&fs.PathError{Op: "open", Path: m.path, Err: syscall.EACCES}: {"profile_unusable", "whose profile it is"},
		&fs.PathError{Op: "open", Path: m.path, Err: syscall.EPERM}:  {"profile_unusable", "whose profile it is"},
		&fs.PathError{Op: "write", Path: m.path, Err: syscall.EIO}:   {"profile_unusable", "look at the disk"},
		bolterrors.ErrTimeout: {"profile_busy", "wait"},
	} {
		err := m.work(func(*memoryTx) error { return err })
		wantHint(t, row.hint, err, row.reason, row.hint)
	}
}

func wantHint(t *testing.T, name string, err error, reason, hint string) {
	t.Helper()
	said, ok := fail("read the stored log", err).(*Error) //nolint:errorlint // what a caller is given
	if !ok || said.Reason != reason || !strings.Contains(said.Hint, hint) {
		t.Fatalf("%s: %v: %+v", name, err, said)
	}
	if throws := strings.Contains(said.Hint, "move "); throws != (reason == "profile_damaged") {
		t.Errorf("%s: %s", name, said.Hint)
	}
	if reason == "profile_unusable" && !strings.Contains(said.Hint, "keep the file") {
		t.Errorf("%s: %s", name, said.Hint)
	}
}
