// Package ksmkey lets programs that use the public Keeper Secrets Manager SDK
// for Go (github.com/keeper-security/secrets-manager-go/core, v1.6.4 and v1.7.0)
// talk to a Rotunda server. docs/machines.md is the manual's page about it.
//
// Every request of that SDK is sealed to a server key, which it finds by id in a
// table of its own; it has no setting for another one. This package adds a
// server's key to that table. Call Register before the first client is made:
//
//	err := ksmkey.RegisterConfiguration(config) // as "rotunda app config" made it
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := core.NewSecretsManager(&core.ClientOptions{Config: core.NewMemoryKeyValueStorage(config)})
//
// (Register takes the key's id and the key by themselves), or import the package for its effect alone and set two environment variables,
// ROTUNDA_KSM_KEY_ID and ROTUNDA_KSM_KEY; where they do not hold, the program
// ends at its start:
//
//	import _ "github.com/rotunda-pam/rotunda/ksmkey"
//
// # Traps of the SDK
//
// Record.Password is empty for every record that is not of type login, such as accounts:
// use GetFieldValueByType("password"). The SDK logs to standard output until
// logger.SetOutput says otherwise.
//
// It strips the port from the server's name and calls port 443. For a server on
// another port give it a transport whose dialer rewrites the address
// (core.Context.Transport, second argument of NewSecretsManager).
//
// With a private certificate authority set SSL_CERT_FILE, or the transport's
// RootCAs. Downloads of files go through http.DefaultClient whatever transport
// the client has, and file addresses carry any port. On macOS and Windows
// SSL_CERT_FILE has no effect: add the authority to the system's store, or give
// http.DefaultClient a transport.
//
// Do not switch certificate checks off: downloads check them all the same, and
// what authenticates the server is its certificate.
package ksmkey

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	_ "unsafe" // for go:linkname

	_ "github.com/keeper-security/secrets-manager-go/core" // holds the table
)

// The environment variables that the package reads when it is loaded.
const (
	EnvKeyID = "ROTUNDA_KSM_KEY_ID"
	EnvKey   = "ROTUNDA_KSM_KEY"
)

// table is the SDK's: key id to base64url point. Were it renamed in a later
// version of the SDK, this would be an empty map of our own, which Register
// notices.
//
//go:linkname table github.com/keeper-security/secrets-manager-go/core.keeperServerPublicKeys
var table map[string]string

var mu sync.Mutex

// Errors that callers tell apart, by errors.Is.
var (
	// ErrTable: this version of the SDK keeps its keys elsewhere.
	ErrTable = errors.New("ksmkey: the SDK's table of server keys is not where this package looks for it: use a version of secrets-manager-go/core that the package names, or a newer package")
	// ErrKeyID: the id is one of the vendor's.
	ErrKeyID = errors.New("ksmkey: ids 7 to 18 and 20 are the vendor's keys: take the id in the client's configuration")
	// ErrKey: the key is no P-256 point.
	ErrKey = errors.New("ksmkey: the server's key is not base64 of an uncompressed P-256 point (65 bytes)")
	// ErrConfiguration: it is no client's configuration with a server's key.
	ErrConfiguration = errors.New("ksmkey: the configuration is not JSON, or base64 of it, with serverPublicKeyId and serverPublicKey: make it with rotunda app config")
)

// Register adds a server's key to the SDK's table: its id (outside 7 to 18 and
// 20) and its uncompressed P-256 point in base64 of either alphabet. The same
// key again is no error. Register must not run at the same time as calls of the
// SDK, which reads the table without a lock.
func Register(id int, publicKey string) error {
	if id >= 7 && id <= 18 || id == 20 || id <= 0 {
		return ErrKeyID
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(publicKey))
	if err != nil {
		return ErrKey
	}
	if _, err := ecdh.P256().NewPublicKey(raw); err != nil {
		return ErrKey
	}
	mu.Lock()
	defer mu.Unlock()
	if len(table) == 0 {
		return ErrTable
	}
	with := maps.Clone(table)
	with[strconv.Itoa(id)] = base64.RawURLEncoding.EncodeToString(raw)
	table = with
	return nil
}

// RegisterConfiguration is Register with the key in a client's configuration: JSON, or
// base64 of it, as the SDK's storage takes it.
func RegisterConfiguration(configuration string) error {
	text := []byte(strings.TrimSpace(configuration))
	if b, err := base64.StdEncoding.DecodeString(string(text)); err == nil {
		text = b
	}
	var config struct{ ServerPublicKeyID, ServerPublicKey string }
	if json.Unmarshal(text, &config) != nil || config.ServerPublicKey == "" {
		return ErrConfiguration // its text is a secret
	}
	id, err := strconv.Atoi(config.ServerPublicKeyID)
	if err != nil {
		return ErrConfiguration
	}
	return Register(id, config.ServerPublicKey)
}

func init() {
	id, key := os.Getenv(EnvKeyID), os.Getenv(EnvKey)
	if id == "" && key == "" {
		return
	}
	n, err := strconv.Atoi(id)
	if err != nil {
		panic(fmt.Sprintf("ksmkey: %s is %q, which is no number", EnvKeyID, id))
	}
	if err := Register(n, key); err != nil {
		panic(err)
	}
}
