package targets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// keptBeside is added to base's name: the folder of what servers begin as copies of. It
// is left for later test runs, and so is no folder of base, which each of them sweeps.
const keptBeside = "-kept"

// keptFor is how long an original is copied before it is made anew: many systems delete
// what has lain below /tmp for ten days, file by file.
const keptFor = 7 * 24 * time.Hour

// original is what each server of a kind begins as a copy of. This machine has one, since
// to make it takes long.
type original struct {
	server string
	recipe string                                      // another one makes another original
	make   func(ctx context.Context, dir string) error // fills dir, which is empty; what opens it goes into a file of secretsFile's name
}

// secretsFile has what opens an original: the same for each copy, until the server changes it.
const secretsFile = "secrets"

// copyTo copies what the original calls name to a place where nothing is, and gives the
// original's secrets, if it has any: read before anybody else can make it anew.
func (o original) copyTo(ctx context.Context, name, to string) ([]byte, error) {
	root, err := base()
	if err != nil {
		return nil, err
	}
	kept := root + keptBeside
	if err := os.MkdirAll(kept, 0o711); err != nil {
		return nil, fmt.Errorf("make the folder of what test servers begin with: %w", err)
	}
	switch ok, err := ownedByUs(kept); {
	case err != nil:
		return nil, fmt.Errorf("look at the folder of what test servers begin with: %w", err)
	case !ok:
		return nil, fmt.Errorf("folder %s is not a folder of this user: remove it", kept)
	}
	// Who makes an original as another user passes through, whatever umask it was made under.
	if err := os.Chmod(kept, 0o711); err != nil {
		return nil, fmt.Errorf("open the folder of what test servers begin with: %w", err)
	}
	unlock, err := lockFile(filepath.Join(root, o.server+".lock"), true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir := filepath.Join(kept, fmt.Sprintf("%s-%x", o.server, sha256.Sum256([]byte(o.recipe)))[:len(o.server)+17])
	if i, err := os.Stat(dir); err != nil || time.Since(i.ModTime()) > keptFor {
		if err := o.makeAt(ctx, dir); err != nil {
			return nil, fmt.Errorf("make what a test server %s begins with: %w", o.server, err)
		}
	}
	if err := run(ctx, nil, "cp", "-a", filepath.Join(dir, name), to); err != nil {
		return nil, fmt.Errorf("copy what a test server %s begins with: %w", o.server, err)
	}
	secrets, err := os.ReadFile(filepath.Join(dir, secretsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the secrets of what a test server %s begins with: %w", o.server, err)
	}
	return secrets, nil
}

// makeAt makes the original beside its place and moves it there when it is whole; those of
// other recipes, and what was left half done, go.
func (o original) makeAt(ctx context.Context, dir string) error {
	old, err := filepath.Glob(filepath.Join(filepath.Dir(dir), o.server+"-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	half := filepath.Join(filepath.Dir(dir), o.server+"-half")
	if err := os.Mkdir(half, 0o711); err != nil {
		return err
	}
	if err := o.make(ctx, half); err != nil {
		return err
	}
	// From here on it is nobody's but ours: the data in it may belong to the user of a server,
	// who must not change what others begin with.
	if err := os.Chmod(half, 0o700); err != nil {
		return err
	}
	return os.Rename(half, dir)
}

// installed says which programs these are: another release is another file.
func installed(programs ...string) (string, error) {
	var s strings.Builder
	for _, p := range programs {
		i, err := os.Stat(p)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&s, p, i.Size(), i.ModTime().UTC())
	}
	return s.String(), nil
}

// writeNew writes a file into the folder of a server's user, and gives it to him. He could
// have put a link in its place, which is not followed.
func writeNew(file string, b []byte, as *account) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if as != nil {
		err = errors.Join(err, f.Chown(as.uid, as.gid))
	}
	return errors.Join(err, f.Close())
}
