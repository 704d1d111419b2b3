package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// While a profile is unlocked its store key lies in a file of its own, readable
// by its owner alone, in a folder that the system clears (XDG_RUNTIME_DIR), or
// in a private folder below the temporary one. The file opens nothing without
// the profile's folder, which notes where it lies: another process may be told of
// another such folder, and who locks the profile means all of them.

var errNotUnlocked = errors.New("the device's store is locked")

type unlockState struct {
	V       int    `json:"v"`
	Expires int64  `json:"expires"` // Unix milliseconds
	Key     []byte `json:"key"`
}

// unlockNote is unlockedFile: every file that holds the store's key, or held it.
type unlockNote struct {
	V     int      `json:"v"`
	Files []string `json:"files"`
}

const unlockExt = ".unlock"

func (p *Profile) unlockPath() (string, error) {
	base := p.run
	if base == "" {
		base = os.Getenv("XDG_RUNTIME_DIR")
	}
	if base != "" {
		base = filepath.Join(base, "rotunda")
	} else {
		base = filepath.Join(os.TempDir(), "rotunda-"+strconv.Itoa(os.Getuid()))
	}
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	// Somebody else may have made it first: then it is not ours.
	if err := checkPrivate(base); err != nil {
		return "", err
	}
	// One profile has one name, however its folder is spelt.
	dir := p.dir
	if resolved, err := filepath.EvalSymlinks(dir); err == nil { // else it is not there yet
		dir = resolved
	}
	return filepath.Abs(filepath.Join(base, seal.Hash([]byte(dir)).String()[:32]+unlockExt))
}

func (p *Profile) writeUnlock(store seal.Key, until time.Time) error {
	path, err := p.unlockPath()
	if err != nil {
		return err
	}
	// Noted before it is there: what nobody knows of would stay.
	if err := p.noteUnlock(path); err != nil {
		return err
	}
	raw := store.Expose()
	defer clear(raw)
	return writeJSON(path, unlockState{V: 1, Expires: until.UnixMilli(), Key: raw})
}

func (p *Profile) noteUnlock(path string) error {
	files, err := p.notedUnlocks()
	if err != nil || slices.Contains(files, path) {
		return err
	}
	files = slices.DeleteFunc(files, func(f string) bool { // the system has cleared it
		_, err := os.Lstat(filepath.Dir(f))
		return errors.Is(err, fs.ErrNotExist)
	})
	return writeJSON(p.path(unlockedFile), unlockNote{V: 1, Files: append(files, path)})
}

func (p *Profile) notedUnlocks() ([]string, error) {
	b, err := os.ReadFile(p.path(unlockedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var n unlockNote
	ok := json.Unmarshal(b, &n) == nil && n.V == 1
	for _, f := range n.Files {
		ok = ok && filepath.IsAbs(f) && filepath.Ext(f) == unlockExt // nothing else is removed
	}
	if !ok {
		return nil, &Error{
			Class: Invalid, Reason: "profile_damaged", Op: "read " + p.path(unlockedFile), Err: errors.New("it is damaged, or of a newer version"),
			Hint: "it names the files that hold the unlocked store's key: see that none is left (*" + unlockExt + " below XDG_RUNTIME_DIR and the temporary folder), then remove it",
		}
	}
	return n.Files, nil
}

// readUnlock gives the store key while it may be used; a file past its time is removed.
func (p *Profile) readUnlock() (seal.Key, time.Time, error) {
	path, err := p.unlockPath()
	if err != nil {
		return seal.Key{}, time.Time{}, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return seal.Key{}, time.Time{}, errNotUnlocked
	}
	if !info.Mode().IsRegular() {
		return seal.Key{}, time.Time{}, fmt.Errorf("%s is not a plain file", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return seal.Key{}, time.Time{}, err
	}
	defer clear(b)
	var s unlockState
	if err := json.Unmarshal(b, &s); err != nil || s.V != 1 {
		return seal.Key{}, time.Time{}, errNotUnlocked
	}
	defer clear(s.Key)
	until := time.UnixMilli(s.Expires)
	now := time.Now()
	// An expiry too far ahead means that the clock was set: do not trust it.
	if now.After(until) || until.Sub(now) > MaxUnlock+time.Minute {
		return seal.Key{}, time.Time{}, errors.Join(errNotUnlocked, eraseUnlock(path))
	}
	k, err := seal.KeyFrom(s.Key)
	return k, until, err
}

// removeUnlock removes the store's key from wherever it was put.
func (p *Profile) removeUnlock() error {
	files, noted := p.notedUnlocks()
	path, here := p.unlockPath()
	if here == nil && !slices.Contains(files, path) {
		files = append(files, path)
	}
	errs := []error{noted, here}
	for _, f := range files {
		errs = append(errs, eraseUnlock(f))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the note stays, for the next time
	}
	if err := os.Remove(p.path(unlockedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// eraseUnlock removes a key's file, and what a process has left that died while it wrote
// it. A folder that is not ours alone is not touched.
func eraseUnlock(path string) error {
	dir, name := filepath.Dir(path), filepath.Base(path)
	err := checkPrivate(dir)
	var list []os.DirEntry
	if err == nil {
		list, err = os.ReadDir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range list {
		if e.Name() == name || strings.HasPrefix(e.Name(), newPrefix(name)) {
			errs = append(errs, erase(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// erase overwrites a file before it removes it, for what that is worth on the file system
// at hand.
func erase(path string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil { // not truncated: that would free what is to be overwritten
			_, _ = f.Write(make([]byte, info.Size()))
			_, _ = f.Sync(), f.Close()
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
