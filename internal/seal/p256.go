package seal

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// P256PubSize is the size of an uncompressed P-256 point.
const P256PubSize = 65

// GenerateDeviceKey makes the P-256 key by which an agent (or a machine client)
// signs requests and its channel's challenge.
func GenerateDeviceKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a device key: %w", err)
	}
	return k, nil
}

// MarshalDeviceKey is PKCS#8 DER with the public key, 138 bytes.
func MarshalDeviceKey(k *ecdsa.PrivateKey) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k) }

// ParseDeviceKey reads what MarshalDeviceKey wrote.
func ParseDeviceKey(der []byte) (*ecdsa.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read a device key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("device key is not a P-256 key")
	}
	return ec, nil
}

// DevicePub is the uncompressed point of a device key, 65 bytes.
func DevicePub(k *ecdsa.PrivateKey) ([]byte, error) { return k.PublicKey.Bytes() }

// ParseDevicePub reads an uncompressed P-256 point.
func ParseDevicePub(b []byte) (*ecdsa.PublicKey, error) {
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b)
	if err != nil {
		return nil, fmt.Errorf("read a P-256 public key: %w", err)
	}
	return pub, nil
}

// SignP256 is ECDSA over SHA-256, ASN.1 DER.
func SignP256(k *ecdsa.PrivateKey, input []byte) ([]byte, error) {
	h := sha256.Sum256(input)
	return ecdsa.SignASN1(rand.Reader, k, h[:])
}

// VerifyP256 checks what SignP256 made.
func VerifyP256(pub *ecdsa.PublicKey, input, sig []byte) bool {
	h := sha256.Sum256(input)
	return ecdsa.VerifyASN1(pub, h[:], sig)
}

// SealECIES encrypts to an uncompressed P-256 point as the secrets-manager SDKs
// do: ephemeral point(65) ‖ GCM(plaintext) under SHA-256 of the shared x
// coordinate. A sealed key is 125 bytes.
func SealECIES(pub, plaintext []byte) ([]byte, error) {
	peer, err := ecdh.P256().NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("read a P-256 public key: %w", err)
	}
	ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an ephemeral key: %w", err)
	}
	x, err := ephemeral.ECDH(peer)
	if err != nil {
		return nil, fmt.Errorf("P-256 agreement: %w", err)
	}
	return slices.Concat(ephemeral.PublicKey().Bytes(), SealGCM(keyOf(Hash(x)), plaintext, nil)), nil
}

// OpenECIES opens what SealECIES made.
func OpenECIES(k *ecdsa.PrivateKey, box []byte) ([]byte, error) {
	if len(box) < P256PubSize {
		return nil, ErrOpen
	}
	private, err := k.ECDH()
	if err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	ephemeral, err := ecdh.P256().NewPublicKey(box[:P256PubSize])
	if err != nil {
		return nil, ErrOpen
	}
	x, err := private.ECDH(ephemeral)
	if err != nil {
		return nil, ErrOpen
	}
	return OpenGCM(keyOf(Hash(x)), box[P256PubSize:], nil)
}
