package seal

import (
	"crypto/hpke"
	"fmt"
	"slices"
)

// Sizes of HPKE keys and of what sealing adds, in bytes.
const (
	SealKeySize  = 32
	SealPubSize  = 1216
	SealOverhead = 1136
)

// SealKey is a private HPKE key (ML-KEM-768 + X25519).
type SealKey struct{ key hpke.PrivateKey }

// GenerateSealKey makes a key.
func GenerateSealKey() (*SealKey, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make a seal key: %w", err)
	}
	return &SealKey{k}, nil
}

// SealKeyFrom loads the 32 bytes that Bytes gave.
func SealKeyFrom(b []byte) (*SealKey, error) {
	// NewPrivateKey, never DeriveKeyPair: that makes another key of the same
	// bytes and accepts seeds of 16.
	if len(b) != SealKeySize {
		return nil, fmt.Errorf("seal key of %d bytes, want %d", len(b), SealKeySize)
	}
	k, err := hpke.MLKEM768X25519().NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("load a seal key: %w", err)
	}
	return &SealKey{k}, nil
}

// Bytes is the private key, 32 bytes.
func (k *SealKey) Bytes() ([]byte, error) { return k.key.Bytes() }

// Public is the public key, 1216 bytes.
func (k *SealKey) Public() []byte { return k.key.PublicKey().Bytes() }

// Purpose says what an HPKE message is for.
type Purpose string

// The purposes of HPKE messages.
const (
	PurposeCommand Purpose = "command" // device to agent; object: command id
	PurposeFolder  Purpose = "folder"  // from nobody to device, agent or recovery; object: folder uid
	PurposeReply   Purpose = "reply"   // agent to device; object: command id
	PurposeApp     Purpose = "app"     // from nobody to device; object: application
	PurposeState   Purpose = "state"   // agent to itself; object: account
)

// Route binds an HPKE message: whoever opens it names the same five things, or
// it does not open. It proves no sender: a signature or check value inside does.
type Route struct {
	Purpose          Purpose
	Org              Digest
	From, To, Object ID
}

// Info is "rotunda/v1/seal/" + purpose ‖ 0x00 ‖ org_id ‖ from ‖ to ‖ object.
func (r Route) Info() []byte {
	return slices.Concat([]byte("rotunda/v1/seal/"), []byte(r.Purpose), []byte{0}, r.Org[:], r.From[:], r.To[:], r.Object[:])
}

// SealTo encrypts to a public key of 1216 bytes.
func SealTo(pub []byte, r Route, plaintext []byte) ([]byte, error) {
	pk, err := hpke.MLKEM768X25519().NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("load a seal public key: %w", err)
	}
	box, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), r.Info(), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return box, nil
}

// OpenFrom opens what SealTo made over the same route.
func OpenFrom(k *SealKey, r Route, box []byte) ([]byte, error) {
	plaintext, err := hpke.Open(k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), r.Info(), box)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}
