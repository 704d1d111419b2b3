package journal

import (
	"time"

	"go.etcd.io/bbolt"
)

// Sweep is the newest of this agent's looks at a restored server: what of all that it
// remembers the server has lost.
type Sweep struct {
	Restored time.Time `json:"restored"` // the server's word for when it was put back
	Begun    time.Time `json:"begun"`
	Done     bool      `json:"done"`
}

var keySweep = []byte("sweep")

// Sweep is zero where there was none.
func (j *Journal) Sweep() (s Sweep, err error) {
	err = j.view(func(tx *bbolt.Tx) error {
		_, err := getJSON(tx, bucketMeta, keySweep, &s)
		return err
	})
	return s, err
}

// NoteSweep stores how far it has come.
func (j *Journal) NoteSweep(s Sweep) error {
	return j.update(func(tx *bbolt.Tx) error { return putJSON(tx, bucketMeta, keySweep, s) })
}
