package agent

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// keyPurpose separates this file's passphrase lock from the device stores'.
const keyPurpose = "agent"

// Identity is who this agent is, as its key file keeps it.
type Identity struct {
	OrgID  seal.Digest
	Entry  seal.ID
	Name   string
	Pool   seal.ID
	Server string
	CAPin  seal.Digest
	Keys   enrol.Keys
}

// Device is the P-256 key that signs requests and the channel's challenge.
func (id *Identity) Device() *ecdsa.PrivateKey { return id.Keys.Device }

type keyFile struct {
	OrgID  seal.Digest  `json:"org"`
	Entry  seal.ID      `json:"entry"`
	Name   string       `json:"name"`
	Pool   seal.ID      `json:"pool"`
	Server string       `json:"server"`
	CAPin  seal.Digest  `json:"ca"`
	Keys   enrol.Stored `json:"keys"`
}

// ErrLocked says that the key file has a passphrase and that none is to be had.
var ErrLocked = errors.New("there is no passphrase: set passphrase_file, or give the service a credential called passphrase")

// ErrNotEnrolled says that there is no key file yet.
var ErrNotEnrolled = errors.New("this agent is not enrolled: run rotunda-agent enrol with a token from \"rotunda agent token\"")

// SaveIdentity writes the key file, mode 0600, whole or not at all. With a
// passphrase it is locked by it (Argon2id); without, the file's mode and the host's
// root are what protects it.
func SaveIdentity(path string, id *enrol.Identity, passphrase []byte) error {
	stored, err := id.Keys.Store()
	if err != nil {
		return err
	}
	defer stored.Wipe()
	plain, err := json.Marshal(keyFile{id.OrgID, id.Entry, id.Name, id.Owner, id.Server, id.CAPin, stored})
	if err != nil {
		return err
	}
	out := plain
	if len(passphrase) > 0 {
		out = seal.Lock(passphrase, keyPurpose, plain)
	}
	defer clear(plain)
	return writeFile(path, out)
}

// writeFile replaces a file atomically and durably. Others may pass through its
// folder, as plugins do whose users are their own, and read nothing there.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.Folder(filepath.Dir(path)) // else the name may be lost with the power
}

// LoadIdentity reads the key file. passphrase is asked for only when the file is
// locked.
func LoadIdentity(path string, passphrase func() ([]byte, error)) (*Identity, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled
	}
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if err := ownerOnly(path, info); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if seal.IsLocked(data) {
		word, err := passphrase()
		if err != nil {
			return nil, fmt.Errorf("key file %s is locked: %w", path, err)
		}
		defer clear(word)
		if len(word) == 0 {
			return nil, fmt.Errorf("key file %s is locked and %w", path, ErrLocked)
		}
		if data, err = seal.Unlock(word, keyPurpose, data); err != nil {
			return nil, fmt.Errorf("key file %s: %w", path, err)
		}
	}
	defer clear(data)
	var f keyFile
	if json.Unmarshal(data, &f) != nil { // its error could quote the keys
		return nil, fmt.Errorf("key file %s is damaged: enrol this host anew and remove the old agent", path)
	}
	defer f.Keys.Wipe()
	keys, err := f.Keys.Keys()
	if err != nil {
		return nil, fmt.Errorf("key file %s is damaged: %w", path, err)
	}
	if keys.Device == nil {
		return nil, fmt.Errorf("key file %s is a device's, not an agent's", path)
	}
	return &Identity{f.OrgID, f.Entry, f.Name, f.Pool, f.Server, f.CAPin, keys}, nil
}
