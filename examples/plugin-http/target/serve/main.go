// Command serve runs the manual's user service on loopback, with TLS under a key that
// it makes at its start and writes the certificate of.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/rotunda-pam/rotunda/examples/plugin-http/target"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9900", "address to listen on")
	password := flag.String("admin-password-file", "", "file with the administrator's password")
	certFile := flag.String("cert", "service.crt", "file to write the certificate to")
	flag.Parse()
	if err := serve(*listen, *password, *certFile); err != nil {
		log.Fatal(err)
	}
}

func serve(listen, passwordFile, certFile string) error {
	admin, err := os.ReadFile(passwordFile)
	if err != nil {
		return fmt.Errorf("the administrator's password: %w", err)
	}
	cert, err := certificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", listen, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	// Written once it can be reached: whoever waits for the file may call.
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o644); err != nil {
		return err
	}
	log.Printf("serving on %s, SHA-256 of the key %x", l.Addr(), sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo))
	srv := &http.Server{Handler: target.New(bytes.TrimSpace(admin)), ReadHeaderTimeout: 5 * time.Second}
	return srv.Serve(l)
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "user service"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
