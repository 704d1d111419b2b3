package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/version"
)

// A backup is a tar file: what the data folder holds, the database as it was at one
// moment, and at its end a list of all that, by which a restore sees whether it is whole.

const (
	databaseFile = "rotunda.db"
	filesFolder  = "files"

	manifestName = "manifest.json"
	backupFormat = 1
)

// backedUp says which names of a data folder belong into a backup, as the kind of thing
// that each is.
var backedUp = []struct {
	kind string
	name *regexp.Regexp
}{
	{"database", regexp.MustCompile(`^rotunda\.db$`)},
	{"certificate authority", regexp.MustCompile(`^authority\.pem$`)},
	{"key of the secrets-manager API", regexp.MustCompile(`^machine-key-[0-9]+\.pem$`)},
	{"setup code", regexp.MustCompile(`^setup-code$`)},
	{"file contents", regexp.MustCompile(`^files/[0-9]+/[0-9a-f]{2}/[0-9a-f]+$`)},
}

// kindOf is what a name in a backup is, "" for what does not belong there.
func kindOf(name string) string {
	for _, b := range backedUp {
		if b.name.MatchString(name) {
			return b.kind
		}
	}
	return ""
}

// manifest is the last entry of a backup.
type manifest struct {
	Format  int            `json:"format"`
	Version string         `json:"version"` // of the program that made it
	Made    time.Time      `json:"made"`    // the database's moment
	Files   []manifestFile `json:"files"`
}

type manifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// tell prints what a backup holds, a line for each kind.
func (m manifest) tell(w io.Writer) {
	for _, b := range backedUp {
		n, size := 0, int64(0)
		for _, f := range m.Files {
			if kindOf(f.Name) == b.kind {
				n, size = n+1, size+f.Size
			}
		}
		if n > 0 {
			fmt.Fprintf(w, "  %-31s %d, %d bytes\n", b.kind, n, size)
		}
	}
}

func backupCommand() *cobra.Command {
	var data, out string
	c := &cobra.Command{
		Use: "backup", Short: "write everything that the server keeps into one file, while it runs", Args: cobra.NoArgs,
		Long: `Writes one file (mode 0600) with the database as it is at one moment, the certificate
authority, the keys of the secrets-manager API, the setup code, and file contents. The
server may run meanwhile, and goes on. Secrets in it are as sealed as in the database;
the authority's and the API's keys are in clear: keep the file as you keep the folder.

Beside it there has to be room for a second copy of the database while it is made.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return exitcode.With(exitcode.Usage, errors.New("give the backup a file: --out FILE"))
			}
			m, err := backup(c.Context(), data, out)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s, of %s:\n", out, m.Made.Format(time.RFC3339))
			m.tell(c.OutOrStdout())
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	c.Flags().StringVar(&out, "out", "", "`FILE` to write; it must not exist")
	return c
}

func backup(ctx context.Context, data, out string) (m manifest, err error) {
	if half, err := unfinished(data); err != nil {
		return m, err
	} else if half != "" {
		return m, exitcode.With(exitcode.Conflict, fmt.Errorf("a restore of the folder %s is under way or was broken off: `rotunda-server serve` finishes it at its start", data))
	}
	database := filepath.Join(data, databaseFile)
	if _, err := os.Stat(database); err != nil {
		return m, exitcode.With(exitcode.NotFound, fmt.Errorf("there is no database in %s: %w", data, err))
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return m, exitcode.With(exitcode.Conflict, fmt.Errorf("%s is there already: name another file", out))
	}
	if err != nil && !full(err) {
		err = exitcode.With(exitcode.Usage, err)
	}
	if err != nil {
		return m, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil { // nobody may take it for a whole one
			_ = os.Remove(out)
		}
	}()
	snapshot := out + ".db"
	if _, err := os.Lstat(snapshot); err == nil {
		return m, exitcode.With(exitcode.Conflict, fmt.Errorf("%s is there already: another backup to this file goes on, or was killed; remove it if none does", snapshot))
	}
	defer os.Remove(snapshot)
	defer os.Remove(snapshot + "-journal") // stays where the disk was full
	m = manifest{Format: backupFormat, Version: version.Version, Made: store.Now().UTC().Truncate(time.Second)}
	if err := store.Snapshot(ctx, database, snapshot); err != nil {
		return m, err
	}
	w := tar.NewWriter(f)
	if err := m.add(w, databaseFile, snapshot); err != nil {
		return m, err
	}
	// After the database: what it names is here by now, and contents never change.
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted since it was listed
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(data, path)
		name = filepath.ToSlash(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && name != filesFolder && !strings.HasPrefix(name, filesFolder+"/"):
			return fs.SkipDir
		case d.IsDir() || name == databaseFile || kindOf(name) == "" || !d.Type().IsRegular():
			return nil
		}
		if err := m.add(w, name, path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("back up %s: %w", data, err)
	}
	list, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	if err := w.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(list)), ModTime: m.Made}); err != nil {
		return m, fmt.Errorf("write %s: %w", out, err)
	}
	_, err = io.Copy(w, bytes.NewReader(list))
	if err := errors.Join(err, w.Close(), f.Sync(), durable.Folder(filepath.Dir(out))); err != nil {
		return m, fmt.Errorf("write %s: %w", out, err)
	}
	return m, nil
}

// add copies a file into the archive and lists it.
func (m *manifest) add(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, sum), f, info.Size()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m.Files = append(m.Files, manifestFile{name, info.Size(), hex.EncodeToString(sum.Sum(nil))})
	return nil
}
