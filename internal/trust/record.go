package trust

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Served is a record as a server serves it. Nothing in it is trusted.
type Served struct {
	Ref  Ref                // as asked for
	Kind trustv1.RecordKind // as expected; unspecified: any

	RecordKey   []byte // wrapped under the folder key
	Data        []byte
	Statement   []byte   // blob under the extension key; empty: none
	Attestation []byte   // Signed{Result}: newest committed or edited; empty: none
	Recent      [][]byte // Signed{Result}s of this account, any order
	Staged      *ServedCandidate
}

// ServedCandidate is a staged value as a server serves it.
type ServedCandidate struct {
	Data      []byte
	Result    []byte // Signed{Result} staged
	Authority []byte // blob under the extension key
}

// Content is a record that opens: 4.2 steps 1 and 2. It proves only that the
// writer knew the key.
type Content struct {
	Ref        Ref
	Key        seal.Key
	Data       []byte // clear JSON
	DataDigest seal.Digest
}

// OpenContent opens a record's key and data (4.2 steps 1 and 2): FolderUnknown,
// FolderKeySwapped, RecordCorrupt. Clients show what agents would not use.
func OpenContent(l *Log, folderKey seal.Key, r Served) (*Content, error) { panic("unbuilt") }

// Record is a record whose statement holds: 4.2 steps 1 to 6.
type Record struct {
	Content
	Statement *Statement
}

// OpenRecord opens and checks a record (4.2 steps 1 to 6) and remembers its
// statement. An account's value is CheckValue's business, since it needs the
// resource's pool; links are CheckLinks'. Reasons: those of OpenContent and
// OpenStatement, RecordUnsigned, RecordSwapped, FolderMismatch,
// StatementRollback, StatementFork.
func OpenRecord(l *Log, m RecordMemory, folderKey seal.Key, r Served) (*Record, error) {
	panic("unbuilt")
}

// SealRecordKey, SealData and SealStatement are the writer's side of OpenRecord.
func SealRecordKey(folderKey, recordKey seal.Key) []byte { return seal.WrapKey(folderKey, recordKey) }

// SealData encrypts a record's JSON.
func SealData(recordKey seal.Key, data []byte) []byte { return seal.SealGCM(recordKey, data, nil) }

// SealStatement encrypts a Signed{Statement} beside its record.
func SealStatement(org seal.Digest, recordKey seal.Key, record seal.ID, signed []byte) []byte {
	return seal.SealExt(org, recordKey, record, seal.ExtStatement, signed)
}

// Value is an attested value of an account.
type Value struct {
	Seq    uint64
	Result *Result // the committed or edited result that attests it
}

// CheckValue is 4.2 step 7: among the results served, the newest committed or
// edited one whose word counts attests this very data, and it is not older than
// memory; then it is remembered. pool is the resource's; zero (a client that
// cannot read the resource) accepts agents of any pool that reads the folder.
// ValueUnattested, ValueRollback, ValueFork; with an error the Value is the
// newest attestation found, nil for none.
func CheckValue(l *Log, m RecordMemory, rec *Content, r Served, pool seal.ID, now time.Time) (*Value, error) {
	panic("unbuilt")
}
