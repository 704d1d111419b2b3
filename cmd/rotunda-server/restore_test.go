package main

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
)

// newServerFolder is what a server's first start leaves, and file contents.
func newServerFolder(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	_, err := openAuthority(data, []string{"localhost"}, store.Now())
	must(t, err)
	_, err = openMachineKeys(data)
	must(t, err)
	_, err = openSetupCode(data)
	must(t, err)
	s, err := store.Open(t.Context(), filepath.Join(data, databaseFile))
	must(t, err)
	must(t, s.Close())
	must(t, os.MkdirAll(filepath.Join(data, filesFolder, "1", "ab"), 0o700))
	must(t, os.WriteFile(filepath.Join(data, filesFolder, "1", "ab", "abcdef"), []byte(data), 0o600))
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// held is what a folder holds, but for a data folder's lock and what is of restores.
func held(t *testing.T, dir string) map[string]seal.Digest {
	t.Helper()
	names, err := contents(dir)
	must(t, err)
	out := map[string]seal.Digest{}
	for _, n := range names {
		must(t, filepath.WalkDir(filepath.Join(dir, n), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			out[name] = seal.Hash(b)
			return err
		}))
	}
	return out
}

// A restore that is broken off, at whatever moment, is finished by the next command that
// holds the folder; nothing is ever missing or mixed.
func TestRestoreBrokenOff(t *testing.T) {
	source := newServerFolder(t)
	file := filepath.Join(t.TempDir(), "backup")
	_, err := backup(t.Context(), source, file)
	must(t, err)
	for name, folder := range map[string]func(*testing.T) string{
		"into an empty folder": func(t *testing.T) string { return t.TempDir() },
		"in place of another":  newServerFolder,
	} {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for more := true; more; steps++ {
				data := folder(t)
				former := held(t, data)
				in, err := os.Open(file)
				must(t, err)
				aside, err := prepare(t.Context(), data, in, file, len(former) > 0, io.Discard)
				must(t, err)
				must(t, in.Close())
				half, err := unfinished(data)
				must(t, err)
				want := held(t, filepath.Join(data, half))

				for range steps {
					must(t, restoreStep(data, half))
					half, err = unfinished(data)
					must(t, err)
				}
				more = half != ""
				if _, err := backup(t.Context(), data, filepath.Join(t.TempDir(), "b")); more && (err == nil || !strings.Contains(err.Error(), "`rotunda-server serve` finishes it")) {
					t.Errorf("after %d steps: a backup of what is half there: %v", steps, err)
				}
				finished, err := finishRestore(data)
				must(t, err)
				if finished != more {
					t.Errorf("after %d steps: finished: %t", steps, finished)
				}
				if got := held(t, data); !maps.Equal(got, want) {
					t.Errorf("after %d steps: the folder holds %q, want %q", steps, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
				}
				if len(former) == 0 {
					continue
				}
				if got := held(t, aside); !maps.Equal(got, former) {
					t.Errorf("after %d steps: %s holds %q, want %q", steps, aside, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(former)))
				}
			}
			if steps < 6 { // a database, an authority, a key, a code, files
				t.Errorf("done after %d steps", steps)
			}
		})
	}
}

// A restore that is broken off while the backup is looked at leaves all as it was.
func TestRestoreNotPrepared(t *testing.T) {
	data := newServerFolder(t)
	former := held(t, data)
	work := filepath.Join(data, preparing+"1")
	must(t, os.Mkdir(work, 0o700))
	must(t, os.WriteFile(filepath.Join(work, databaseFile), []byte("half"), 0o600))
	must(t, os.Mkdir(filepath.Join(data, before+"20260101T000000Z"), 0o700))
	finished, err := finishRestore(data)
	must(t, err)
	if finished || !maps.Equal(held(t, data), former) {
		t.Errorf("finished: %t; the folder holds %q", finished, slices.Sorted(maps.Keys(held(t, data))))
	}
	if _, err := os.Stat(work); err == nil {
		t.Error("what was unpacked is still there, with the keys of the backup")
	}
}
