package run

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A candidate may wait while people go who could read it: whenever it is committed, and
// by whichever run, the result says that the secret is of the time before.
func TestSecretIsAsOldAsItsCandidate(t *testing.T) {
	for name, meanwhile := range map[string]func(*world){
		"taken up":                  func(*world) {},
		"staged anew":               func(w *world) { w.row().Staged = nil },
		"staged anew and taken up":  func(w *world) { w.row().Staged = nil; w.restage() },
		"staged anew under a later": func(w *world) { w.row().Staged = nil; w.restage(); w.change(trust.PolicyOp(90, true)) },
	} {
		w := newWorld(t, false)
		w.change(trust.PolicyOp(120, true)) // 1 would be the oldest that there is
		staged := w.log.Head().Epoch
		w.restage()
		if w.row().Staged == nil {
			t.Fatalf("%s: nothing is staged", name)
		}
		w.change(trust.PolicyOp(100, true))
		meanwhile(w)
		set := func() uint64 {
			if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			r, err := trust.OpenResult(w.log, w.row().Attestation)
			must(t, err)
			_, epoch := r.SetBy()
			return epoch
		}
		if epoch := set(); epoch != staged {
			t.Errorf("%s: a secret of epoch %d counts as one of epoch %d", name, staged, epoch)
		}
		if epoch, now := set(), w.log.Head().Epoch; epoch != now {
			t.Errorf("%s: the next one, of epoch %d, counts as one of epoch %d", name, now, epoch)
		}
	}
}

// restage has a run stage a candidate, that of its memory where there is one, and come no
// further.
func (w *world) restage() {
	w.t.Helper()
	apply := w.target.apply
	w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "refused", NotSent: true}
	}
	_, err := w.rotate()
	must(w.t, err)
	w.target.apply = apply
}
