package trust

import (
	"cmp"
	"slices"
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
	Data       []byte      // clear JSON
	DataDigest seal.Digest // H(ciphertext)
}

// OpenContent opens a record's key and data (4.2 steps 1 and 2): FolderUnknown,
// FolderKeySwapped, RecordCorrupt. Clients show what agents would not use.
func OpenContent(l *Log, folderKey seal.Key, r Served) (*Content, error) {
	// 1. Folder key of the log's version.
	if err := CheckFolderKey(l, r.Ref.Folder, folderKey); err != nil {
		return nil, err
	}
	// 2. Record key and data.
	key, err := seal.UnwrapKey(folderKey, r.RecordKey)
	if err != nil {
		return nil, &Error{Reason: RecordCorrupt, What: "key of record " + r.Ref.String(), Err: err}
	}
	data, err := seal.OpenGCM(key, r.Data, nil)
	if err != nil {
		return nil, &Error{Reason: RecordCorrupt, What: "data of record " + r.Ref.String(), Err: err}
	}
	return &Content{r.Ref, key, data, seal.Hash(r.Data)}, nil
}

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
	// 1, 2.
	c, err := OpenContent(l, folderKey, r)
	if err != nil {
		return nil, err
	}
	// 3. There is a statement, and it opens under this record's key and uid.
	if len(r.Statement) == 0 {
		return nil, fail(RecordUnsigned, "record %s", r.Ref)
	}
	signed, err := seal.OpenExt(l.Org(), c.Key, r.Ref.Record, seal.ExtStatement, r.Statement)
	if err != nil {
		return nil, &Error{Reason: RecordSwapped, What: "statement of record " + r.Ref.String(), Err: err}
	}
	// 4. Signer, signature, roles.
	s, err := OpenStatement(l, signed)
	if err != nil {
		return nil, err
	}
	// 5. It is this record's.
	switch {
	case s.Ref.Record != r.Ref.Record:
		return nil, fail(RecordSwapped, "record %s has the statement of %s", r.Ref, s.Ref)
	case r.Kind != trustv1.RecordKind_RECORD_KIND_UNSPECIFIED && s.Kind != r.Kind:
		return nil, fail(RecordSwapped, "record %s has the statement of another kind of record", r.Ref)
	case seal.Digest(s.KeyCheck) != seal.RecordKeyCheck(l.Org(), c.Key, r.Ref.Record):
		return nil, fail(RecordSwapped, "the statement of record %s was signed for another key", r.Ref)
	case s.Ref.Folder != r.Ref.Folder:
		return nil, fail(FolderMismatch, "record %s has the statement of %s", r.Ref, s.Ref)
	}
	// 6. Not older than the log's floor and memory.
	seen, err := m.Statement(r.Ref)
	if err != nil {
		return nil, err
	}
	switch least := max(l.Floor(r.Ref), seen.Seq); {
	case s.Seq < least:
		return nil, fail(StatementRollback, "statement %d of record %s, at least %d is due", s.Seq, r.Ref, least)
	case s.Seq == seen.Seq && s.Digest != seen.Digest:
		return nil, fail(StatementFork, "another statement %d of record %s is known", s.Seq, r.Ref)
	}
	if s.Seq > seen.Seq {
		if err := m.RememberStatement(r.Ref, StatementSeen{s.Seq, s.Digest, signed}); err != nil {
			return nil, err
		}
	}
	return &Record{*c, s}, nil
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
// cannot read the resource) accepts agents of any pool that reads the folder, each
// pool's by what was remembered of it, and a person by what was of all.
// ValueUnattested, ValueRollback, ValueFork, LogGap, LogStale; with an error the
// Value is the newest attestation found, nil for none.
func CheckValue(l *Log, m RecordMemory, c *Content, r Served, pool seal.ID, now time.Time) (*Value, error) {
	if err := l.CheckFresh(now); err != nil {
		return nil, err
	}
	seen, err := Remembered(m, c.Ref, pool)
	if err != nil {
		return nil, err
	}
	newest, err := newestWord(l, c.Ref, r, pool, seen)
	if err != nil {
		return nil, err
	}
	switch {
	case newest == nil && seen.Seq > 0 && c.DataDigest == seen.Former:
		return nil, fail(ValueRollback, "the value of %s is the one before value %d", c.Ref, seen.Seq)
	case newest == nil:
		return nil, fail(ValueUnattested, "nobody whose word counts attests the value of %s", c.Ref)
	}
	marks := []Ref{c.Ref}
	if pool.IsZero() && newest.Signer.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT {
		// An agent of another pool would lift the mark above what the right one says.
		by := newest.Signer.Owner
		if seen, err = Remembered(m, c.Ref, by); err != nil {
			return nil, err
		}
		marks = []Ref{{Folder: by, Record: c.Ref.Record}, {Record: c.Ref.Record}}
	}
	v := &Value{newest.ValueSeq, newest}
	attested := seal.Digest(newest.DataDigest)
	set, _ := newest.SetBy()
	switch {
	case v.Seq < seen.Seq:
		return v, fail(ValueRollback, "value %d of %s, value %d is known", v.Seq, c.Ref, seen.Seq)
	case set < seen.Set:
		return v, fail(ValueRollback, "value %d of %s holds the secret of value %d, that of value %d is known", v.Seq, c.Ref, set, seen.Set)
	case v.Seq == seen.Seq && attested != seen.Digest:
		return v, fail(ValueFork, "another value %d of %s is known", v.Seq, c.Ref)
	case c.DataDigest != attested && seen.Seq > 0 && (c.DataDigest == seen.Former || v.Seq > seen.Seq && c.DataDigest == seen.Digest):
		return v, fail(ValueRollback, "the value of %s is older than value %d, which was attested", c.Ref, v.Seq)
	case c.DataDigest != attested:
		return v, fail(ValueUnattested, "the value of %s is not value %d, which was attested", c.Ref, v.Seq)
	}
	if v.Seq > seen.Seq {
		for _, mark := range marks {
			if err := m.RememberValue(mark, ValueSeen{v.Seq, attested, seen.Digest, set}); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

// Remembered is the newest value of an account that m holds against a word for another:
// what was accepted by anybody's word where the pool was known, and by that of the pool's
// agents where it was not. With the zero pool: by that of the agents of any.
func Remembered(m RecordMemory, account Ref, pool seal.ID) (ValueSeen, error) {
	seen, err := m.Value(account)
	if err != nil {
		return ValueSeen{}, err
	}
	byAgents, err := m.Value(Ref{Folder: pool, Record: account.Record})
	if err != nil {
		return ValueSeen{}, err
	}
	if byAgents.Seq > seen.Seq {
		return byAgents, nil
	}
	return seen, nil
}

// newestWord finds the committed or edited result with the greatest value_seq
// among those served whose word counts; those whose word does not are passed
// over, as if they were not there. They are looked at in the order of what they
// claim, so that as a rule one signature is verified and not sixteen.
func newestWord(l *Log, account Ref, r Served, pool seal.ID, seen ValueSeen) (*Result, error) {
	type claim struct {
		seq    uint64
		signed []byte
	}
	var claims []claim
	for _, signed := range append([][]byte{r.Attestation}, r.Recent...) {
		c := claimed(signed)
		if c.GetPhase() != trustv1.Phase_PHASE_COMMITTED && c.GetPhase() != trustv1.Phase_PHASE_EDITED {
			continue
		}
		// A stolen agent must not lift the number out of everybody's reach.
		if seen.Seq > 0 && c.ValueSeq > seen.Seq+MaxFloorRaise {
			continue
		}
		claims = append(claims, claim{c.ValueSeq, signed})
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return cmp.Compare(b.seq, a.seq) })
	for _, c := range claims {
		res, err := OpenResult(l, c.signed)
		if reason := ReasonOf(err); reason == LogGap || reason == LogFork {
			return nil, err
		}
		if err == nil && CheckWord(l, res, account, pool) == nil {
			return res, nil
		}
	}
	return nil, nil
}
