package trust

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const maxKeys = 4096 // bytes of an encoded Keys

// EncodeKeys encodes a party's public keys; devicePub is an agent's P-256 point,
// nil for others. The log pins the digest of exactly these bytes.
func EncodeKeys(sealPub, devicePub []byte) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&trustv1.Keys{SealPub: sealPub, DevicePub: devicePub})
	if err != nil {
		panic(err) // two byte strings always encode
	}
	return b
}

// CheckKeys decodes a party's public keys as served and holds them against its
// entry: RecipientUnverified.
func CheckKeys(e Entry, keys []byte) (*trustv1.Keys, error) {
	if e.KeysDigest.IsZero() || seal.Hash(keys) != e.KeysDigest {
		return nil, fail(RecipientUnverified, "the keys served for %s %q are not the log's", kindName(e.Kind), e.Name)
	}
	k := &trustv1.Keys{}
	if err := decode("keys", keys, maxKeys, k); err != nil {
		return nil, err
	}
	f := &form{what: "keys of " + kindName(e.Kind)}
	f.size("seal_pub", k.SealPub, seal.SealPubSize)
	if e.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT {
		f.size("device_pub", k.DevicePub, seal.P256PubSize)
		_, err := seal.ParseDevicePub(k.DevicePub)
		f.must(err == nil, "device_pub is no point of P-256")
	} else {
		f.size("device_pub", k.DevicePub, 0)
	}
	return k, f.done()
}

// Recipient checks whom something is sealed to (4.6 step 3): the entry is live
// and not past its time, and the keys are the log's: RecipientUnverified.
func (l *Log) Recipient(id seal.ID, keys []byte, now time.Time) (*trustv1.Keys, error) {
	e, ok := l.Entry(id)
	if !ok {
		return nil, fail(RecipientUnverified, "%s is not live in the log", id)
	}
	if e.Expired(now) {
		return nil, fail(RecipientUnverified, "the time of %s %q is over", kindName(e.Kind), e.Name)
	}
	return CheckKeys(e, keys)
}

// SealFolderKey seals a folder key to a device, an agent or the recovery entry
// (3.5). It refuses a key that is not the log's (FolderKeySwapped,
// FolderUnknown), a recipient that may not read the folder (NotAllowed) and one
// whose keys are not the log's (RecipientUnverified).
func SealFolderKey(l *Log, folder seal.ID, key seal.Key, to seal.ID, keys []byte, now time.Time) ([]byte, error) {
	if err := CheckFolderKey(l, folder, key); err != nil {
		return nil, err
	}
	k, err := l.Recipient(to, keys, now)
	if err != nil {
		return nil, err
	}
	if r, ok := l.Recovery(); !(ok && r.ID == to) && !l.Roles(to, folder).Has(Read) {
		return nil, fail(NotAllowed, "%s may not read folder %s", to, folder)
	}
	raw := key.Expose()
	defer clear(raw)
	return seal.SealTo(k.SealPub, folderRoute(l.Org(), folder, to), raw)
}

func folderRoute(org seal.Digest, folder, to seal.ID) seal.Route {
	return seal.Route{Purpose: seal.PurposeFolder, Org: org, To: to, Object: folder}
}

// OpenFolderKey opens a folder key sealed to me and holds version and check
// against the log (3.5): FolderUnknown, FolderKeySwapped.
func OpenFolderKey(l *Log, me seal.ID, k *seal.SealKey, folder seal.ID, version uint32, sealed []byte) (seal.Key, error) {
	f, ok := l.Folder(folder)
	if !ok {
		return seal.Key{}, fail(FolderUnknown, "folder %s", folder)
	}
	if f.Version != version {
		return seal.Key{}, fail(FolderKeySwapped, "version %d of folder %s's key, the log's is %d", version, folder, f.Version)
	}
	b, err := seal.OpenFrom(k, folderRoute(l.Org(), folder, me), sealed)
	if err != nil {
		return seal.Key{}, &Error{Reason: FolderKeySwapped, What: "sealed key of folder " + folder.String(), Err: err}
	}
	defer clear(b)
	key, err := seal.KeyFrom(b)
	if err != nil {
		return seal.Key{}, &Error{Reason: FolderKeySwapped, What: "sealed key of folder " + folder.String(), Err: err}
	}
	if err := CheckFolderKey(l, folder, key); err != nil {
		return seal.Key{}, err
	}
	return key, nil
}

// OpenFormerFolderKey opens a folder key that this party has kept since it was the
// log's: FolderKeySwapped. Nothing is encrypted under it.
func OpenFormerFolderKey(l *Log, me seal.ID, k *seal.SealKey, folder seal.ID, sealed []byte) (seal.Key, error) {
	b, err := seal.OpenFrom(k, folderRoute(l.Org(), folder, me), sealed)
	if err != nil {
		return seal.Key{}, &Error{Reason: FolderKeySwapped, What: "former key of folder " + folder.String(), Err: err}
	}
	defer clear(b)
	return seal.KeyFrom(b)
}

// CheckFolderKey holds a folder key against the log's version: FolderUnknown,
// FolderKeySwapped.
func CheckFolderKey(l *Log, folder seal.ID, key seal.Key) error {
	f, ok := l.Folder(folder)
	if !ok {
		return fail(FolderUnknown, "folder %s", folder)
	}
	if seal.FolderCheck(l.Org(), key, folder, f.Version) != f.Check {
		return fail(FolderKeySwapped, "the key of folder %s is not the log's version %d", folder, f.Version)
	}
	return nil
}

// CheckAppKey holds a machine application's key against the log: SignerUnknown
// where there is no such app, FolderKeySwapped where the key is another.
func CheckAppKey(l *Log, app seal.ID, key seal.Key) error {
	e, ok := l.Entry(app)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_APP {
		return fail(SignerUnknown, "the log knows no application %s", app)
	}
	if seal.AppCheck(l.Org(), key, app) != e.AppCheck {
		return fail(FolderKeySwapped, "the key of application %q is not the log's", e.Name)
	}
	return nil
}

// CheckSession checks a sign-in to the client API (3.7): a live device or
// enrolment, not past its time: SignerUnknown, SignatureBad.
func CheckSession(l *Log, entry seal.ID, host string, challenge, exporter [32]byte, sig []byte, now time.Time) (Entry, error) {
	e, ok := l.Entry(entry)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_DEVICE && e.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
		return Entry{}, fail(SignerUnknown, "%s is no live device or enrolment", entry)
	}
	if e.Expired(now) {
		return Entry{}, fail(SignerUnknown, "the time of %s %q is over", kindName(e.Kind), e.Name)
	}
	if !seal.VerifySession(e.SignPub, seal.SessionInput(l.Org(), entry, host, challenge, exporter), sig) {
		return Entry{}, fail(SignatureBad, "sign-in of %s %q", kindName(e.Kind), e.Name)
	}
	return e, nil
}
