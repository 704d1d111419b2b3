package targets

import (
	"context"
	"crypto/sha256"
	"fmt"
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
	make   func(ctx context.Context, dir string) error // fills dir, which is empty
}

// copyTo copies what the original calls name to a place where nothing is, and gives the
// folder of the original, for what else is in it.
func (o original) copyTo(ctx context.Context, name, to string) (string, error) {
	root, err := base()
	if err != nil {
		return "", err
	}
	kept := root + keptBeside
	// Servers that do not run as root pass through.
	if err := os.MkdirAll(kept, 0o711); err != nil {
		return "", fmt.Errorf("make the folder of what test servers begin with: %w", err)
	}
	if ok, err := ownedByUs(kept); err != nil || !ok {
		return "", fmt.Errorf("folder %s is not a folder of this user: remove it (%w)", kept, err)
	}
	unlock, err := lockFile(filepath.Join(root, o.server+".lock"), true)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(kept, fmt.Sprintf("%s-%x", o.server, sha256.Sum256([]byte(o.recipe)))[:len(o.server)+17])
	if i, err := os.Stat(dir); err != nil || time.Since(i.ModTime()) > keptFor {
		if err := o.makeAt(ctx, dir); err != nil {
			return "", fmt.Errorf("make what a test server %s begins with: %w", o.server, err)
		}
	}
	if err := run(ctx, nil, "cp", "-a", filepath.Join(dir, name), to); err != nil {
		return "", fmt.Errorf("copy what a test server %s begins with: %w", o.server, err)
	}
	return dir, nil
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
