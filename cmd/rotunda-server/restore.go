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
	"syscall"
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
			half, err := unfinished(data)
			if err != nil {
				return err
			}
			if _, err := os.Stat(database); err != nil && half == "" {
				return exitcode.With(exitcode.NotFound, fmt.Errorf("there is no database in %s: %w", data, err))
			}
			unlock, err := lockFolder(data)
			if err != nil {
				return err
			}
			defer unlock()
			if _, err := finishRestore(data); err != nil {
				return err
			}
			return markRestored(c.Context(), database, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&data, "data", "/var/lib/rotunda", "the server's folder")
	return c
}

func restore(ctx context.Context, data, file string, replace bool, w io.Writer) error {
	in, err := os.Open(file)
	if err != nil {
		return exitcode.With(exitcode.NotFound, err)
	}
	defer in.Close()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return noRoom(data, file, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err)))
	}
	if _, err := replaceable(data, replace); err != nil { // before the lock, which is a file there
		return err
	}
	unlock, err := lockFolder(data)
	if err != nil {
		return noRoom(data, file, err)
	}
	defer unlock()
	if _, err := finishRestore(data); err != nil {
		return err
	}
	former, err := replaceable(data, replace)
	if err != nil {
		return err
	}
	aside, err := prepare(ctx, data, in, file, len(former) > 0, w)
	if err != nil {
		return err
	}
	if _, err := finishRestore(data); err != nil {
		return err
	}
	if len(former) > 0 {
		fmt.Fprintf(w, "what was in %s is in %s now\n", data, aside)
	}
	return nil
}

// noRoom says of a disk that is full what it is: no fault of the backup, nor of the command
// line. It is for errors from before anything was put back.
func noRoom(data, file string, err error) error {
	if !full(err) {
		return err
	}
	return fmt.Errorf("there is no room in %s for what the backup %s holds: free some space, and restore it again; nothing was put back", data, file)
}

// full reports whether a disk, or what its user may have of it, had no room.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, store.ErrFull)
}

// replaceable lists what a restore would replace, and refuses where it may not.
func replaceable(data string, replace bool) (former []string, err error) {
	former, err = contents(data)
	if err == nil && len(former) > 0 && !replace {
		err = exitcode.With(exitcode.Conflict, fmt.Errorf("the folder %s is not empty: name another, or give --replace, which moves what is there into a folder before-TIME in it", data))
	}
	return former, err
}

// Folders of a restore, in the data folder. A restore that is broken off before the backup
// was looked at and marked wholly leaves only the first, and all else as it was. From then
// on it is finished, by whichever command holds the folder next: the folder's name says
// how far it got.
const (
	preparing = "restoring-" // a backup that is being unpacked
	replacing = "replacing-" // TIME: what it replaces is on its way into before-TIME
	replaced  = "restored-"  // TIME: it is on its way into the data folder
	before    = "before-"
)

// prepare unpacks and marks a backup, and makes it what finishRestore puts in place.
func prepare(ctx context.Context, data string, in io.Reader, file string, former bool, w io.Writer) (aside string, err error) {
	work, err := os.MkdirTemp(data, preparing) // 0700, on the same file system
	if err != nil {
		return "", noRoom(data, file, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err)))
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
		return "", noRoom(data, file, exitcode.With(exitcode.Usage, fmt.Errorf("the backup %s cannot be used: %w; nothing was put back", file, err)))
	}
	fmt.Fprintf(w, "%s, of %s, by version %s:\n", file, m.Made.Format(time.RFC3339), m.Version)
	m.tell(w)
	if err := markRestored(ctx, filepath.Join(work, databaseFile), w); err != nil {
		return "", noRoom(data, file, err)
	}
	at := store.Now().UTC().Format("20060102T150405Z")
	aside = filepath.Join(data, before+at)
	if former {
		err = os.Mkdir(aside, 0o700) // it may not be an earlier restore's
	}
	if err == nil {
		err = durableTree(work)
	}
	if err == nil {
		err = rename(work, filepath.Join(data, replacing+at))
	}
	if err != nil {
		return "", fmt.Errorf("put the backup into %s: %w", data, err)
	}
	return aside, nil
}

// unfinished is the folder of a restore that is under way or was broken off, "" for none.
func unfinished(data string) (string, error) {
	found, err := folders(data, replacing, replaced)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// folders lists what in a data folder begins with one of some words.
func folders(data string, words ...string) (names []string, err error) {
	entries, err := os.ReadDir(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	for _, e := range entries {
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(e.Name(), w) }) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// finishRestore puts a prepared backup in place, and removes what one left behind that
// was not prepared wholly. The caller holds the folder's lock.
func finishRestore(data string) (finished bool, err error) {
	for {
		name, err := unfinished(data)
		if err != nil {
			return finished, err
		}
		if name == "" {
			break
		}
		if err := restoreStep(data, name); err != nil {
			return finished, fmt.Errorf("put a backup into %s: %w; mend that, and `rotunda-server serve` goes on with it at its start", data, err)
		}
		finished = true
	}
	left, err := folders(data, preparing)
	for _, name := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(data, name)))
	}
	return finished, err
}

// restoreStep renames one thing, durably: whatever is there after it, the next one goes on.
func restoreStep(data, name string) error {
	work := filepath.Join(data, name)
	if at, ok := strings.CutPrefix(name, replacing); ok {
		former, err := contents(data)
		switch {
		case err != nil:
			return err
		case len(former) == 0:
			return rename(work, filepath.Join(data, replaced+at))
		}
		aside := filepath.Join(data, before+at)
		if err := os.MkdirAll(aside, 0o700); err != nil {
			return err
		}
		return rename(filepath.Join(data, former[0]), filepath.Join(aside, former[0]))
	}
	fresh, err := contents(work)
	switch {
	case err != nil:
		return err
	case len(fresh) == 0:
		return errors.Join(os.Remove(work), durable.Folder(data))
	}
	return rename(filepath.Join(work, fresh[0]), filepath.Join(data, fresh[0]))
}

// rename is durable in both folders.
func rename(from, to string) error {
	return errors.Join(os.Rename(from, to), durable.Folder(filepath.Dir(to)), durable.Folder(filepath.Dir(from)))
}

// durableTree makes the names in a folder and below it durable.
func durableTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return durable.Folder(path)
	})
}

// contents lists what a data folder holds, but for its lock and what is of restores.
func contents(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w", err))
	}
	ofRestores, err := folders(dir, preparing, replacing, replaced, before)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if n := e.Name(); n != lockName && !slices.Contains(ofRestores, n) {
			names = append(names, n)
		}
	}
	return names, nil
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
