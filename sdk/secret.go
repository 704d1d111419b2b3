package sdk

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// MaxSecret is the largest secret that crosses to a plugin, in bytes.
const MaxSecret = 64 << 10

// Secret never prints. It holds a closure: fmt cannot call Format on a Secret in an
// unexported field, and would print bytes there, even behind a pointer.
//
// The zero Secret is empty. Copies of a Secret share one value, which Wipe erases for
// all of them.
type Secret struct{ f func() []byte }

// NewSecret copies b. The caller still owns b and should clear it.
func NewSecret(b []byte) Secret {
	c := append([]byte(nil), b...)
	return Secret{func() []byte { return c }}
}

func (s Secret) raw() []byte {
	if s.f == nil {
		return nil
	}
	return s.f()
}

// Expose returns a copy, which the caller should clear after use.
func (s Secret) Expose() []byte { return append([]byte(nil), s.raw()...) }

// ExposeString is for drivers that take nothing else: Go cannot promise that a
// string is ever erased.
func (s Secret) ExposeString() string { return string(s.raw()) }

// Len is the secret's length in bytes; 0 means that there is none.
func (s Secret) Len() int { return len(s.raw()) }

// Equal compares in time that depends on the lengths only.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.raw(), t.raw()) == 1 }

// Wipe overwrites the value with zeros, for every copy of this Secret. It is best
// effort: copies that drivers made remain.
func (s Secret) Wipe() { clear(s.raw()) }

const redacted = "[secret]"

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String is for callers that ask for a [fmt.Stringer] by themselves.
func (Secret) String() string { return redacted }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a secret that reaches an encoder is a mistake.
func (Secret) MarshalText() ([]byte, error) { return nil, errEncode }

// MarshalBinary refuses, as MarshalText does.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errEncode }

var errEncode = errors.New("a secret cannot be encoded")
