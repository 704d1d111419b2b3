package trust

import (
	"crypto/ed25519"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// SignResult fills in v and the log's head and signs. The caller sets by.
func SignResult(l *Log, key ed25519.PrivateKey, r *trustv1.Result) (signed []byte, digest seal.Digest, err error) {
	panic("unbuilt")
}

// Result is a decoded result whose signature holds.
type Result struct {
	*trustv1.Result
	Account Ref // zero in a reply that concerns no record
	Digest  seal.Digest
	Signed  []byte
	Signer  Entry // agent or device, live now
}

// OpenResult decodes a Signed{Result} and checks signer, signature and log head:
// SignerUnknown, SignatureBad, LogGap, LogFork, Malformed, UnknownField.
func OpenResult(l *Log, signed []byte) (*Result, error) { panic("unbuilt") }

// CheckWord says whether a result's word counts (3.4) for an account's value:
// staged and committed only from an agent of the resource's pool; abandoned from
// such an agent or from a device with Edit and Operate in scope; edited only from
// a device with Edit in scope. NotAllowed. A zero pool accepts agents of any pool
// that reads the account's folder.
func CheckWord(l *Log, r *Result, account Ref, pool seal.ID) error { panic("unbuilt") }

// Expect is what a person waits for.
type Expect struct {
	Agent   seal.ID     // named in the command; zero: any agent of Pool
	Pool    seal.ID     // of the resource; used where Agent is zero
	Cause   seal.Digest // digest of the command; zero: any (a scheduled run)
	RunID   seal.ID     // zero: any
	Account Ref         // zero: any
}

// CheckResult is 4.6 step 5: the result comes from an agent that may give it and
// answers what was asked: ResultForged (also in place of SignerUnknown and
// SignatureBad).
func CheckResult(l *Log, signed []byte, want Expect) (*Result, error) { panic("unbuilt") }

// SealReply seals a reply's detail to the device that signed the command; the
// result's detail_digest is the digest of what it returns.
func SealReply(l *Log, agent, device seal.ID, deviceKeys []byte, command seal.ID, d *trustv1.Detail) ([]byte, error) {
	panic("unbuilt")
}

// OpenReply opens a reply's detail and holds it against the result's
// detail_digest: ResultForged.
func OpenReply(l *Log, r *Result, device seal.ID, k *seal.SealKey, command seal.ID, sealed []byte) (*trustv1.Detail, error) {
	panic("unbuilt")
}

// SealDetail encrypts a result's detail beside its record; the result's
// detail_digest is the digest of what it returns.
func SealDetail(org seal.Digest, recordKey seal.Key, record seal.ID, d *trustv1.Detail) ([]byte, error) {
	panic("unbuilt")
}

// OpenDetail opens a result's detail and holds it against the result's
// detail_digest: ResultForged.
func OpenDetail(org seal.Digest, recordKey seal.Key, r *Result, blob []byte) (*trustv1.Detail, error) {
	panic("unbuilt")
}
