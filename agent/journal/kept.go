package journal

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// Kept is a value as the vault stored it (keys.md 5.5), so that a vault that lost it
// can be given it again: ciphertext, under keys that the agent's own seal key opens.
type Kept struct {
	Seq        uint64      `json:"seq"`
	Digest     seal.Digest `json:"digest"` // H(Data)
	Data       []byte      `json:"data"`
	RecordKey  []byte      `json:"recordKey"`  // wrapped under the folder key, as served
	KeyVersion uint32      `json:"keyVersion"` // of the folder key: see FolderKey
	Result     []byte      `json:"result"`     // Signed{Result}: staged, then committed
	// Former says of a candidate that its secret was committed once: it is brought back, and
	// never applied.
	Former bool `json:"former,omitempty"`
	// Refused says that the target refused a committed value when it was to be brought
	// back. It is not tried again by itself: each try is a failed login.
	Refused bool `json:"refused,omitempty"`
	// RefusedAt is the number of the value that had set the record's secret then.
	RefusedAt uint64 `json:"refusedAt,omitempty"`
	// Doubted says of a candidate that a login with it was refused: the committed value is
	// asked for before it.
	Doubted bool `json:"doubted,omitempty"`
}

// keptRecord is what is kept of one account: the last value that this agent
// committed, and the candidates that it staged or took up and knows no end of, newest
// last. As a rule there is one; more, where a vault gave the account to two agents.
type keptRecord struct {
	Committed   *Kept  `json:"committed,omitempty"`
	Outstanding []Kept `json:"outstanding,omitempty"`
}

// keepCandidates bounds the candidates that are kept of one account.
const keepCandidates = 4

// Keep stores a candidate before it is applied, and the folder key that opens it, as
// it was served.
func (j *Journal) Keep(r trust.Ref, k Kept, folderKey []byte) error {
	return j.update(func(tx *bbolt.Tx) error { return keepKept(tx, r, k, folderKey) })
}

func keepKept(tx *bbolt.Tx, r trust.Ref, k Kept, folderKey []byte) error {
	folder := folderVersion(r.Folder, k.KeyVersion)
	if b := tx.Bucket(bucketFolderKeys); b.Get(folder) == nil {
		if err := b.Put(folder, folderKey); err != nil {
			return err
		}
	}
	var kept keptRecord
	if _, err := getJSON(tx, bucketKept, key(r), &kept); err != nil {
		return err
	}
	kept.Outstanding = slices.DeleteFunc(kept.Outstanding, func(o Kept) bool { return o.Digest == k.Digest })
	kept.Outstanding = append(kept.Outstanding, k)
	kept.Outstanding = kept.Outstanding[max(0, len(kept.Outstanding)-keepCandidates):]
	return putJSON(tx, bucketKept, key(r), kept)
}

// Kept gives what is kept of an account: the newest candidate without an end, and the
// last value committed; nil for none.
func (j *Journal) Kept(r trust.Ref) (outstanding, committed *Kept, err error) {
	var kept keptRecord
	err = j.view(func(tx *bbolt.Tx) error {
		_, err := getJSON(tx, bucketKept, key(r), &kept)
		return err
	})
	if n := len(kept.Outstanding); n > 0 {
		outstanding = &kept.Outstanding[n-1]
	}
	return outstanding, kept.Committed, err
}

// FolderKey is a folder key of which something kept is under, sealed to this agent.
func (j *Journal) FolderKey(folder seal.ID, version uint32) (sealed []byte, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		sealed = slices.Clone(tx.Bucket(bucketFolderKeys).Get(folderVersion(folder, version)))
		return nil
	})
	return sealed, err
}

// DropKept forgets a candidate: it never was outstanding, or others have settled it.
func (j *Journal) DropKept(r trust.Ref, candidate seal.Digest) error {
	return j.update(func(tx *bbolt.Tx) error {
		return settleKept(tx, Settled{Account: r, Digest: candidate})
	})
}

// RefuseKept notes that the target refused the kept value that was to be brought back, while
// the record's secret was that of value at.
func (j *Journal) RefuseKept(r trust.Ref, seq, at uint64) error {
	return j.update(func(tx *bbolt.Tx) error {
		var kept keptRecord
		if _, err := getJSON(tx, bucketKept, key(r), &kept); err != nil || kept.Committed == nil || kept.Committed.Seq != seq {
			return err
		}
		kept.Committed.Refused, kept.Committed.RefusedAt = true, at
		return putJSON(tx, bucketKept, key(r), kept)
	})
}

