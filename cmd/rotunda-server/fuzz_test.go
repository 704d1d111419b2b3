package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// FuzzUnpack: whatever is given for a backup. What is unpacked lies in the folder, is of
// a server, and is what the list says; nothing stands anywhere else.
func FuzzUnpack(f *testing.F) {
	pack := func(names []string, m manifest) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		put := func(name string, content []byte) {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				f.Fatal(err)
			}
		}
		for _, name := range names {
			put(name, []byte("content"))
			sum := sha256.Sum256([]byte("content"))
			m.Files = append(m.Files, manifestFile{name, 7, hex.EncodeToString(sum[:])})
		}
		list, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		put(manifestName, list)
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	whole := pack([]string{databaseFile, "authority.pem", "files/1/00/00ff"}, manifest{Format: backupFormat})
	for _, b := range [][]byte{
		whole, whole[:len(whole)/2], pack([]string{"../escaped"}, manifest{Format: backupFormat}), pack([]string{databaseFile, databaseFile}, manifest{Format: backupFormat}),
		pack([]string{"files/1/00/00ff"}, manifest{Format: backupFormat}), pack([]string{databaseFile}, manifest{Format: 2}),
		{},
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		outside, err := os.MkdirTemp("", "unpack-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(outside)
		dir := filepath.Join(outside, "in")
		m, err := unpack(t.Context(), bytes.NewReader(b), dir)
		var total int64
		found := map[string]manifestFile{}
		walked := filepath.WalkDir(outside, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, relErr := filepath.Rel(dir, path)
			if relErr != nil || kindOf(filepath.ToSlash(name)) == "" || !d.Type().IsRegular() {
				t.Errorf("left %s", path)
			}
			content, err := os.ReadFile(path)
			sum := sha256.Sum256(content)
			total += int64(len(content))
			found[filepath.ToSlash(name)] = manifestFile{filepath.ToSlash(name), int64(len(content)), hex.EncodeToString(sum[:])}
			return err
		})
		if walked != nil {
			t.Fatal(walked)
		}
		if total > int64(len(b)) {
			t.Errorf("%d bytes came of %d", total, len(b))
		}
		if err != nil {
			return
		}
		if found[databaseFile].Name == "" || len(found) != len(m.Files) || m.Format != backupFormat {
			t.Errorf("took %+v, and has %d files", m, len(found))
		}
		for _, want := range m.Files {
			if found[want.Name] != want {
				t.Errorf("took %+v as %+v", found[want.Name], want)
			}
		}
	})
}
