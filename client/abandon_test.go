package client

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// A candidate that an agent was asked about, and could not judge, is given up on a person's
// word alone, whatever the agent's reason; one that nobody answered for is not.
func TestAbandonWhatNobodyCanJudge(t *testing.T) {
	const judged = "on a person's word, after the agent's"
	for name, c := range map[string]struct {
		reason    string
		again     bool
		unproven  bool
		state     OutcomeState
		told      string
		unsettled bool
	}{
		"asked":                       {"not_judged", false, false, StillOpen, "not_judged", true},
		"on a person's word":          {"not_judged", false, true, NotDone, reasonAbandoned, false},
		judged:                        {"not_judged", false, true, NotDone, reasonAbandoned, false},
		"for another reason":          {"throttled", false, true, NotDone, reasonAbandoned, false},
		"before the agent's next try": {"unreachable", true, true, NotDone, reasonAbandoned, false},
		"that the agent knows alone":  {string(trust.CandidateUnauthorised), false, true, NotDone, reasonAbandoned, false},
	} {
		e := newEstate(t)
		cl := e.client(e.vault, filepath.Join(t.TempDir(), "memory"))
		r, err := cl.Get(t.Context(), e.account)
		e.must(err)
		e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) { r.Staged = nil })
		e.must(cl.Adopt(t.Context(), e.account, r[0].Revision, true))
		e.candidate(cl.folders.keys[e.folder].key, 4)
		e.vault.unproven, e.vault.again = c.reason, c.again

		out, err := cl.Abandon(t.Context(), e.run, RunOptions{Unproven: c.unproven, Judged: name == judged, Wait: 10 * time.Second})
		if err != nil || out.State != c.state || out.Reason != c.told || Unsettled(out, err) != c.unsettled {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if asked := e.vault.asked > 0; asked == (name == judged) {
			t.Errorf("%s: an agent was asked: %v", name, asked)
		}
		r, err = cl.Get(t.Context(), e.account)
		e.must(err)
		if r[0].State != InUse || (r[0].Candidate != nil) != c.unsettled {
			t.Errorf("%s: the record is %s, its candidate %+v", name, r[0].State, r[0].Candidate)
		}
	}
}
