package client

import (
	"encoding/base64"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// sshPrefix begins a host key's fingerprint, as ssh and ssh-keygen print it.
const sshPrefix = "SHA256:"

// SSHFingerprint is the digest of an ssh host key as ssh-keygen -lf prints it, so that
// people can compare the two.
func SSHFingerprint(d seal.Digest) string {
	return sshPrefix + base64.RawStdEncoding.EncodeToString(d[:])
}

// ParseSSHFingerprint reads what ssh-keygen -lf prints, or the digest in hexadecimal.
func ParseSSHFingerprint(s string) (seal.Digest, error) {
	text, ok := strings.CutPrefix(s, sshPrefix)
	if !ok {
		return seal.ParseDigest(strings.ToLower(strings.ReplaceAll(s, ":", "")))
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return seal.Digest{}, invalid("", "%q is no fingerprint: ssh-keygen -lf prints SHA256: and 43 characters of base64", s)
	}
	return seal.DigestFrom(b)
}
