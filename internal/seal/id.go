package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// ID is an id or a UID: 16 raw bytes, base64url without padding as text.
type ID [16]byte

// NewID makes a random id. Its first five bits are never all set, so that its
// text never begins with "-".
func NewID() ID {
	var id ID
	for {
		rand.Read(id[:])
		if id[0]&0xf8 != 0xf8 {
			return id
		}
	}
}

// IDFrom takes 16 raw bytes.
func IDFrom(b []byte) (ID, error) {
	if len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("id of %d bytes, want %d", len(b), len(ID{}))
	}
	return ID(b), nil
}

// ParseID reads an id's text.
func ParseID(s string) (ID, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, errors.New("an id has 22 letters, digits, hyphens and underscores")
	}
	return ID(b), nil
}

// String is base64url without padding, 22 characters.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Bytes is a copy of the raw bytes.
func (id ID) Bytes() []byte { return append([]byte(nil), id[:]...) }

// IsZero reports an id that names nothing (or, as a folder, all of them).
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText writes String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Digest is a SHA-256 digest; an organisation's id is one.
type Digest [32]byte

// Hash is SHA-256 over the concatenation of its arguments.
func Hash(parts ...[]byte) Digest {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	var d Digest
	h.Sum(d[:0])
	return d
}

// DigestFrom takes 32 raw bytes.
func DigestFrom(b []byte) (Digest, error) {
	if len(b) != len(Digest{}) {
		return Digest{}, fmt.Errorf("digest of %d bytes, want %d", len(b), len(Digest{}))
	}
	return Digest(b), nil
}

// ParseDigest reads hex.
func ParseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Digest{}) {
		return Digest{}, errors.New("a SHA-256 has 64 hexadecimal digits")
	}
	return Digest(b), nil
}

// String is lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Fingerprint is the hex in groups of four, as people compare it.
func (d Digest) Fingerprint() string {
	h := d.String()
	out := make([]byte, 0, len(h)+len(h)/4)
	for i := range len(h) {
		if i > 0 && i%4 == 0 {
			out = append(out, ' ')
		}
		out = append(out, h[i])
	}
	return string(out)
}

// Bytes is a copy of the raw bytes.
func (d Digest) Bytes() []byte { return append([]byte(nil), d[:]...) }

// IsZero reports the digest of nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}
