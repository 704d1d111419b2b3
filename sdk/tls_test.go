package sdk_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// A target with a certificate that no root of this machine knows.
func TestTLSConfig(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"db.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pin, other := sha256.Sum256(cert.RawSubjectPublicKeyInfo), sha256.Sum256([]byte("another key"))
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}

	for name, c := range map[string]struct {
		mode   sdk.TLSMode
		pins   []byte
		reason string // empty: the handshake succeeds
	}{
		"pinned":                {sdk.TLSPin, pin[:], ""},
		"one of several pins":   {sdk.TLSPin, slices.Concat(other[:], pin[:]), ""},
		"another pin":           {sdk.TLSPin, other[:], "target_identity"},
		"no pin":                {sdk.TLSPin, nil, "tls.pin"},
		"half a pin":            {sdk.TLSPin, pin[:31], "tls.pin"},
		"system":                {sdk.TLSSystem, nil, "target_identity"},
		"system, though pinned": {sdk.TLSSystem, pin[:], "target_identity"},
		"unsaid is system":      {"", nil, "target_identity"},
		"unheard of is system":  {"none", nil, "target_identity"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sdk.Resource{Address: "db.example:5432", TLS: sdk.TLS{Mode: c.mode}}
			cfg, err := sdk.TLSConfig(sdk.Host{Pins: map[string][]byte{r.Address: c.pins}}, r)
			if err == nil {
				a, b := net.Pipe()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = tls.Server(b, server).HandshakeContext(t.Context())
					_ = b.Close()
				}()
				err = tls.Client(a, cfg).HandshakeContext(t.Context())
				_ = a.Close()
				<-done
			}
			e := (*sdk.Error)(nil)
			switch {
			case c.reason == "" && err != nil:
				t.Error(err)
			case c.reason != "" && (!errors.As(err, &e) || e.Reason != c.reason || (e.Class == sdk.ClassAuth) != (c.reason == "target_identity")):
				t.Errorf("%v, want %s", err, c.reason)
			}
		})
	}
	if cfg, err := sdk.TLSConfig(sdk.Host{}, sdk.Resource{TLS: sdk.TLS{Mode: sdk.TLSOff}}); cfg != nil || err != nil {
		t.Errorf("off: %v, %v", cfg, err)
	}
	if _, err := sdk.TLSConfig(sdk.Host{}, sdk.Resource{Address: "no port"}); err == nil {
		t.Error("an address without a port")
	}
}
