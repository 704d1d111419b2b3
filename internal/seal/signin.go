package seal

import (
	"crypto/ed25519"
	"slices"
	"strings"
)

// Labels of the TLS exporters (RFC 9266 uses a label of its own for channel
// binding; ours keep the two sign-ins apart). 32 bytes, no context. Behind a
// proxy that ends TLS the exporter is zero, only if configured so.
const (
	ChannelExporter = "EXPORTER-rotunda-channel"
	SessionExporter = "EXPORTER-rotunda-session"
)

// ChannelInput is what an agent's device key signs to open its channel. The
// prefix keeps a challenge from being a secrets-manager request. host is the
// server's name without port; its case does not matter.
func ChannelInput(org Digest, clientID [64]byte, host string, challenge, exporter [32]byte) []byte {
	h := Hash([]byte(strings.ToLower(host)))
	return slices.Concat([]byte("rotunda/v1/channel"), []byte{0}, org[:], clientID[:], h[:], challenge[:], exporter[:])
}

// SessionInput is what a device's or an enrolment's key signs to sign in to the
// client API.
func SessionInput(org Digest, entry ID, host string, challenge, exporter [32]byte) []byte {
	h := Hash([]byte(strings.ToLower(host)))
	return slices.Concat([]byte("rotunda/v1/session"), []byte{0}, org[:], entry[:], h[:], challenge[:], exporter[:])
}

// SignSession signs a SessionInput.
func SignSession(key ed25519.PrivateKey, input []byte) []byte { return ed25519.Sign(key, input) }

// VerifySession checks what SignSession made.
func VerifySession(pub ed25519.PublicKey, input, sig []byte) bool { return verify(pub, input, sig) }
