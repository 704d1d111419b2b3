package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"

	"golang.org/x/crypto/argon2"
)

// A locked file is
//
//	magic ‖ salt(16, random) ‖ GCM(plaintext), additional data magic ‖ salt ‖ purpose
//
// under Argon2id (RFC 9106) of the passphrase. The magic names the parameters:
// a file cannot ask its reader for more work than these.
const (
	lockedMagic    = "rotunda-locked-1\n" // t=3, m=64 MiB, p=4
	lockedTime     = 3
	lockedMemoryKB = 64 << 10
	lockedThreads  = 4
	lockedSalt     = 16
)

// LockedDeviceStore is the purpose of a device's keys: a file of another purpose
// cannot pass for them.
const LockedDeviceStore = "device-store"

var (
	// ErrPassphrase: the passphrase is wrong, or the file was altered; the two
	// cannot be told apart.
	ErrPassphrase = errors.New("wrong passphrase, or the file is damaged")
	// ErrNotLocked: the bytes are no locked file.
	ErrNotLocked = errors.New("not a locked file")
)

// Lock encrypts a file's content under a passphrase. It takes some 70 ms and
// 64 MiB.
func Lock(passphrase []byte, purpose string, plaintext []byte) []byte {
	header := slices.Concat([]byte(lockedMagic), make([]byte, lockedSalt))
	rand.Read(header[len(lockedMagic):])
	k := lockedKey(passphrase, header[len(lockedMagic):])
	defer k.Wipe()
	return slices.Concat(header, SealGCM(k, plaintext, slices.Concat(header, []byte(purpose))))
}

// Unlock opens what Lock made: ErrNotLocked or ErrPassphrase.
func Unlock(passphrase []byte, purpose string, box []byte) ([]byte, error) {
	if !IsLocked(box) || len(box) < len(lockedMagic)+lockedSalt {
		return nil, ErrNotLocked
	}
	header, sealed := box[:len(lockedMagic)+lockedSalt], box[len(lockedMagic)+lockedSalt:]
	k := lockedKey(passphrase, header[len(lockedMagic):])
	defer k.Wipe()
	plaintext, err := OpenGCM(k, sealed, slices.Concat(header, []byte(purpose)))
	if err != nil {
		return nil, ErrPassphrase
	}
	return plaintext, nil
}

// IsLocked reports whether the bytes begin as a locked file does.
func IsLocked(box []byte) bool { return bytes.HasPrefix(box, []byte(lockedMagic)) }

func lockedKey(passphrase, salt []byte) Key {
	b := argon2.IDKey(passphrase, salt, lockedTime, lockedMemoryKB, lockedThreads, KeySize)
	defer clear(b)
	return keyOf([KeySize]byte(b))
}
