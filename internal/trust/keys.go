package trust

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// EncodeKeys encodes a party's public keys; devicePub is an agent's P-256 point,
// nil for others. The log pins the digest of exactly these bytes.
func EncodeKeys(sealPub, devicePub []byte) []byte { panic("unbuilt") }

// CheckKeys decodes a party's public keys as served and holds them against its
// entry: RecipientUnverified.
func CheckKeys(e Entry, keys []byte) (*trustv1.Keys, error) { panic("unbuilt") }

// Recipient checks whom something is sealed to (4.6 step 3): the entry is live
// and not past its time, and the keys are the log's: RecipientUnverified.
func (l *Log) Recipient(id seal.ID, keys []byte, now time.Time) (*trustv1.Keys, error) {
	panic("unbuilt")
}

// SealFolderKey seals a folder key to a device, an agent or the recovery entry
// (3.5). It refuses a key that is not the log's (FolderKeySwapped,
// FolderUnknown), a recipient that may not read the folder (NotAllowed) and one
// whose keys are not the log's (RecipientUnverified).
func SealFolderKey(l *Log, folder seal.ID, key seal.Key, to seal.ID, keys []byte, now time.Time) ([]byte, error) {
	panic("unbuilt")
}

// OpenFolderKey opens a folder key sealed to me and holds version and check
// against the log (3.5): FolderUnknown, FolderKeySwapped.
func OpenFolderKey(l *Log, me seal.ID, k *seal.SealKey, folder seal.ID, version uint32, sealed []byte) (seal.Key, error) {
	panic("unbuilt")
}

// CheckFolderKey holds a folder key against the log's version: FolderUnknown,
// FolderKeySwapped.
func CheckFolderKey(l *Log, folder seal.ID, key seal.Key) error { panic("unbuilt") }

// CheckSession checks a sign-in to the client API (3.7): a live device or
// enrolment, not past its time: SignerUnknown, SignatureBad.
func CheckSession(l *Log, entry seal.ID, host string, challenge, exporter [32]byte, sig []byte, now time.Time) (Entry, error) {
	panic("unbuilt")
}

// CheckChannel checks an agent's answer to the channel's challenge (3.7). keys
// are its encoded Keys: SignerUnknown, RecipientUnverified, SignatureBad.
func CheckChannel(l *Log, agent seal.ID, keys []byte, host string, challenge, exporter [32]byte, sig []byte) (Entry, error) {
	panic("unbuilt")
}
