package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A first start that was killed while it wrote leaves nothing that the next one trips over.
func TestAuthorityIsWholeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(path+".new", []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := openAuthority(dir, localNames(nil), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half that was written is left: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if again, err := openAuthority(dir, localNames(nil), time.Now()); err != nil || again.Pin() != first.Pin() {
		t.Errorf("the next start has another authority: %v", err)
	}
	if err := writeNew(path, []byte("other")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an authority that is there: %v", err)
	}
}
