package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
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
		"another of its number": {func(w *world) seal.ID {
			other := newParty(w.t, true)
			w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
			w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				w.commitBy(other, "other's") // and then comes what this agent has sent
				w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
				w.target.apply = nil
				return sdk.ApplyResponse{}, errors.New("no answer")
			}
			w.appliedAndLost()
			theirs, err := trust.OpenResult(w.log, w.row().Attestation)
			must(w.t, err)
			return seal.ID(theirs.RunId)
		}, "value_fork value_fork"},
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

// answerLost is a run whose commit the vault stores, and does not answer until the lease is
// over.
func (w *world) answerLost(id seal.ID) {
	w.t.Helper()
	w.later(2 * time.Minute)
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.vault.crash, w.vault.stop = "commit", func() { cancel(ErrLeaseLost) }
	if err := w.do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, ErrLeaseLost) || !w.opens() {
		w.t.Fatalf("%v: the record opens the target: %v", err, w.opens())
	}
	w.later(2 * time.Minute)
}

// An agent that finds a value which it committed, and did not hear so, keeps it from then
// on as one: whoever of its runs has found it, and whatever a person did with the record
// meanwhile. So it brings it back where the vault loses it later.
func TestLostAfterItsAnswerWasLost(t *testing.T) {
	for name, find := range map[string]func(w *world, id seal.ID) error{
		"its own run, which is over": func(w *world, id seal.ID) error {
			return w.do(t.Context(), Job{ID: id, Account: w.account, Again: true})
		},
		"its own run, after an edit": func(w *world, id seal.ID) error {
			w.editTitle()
			return w.do(t.Context(), Job{ID: id, Account: w.account, Again: true})
		},
		"a run that only looks": func(w *world, _ seal.ID) error {
			w.look()
			return nil
		},
		"another account's, whose administrator it is": func(w *world, _ seal.ID) error {
			w.vault.action = "verify"
			defer func() { w.vault.action = "" }()
			return w.do(t.Context(), Job{ID: seal.NewID(), Account: w.admin})
		},
	} {
		for _, earlier := range []int{0, 1} { // rotations that it heard the end of
			w := newWorld(t, false)
			resource := w.resource()
			resource.AdminAccount = w.account.Proto()
			w.putResource(resource)
			for range earlier {
				if out, err := w.rotate(); err != nil || out.Credential != done {
					t.Fatalf("%s: %+v, %v", name, out, err)
				}
			}
			before := *w.row()
			id := seal.NewID()
			w.answerLost(id)
			if err := find(w, id); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if a, err := w.engine.Journal.Activity(w.account); err != nil || len(a.Committed) != earlier+1 {
				t.Errorf("%s: it knows of %d commits, %v", name, len(a.Committed), err)
			}
			*w.row() = before
			w.events()
			if n, out := w.sweep(); n != 1 || out.Credential != done || out.Reason != trust.Healed || !w.opens() || len(w.target.applied) != earlier+1 {
				t.Errorf("%s, after %d others: %d runs, %+v: the record opens the target: %v, applied %d times", name, earlier, n, out, w.opens(), len(w.target.applied))
			}
			if got := w.events(); !slices.Equal(got, []string{"record.refused value_rollback"}) {
				t.Errorf("%s: events: %q", name, got)
			}
		}
	}
}

// A vault that was put back to before a commit, where that value's candidate was staged,
// has lost the candidate after it, too. Whichever of them the target has comes back, and is
// not taken for the other.
func TestLostCommitAndTheCandidateAfterIt(t *testing.T) {
	for n := range 4 {
		applied, self := n&1 == 0, n&2 == 0
		w := newWorld(t, self)
		var staged ksm.ExtRecord
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			staged = *w.row()
			w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
			return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
		}
		if out, err := w.rotate(); err != nil || out.Credential != done {
			t.Fatalf("%+v, %v", out, err)
		}
		w.target.apply = nil
		former := w.target.secrets["app"]
		w.appliedAndLost()
		if !applied {
			w.target.secrets["app"] = former
		}
		*w.row() = staged
		for range 4 { // as the sweep's passes
			w.sweep()
		}
		if !w.opens() || len(w.target.applied) != 2 || w.row().Staged != nil {
			t.Errorf("applied %v: the record opens the target: %v; applied %d times; staged: %v", applied, w.opens(), len(w.target.applied), w.row().Staged != nil)
		}
		if n, out := w.sweep(); n > 0 {
			t.Errorf("applied %v: it is still looked for: %+v", applied, out)
		}
	}
}

// setByHand has a person write a secret that he knows into the record.
func (w *world) setByHand(secret string) {
	w.t.Helper()
	w.edit("title", secret)
	x := w.row()
	signed, _, err := trust.SignResult(w.log, w.device.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_EDITED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: max(w.seq(), w.known) + 1,
		DataDigest: seal.Hash(x.Data).Bytes(), Time: w.now.UnixMilli(),
	})
	must(w.t, err)
	x.Recent, x.Attestation = append([][]byte{signed}, x.Recent...), signed
}

// The vault has lost a candidate that may be in force, and a person has set a value since.
// An account that rotates itself has no other way in than these two: the copy goes when the
// target has taken the person's, and comes back where that is refused.
func TestSetByAPersonOverALostCandidate(t *testing.T) {
	unreachable := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
	told := []string{"candidate_lost_by_vault candidate_lost_by_vault"}
	for name, tc := range map[string]struct {
		set     []string // by the person, one after the other; empty: he edits the title
		target  string   // what it has; empty: the candidate
		openErr error
		want    trustv1.Outcome
		reason  string
		applied int // of a new secret
		events  []string
	}{
		"the target has the candidate":                {set: []string{"by hand"}, want: done, events: told},
		"and the person has tried twice":              {set: []string{"one", "two"}, want: done, events: told},
		"and has edited the title since":              {set: []string{"one", "two", ""}, want: done, events: told},
		"and has edited the title before and since":   {set: []string{"", "by hand", ""}, want: done, events: told},
		"the target has the person's":                 {set: []string{"by hand"}, target: "by hand", want: done, applied: 1},
		"the target has the person's, of two":         {set: []string{"one", "by hand", ""}, target: "by hand", want: done, applied: 1},
		"the target has neither":                      {set: []string{"by hand"}, target: "another", want: pending, reason: "both_rejected", events: told},
		"the target has the candidate, and is not up": {set: []string{"by hand"}, openErr: unreachable, want: failed, reason: "dial"},
	} {
		w := newWorld(t, true)
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if err := w.do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", name, err)
		}
		_, candidate := w.secret(w.account)
		w.target.secrets["app"] = orElse(tc.target, candidate)
		w.row().Staged = nil
		for _, secret := range tc.set {
			if secret == "" {
				w.editTitle()
			} else {
				w.setByHand(secret)
			}
		}
		w.target.openErr = tc.openErr
		out, err := w.rotate()
		if err != nil || out.Credential != tc.want || out.Reason != tc.reason || (tc.want == done) != w.opens() || len(w.target.applied) != tc.applied {
			t.Errorf("%s: %+v, %v: the record opens the target: %v, applied %d times", name, out, err, w.opens(), len(w.target.applied))
		}
		if got := w.events(); !slices.Equal(got, tc.events) {
			t.Errorf("%s: events: %q", name, got)
		}
		if tc.want == done {
			continue
		}
		w.target.openErr, w.target.secrets["app"] = nil, candidate // which turns out to be in force
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 0 {
			t.Errorf("%s, the next: %+v, %v: the record opens the target: %v, applied %d times", name, out, err, w.opens(), len(w.target.applied))
		}
	}
}
