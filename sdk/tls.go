package sdk

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// TLSMode says how a target proves itself.
type TLSMode string

// The modes. Anything else, the empty string included, is TLSSystem.
const (
	TLSOff    TLSMode = "off"    // said on purpose: the network can impersonate this target
	TLSSystem TLSMode = "system" // the host's roots and the name, and the pins where given
	TLSPin    TLSMode = "pin"    // the pins alone decide
)

// TLS is how the resource's statement wants the target proven.
type TLS struct {
	Mode       TLSMode
	ServerName string // empty: the host part of the address
}

// TLSConfig is the client configuration that the resource asks for, with the pins of
// its address. It is nil with TLSOff: the caller then speaks in clear.
//
// A target that fails the proof makes the handshake fail with an [*Error] of class
// auth, reason target_identity: nothing was sent.
func TLSConfig(h Host, r Resource) (*tls.Config, error) {
	if r.TLS.Mode == TLSOff {
		return nil, nil
	}
	name := r.TLS.ServerName
	if name == "" {
		host, _, err := net.SplitHostPort(r.Address)
		if err != nil {
			return nil, &Error{Class: ClassInvalid, Reason: "address", NotSent: true, Err: err}
		}
		name = host
	}
	pins := h.Pins[r.Address]
	if len(pins)%sha256.Size != 0 || r.TLS.Mode == TLSPin && len(pins) == 0 {
		return nil, &Error{Class: ClassInvalid, Reason: "tls.pin", NotSent: true, Err: errors.New("resource pins no key")}
	}
	return &tls.Config{
		ServerName: name,
		MinVersion: tls.VersionTLS12,
		// The proof is VerifyConnection's, which sees resumed sessions too.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return &Error{Class: ClassAuth, Reason: "target_identity", NotSent: true, Err: errors.New("target shows no certificate")}
			}
			if r.TLS.Mode != TLSPin {
				if err := verifyChain(s.PeerCertificates, name); err != nil {
					return &Error{Class: ClassAuth, Reason: "target_identity", NotSent: true, Err: err}
				}
			}
			if len(pins) > 0 && !Pinned(pins, s.PeerCertificates[0].RawSubjectPublicKeyInfo) {
				return &Error{Class: ClassAuth, Reason: "target_identity", NotSent: true, Err: fmt.Errorf("target %s shows a key that is not pinned", r.Address)}
			}
			return nil
		},
	}, nil
}

func verifyChain(certs []*x509.Certificate, name string) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{DNSName: name, Intermediates: between})
	return err
}

// Pinned tells whether key is one of the pins: the digests of [Host].Pins against
// the bytes that the target showed.
func Pinned(pins, key []byte) bool {
	sum := sha256.Sum256(key)
	for ; len(pins) >= sha256.Size; pins = pins[sha256.Size:] {
		if bytes.Equal(pins[:sha256.Size], sum[:]) {
			return true
		}
	}
	return false
}
