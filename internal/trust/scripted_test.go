package trust

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// What the words on a run's end say of its scripts, and whether anything is left to do of it.
func TestScripted(t *testing.T) {
	w := newWorld(t)
	const pending, done, failed, none = trustv1.Outcome_OUTCOME_PENDING, trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_FAILED, trustv1.Outcome_OUTCOME_NONE
	type word struct {
		by            party
		scripts       trustv1.Outcome
		class, reason string
	}
	run := id(140)
	for _, row := range []struct {
		name     string
		words    []word
		outcome  trustv1.Outcome
		known    bool
		finished bool
	}{
		{"no word", nil, none, false, false},
		{"no scripts", []word{{w.one, none, "", ""}}, none, false, true},
		{"they are yet to come", []word{{w.one, pending, "unreachable", "retire.pending"}}, none, false, false},
		{"they have run", []word{{w.one, pending, "unreachable", "retire.pending"}, {w.two, done, "", ""}}, done, true, true},
		{"one failed, and nothing else is left to do", []word{{w.one, failed, "conflict", ScriptsFailed}}, failed, true, true},
		{"one failed, and a dependent before", []word{{w.one, failed, "conflict", "dependents.failed"}}, failed, true, false},
		{"by an agent of another pool", []word{{w.three, done, "", ""}}, none, false, false},
	} {
		var results [][]byte
		for _, one := range row.words {
			r := w.result(trustv1.Phase_PHASE_FINISHED, one.by, 2, seal.Digest{1})
			r.RunId, r.Scripts, r.Class, r.Reason = run.Bytes(), one.scripts, one.class, one.reason
			results = append(results, w.signResult(one.by, r))
		}
		outcome, known := Scripted(Words(w.log, results, run[:], w.p))
		if outcome != row.outcome || known != row.known {
			t.Errorf("%s: %s, %v", row.name, outcome, known)
		}
		if got := Finished(w.log, results, run[:], w.p); got != row.finished {
			t.Errorf("%s: finished %v", row.name, got)
		}
	}
}
