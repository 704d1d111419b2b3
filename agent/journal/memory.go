package journal

import (
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// seenRecord is what the agent has accepted of one record. It only grows.
type seenRecord struct {
	StatementSeq    uint64      `json:"statementSeq,omitempty"`
	StatementDigest seal.Digest `json:"statementDigest,omitzero"`
	Statement       []byte      `json:"statement,omitempty"`

	ValueSeq    uint64        `json:"valueSeq,omitempty"`
	ValueDigest seal.Digest   `json:"valueDigest,omitzero"`
	ValueFormer seal.Digest   `json:"valueFormer,omitzero"`
	ValueSet    uint64        `json:"valueSet,omitempty"`
	Settled     []seal.Digest `json:"settled,omitempty"` // candidates committed or abandoned, newest last
}

// accountActivity is what a mandate's limits are judged by.
type accountActivity struct {
	Starts    []time.Time `json:"starts,omitempty"`
	Again     []time.Time `json:"again,omitempty"`
	Staged    []time.Time `json:"staged,omitempty"`
	Committed []time.Time `json:"committed,omitempty"`
}

// keep bounds the lists that are kept for one record. Three candidates in an
// interval is the limit that they serve, and a candidate older than four hours is
// not applied.
const keep = 16

// Settled names a candidate that is no longer outstanding. With a commit the
// value is remembered as well.
type Settled struct {
	Account trust.Ref
	Digest  seal.Digest
	Copy    seal.Digest // of the kept candidate that it was made of: the same secret; zero: none
	Value   *trust.ValueSeen
	Result  []byte // Signed{Result} committed, with Value
}

func key(r trust.Ref) []byte { return append(r.Folder.Bytes(), r.Record[:]...) }

var _ trust.AgentMemory = (*Journal)(nil)

// Statement implements trust.RecordMemory.
func (j *Journal) Statement(r trust.Ref) (trust.StatementSeen, error) {
	s, err := j.seen(r)
	return trust.StatementSeen{Seq: s.StatementSeq, Digest: s.StatementDigest, Signed: s.Statement}, err
}

// RememberStatement implements trust.RecordMemory. What is known already costs no
// write.
func (j *Journal) RememberStatement(r trust.Ref, s trust.StatementSeen) error {
	if known, err := j.seen(r); err != nil || known.StatementSeq >= s.Seq {
		return err
	}
	return j.update(func(tx *bbolt.Tx) error {
		var seen seenRecord
		if _, err := getJSON(tx, bucketRecords, key(r), &seen); err != nil {
			return err
		}
		if seen.StatementSeq >= s.Seq {
			return nil
		}
		seen.StatementSeq, seen.StatementDigest, seen.Statement = s.Seq, s.Digest, s.Signed
		return putJSON(tx, bucketRecords, key(r), seen)
	})
}

// Value implements trust.RecordMemory.
func (j *Journal) Value(r trust.Ref) (trust.ValueSeen, error) {
	s, err := j.seen(r)
	return trust.ValueSeen{Seq: s.ValueSeq, Digest: s.ValueDigest, Former: s.ValueFormer, Set: s.ValueSet}, err
}

// RememberValue implements trust.RecordMemory. What is known already costs no
// write.
func (j *Journal) RememberValue(r trust.Ref, v trust.ValueSeen) error {
	if known, err := j.seen(r); err != nil || known.ValueSeq >= v.Seq {
		return err
	}
	return j.update(func(tx *bbolt.Tx) error { return rememberValue(tx, r, v) })
}

func rememberValue(tx *bbolt.Tx, r trust.Ref, v trust.ValueSeen) error {
	var seen seenRecord
	if _, err := getJSON(tx, bucketRecords, key(r), &seen); err != nil {
		return err
	}
	if seen.ValueSeq >= v.Seq {
		return nil
	}
	seen.ValueSeq, seen.ValueDigest, seen.ValueFormer, seen.ValueSet = v.Seq, v.Digest, v.Former, v.Set
	return putJSON(tx, bucketRecords, key(r), seen)
}

func rememberSettled(tx *bbolt.Tx, s Settled) error {
	if err := noteSettled(tx, s); err != nil {
		return err
	}
	if err := settleKept(tx, s); err != nil || s.Value == nil {
		return err
	}
	return rememberValue(tx, s.Account, *s.Value)
}

func noteSettled(tx *bbolt.Tx, s Settled) error {
	var seen seenRecord
	if _, err := getJSON(tx, bucketRecords, key(s.Account), &seen); err != nil {
		return err
	}
	if !slices.Contains(seen.Settled, s.Digest) {
		seen.Settled = last(append(seen.Settled, s.Digest))
	}
	return putJSON(tx, bucketRecords, key(s.Account), seen)
}

func noteCommitted(tx *bbolt.Tx, r trust.Ref, at time.Time) error {
	return addActivity(tx, r, func(a *accountActivity) { a.Committed = append(a.Committed, at) })
}

func last[T any](l []T) []T { return l[max(0, len(l)-keep):] }

func (j *Journal) seen(r trust.Ref) (s seenRecord, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		_, err := getJSON(tx, bucketRecords, key(r), &s)
		return err
	})
	return s, err
}

