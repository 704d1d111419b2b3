package seal

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"slices"
)

// Labels of the derivations.
const (
	labelRecordExt   = "rotunda/v1/record-ext"
	labelKeyCheck    = "rotunda/v1/key-check"
	labelFolderCheck = "rotunda/v1/folder-check"
	labelAppCheck    = "rotunda/v1/app-check"
	labelEnrolSign   = "rotunda/v1/enrol/sign"
	labelEnrolBlob   = "rotunda/v1/enrol/blob"
	labelAgentID     = "rotunda/v1/agent"
)

// derive is X; a nil salt makes it X0.
func derive(key, salt []byte, label string, ctx ...[]byte) Key {
	info := string(slices.Concat([]byte(label), []byte{0}, slices.Concat(ctx...)))
	out, err := hkdf.Key(sha256.New, key, salt, info, KeySize)
	if err != nil {
		panic(err) // only for lengths beyond HKDF's limit
	}
	return keyOf([KeySize]byte(out))
}

// Derive is X(key, label, ctx): HKDF-SHA256 with the organisation's id as salt.
func Derive(org Digest, key Key, label string, ctx ...[]byte) Key {
	return derive(key.raw(), org[:], label, ctx...)
}

// ExtensionKey encrypts our own blobs beside a record (see SealExt).
func ExtensionKey(org Digest, recordKey Key, record ID) Key {
	return Derive(org, recordKey, labelRecordExt, record[:])
}

// RecordKeyCheck stands in a record's statement and binds its uid to its key.
func RecordKeyCheck(org Digest, recordKey Key, record ID) Digest {
	return Digest(Derive(org, recordKey, labelKeyCheck, record[:]).raw())
}

// FolderCheck stands in the log and binds folder and version to the folder key.
// The version is four bytes, big-endian.
func FolderCheck(org Digest, folderKey Key, folder ID, version uint32) Digest {
	return Digest(Derive(org, folderKey, labelFolderCheck, folder[:], binary.BigEndian.AppendUint32(nil, version)).raw())
}

// AppCheck stands in the log and binds a machine application to its key.
func AppCheck(org Digest, appKey Key, app ID) Digest {
	return Digest(Derive(org, appKey, labelAppCheck, app[:]).raw())
}

// EnrolSignKey is the signing key of an enrolment token's seed.
func EnrolSignKey(seed Key) ed25519.PrivateKey {
	k := derive(seed.raw(), nil, labelEnrolSign)
	defer k.Wipe()
	return ed25519.NewKeyFromSeed(k.raw())
}

// EnrolBlobKey is the AES key of an enrolment token's seed.
func EnrolBlobKey(seed Key) Key { return derive(seed.raw(), nil, labelEnrolBlob) }

// AgentClientID is an agent's secrets-manager client id.
func AgentClientID(org Digest, agent ID) [64]byte {
	return sha512.Sum512(slices.Concat([]byte(labelAgentID), org[:], agent[:]))
}

// TokenClientID is the client id that the secrets-manager SDKs derive from a
// one-time token of 32 bytes.
func TokenClientID(token Key) [64]byte {
	m := hmac.New(sha512.New, token.raw())
	m.Write([]byte("KEEPER_SECRETS_MANAGER_CLIENT_ID"))
	return [64]byte(m.Sum(nil))
}
