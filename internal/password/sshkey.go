package password

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// SSHKey makes an Ed25519 key pair: the public key as one authorized_keys line
// without comment or newline, and the private key in OpenSSH's PEM form.
func SSHKey() (public, private []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make an ssh key: %w", err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encode an ssh public key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		return nil, nil, fmt.Errorf("encode an ssh private key: %w", err)
	}
	return bytes.TrimSpace(ssh.MarshalAuthorizedKey(p)), pem.EncodeToMemory(block), nil
}

// ErrPassphrase says that an SSH private key is locked: an agent has nobody to ask.
var ErrPassphrase = errors.New("the private key is under a passphrase")

// SSHPublic is the public half of an SSH private key, as SSHKey gives it. The two must
// belong together: a rotation ends the old key by its public half. The error tells
// nothing of the key.
func SSHPublic(private []byte) ([]byte, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, errors.New("this is no private key in OpenSSH's or PEM form")
	}
	return bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())), nil
}

// SameSSHPublic says whether two public keys, as authorized_keys lines, are the same key,
// whatever their comments.
func SameSSHPublic(a, b []byte) bool {
	x, _, _, _, err := ssh.ParseAuthorizedKey(a)
	if err != nil {
		return false
	}
	y, _, _, _, err := ssh.ParseAuthorizedKey(b)
	return err == nil && bytes.Equal(x.Marshal(), y.Marshal())
}