// Settled implements trust.AgentMemory.
func (j *Journal) Settled(r trust.Ref, d seal.Digest) (bool, error) {
	s, err := j.seen(r)
	return slices.Contains(s.Settled, d), err
}

// CommandKnown implements trust.AgentMemory.
func (j *Journal) CommandKnown(id seal.ID) (bool, error) {
	_, known, err := j.Command(id)
	return known, err
}

// GreatestTime implements trust.AgentMemory.
func (j *Journal) GreatestTime() (time.Time, error) { return j.time(keyGreatest) }

// ReplayFloor implements trust.AgentMemory.
func (j *Journal) ReplayFloor() (time.Time, error) { return j.time(keyFloor) }

// advance moves the greatest time that the journal has known.
func advance(tx *bbolt.Tx, t time.Time) error {
	if greatest := readTime(tx, keyGreatest); !t.After(greatest) {
		return nil
	}
	return putTime(tx, keyGreatest, t)
}

// ResetClock forgets that a clock which was ahead was believed: the greatest time is
// now. Commands that were taken and forgotten meanwhile might come again, so those
// issued until the floor are refused, as by a new journal. reset is false where the
// journal has seen nothing later than now.
func (j *Journal) ResetClock(now time.Time) (seen, floor time.Time, reset bool, err error) {
	floor = now.Add(replayTime)
	err = j.update(func(tx *bbolt.Tx) error {
		seen = readTime(tx, keyGreatest)
		reset = seen.After(now) || readTime(tx, keyFloor).After(floor)
		if !reset {
			return nil
		}
		if err := putTime(tx, keyGreatest, now); err != nil {
			return err
		}
		return putTime(tx, keyFloor, floor)
	})
	return seen, floor, reset, err
}

// Activity is what 4.4 judges a scheduled run by.
func (j *Journal) Activity(r trust.Ref) (trust.Activity, error) {
	var a accountActivity
	var greatest time.Time
	err := j.view(func(tx *bbolt.Tx) error {
		greatest = readTime(tx, keyGreatest)
		_, err := getJSON(tx, bucketAccounts, key(r), &a)
		return err
	})
	return trust.Activity{Starts: a.Starts, Again: a.Again, Staged: a.Staged, Committed: a.Committed, Greatest: greatest.UTC()}, err
}

func addActivity(tx *bbolt.Tx, r trust.Ref, add func(*accountActivity)) error {
	var a accountActivity
	if _, err := getJSON(tx, bucketAccounts, key(r), &a); err != nil {
		return err
	}
	add(&a)
	a.Starts, a.Again, a.Staged, a.Committed = last(a.Starts), last(a.Again), last(a.Staged), last(a.Committed)
	return putJSON(tx, bucketAccounts, key(r), a)
}

// NoteStaged journals that a scheduled run made a new candidate, before it goes out.
func (j *Journal) NoteStaged(r trust.Ref, now time.Time) error {
	return j.update(func(tx *bbolt.Tx) error {
		return addActivity(tx, r, func(a *accountActivity) { a.Staged = append(a.Staged, now) })
	})
}

// NoteAgain journals that a run of an account is taken up again, before the target sees it.
func (j *Journal) NoteAgain(r trust.Ref, now time.Time) error {
	return j.update(func(tx *bbolt.Tx) error {
		return addActivity(tx, r, func(a *accountActivity) { a.Again = append(a.Again, now) })
	})
}

// HostKey is the first SSH host key that this agent saw of a resource whose
// statement trusts the first use; zero for none.
func (j *Journal) HostKey(resource trust.Ref) (d seal.Digest, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		copy(d[:], tx.Bucket(bucketHostKeys).Get(key(resource)))
		return nil
	})
	return d, err
}

// KeepHostKey stores the first host key seen; a later one is not taken.
func (j *Journal) KeepHostKey(resource trust.Ref, d seal.Digest) error {
	return j.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketHostKeys)
		if b.Get(key(resource)) != nil {
			return nil
		}
		return b.Put(key(resource), d.Bytes())
	})
}
