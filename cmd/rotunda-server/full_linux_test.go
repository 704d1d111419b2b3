package main

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
)

// tinyDisk is a folder on a disk of so many bytes.
func tinyDisk(t *testing.T, size int64) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts a disk")
	}
	dir = t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("root may mount nothing here")
	}
	must(t, err)
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	return dir
}

// A good backup that does not fit is not called a bad one, whatever it was that did not fit:
// the files, or what SQLite writes beside the database.
func TestRestoreOntoAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup")
	_, err := backup(t.Context(), newServerFolder(t), file)
	must(t, err)
	info, err := os.Stat(file)
	must(t, err)
	fits := false
	for size := int64(4 << 10); !fits; size += 4 << 10 {
		if size == 8<<10 {
			size = info.Size() - 16<<10
		}
		if size > 4*info.Size() {
			t.Fatalf("%d bytes do not fit on a disk of %d", info.Size(), size)
		}
		disk := tinyDisk(t, size)
		err := restore(t.Context(), filepath.Join(disk, "data"), file, false, io.Discard)
		if fits = err == nil; fits {
			continue
		}
		if exitOf(err) != exitcode.Internal || !strings.Contains(err.Error(), "free some space, and restore it again; nothing was put back") {
			t.Errorf("on %d bytes: exit %d, %v", size, exitOf(err), err)
		}
		if got := held(t, filepath.Join(disk, "data")); len(got) != 0 {
			t.Errorf("on %d bytes: it holds %v", size, got)
		}
	}
}

// A backup that does not fit leaves nothing behind.
func TestBackupOntoAFullDisk(t *testing.T) {
	data := newServerFolder(t)
	db, err := sql.Open("sqlite", filepath.Join(data, databaseFile))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "CREATE TABLE large AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 4000) SELECT zeroblob(3000) FROM n")
	must(t, err)
	must(t, db.Close())
	disk := tinyDisk(t, 1<<20)
	if _, err := backup(t.Context(), data, filepath.Join(disk, "b")); exitOf(err) != exitcode.Internal || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("exit %d, %v", exitOf(err), err)
	}
	left, err := os.ReadDir(disk)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}
