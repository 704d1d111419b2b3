package seal

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"slices"
)

// Kind is the kind of a signed message; it separates the signatures' domains.
type Kind string

// The four kinds of signed message.
const (
	KindLog       Kind = "log"
	KindStatement Kind = "statement"
	KindCommand   Kind = "command"
	KindResult    Kind = "result"
)

// SigInput is what is signed: "rotunda/v1/" + kind ‖ 0x00 ‖ org_id ‖ body.
func SigInput(kind Kind, org Digest, body []byte) []byte {
	return slices.Concat([]byte("rotunda/v1/"), []byte(kind), []byte{0}, org[:], body)
}

// MessageDigest is the digest of a message, H(SigInput).
func MessageDigest(kind Kind, org Digest, body []byte) Digest {
	return Hash(SigInput(kind, org, body))
}

// Sign is plain Ed25519 (RFC 8032) over SigInput.
func Sign(key ed25519.PrivateKey, kind Kind, org Digest, body []byte) []byte {
	return ed25519.Sign(key, SigInput(kind, org, body))
}

// Verify reports whether sig is pub's signature. Wrong lengths and small-order
// public keys are false, never a panic.
func Verify(pub ed25519.PublicKey, kind Kind, org Digest, body, sig []byte) bool {
	return verify(pub, SigInput(kind, org, body), sig)
}

func verify(pub ed25519.PublicKey, input, sig []byte) bool {
	return CheckSignPub(pub) == nil && len(sig) == ed25519.SignatureSize && ed25519.Verify(pub, input, sig)
}

// ErrSignPub: the bytes are no acceptable Ed25519 public key.
var ErrSignPub = errors.New("ed25519 public key has a wrong length or a small order")

// CheckSignPub refuses public keys of a wrong length and the encodings of the
// points of small order, for which ed25519.Verify accepts a signature that
// anybody can write.
func CheckSignPub(pub []byte) error {
	if len(pub) != ed25519.PublicKeySize {
		return ErrSignPub
	}
	unsigned := [32]byte(pub)
	unsigned[31] &= 0x7f // the sign of x: both signs of a small-order point are of small order
	if slices.Contains(smallOrder, unsigned) {
		return ErrSignPub
	}
	return nil
}

// smallOrder lists the y coordinates (little-endian, RFC 8032) of the eight
// points whose order divides 8, in every encoding below 2^255 of theirs: the
// last two are 0 and 1 again, not reduced. The test doubles each three times and
// finds the neutral element.
var smallOrder = [][32]byte{
	fromHex("0000000000000000000000000000000000000000000000000000000000000000"), // order 4
	fromHex("0100000000000000000000000000000000000000000000000000000000000000"), // order 1
	fromHex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), // order 8
	fromHex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), // order 8
	fromHex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // order 2
	fromHex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // order 4, y = p
	fromHex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), // order 1, y = p + 1
}

func fromHex(s string) [32]byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return [32]byte(b)
}

// Algorithm says what kind of public key a key id names.
type Algorithm byte

// The algorithms of key ids.
const (
	AlgEd25519 Algorithm = 1
	AlgHPKE    Algorithm = 2
	AlgP256    Algorithm = 3
)

// KeyID names a public key: the first 16 bytes of
// H("rotunda/v1/key" ‖ 0x00 ‖ algorithm ‖ public key).
func KeyID(alg Algorithm, pub []byte) ID {
	d := Hash([]byte("rotunda/v1/key"), []byte{0, byte(alg)}, pub)
	return ID(d[:16])
}
