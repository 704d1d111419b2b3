package run

import (
	"context"
	"errors"
	"time"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// State is how far a run has come.
type State string

// The states of a run, in order.
const (
	Queued     State = "queued"
	Leased     State = "leased"     // the account is this agent's, for a time
	Resolved   State = "resolved"   // records fetched, checked, opened; no candidate is outstanding
	Prepared   State = "prepared"   // a candidate exists in memory; the target has been reached
	Staged     State = "staged"     // the vault has the candidate, durably
	Applied    State = "applied"    // the target may have it
	Verified   State = "verified"   // the target proved that it has it
	Committed  State = "committed"  // the vault's record has it
	Dependents State = "dependents" // whoever uses the secret has it
	Drained    State = "drained"    // nobody uses the former secret any more
	Retired    State = "retired"    // the former secret has ended
	Scripted   State = "scripts"    // scripts have run
	Reported   State = "reported"   // the vault knows how it ended
)

// step leads from one state to the next. Its function may name another state to
// go on from: that is how a run takes up a candidate that is staged already, and
// how it applies the same candidate again.
type step struct {
	from State
	name string
	do   func(*Run, context.Context) (State, error)
	to   State
}

// steps is the whole life of a run. A function that fails with a *Stop ends the
// run there; what it left at the vault and the target is found again by resolve
// and verify, in this agent or in another.
var steps = []step{
	{Queued, "lease", (*Run).lease, Leased},
	{Leased, "resolve", (*Run).resolve, Resolved},
	{Resolved, "prepare", (*Run).prepare, Prepared},
	{Prepared, "stage", (*Run).stage, Staged},
	{Staged, "apply", (*Run).apply, Applied},
	{Applied, "verify", (*Run).verify, Verified},
	{Verified, "commit", (*Run).commit, Committed},
	{Committed, "dependents", (*Run).dependents, Dependents},
	{Dependents, "drain", (*Run).drain, Drained},
	{Drained, "retire", (*Run).retire, Retired},
	{Retired, "scripts", (*Run).scripts, Scripted},
	{Scripted, "report", (*Run).report, Reported},
}

// FaultPoints names the points at which a test may kill the agent: before and
// after each step. It is derived from the table, so a new step is covered.
func FaultPoints() []string {
	var points []string
	for _, s := range steps {
		points = append(points, "before-"+s.name, "after-"+s.name)
	}
	return points
}

// drive takes the run from its state to the end of the table.
func (r *Run) drive(ctx context.Context) error {
	for r.state != Reported {
		s, err := stepFrom(r.state)
		if err != nil {
			return err
		}
		r.progress(s.name)
		fault.At("before-" + s.name)
		began := time.Now()
		next, err := s.do(r, ctx)
		r.e.took(s.name, began)
		if err != nil {
			return err
		}
		fault.At("after-" + s.name)
		if next == "" {
			next = s.to
		}
		r.state = next
	}
	return nil
}

func stepFrom(s State) (step, error) {
	for _, st := range steps {
		if st.from == s {
			return st, nil
		}
	}
	return step{}, errors.New("no step leads from state " + string(s))
}
