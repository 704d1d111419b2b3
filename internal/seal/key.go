package seal

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

// KeySize is the size of a Key in bytes.
const KeySize = 32

// Key is a symmetric key of 32 bytes: folder, record, file, application or
// derived key. No formatter, logger or encoder prints it: it holds a closure, since fmt
// cannot call Format on a Key in an unexported field, and would print bytes there.
//
// The zero Key is all zeros. Copies of a Key share its bytes, which Wipe erases for all
// of them.
type Key struct{ f func() *[KeySize]byte }

// NewKey makes a random key.
func NewKey() Key {
	var b [KeySize]byte
	rand.Read(b[:])
	return keyOf(b)
}

// KeyFrom copies 32 raw bytes.
func KeyFrom(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, fmt.Errorf("key of %d bytes, want %d", len(b), KeySize)
	}
	return keyOf([KeySize]byte(b)), nil
}

func keyOf(b [KeySize]byte) Key { return Key{func() *[KeySize]byte { return &b }} }

func (k Key) raw() []byte {
	if k.f == nil {
		return make([]byte, KeySize)
	}
	return k.f()[:]
}

// Expose returns a copy, which the caller should clear after use.
func (k Key) Expose() []byte { return append([]byte(nil), k.raw()...) }

// Equal compares in constant time.
func (k Key) Equal(o Key) bool { return subtle.ConstantTimeCompare(k.raw(), o.raw()) == 1 }

// Wipe overwrites the key, for every copy of it.
func (k Key) Wipe() { clear(k.raw()) }

const hidden = "[key]"

// Format prints "[key]" under every verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// String is for callers that ask for a fmt.Stringer by themselves.
func (Key) String() string { return hidden }

// MarshalText writes "[key]", so that JSON and log encoders print no key.
// Callers that store keys seal them first.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalBinary refuses: an encoder of bytes would store "[key]" for a key.
func (Key) MarshalBinary() ([]byte, error) { return nil, errors.New("a key cannot be encoded") }
