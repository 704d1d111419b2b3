package seal

import (
	"crypto/rand"
	"fmt"
	"io"
)

// Key is a symmetric key of 32 bytes: folder, record, file, application or
// derived key. No formatter, logger or encoder prints it.
type Key [32]byte

const hidden = "[key]"

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:])
	return k
}

// KeyFrom copies 32 raw bytes.
func KeyFrom(b []byte) (Key, error) {
	if len(b) != len(Key{}) {
		return Key{}, fmt.Errorf("key of %d bytes, want %d", len(b), len(Key{}))
	}
	return Key(b), nil
}

// Wipe overwrites the key.
func (k *Key) Wipe() { clear(k[:]) }

// Format prints "[key]" under every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalText writes "[key]", so that JSON and log encoders print no key.
// Callers that store keys seal them first.
func (k Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }
