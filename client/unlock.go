package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// While a profile is unlocked its store key lies in a file of its own, readable
// by its owner alone, in a folder that the system clears (XDG_RUNTIME_DIR), or
// in a private folder below the temporary one. The file opens nothing without
// the profile's folder.

var errNotUnlocked = errors.New("the device's store is locked")

type unlockState struct {
	V       int    `json:"v"`
	Expires int64  `json:"expires"` // Unix milliseconds
	Key     []byte `json:"key"`
}

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
	name := seal.Hash([]byte(p.dir)).String()[:32] + ".unlock"
	return filepath.Join(base, name), nil
}

func (p *Profile) writeUnlock(store seal.Key, until time.Time) error {
	path, err := p.unlockPath()
	if err != nil {
		return err
	}
	raw := store.Expose()
	defer clear(raw)
	return writeJSON(path, unlockState{V: 1, Expires: until.UnixMilli(), Key: raw})
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
		return seal.Key{}, time.Time{}, errors.Join(errNotUnlocked, p.removeUnlock())
	}
	k, err := seal.KeyFrom(s.Key)
	return k, until, err
}

// removeUnlock overwrites the file before it removes it, for what that is worth
// on the file system at hand.
func (p *Profile) removeUnlock() error {
	path, err := p.unlockPath()
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		_ = os.WriteFile(path, make([]byte, info.Size()), 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
