package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/vault/directory"
)

func restoreCommand() *cobra.Command {
	var data string
	var replace bool
	c := &cobra.Command{
		Use: "restore FILE", Short: "put a backup back, and mark the server as recovering", Args: cobra.ExactArgs(1),
		Long: `Puts what a backup holds into an empty folder, after it has looked whether all of it
is there and holds together: every file's hash, the database, and the signed log of each
organisation. The server must not run.

The database is marked as recovering: agents and people's clients that know more send it
back, and no new change of the log is taken until an administrator has run
` + "`rotunda org end-recovery`" + `. Run the former server no more: it and this one would
both be right, and neither whole.`,
		RunE: func(c *cobra.Command, args []string) error {
			return restore(c.Context(), data, args[0], replace, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	c.Flags().BoolVar(&replace, "replace", false, "the folder need not be empty: what is in it is moved into a folder of its own there, before-TIME")
	return c
}

// restoredCommand marks a database that came back in another way.
func restoredCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "restored", Short: "mark the server as recovering, after its disk went back in time by other means", Args: cobra.NoArgs,
		Long: `Does what restore does last, for a folder that was copied back by hand, a snapshot of
the disk, or a standby that had not received everything. The server must not run.`,
		RunE: func(c *cobra.Command, _ []string) error {
			database := filepath.Join(data, databaseFile)
			if _, err := os.Stat(database); err != nil {
				return exitcode.With(exitcode.NotFound, fmt.Errorf("there is no database in %s: %w", data, err))
			}
			unlock, err := lockFolder(data)
			if err != nil {
				return err
			}
			defer unlock()
			return markRestored(c.Context(), database, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	return c
}

func restore(ctx context.Context, data, file string, replace bool, w io.Writer) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return exitcode.With(exitcode.NotFound, err)
	}
	defer in.Close()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	former, err := contents(data)
	if err != nil {
		return err
	}
	if len(former) > 0 && !replace {
		return exitcode.With(exitcode.Conflict, fmt.Errorf("the folder %s is not empty: name another, or give --replace, which moves what is there into a folder before-TIME in it", data))
	}
	unlock, err := lockFolder(data)
	if err != nil {
		return err
	}
	defer unlock()
	work, err := os.MkdirTemp(data, "restoring-") // 0700, on the same file system
	if err != nil {
		return exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	defer os.RemoveAll(work)
	m, err := unpack(ctx, in, work)
	if err == nil {
		err = verifyKeys(work)
	}
	if err == nil {
		err = store.Check(ctx, filepath.Join(work, databaseFile))
	}
	if err != nil {
		return exitcode.With(exitcode.Usage, fmt.Errorf("the backup %s cannot be used: %w; nothing was put back", file, err))
	}
	fmt.Fprintf(w, "%s, of %s, by version %s:\n", file, m.Made.Format(time.RFC3339), m.Version)
	m.tell(w)
	if err := markRestored(ctx, filepath.Join(work, databaseFile), w); err != nil {
		return err
	}
	if len(former) > 0 {
		aside := filepath.Join(data, "before-"+store.Now().UTC().Format("20060102T150405Z"))
		if err := os.Mkdir(aside, 0o700); err != nil {
			return fmt.Errorf("move the former contents of %s aside: %w", data, err)
		}
		if err := move(data, aside, former); err != nil {
			return fmt.Errorf("move the former contents of %s aside: %w", data, err)
		}
		fmt.Fprintf(w, "what was in %s is in %s now\n", data, aside)
	}
	fresh, err := contents(work)
	if err == nil {
		err = move(work, data, fresh)
	}
	if err != nil {
		return fmt.Errorf("put the backup into %s: %w", data, err)
	}
	return nil
}

// contents lists what a data folder holds, but for its lock and earlier restores.
func contents(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	for _, e := range entries {
		if n := e.Name(); n != lockName && !strings.HasPrefix(n, "before-") && !strings.HasPrefix(n, "restoring-") {
			names = append(names, n)
		}
	}
	return names, nil
}

func move(from, to string, names []string) error {
	for _, n := range names {
		if err := os.Rename(filepath.Join(from, n), filepath.Join(to, n)); err != nil {
			return err
		}
	}
	return durable.Folder(to)
}

// maxManifest bounds a backup's list.
const maxManifest = 1 << 30

// unpack writes a backup's files into a folder, and holds them against its list.
func unpack(ctx context.Context, in io.Reader, dir string) (m manifest, err error) {
	var found []manifestFile
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return m, errors.New("it breaks off: the list at its end is missing")
		}
		if err != nil {
			return m, err
		}
		if ctx.Err() != nil {
			return m, context.Cause(ctx)
		}
		if h.Name == manifestName {
			if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&m); err != nil {
				return m, fmt.Errorf("its list cannot be read: %w", err)
			}
			break
		}
		if h.Typeflag != tar.TypeReg || kindOf(h.Name) == "" {
			return m, fmt.Errorf("it holds %q, which is nothing of a server's", h.Name)
		}
		f, err := extract(r, filepath.Join(dir, filepath.FromSlash(h.Name)))
		if err != nil {
			return m, fmt.Errorf("%s: %w", h.Name, err)
		}
		f.Name = h.Name
		found = append(found, f)
	}
	if m.Format != backupFormat {
		return m, fmt.Errorf("its format is %d, this version reads %d: use the version that made it, %s", m.Format, backupFormat, m.Version)
	}
	if !slices.Equal(found, m.Files) {
		return m, errors.New("its files are not those of the list at its end: it was altered or damaged")
	}
	if !slices.ContainsFunc(found, func(f manifestFile) bool { return f.Name == databaseFile }) {
		return m, errors.New("it holds no database")
	}
	return m, nil
}

func extract(r io.Reader, path string) (m manifestFile, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return m, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return m, errors.New("it is there twice")
	}
	if err != nil {
		return m, err
	}
	sum := sha256.New()
	m.Size, err = io.Copy(io.MultiWriter(f, sum), r)
	m.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return m, errors.Join(err, f.Sync(), f.Close())
}

// verifyKeys looks whether the keys of a data folder can be used: a server without its
// authority would make another, which nobody knows.
func verifyKeys(dir string) error {
	pem, err := readSecret(filepath.Join(dir, "authority.pem"))
	if err == nil {
		_, err = tls.X509KeyPair(pem, pem)
	}
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	made, err := filepath.Glob(filepath.Join(dir, "machine-key-*.pem"))
	if err == nil && len(made) == 0 {
		err = errors.New("it holds no key of the secrets-manager API")
	}
	if err == nil {
		_, err = openMachineKeys(dir)
	}
	return err
}

// markRestored verifies every organisation's log and marks the database as recovering.
func markRestored(ctx context.Context, database string, w io.Writer) error {
	s, err := store.Open(ctx, database)
	if err != nil {
		return err
	}
	list, err := directory.New(bus.New(), nil).MarkRestored(ctx, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	for _, o := range list {
		fmt.Fprintf(w, "organisation %s: its log ends with change %d of %s, and the server recovers until an administrator runs `rotunda org end-recovery`\n",
			o.Org.Fingerprint(), o.Log.Head().Epoch, o.Log.Head().Issued.UTC().Format(time.RFC3339))
	}
	if len(list) == 0 {
		fmt.Fprintln(w, "there is no organisation in it")
	}
	return nil
}
