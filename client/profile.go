package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// DefaultProfile is the profile of a person with one organisation.
const DefaultProfile = "default"

// Files of a profile's folder.
const (
	profileFile  = "profile.json"  // clear facts
	deviceFile   = "device.json"   // keys, locked
	memoryFile   = "memory.db"     // the log, and what this device has seen
	unlockedFile = "unlocked.json" // where the key of the unlocked store lies
)

// MaxUnlock bounds how long a store stays open.
const MaxUnlock = 12 * time.Hour

// Profile is a device's folder: locked keys, log, memory. It is not for
// concurrent use; the Client made from it is.
type Profile struct {
	name string
	dir  string
	// store is the store's key while this process alone has it open.
	store *seal.Key
	run   string // where an unlocked store's key lies; "": as the environment says
}

// KeepUnlocked names the folder that holds an unlocked store's key, in place of
// XDG_RUNTIME_DIR: for programs that use profiles of several environments.
func (p *Profile) KeepUnlocked(dir string) { p.run = dir }

// ProfileInfo is what a profile shows without being unlocked.
type ProfileInfo struct {
	Name          string
	Dir           string
	Exists        bool // a device has been enrolled or an organisation made
	Server        string
	CAPin         seal.Digest
	OrgID         seal.Digest
	Entry         seal.ID
	Unlocked      bool
	UnlockedUntil time.Time // zero: this process alone
}

// facts are the clear facts in profileFile.
type facts struct {
	V      int         `json:"v"`
	Server string      `json:"server"`
	CAPin  seal.Digest `json:"ca_pin"`
	OrgID  seal.Digest `json:"org_id"`
	Entry  seal.ID     `json:"entry_id"`
}

// device is deviceFile: a random store key under the passphrase, and the keys
// under the store key. So the store can be open without the passphrase, and the
// passphrase can change without the keys being written anew.
type device struct {
	V      int    `json:"v"`
	Locked []byte `json:"locked"`
	Keys   []byte `json:"keys"`
}

// OpenProfile opens (or prepares) a profile's folder. Name "" is "default".
func OpenProfile(home, name string) (*Profile, error) {
	if name == "" {
		name = DefaultProfile
	}
	if err := checkProfileName(name); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Join(home, name))
	if err != nil {
		return nil, fail("open the profile "+name, err)
	}
	return &Profile{name: name, dir: dir}, nil
}

func checkProfileName(name string) error {
	ok := len(name) > 0 && len(name) <= 64 && name[0] != '.' && name[0] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if !ok {
		return invalid("open the profile", "%q is not a profile's name: letters, digits, '.', '_' and '-', at most 64", name)
	}
	return nil
}

func (p *Profile) memory() memory { return memory{p.path(memoryFile)} }

func (p *Profile) path(file string) string { return filepath.Join(p.dir, file) }

// Info reads the profile's clear facts.
func (p *Profile) Info() (ProfileInfo, error) {
	info := ProfileInfo{Name: p.name, Dir: p.dir}
	f, err := p.facts()
	if ReasonOf(err) == "no_profile" {
		return info, nil
	}
	if err != nil {
		return info, err
	}
	info.Exists = true
	info.Server, info.CAPin, info.OrgID, info.Entry = f.Server, f.CAPin, f.OrgID, f.Entry
	if p.store != nil {
		info.Unlocked = true
		return info, nil
	}
	if k, until, err := p.readUnlock(); err == nil {
		k.Wipe()
		info.Unlocked, info.UnlockedUntil = true, until
	}
	return info, nil
}

func (p *Profile) facts() (facts, error) {
	op := "open the profile " + p.name
	b, err := os.ReadFile(p.path(profileFile))
	if errors.Is(err, os.ErrNotExist) {
		return facts{}, &Error{
			Class: NotFound, Reason: "no_profile", Op: op, Err: errors.New("no device is enrolled here"),
			Hint: "make an organisation, or join one with a token",
		}
	}
	if err != nil {
		return facts{}, fail(op, err)
	}
	var f facts
	if err := json.Unmarshal(b, &f); err != nil || f.V != 1 {
		return facts{}, &Error{Class: Invalid, Reason: "profile_damaged", Op: op, Err: fmt.Errorf("%s is damaged, or of a newer version", p.path(profileFile))}
	}
	return f, nil
}

// create writes a new profile. The facts come last: with them it exists.
func (p *Profile) create(f facts, keys enrol.Keys, passphrase sdk.Secret, log [][]byte) error {
	op := "make the profile " + p.name
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fail(op, err)
	}
	if err := checkPrivate(p.dir); err != nil {
		return err
	}
	stored, err := keys.Store()
	if err != nil {
		return fail(op, err)
	}
	defer stored.Wipe()
	plain, err := json.Marshal(stored)
	if err != nil {
		return fail(op, err)
	}
	defer clear(plain)
	store := seal.NewKey()
	d := device{V: 1, Keys: seal.SealGCM(store, plain, f.keysAD())}
	d.Locked = lockStore(store, passphrase)
	if err := writeJSON(p.path(deviceFile), d); err != nil {
		return fail(op, err)
	}
	if err := p.memory().work(func(t *memoryTx) error { return t.addChanges(0, log) }); err != nil {
		return fail(op, err)
	}
	f.V = 1
	if err := writeJSON(p.path(profileFile), f); err != nil {
		return fail(op, err)
	}
	p.store = &store
	return nil
}

