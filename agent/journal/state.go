package journal

import (
	"slices"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/trust"
)

// ScriptState is what a script has put away where a record names it, for an account, sealed;
// nil: nothing.
func (j *Journal) ScriptState(by, script, account trust.Ref) (sealed []byte, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		sealed = slices.Clone(tx.Bucket(bucketStates).Get(stateKey(by, script, account)))
		return nil
	})
	return sealed, err
}

// PutScriptState puts it away; nil forgets it.
func (j *Journal) PutScriptState(by, script, account trust.Ref, sealed []byte) error {
	return j.update(func(tx *bbolt.Tx) error {
		if sealed == nil {
			return tx.Bucket(bucketStates).Delete(stateKey(by, script, account))
		}
		return tx.Bucket(bucketStates).Put(stateKey(by, script, account), sealed)
	})
}

func stateKey(by, script, account trust.Ref) []byte {
	return slices.Concat(key(by), key(script), key(account))
}