// DoubtKept notes of the newest candidate whether it is doubted.
func (j *Journal) DoubtKept(r trust.Ref, doubted bool) error {
	return j.update(func(tx *bbolt.Tx) error {
		var kept keptRecord
		if _, err := getJSON(tx, bucketKept, key(r), &kept); err != nil || len(kept.Outstanding) == 0 {
			return err
		}
		kept.Outstanding[len(kept.Outstanding)-1].Doubted = doubted
		return putJSON(tx, bucketKept, key(r), kept)
	})
}

// settleKept moves a candidate that was committed to its place, with the result that
// says so, and drops one that was given up. A commit ends the others, too, up to its
// number: the target has one secret, and this was it. A newer one may be what the target
// has by now, and this the only copy.
func settleKept(tx *bbolt.Tx, s Settled) error {
	var kept keptRecord
	if known, err := getJSON(tx, bucketKept, key(s.Account), &kept); err != nil || !known {
		return err
	}
	kept.commit(s)
	kept.Outstanding = slices.DeleteFunc(kept.Outstanding, func(k Kept) bool {
		return k.Digest == s.Digest || k.Digest == s.Copy || s.Value != nil && k.Seq <= s.Value.Seq
	})
	return putJSON(tx, bucketKept, key(s.Account), kept)
}

// FoundCommitted moves a candidate to its place of which it turns out that this agent has
// committed it, at some time: the vault's answer was lost. It says nothing of the others,
// which may have been applied since. Where it is settled already this costs no write.
func (j *Journal) FoundCommitted(s Settled, at time.Time) error {
	outstanding := false
	err := j.view(func(tx *bbolt.Tx) error {
		var kept keptRecord
		_, err := getJSON(tx, bucketKept, key(s.Account), &kept)
		outstanding = slices.ContainsFunc(kept.Outstanding, func(k Kept) bool { return k.Digest == s.Digest })
		return err
	})
	if err != nil || !outstanding {
		return err
	}
	return j.update(func(tx *bbolt.Tx) error {
		var kept keptRecord
		if _, err := getJSON(tx, bucketKept, key(s.Account), &kept); err != nil {
			return err
		}
		if !kept.commit(s) { // settled meanwhile
			return nil
		}
		if err := putJSON(tx, bucketKept, key(s.Account), kept); err != nil {
			return err
		}
		if err := noteSettled(tx, s); err != nil {
			return err
		}
		return noteCommitted(tx, s.Account, at)
	})
}

// commit moves a candidate that was committed to its place, where it is among them. A
// newer value keeps that place.
func (kept *keptRecord) commit(s Settled) (found bool) {
	i := slices.IndexFunc(kept.Outstanding, func(k Kept) bool { return k.Digest == s.Digest })
	if i < 0 || s.Value == nil {
		return false
	}
	k := kept.Outstanding[i]
	k.Seq, k.Result = s.Value.Seq, s.Result
	kept.Outstanding = slices.Delete(kept.Outstanding, i, i+1)
	if kept.Committed == nil || kept.Committed.Seq <= k.Seq {
		kept.Committed = &k
	}
	return true
}

// KeptAccounts lists the accounts of which a candidate is kept, or a committed value that the
// target has not refused, from after a given one on (zero: the first).
func (j *Journal) KeptAccounts(after trust.Ref, limit int) ([]trust.Ref, error) {
	return j.refs(bucketKept, after, limit, func(tx *bbolt.Tx, k []byte) (bool, error) {
		var kept keptRecord
		_, err := getJSON(tx, bucketKept, k, &kept)
		return len(kept.Outstanding) > 0 || kept.Committed != nil && !kept.Committed.Refused, err
	})
}

// StatedRecords lists the records of which a statement is remembered, likewise.
func (j *Journal) StatedRecords(after trust.Ref, limit int) ([]trust.Ref, error) {
	return j.refs(bucketRecords, after, limit, func(tx *bbolt.Tx, k []byte) (bool, error) {
		var seen seenRecord
		_, err := getJSON(tx, bucketRecords, k, &seen)
		return len(seen.Statement) > 0, err
	})
}

// refs lists the keys of a bucket, in order, that are wanted.
func (j *Journal) refs(bucket []byte, after trust.Ref, limit int, want func(tx *bbolt.Tx, k []byte) (bool, error)) (out []trust.Ref, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		k, _ := c.Seek(key(after))
		if k != nil && string(k) == string(key(after)) {
			k, _ = c.Next()
		}
		for ; k != nil && len(out) < limit; k, _ = c.Next() {
			wanted, err := want(tx, k)
			if err != nil {
				return err
			}
			if wanted && len(k) == 32 {
				out = append(out, trust.Ref{Folder: seal.ID(k[:16]), Record: seal.ID(k[16:])})
			}
		}
		return nil
	})
	return out, err
}

func folderVersion(folder seal.ID, version uint32) []byte {
	return binary.BigEndian.AppendUint32(folder.Bytes(), version)
}
