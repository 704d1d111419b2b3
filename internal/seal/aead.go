package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
)

// ErrOpen: the bytes do not open. It says no more, on purpose.
var ErrOpen = errors.New("does not open under this key")

func gcm(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key.raw())
	if err != nil {
		panic(err) // only for key lengths that AES does not have
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// SealGCM encrypts under AES-256-GCM. ad is nil for record data, record keys and
// whatever else the secrets-manager protocol defines.
func SealGCM(key Key, plaintext, ad []byte) []byte {
	return gcm(key).Seal(nil, nil, plaintext, ad)
}

// OpenGCM opens what SealGCM made.
func OpenGCM(key Key, box, ad []byte) ([]byte, error) {
	plaintext, err := gcm(key).Open(nil, nil, box, ad)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// WrapKey encrypts a key under another (GCM, no additional data): 60 bytes.
func WrapKey(outer, inner Key) []byte { return SealGCM(outer, inner.raw(), nil) }

// UnwrapKey opens what WrapKey made.
func UnwrapKey(outer Key, box []byte) (Key, error) {
	b, err := OpenGCM(outer, box, nil)
	if err != nil {
		return Key{}, err
	}
	defer clear(b)
	if len(b) != KeySize {
		return Key{}, ErrOpen
	}
	return keyOf([KeySize]byte(b)), nil
}

// SealCBC encrypts under AES-256-CBC with PKCS#7 padding: sub-folder keys and
// folder names, as the secrets-manager protocol wants. It authenticates nothing.
func SealCBC(key Key, plaintext []byte) []byte {
	block, err := aes.NewCipher(key.raw())
	if err != nil {
		panic(err)
	}
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	box := slices.Concat(make([]byte, aes.BlockSize), plaintext, bytes.Repeat([]byte{byte(pad)}, pad))
	iv, body := box[:aes.BlockSize], box[aes.BlockSize:]
	rand.Read(iv)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(body, body)
	return box
}

// OpenCBC opens what SealCBC made. Its error tells bad padding from nothing
// else; use it only on bytes that this party fetched for itself, never to
// answer another's question.
func OpenCBC(key Key, box []byte) ([]byte, error) {
	if len(box) < 2*aes.BlockSize || len(box)%aes.BlockSize != 0 {
		return nil, ErrOpen
	}
	block, err := aes.NewCipher(key.raw())
	if err != nil {
		panic(err)
	}
	out := make([]byte, len(box)-aes.BlockSize)
	cipher.NewCBCDecrypter(block, box[:aes.BlockSize]).CryptBlocks(out, box[aes.BlockSize:])
	pad := int(out[len(out)-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, ErrOpen
	}
	return out[:len(out)-pad], nil
}

// ExtKind is a kind of our own blob beside a record.
type ExtKind string

// The kinds of extension blob.
const (
	ExtStatement ExtKind = "statement" // Signed{Statement}
	ExtDetail    ExtKind = "detail"    // what a person may read about a result
	ExtAuthority ExtKind = "authority" // why a candidate was staged
)

// extAD is "rotunda/v1/ext/" + kind ‖ 0x00 ‖ org_id ‖ object.
func extAD(org Digest, kind string, object ID) []byte {
	return slices.Concat([]byte("rotunda/v1/ext/"), []byte(kind), []byte{0}, org[:], object[:])
}

// SealExt encrypts a blob beside a record under the record's extension key,
// bound to kind, organisation and record.
func SealExt(org Digest, recordKey Key, record ID, kind ExtKind, plaintext []byte) []byte {
	k := ExtensionKey(org, recordKey, record)
	defer k.Wipe()
	return SealGCM(k, plaintext, extAD(org, string(kind), record))
}

// OpenExt opens what SealExt made.
func OpenExt(org Digest, recordKey Key, record ID, kind ExtKind, box []byte) ([]byte, error) {
	k := ExtensionKey(org, recordKey, record)
	defer k.Wipe()
	return OpenGCM(k, box, extAD(org, string(kind), record))
}

// SealEnrolBlob encrypts what a token's holder shall receive, under the token's
// seed, bound to organisation and entry.
func SealEnrolBlob(org Digest, seed Key, entry ID, plaintext []byte) []byte {
	k := EnrolBlobKey(seed)
	defer k.Wipe()
	return SealGCM(k, plaintext, extAD(org, "enrol", entry))
}

// OpenEnrolBlob opens what SealEnrolBlob made.
func OpenEnrolBlob(org Digest, seed Key, entry ID, box []byte) ([]byte, error) {
	k := EnrolBlobKey(seed)
	defer k.Wipe()
	return OpenGCM(k, box, extAD(org, "enrol", entry))
}
