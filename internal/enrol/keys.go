package enrol

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Keys are a party's private keys. They never leave the host that made them.
type Keys struct {
	Sign   ed25519.PrivateKey
	Seal   *seal.SealKey
	Device *ecdsa.PrivateKey // agents only
}

// MakeKeys makes the keys of a device or an agent.
func MakeKeys(kind trustv1.EntryKind) (Keys, error) {
	var k Keys
	var err error
	if _, k.Sign, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return Keys{}, fmt.Errorf("make a signing key: %w", err)
	}
	if k.Seal, err = seal.GenerateSealKey(); err != nil {
		return Keys{}, err
	}
	switch kind {
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		if k.Device, err = seal.GenerateDeviceKey(); err != nil {
			return Keys{}, err
		}
	default:
		return Keys{}, fmt.Errorf("no keys are made for an entry of kind %v", kind)
	}
	return k, nil
}

// SignPub is the public half of the signing key.
func (k Keys) SignPub() ed25519.PublicKey { return k.Sign.Public().(ed25519.PublicKey) }

// Public is the encoded rotunda.trust.v1.Keys, as the vault serves it and as
// Entry.keys_digest pins it.
func (k Keys) Public() ([]byte, error) {
	var devicePub []byte
	if k.Device != nil {
		var err error
		if devicePub, err = seal.DevicePub(k.Device); err != nil {
			return nil, err
		}
	}
	return trust.EncodeKeys(k.Seal.Public(), devicePub), nil
}

// Stored is the keys as their holder's locked file keeps them.
type Stored struct {
	Sign   []byte `json:"sign"`             // Ed25519 seed, 32
	Seal   []byte `json:"seal"`             // HPKE, 32
	Device []byte `json:"device,omitempty"` // PKCS#8 DER
}

// Store gives the private bytes. Whoever asks seals and clears them.
func (k Keys) Store() (Stored, error) {
	sealKey, err := k.Seal.Bytes()
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Sign: k.Sign.Seed(), Seal: sealKey}
	if k.Device != nil {
		if s.Device, err = seal.MarshalDeviceKey(k.Device); err != nil {
			return Stored{}, err
		}
	}
	return s, nil
}

// Wipe overwrites the private bytes.
func (s *Stored) Wipe() {
	clear(s.Sign)
	clear(s.Seal)
	clear(s.Device)
}

// Keys loads what Store gave.
func (s *Stored) Keys() (Keys, error) {
	if len(s.Sign) != ed25519.SeedSize {
		return Keys{}, fmt.Errorf("signing key of %d bytes, want %d", len(s.Sign), ed25519.SeedSize)
	}
	k := Keys{Sign: ed25519.NewKeyFromSeed(s.Sign)}
	var err error
	if k.Seal, err = seal.SealKeyFrom(s.Seal); err != nil {
		return Keys{}, err
	}
	if len(s.Device) > 0 {
		if k.Device, err = seal.ParseDeviceKey(s.Device); err != nil {
			return Keys{}, err
		}
	}
	return k, nil
}