// discard takes back a create whose party did not come to be.
func (p *Profile) discard() error {
	p.forget()
	var errs []error
	for _, file := range []string{profileFile, deviceFile, memoryFile} {
		if err := os.Remove(p.path(file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// free refuses a profile that holds a device: its keys would be lost.
func (p *Profile) free(op string) error {
	for _, file := range []string{profileFile, deviceFile} {
		if _, err := os.Stat(p.path(file)); err == nil {
			return &Error{
				Class: Conflict, Reason: "profile_exists", Op: op, Err: fmt.Errorf("%s holds a device already", p.dir),
				Hint: "use another profile, or move the folder away",
			}
		}
	}
	return nil
}

func (f facts) keysAD() []byte {
	ad := []byte("rotunda/v1/device-keys\x00")
	ad = append(ad, f.OrgID[:]...)
	return append(ad, f.Entry[:]...)
}

func lockStore(store seal.Key, passphrase sdk.Secret) []byte {
	pass := passphrase.Expose()
	defer clear(pass)
	raw := store.Expose()
	defer clear(raw)
	return seal.Lock(pass, seal.LockedDeviceStore, raw)
}

func (p *Profile) device() (device, error) {
	var d device
	b, err := os.ReadFile(p.path(deviceFile))
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err == nil && d.V != 1 {
		err = fmt.Errorf("%s is of version %d", p.path(deviceFile), d.V)
	}
	return d, fail("read the device's keys", err)
}

// Unlock opens the device's keys and keeps them usable for ttl (at most 12 h;
// zero: this process alone). The class of a wrong passphrase is Denied.
func (p *Profile) Unlock(passphrase sdk.Secret, ttl time.Duration) error {
	const op = "unlock"
	if ttl < 0 || ttl > MaxUnlock {
		return invalid(op, "the time is between 0 and %v", MaxUnlock)
	}
	store, err := p.openStore(passphrase)
	if err != nil {
		return err
	}
	p.store = &store
	if ttl == 0 {
		return nil
	}
	return p.KeepOpen(ttl)
}

// KeepOpen keeps the keys of a profile that this process has open, as one that
// has just been made, usable by others for ttl (at most 12 h), as Unlock does.
func (p *Profile) KeepOpen(ttl time.Duration) error {
	const op = "unlock"
	if ttl <= 0 || ttl > MaxUnlock {
		return invalid(op, "the time is above 0 and at most %v", MaxUnlock)
	}
	if p.store == nil {
		return &Error{Class: Locked, Reason: "locked", Op: op, Err: errNotUnlocked}
	}
	return fail(op, p.writeUnlock(*p.store, time.Now().Add(ttl)))
}

func (p *Profile) openStore(passphrase sdk.Secret) (seal.Key, error) {
	if _, err := p.facts(); err != nil {
		return seal.Key{}, err
	}
	d, err := p.device()
	if err != nil {
		return seal.Key{}, err
	}
	pass := passphrase.Expose()
	defer clear(pass)
	b, err := seal.Unlock(pass, seal.LockedDeviceStore, d.Locked)
	if errors.Is(err, seal.ErrPassphrase) {
		return seal.Key{}, &Error{Class: Denied, Reason: "passphrase", Op: "unlock", Err: err}
	}
	if err != nil {
		return seal.Key{}, fail("unlock", err)
	}
	defer clear(b)
	k, err := seal.KeyFrom(b)
	return k, fail("unlock", err)
}

// Lock ends every Unlock at once, wherever the store's key was put for it.
func (p *Profile) Lock() error {
	p.forget()
	return fail("lock", p.removeUnlock())
}

// forget wipes the store's key where this process alone has it.
func (p *Profile) forget() {
	if p.store != nil {
		p.store.Wipe()
		p.store = nil
	}
}

// ChangePassphrase locks the device's keys under another passphrase. Copies of
// the old file still open with the old one.
func (p *Profile) ChangePassphrase(old, next sdk.Secret) error {
	store, err := p.openStore(old)
	if err != nil {
		return err
	}
	defer store.Wipe()
	d, err := p.device()
	if err != nil {
		return err
	}
	d.Locked = lockStore(store, next)
	return fail("change the passphrase", writeJSON(p.path(deviceFile), d))
}

// keys opens the device's keys: Locked when the store is not open.
func (p *Profile) keys(f facts) (enrol.Keys, error) {
	const op = "open the device's keys"
	if p.store == nil {
		k, _, err := p.readUnlock()
		if err != nil {
			return enrol.Keys{}, &Error{
				Class: Locked, Reason: "locked", Op: op, Err: err,
				Hint: "unlock the device's store",
			}
		}
		p.store = &k
	}
	d, err := p.device()
	if err != nil {
		return enrol.Keys{}, err
	}
	b, err := seal.OpenGCM(*p.store, d.Keys, f.keysAD())
	if err != nil {
		return enrol.Keys{}, &Error{
			Class: Locked, Reason: "locked", Op: op, Err: err,
			Hint: "the store was locked anew, or the profile is damaged: unlock it",
		}
	}
	defer clear(b)
	var stored enrol.Stored
	if err := json.Unmarshal(b, &stored); err != nil {
		return enrol.Keys{}, fail(op, errors.New("the stored keys are not readable"))
	}
	defer stored.Wipe()
	k, err := stored.Keys()
	return k, fail(op, err)
}

// newPrefix begins the names of files that are written to take another's place.
func newPrefix(name string) string { return ".new-" + name + "-" }

// writeJSON replaces a file as a whole, durably, readable by its owner alone.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix(filepath.Base(path))+"*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	if _, err = f.Write(append(b, '\n')); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return durable.Folder(filepath.Dir(path))
}
