package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// Plan is what a run has to do for those who use its account's secret, and the scripts that
// run after it. No secret is in it.
type Plan struct {
	Made       time.Time   `json:"made"`
	Account    trust.Ref   `json:"account,omitzero"` // whose run it is: an id is the server's to choose
	Dependents []Dependent `json:"dependents,omitempty"`
	Scripts    []Script    `json:"scripts,omitempty"`
	// Over: the scripts have come to their end. It stays when the run is forgotten: nobody's
	// word makes them run again.
	Over bool `json:"over,omitempty"`
	// Value is the number of the account's value that the scripts followed; 0: they ran alone.
	Value uint64 `json:"value,omitempty"`
}

// Script is one that runs after a rotation, as a statement names it.
type Script struct {
	By     trust.Ref   `json:"by"`  // the record whose statement names it
	Use    seal.Digest `json:"use"` // H of all that the statement says of it
	State  StepState   `json:"state,omitempty"`
	Reason string      `json:"reason,omitempty"` // why it was refused
}

// Dependent is one of them, as the account's statement names it.
type Dependent struct {
	Resource trust.Ref   `json:"resource"`
	Plugin   string      `json:"plugin"`
	Config   seal.Digest `json:"config"`          // H of its settings
	Script   seal.Digest `json:"script,omitzero"` // H of the use of the script that serves it; zero: none
	Steps    []Step      `json:"steps"`
}

// Step is one thing to do, and how far it has come.
type Step struct {
	ID    string          `json:"id"`
	Title string          `json:"title"`
	Data  json.RawMessage `json:"data,omitempty"`
	State StepState       `json:"state,omitempty"`
	// Reason is why it was refused.
	Reason string `json:"reason,omitempty"`
}

// StepState is how far a step has come.
type StepState string

// The states. A step that was begun may have been done.
const (
	StepPlanned StepState = ""
	StepBegun   StepState = "begun"
	StepDone    StepState = "done"
	StepRefused StepState = "refused" // proven: it was not done, and will not be
	StepUndone  StepState = "undone"
	StepFailed  StepState = "failed" // of a script: it may be half done, and is not done again by itself
)

// ErrPlan is in the error of a plan that is too long.
var ErrPlan = errors.New("the plan of the run is too long")

const (
	maxPlan   = 1 << 20                         // bytes
	planLives = trust.MaxDrain + 7*24*time.Hour // then the run has ended somewhere else
)

// ScriptsLive is how long after its commit a run may still come to its scripts: what they
// have come to is known for longer.
const ScriptsLive = planLives - 24*time.Hour

// KeepPlan stores a run's plan, or how far it has come.
func (j *Journal) KeepPlan(run seal.ID, p Plan) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if len(b) > maxPlan {
		return fmt.Errorf("%w: it has %d bytes, at most %d are kept", ErrPlan, len(b), maxPlan)
	}
	return j.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketPlans).Put(run[:], b) })
}

// Plan gives a run's plan, if this agent has made one.
func (j *Journal) Plan(run seal.ID) (p Plan, known bool, err error) {
	err = j.view(func(tx *bbolt.Tx) (err error) {
		known, err = getJSON(tx, bucketPlans, run[:], &p)
		return err
	})
	return p, known, err
}

// DropPlan forgets the plan of a run that has ended, in which no script ran.
func (j *Journal) DropPlan(run seal.ID) error {
	return j.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketPlans).Delete(run[:]) })
}

// forgetPlans drops those of runs that this agent began long ago.
func forgetPlans(tx *bbolt.Tx, now time.Time) error {
	c := tx.Bucket(bucketPlans).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		var p Plan
		if _, err := getJSON(tx, bucketPlans, k, &p); err != nil {
			return err
		}
		if now.Sub(p.Made) > planLives {
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	return nil
}
