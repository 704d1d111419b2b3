package release

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

const keyPrefix = "rotunda-publisher-key "

// StoreKey is the content of a publisher's key file, which is always locked.
func StoreKey(key ed25519.PrivateKey, passphrase []byte) []byte {
	plain := []byte(keyPrefix + base64.RawURLEncoding.EncodeToString(key.Seed()) + "\n")
	defer clear(plain)
	return seal.Lock(passphrase, seal.LockedPublisher, plain)
}

var errNoKey = errors.New("not a publisher's key: `rotunda plugin keygen` makes one")

// LoadKey reads what StoreKey wrote. passphrase is asked for only where there is a lock.
func LoadKey(content []byte, passphrase func() ([]byte, error)) (ed25519.PrivateKey, error) {
	if !seal.IsLocked(content) {
		return nil, errNoKey
	}
	word, err := passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(word)
	plain, err := seal.Unlock(word, seal.LockedPublisher, content)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	text, ok := strings.CutPrefix(strings.TrimSpace(string(plain)), keyPrefix)
	seed, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return nil, errNoKey
	}
	defer clear(seed)
	return ed25519.NewKeyFromSeed(seed), nil
}
