package seal

import (
	"crypto/ed25519"
	"slices"
)

// A publisher of plugins signs outside of any organisation: the domain is its own.
func releaseInput(body []byte) []byte {
	return slices.Concat([]byte("rotunda/v1/plugin-release"), []byte{0}, body)
}

// SignRelease signs what a publisher says of a release of his plugin.
func SignRelease(key ed25519.PrivateKey, body []byte) []byte {
	return ed25519.Sign(key, releaseInput(body))
}

// VerifyRelease checks what SignRelease made.
func VerifyRelease(pub ed25519.PublicKey, body, sig []byte) bool {
	return verify(pub, releaseInput(body), sig)
}

// LockedPublisher is the purpose of a publisher's key.
const LockedPublisher = "publisher"
