package journal

import (
	"time"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// Mint is a run's intention to have the target make a secret for an account: written
// before the target is asked, ended when the secret is kept. Until then the target may
// have made one that nobody knows.
type Mint struct {
	Run   seal.ID   `json:"run"`
	Epoch uint64    `json:"epoch"`
	Time  time.Time `json:"time"`
	Until time.Time `json:"until"` // the request's deadline: what came later is not its
	Had   []string  `json:"had"`   // ids that the account had before
	// Made is the id that it got, where that is known and the vault did not take the secret.
	Made string `json:"made,omitempty"`
	// Told says that a person has been asked whose the ids are that nobody knows.
	Told bool `json:"told,omitempty"`
}

// BeginMint stores an intention, in place of a former one.
func (j *Journal) BeginMint(r trust.Ref, m Mint) error {
	return j.update(func(tx *bbolt.Tx) error { return putJSON(tx, bucketMints, key(r), m) })
}

// Mint gives the intention of an account that has no end; nil for none.
func (j *Journal) Mint(r trust.Ref) (m *Mint, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		m = new(Mint)
		known, err := getJSON(tx, bucketMints, key(r), m)
		if !known {
			m = nil
		}
		return err
	})
	return m, err
}

// EndMint forgets an intention of which nothing came.
func (j *Journal) EndMint(r trust.Ref) error {
	return j.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMints).Delete(key(r)) })
}

// KeepMinted stores what the target made as Keep does, which ends the intention.
func (j *Journal) KeepMinted(r trust.Ref, k Kept, folderKey []byte) error {
	return j.update(func(tx *bbolt.Tx) error {
		if err := keepKept(tx, r, k, folderKey); err != nil {
			return err
		}
		return tx.Bucket(bucketMints).Delete(key(r))
	})
}

// DropMinted forgets a candidate that the vault did not take, and remembers by m what the
// target made.
func (j *Journal) DropMinted(r trust.Ref, candidate seal.Digest, m Mint) error {
	return j.update(func(tx *bbolt.Tx) error {
		if err := settleKept(tx, Settled{Account: r, Digest: candidate}); err != nil {
			return err
		}
		return putJSON(tx, bucketMints, key(r), m)
	})
}
