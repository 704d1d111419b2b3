package run

import (
	"slices"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// The agent's copy of a secret may be the only one that there is: these are the ways in
// which a vault, and what it asks for, might have it thrown away.

// appliedAndLost is a run of a person's whose candidate the target takes, and the vault
// loses before the commit: the agent has the only copy.
func (w *world) appliedAndLost() {
	w.t.Helper()
	w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
	if out, err := w.rotate(); err != nil || out.Credential != pending || w.opens() {
		w.t.Fatalf("%+v, %v: the run should end between change and commit", out, err)
	}
	w.target.verify = nil
	w.row().Staged = nil
}

// dueAgain has the vault ask for a run again that has ended.
func (w *world) dueAgain(id seal.ID) (Outcome, error) {
	w.later(trust.StartGap * 2)
	w.vault.state[id] = "queued"
	return w.run(id)
}

// A vault that has lost a candidate asks for the run again whose value it serves. That run
// needs no mandate, and has nothing to do: it ends nothing of what the agent keeps.
func TestRunOfThePresentValueEndsNoCandidate(t *testing.T) {
	for name, tc := range map[string]struct {
		lose  func(w *world) (run seal.ID) // gives the run of the value that is served
		event string
	}{
		"a newer one": {func(w *world) seal.ID {
			id := seal.NewID()
			if out, err := w.run(id); err != nil || out.Credential != done {
				w.t.Fatalf("%+v, %v", out, err)
			}
			w.appliedAndLost()
			return id
		}, "candidate_lost_by_vault candidate_lost_by_vault"},
	} {
		w := newWorld(t, false)
		id := tc.lose(w)
		applied := len(w.target.applied)
		for range 2 {
			if _, err := w.dueAgain(id); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if k, _, err := w.engine.Journal.Kept(w.account); err != nil || k == nil {
			t.Errorf("%s: it is not kept any more, %v", name, err)
		}
		w.events()
		out, err := w.rotate()
		if err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != applied {
			t.Errorf("%s, the next: %+v, %v: the record opens the target: %v, applied %d more", name, out, err, w.opens(), len(w.target.applied)-applied)
		}
		if got := w.events(); !slices.Equal(got, []string{tc.event}) {
			t.Errorf("%s: events: %q", name, got)
		}
	}
}
