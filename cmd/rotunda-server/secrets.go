package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// firstKeyID is the id of this server's first secrets-manager key. The public SDKs
// ship a table of the vendor's ids 7 to 18 and 20; any other makes them take ours.
const firstKeyID = 100

// readSecret reads a private key's file, which nobody else may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others may read it. If nobody did, run chmod 600 %s; else that key is known, and a server must be set up anew", path, mode, path)
	}
	return os.ReadFile(path)
}

// openMachineKeys reads the keys to which machine clients seal their requests, or
// makes the first. Old ones stay usable for as long as their file is there:
// machine-key-ID.pem, the highest id is the current one.
func openMachineKeys(dir string) (ksm.ServerKeys, error) {
	files, err := filepath.Glob(filepath.Join(dir, "machine-key-*.pem"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		key, err := seal.GenerateDeviceKey()
		if err != nil {
			return nil, err
		}
		der, err := seal.MarshalDeviceKey(key)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, fmt.Sprintf("machine-key-%d.pem", firstKeyID))
		if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
			return nil, fmt.Errorf("machine key: %w", err)
		}
		files = []string{path}
	}
	var keys ksm.ServerKeys
	for _, f := range files {
		var id int
		if _, err := fmt.Sscanf(filepath.Base(f), "machine-key-%d.pem", &id); err != nil {
			return nil, fmt.Errorf("machine key %s: its name must be machine-key-NUMBER.pem", f)
		}
		data, err := readSecret(f)
		if err != nil {
			return nil, fmt.Errorf("machine key: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("machine key %s is no PEM file: restore it from the backup of this folder", f)
		}
		key, err := seal.ParseDeviceKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("machine key %s: %w", f, err)
		}
		keys = append(keys, ksm.ServerKey{ID: id, Private: key})
	}
	slices.SortFunc(keys, func(a, b ksm.ServerKey) int { return b.ID - a.ID }) // the current one first
	return keys, nil
}

// setupFile holds the code that lets somebody make an organisation on this server.
const setupFile = "setup-code"

// openSetupCode reads the setup code or makes one.
func openSetupCode(dir string) (made bool, err error) {
	path := filepath.Join(dir, setupFile)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var b [15]byte
	_, _ = rand.Read(b[:]) // does not fail
	code := strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
	return true, writeNew(path, []byte(code+"\n"))
}

// setupCode is read at each use: an administrator who empties or removes the file
// closes the server to further organisations at once.
func setupCode(dir string) []byte {
	data, err := os.ReadFile(filepath.Join(dir, setupFile))
	if err != nil {
		return nil
	}
	return bytes.TrimSpace(data)
}
