package ksm

import (
	"crypto/ecdsa"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Paths of the operations.
const (
	PathMachine = "/api/rest/sm/v1/"       // + operation
	PathAgent   = "/api/rotunda/v1/agent/" // + operation
	PathServer  = "/api/rotunda/v1/server" // GET: ServerInfo
	PathFiles   = "/api/rotunda/v1/files/" // up- and downloads
)

// Bounds in bytes. The largest payload is a record's data (1 MiB of JSON, in
// base64 within JSON) with what belongs to it.
const (
	MaxData    = 1<<20 + 28        // a record's ciphertext
	MaxBody    = 2 << 20           // a request's body, and so its payload
	MaxAnswer  = 64 << 20          // an answer's body
	MaxFile    = 100<<20 + 28      // a file's ciphertext
	sealedKey  = 65 + 12 + 32 + 16 // an ECIES-sealed transmission key
	maxDER     = 80                // an ASN.1 signature of P-256 has at most 72 bytes
	ClientSize = 64                // bytes of a client id
)

// ServerKey is one of the server's key pairs, to which clients seal their
// transmission keys. Old ones are kept as long as pinned clients exist.
type ServerKey struct {
	ID      int               // outside 7 to 18 and 20, which the SDKs know as the vendor's
	Private *ecdsa.PrivateKey // P-256
}

// ServerKeys are the server's keys, the current one first.
type ServerKeys []ServerKey

// Opened is a request whose envelope is open. It is not authenticated before
// Verify has said so.
type Opened struct {
	Payload []byte
	key     seal.Key
	sealed  []byte
	body    []byte
	sig     []byte
}

// Open opens a request's envelope. Which key was used is found by trying: the
// id in the header is only a label, since some clients send their default.
func (keys ServerKeys) Open(h http.Header, body []byte) (*Opened, *Error) {
	if len(body) > MaxBody {
		return nil, Refuse(CodeTooLarge, "the request's body has more than %d bytes", MaxBody)
	}
	sealed, err := decodeHeader(h.Get("TransmissionKey"), 2*sealedKey)
	if err != nil || len(sealed) != sealedKey {
		return nil, Refuse(CodeBadRequest, "the TransmissionKey header is missing or malformed")
	}
	word, text, _ := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	sig, err := decodeHeader(strings.TrimSpace(text), 2*maxDER)
	if err != nil || word != "Signature" || len(sig) == 0 || len(sig) > maxDER {
		return nil, Refuse(CodeBadRequest, "the Authorization header is missing or malformed")
	}
	for _, k := range keys {
		raw, err := seal.OpenECIES(k.Private, sealed)
		if err != nil {
			continue
		}
		key, err := seal.KeyFrom(raw) // its length is certain, by that of sealed
		clear(raw)
		if err != nil {
			break
		}
		payload, err := seal.OpenGCM(key, body, nil)
		if err != nil {
			return nil, Refuse(CodeBadRequest, "the request's body does not open under its transmission key")
		}
		fault.Heard("payload", payload)
		return &Opened{Payload: payload, key: key, sealed: sealed, body: body, sig: sig}, nil
	}
	// A hint with the id that the client has just used would send one SDK into
	// an endless loop.
	id, err := strconv.Atoi(strings.TrimSpace(h.Get("PublicKeyId")))
	if err == nil && keys.has(id) || len(keys) == 0 {
		return nil, Refuse(CodeBadRequest, "the transmission key does not open under the server's key")
	}
	e := Refuse(CodeKey, "the request is sealed to a key that is not this server's")
	e.KeyID = keys[0].ID
	return nil, e
}

func (keys ServerKeys) has(id int) bool {
	for _, k := range keys {
		if k.ID == id {
			return true
		}
	}
	return false
}

func decodeHeader(s string, limit int) ([]byte, error) {
	if len(s) > limit {
		return nil, errBase64
	}
	return Decode(s)
}

// Verify reports whether the request was signed by the holder of a public key
// (an uncompressed P-256 point).
func (o *Opened) Verify(point []byte) bool {
	pub, err := seal.ParseDevicePub(point)
	return err == nil && seal.VerifyP256(pub, slices.Concat(o.sealed, o.body), o.sig)
}

// Once is a name for this very request, to refuse it the second time. It is of
// the sealed key, which is fresh in every attempt and which the signature
// covers.
func (o *Opened) Once() [32]byte { return seal.Hash(o.sealed) }

// Seal encrypts an answer.
func (o *Opened) Seal(answer []byte) []byte { return seal.SealGCM(o.key, answer, nil) }

// Wipe forgets the request's key and payload.
func (o *Opened) Wipe() {
	o.key.Wipe()
	clear(o.Payload)
}

// sealRequest makes a request's headers and body, and the key of its answer.
// server is an uncompressed P-256 point.
func sealRequest(server []byte, keyID int, signer *ecdsa.PrivateKey, payload []byte) (h http.Header, body []byte, key seal.Key, err error) {
	key = seal.NewKey()
	raw := key.Expose()
	defer clear(raw)
	sealed, err := seal.SealECIES(server, raw)
	if err != nil {
		return nil, nil, key, fmt.Errorf("ksm: seal the transmission key: %w", err)
	}
	body = seal.SealGCM(key, payload, nil)
	sig, err := seal.SignP256(signer, slices.Concat(sealed, body))
	if err != nil {
		return nil, nil, key, fmt.Errorf("ksm: sign the request: %w", err)
	}
	h = http.Header{}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("PublicKeyId", strconv.Itoa(keyID))
	h.Set("TransmissionKey", Std(sealed))
	h.Set("Authorization", "Signature "+Std(sig))
	return h, body, key, nil
}
