// Package enrol is the one way in: the token that an administrator hands over,
// and the procedure by which its holder becomes a device or an agent. It also
// holds what every client of the server's people API needs to reach it: TLS
// with the pinned authority, and signing in.
package enrol

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Prefix begins every token's text.
const Prefix = "rot1."

const (
	seedSize  = 32
	tokenSize = seedSize + 32 + 32
	// maxToken bounds a token's text: the longest name of a host and a port.
	maxToken = len(Prefix) + tokenSize*4/3 + 1 + 253 + 6
)

// ErrToken is the error of a text that is no token. It never quotes the text.
var ErrToken = errors.New("not an enrolment token: it reads rot1.…@host:port, and must be whole")

// Token lets its holder enrol, once. Its seed is a secret.
type Token struct {
	Seed   sdk.Secret  // 32 bytes
	Head   seal.Digest // of the change that put the enrolment: commits to the whole log
	CAPin  seal.Digest // SHA-256 of the server CA's public key info; zero: the system's authorities
	Server string      // host:port
}

// NewToken makes a token with a fresh seed; Head is set once the change is made.
func NewToken(server string, caPin seal.Digest) (Token, error) {
	if err := CheckServer(server); err != nil {
		return Token{}, err
	}
	seed := make([]byte, seedSize)
	if _, err := rand.Read(seed); err != nil {
		return Token{}, err
	}
	defer clear(seed)
	return Token{Seed: sdk.NewSecret(seed), CAPin: caPin, Server: server}, nil
}

// Text is the token as it is handed over.
func (t Token) Text() sdk.Secret {
	seed := t.Seed.Expose()
	defer clear(seed)
	raw := make([]byte, 0, tokenSize)
	raw = append(raw, seed...)
	raw = append(raw, t.Head[:]...)
	raw = append(raw, t.CAPin[:]...)
	defer clear(raw)
	text := []byte(Prefix)
	text = base64.RawURLEncoding.AppendEncode(text, raw)
	text = append(text, '@')
	text = append(text, t.Server...)
	defer clear(text)
	return sdk.NewSecret(text)
}

// ParseToken reads a token's text, strictly: one spelling for each token. White
// space around it is what a paste brings along, and is cut.
func ParseToken(text sdk.Secret) (Token, error) {
	b := text.Expose()
	defer clear(b)
	b = bytes.TrimSpace(b)
	if len(b) > maxToken {
		return Token{}, ErrToken
	}
	rest, ok := bytes.CutPrefix(b, []byte(Prefix))
	if !ok {
		return Token{}, ErrToken
	}
	code, server, ok := bytes.Cut(rest, []byte("@"))
	if !ok || len(code) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return Token{}, ErrToken
	}
	raw := make([]byte, tokenSize)
	defer clear(raw)
	n, err := base64.RawURLEncoding.Strict().Decode(raw, code)
	// The decoder skips line breaks, so a short answer is another spelling.
	if err != nil || n != tokenSize {
		return Token{}, ErrToken
	}
	if err := CheckServer(string(server)); err != nil {
		return Token{}, ErrToken
	}
	t := Token{Seed: sdk.NewSecret(raw[:seedSize]), Server: string(server)}
	copy(t.Head[:], raw[seedSize:])
	copy(t.CAPin[:], raw[seedSize+32:])
	return t, nil
}

// CheckServer checks a server's address: host:port, one spelling, no white space.
func CheckServer(server string) error {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return fmt.Errorf("server address is not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("server address has no port between 1 and 65535")
	}
	if host == "" || len(host) > 253 {
		return fmt.Errorf("server address has no host, or one of more than 253 bytes")
	}
	for _, r := range host {
		if r <= ' ' || r > '~' || strings.ContainsRune(`/@?#\"'<>%`, r) {
			return fmt.Errorf("server address has a character that no host name has")
		}
	}
	if net.JoinHostPort(host, port) != server {
		return fmt.Errorf("server address is not spelled host:port")
	}
	return nil
}
