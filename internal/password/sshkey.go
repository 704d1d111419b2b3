package password

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
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
