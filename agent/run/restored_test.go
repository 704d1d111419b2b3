package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// notThere answers no login.
func notThere(int, string) (sdk.VerifyResponse, error) {
	return sdk.VerifyResponse{}, errors.New("not there")
}

// unjudgedLogin refuses a wrong secret as a target does where nobody can look why.
func unjudgedLogin(w *world) func(int, string) (sdk.VerifyResponse, error) {
	return func(_ int, secret string) (sdk.VerifyResponse, error) {
		if w.target.takes("app", sdk.NewSecret([]byte(secret))) {
			return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
		}
		return sdk.VerifyResponse{Reason: "not_judged"}, nil
	}
}

// killedAfterStaging is a run that ends with its candidate staged, and not applied.
func (w *world) killedAfterStaging() {
	w.t.Helper()
	w.later(2 * trust.StartGap)
	ctx, cancel := context.WithCancel(w.t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if err := w.do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) {
		w.t.Fatalf("the run was not interrupted: %v", err)
	}
}

func (w *world) mustRotate(what string) {
	w.t.Helper()
	if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
		w.t.Errorf("%s: %+v, %v: the record opens the target: %v", what, out, err, w.opens())
	}
}

// giveUp is a person's command to give up what is staged.
func (w *world) giveUp() Outcome {
	w.t.Helper()
	w.later(2 * trust.StartGap)
	c := w.command(trustv1.Action_ACTION_CANCEL, seal.NewID())
	out, err := w.engine.Do(w.t.Context(), Job{ID: seal.ID(c.RunId), Account: w.account, Command: c})
	must(w.t, err)
	return out
}

// The vault has lost a commit, and a person has written over what was left. What the agent
// committed comes back where the target refuses the person's secret and takes that; once
// neither opens it, it is not tried again.
func TestSetByAPersonOverALostCommit(t *testing.T) {
	for name, tc := range map[string]struct {
		target string // what it has; empty: what was committed
		want   trustv1.Outcome
		reason string
	}{
		"the target has what was committed": {"", done, trust.Healed},
		"the target has the person's":       {"by hand", done, ""},
		"the target has neither":            {"another", pending, "both_rejected"},
	} {
		w := newWorld(t, true)
		before := *w.row()
		w.mustRotate(name)
		committed := w.target.secrets["app"]
		*w.row() = before
		w.known = 2
		w.setByHand("by hand")
		w.target.secrets["app"] = orElse(tc.target, committed)
		applied := len(w.target.applied)
		out, err := w.rotate()
		if err != nil || out.Credential != tc.want || out.Reason != tc.reason || (tc.want == done) != w.opens() {
			t.Errorf("%s: %+v, %v: the record opens the target: %v", name, out, err, w.opens())
		}
		if tc.target == "" && len(w.target.applied) != applied {
			t.Errorf("%s: a new one was applied", name)
		}
		if tc.want == done {
			continue
		}
		before, tries := *w.row(), w.target.logins
		if out, err := w.rotate(); err != nil || out.Reason != "admin.refused" || w.target.logins != tries || w.row().Revision != before.Revision {
			t.Errorf("%s, again: %+v, %v: %d more logins", name, out, err, w.target.logins-tries)
		}
	}
}

// So it does where he has edited the title since, which says nothing of who set the secret.
func TestTitleEditedOverALostCommit(t *testing.T) {
	w := newWorld(t, true)
	before := *w.row()
	w.mustRotate("the first")
	*w.row() = before
	w.known = 2
	w.setByHand("by hand")
	w.editTitle()
	w.mustRotate("what was committed")
}

// A candidate that is doubted is asked for all the same where there is no other.
func TestDoubtedCandidate(t *testing.T) {
	w := newWorld(t, true)
	w.mustRotate("the first")
	w.appliedAndLost()
	must(t, w.engine.Journal.DoubtKept(w.account, true))
	w.mustRotate("the doubted one")
}

// And where it has lost a candidate after that commit, too, which the target does not have.
func TestSetByAPersonOverALostCommitAndCandidate(t *testing.T) {
	for _, judged := range []bool{true, false} {
		w := newWorld(t, true)
		before := *w.row()
		w.mustRotate("the first")
		w.killedAfterStaging()
		*w.row() = before
		w.known = 2
		w.setByHand("by hand")
		if !judged {
			w.target.verify = unjudgedLogin(w)
		}
		applied := len(w.target.applied)
		if out, err := w.rotate(); err != nil || out.Credential != pending || out.Reason != "candidate_lost_by_vault" || !out.Later {
			t.Errorf("judged %v, the newer one is asked for: %+v, %v", judged, out, err)
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != applied {
			t.Errorf("judged %v, the older one: %+v, %v: the record opens the target: %v", judged, out, err, w.opens())
		}
		w.mustRotate("the next")
	}
}

// The vault has lost a commit and the candidate after it, of an account that rotates
// itself. The older one comes back where the target does not have the newer; while the
// target cannot be asked neither does.
func TestCommitAndCandidateLostByItself(t *testing.T) {
	for n := range 4 {
		applied, judged := n&1 == 0, n&2 == 0
		w := newWorld(t, true)
		before := *w.row()
		w.mustRotate("the first")
		w.killedAfterStaging()
		if applied {
			_, w.target.secrets["app"] = w.secret(w.account)
		}
		*w.row() = before
		w.target.verify = notThere
		if out, err := w.rotate(); err != nil || out.Credential != pending || !out.Later || w.row().Staged != nil {
			t.Errorf("applied %v, while it cannot be asked: %+v, %v, staged %v", applied, out, err, w.row().Staged != nil)
		}
		w.target.verify = nil
		if !judged {
			w.target.verify = unjudgedLogin(w)
		}
		attempts := len(w.target.applied)
		w.sweep()
		if !w.opens() || len(w.target.applied) != attempts || w.row().Staged != nil {
			t.Errorf("applied %v: the record opens the target: %v, staged %v", applied, w.opens(), w.row().Staged != nil)
		}
		w.mustRotate("the next")
	}
}

// A backup that is put back has a candidate that is over. While it stands there nobody can
// write into the record: a person gives it up where the target refuses it.
func TestOldCandidateIsGivenUp(t *testing.T) {
	for name, after := range map[string]func(w *world){
		"another candidate came after it": func(w *world) {
			if out := w.giveUp(); out.Reason != "abandoned" {
				w.t.Fatalf("%+v", out)
			}
			w.target.verify = notThere
			if out, err := w.rotate(); err != nil || out.Credential != pending {
				w.t.Fatalf("%+v, %v", out, err)
			}
			w.target.verify = nil
		},
		"a person has set a value after it": func(w *world) {
			w.giveUp()
			w.setByHand("by hand")
			w.target.secrets["app"] = "by hand"
			w.look()
		},
	} {
		w := newWorld(t, false)
		w.killedAfterStaging()
		before := *w.row()
		after(w)
		w.known = w.seq()
		has := w.target.secrets["app"]
		*w.row() = before
		_, old := w.secret(w.account)
		if out, err := w.rotate(); err != nil || out.Credential != failed {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		w.target.secrets["app"] = old
		if out := w.giveUp(); out.Credential != pending || w.row().Staged == nil {
			t.Errorf("%s: what the target has was given up: %+v", name, out)
		}
		w.target.secrets["app"] = has
		if out := w.giveUp(); out.Reason != "abandoned" || w.row().Staged != nil {
			t.Errorf("%s: it was not given up: %+v", name, out)
		}
		if !w.opens() && w.target.secrets["app"] == "by hand" {
			w.setByHand("by hand") // as docs/backup.md has it
		}
		w.mustRotate(name)
	}
}

// A person has written a former secret into the record over a lost candidate that the target
// has. That the target takes it for a while yet proves nothing: the only copy of what opens
// it afterwards stays, and comes back.
func TestFormerSecretThatLivesOnProvesNothing(t *testing.T) {
	for name, manifest := range map[string]sdk.Manifest{
		"for a while":       {OldLives: time.Hour},
		"at a replica":      {Settle: time.Millisecond},
		"until it is ended": {Overlap: []sdk.Kind{sdk.Password}},
	} {
		w := newWorld(t, true)
		w.target.manifest = manifest
		before := *w.row()
		w.mustRotate(name)
		former := w.target.secrets["app"]
		w.appliedAndLost()
		candidate := w.target.secrets["app"]
		*w.row() = before
		w.known = 2
		w.setByHand(former)
		w.target.still = map[string]string{"app": former}
		w.target.verify = unjudgedLogin(w)
		if out, err := w.rotate(); err != nil || out.Credential == done || w.target.secrets["app"] != candidate {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		w.target.still = nil
		w.abandonedByHand() // the one that this run has made
		w.mustRotate(name + ", then")
	}
}

// A value that is brought back, and whose staging the vault does not answer, is kept as what
// it is. Where the vault has it after all, the run that was asked for makes a new one.
func TestBroughtBackAndThereAgain(t *testing.T) {
	for _, self := range []bool{true, false} {
		w := newWorld(t, self)
		before := *w.row()
		w.mustRotate("the first")
		has, former := *w.row(), w.target.secrets["app"]
		*w.row() = before
		w.killedBeforeStaging()
		*w.row() = has
		if out, err := w.rotate(); err != nil || out.Credential != done || out.Reason != "" || !w.opens() || w.target.secrets["app"] == former {
			t.Errorf("itself %v: %+v, %v: the record opens the target: %v; the secret is as before: %v", self, out, err, w.opens(), w.target.secrets["app"] == former)
		}
	}
}

// killedBeforeStaging is a run that ends when it has given its candidate to the vault, which
// does not store it.
func (w *world) killedBeforeStaging() {
	w.t.Helper()
	w.later(2 * trust.StartGap)
	ctx, cancel := context.WithCancel(w.t.Context())
	w.vault.fail = map[string]error{"stage": killed{cancel}}
	if err := w.do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) {
		w.t.Fatalf("the run was not interrupted: %v", err)
	}
	w.vault.fail = nil
}

// What was committed once, and a run has brought back over a person's secret without coming
// to its end, is not applied by a later one: neither as this agent keeps it nor as it is
// staged, whoever takes it up.
func TestFormerIsNotAppliedByALaterRun(t *testing.T) {
	for n := range 8 {
		staged, judged, self := n&1 == 0, n&2 == 0, n&4 == 0
		w := newWorld(t, self)
		before := *w.row()
		w.mustRotate("the first")
		former := w.target.secrets["app"]
		*w.row() = before
		if self { // else it comes back over what was left
			w.known = 2
			w.setByHand("by hand")
		}
		if staged {
			w.killedAfterStaging()
		} else {
			w.killedBeforeStaging()
		}
		if !self && !staged {
			w.known = 2
			w.setByHand("by hand")
		}
		current, _ := w.secret(w.account)
		w.target.secrets["app"] = current
		if !judged {
			w.target.verify = unjudgedLogin(w)
		}
		applied := len(w.target.applied)
		for range 3 {
			if _, err := w.rotate(); err != nil {
				t.Error(err)
			}
		}
		if slices.Contains(w.target.applied[applied:], former) {
			t.Errorf("staged %v, judged %v, itself %v: it was applied", staged, judged, self)
		}
		if self || judged && !staged { // else a person has to say which it is
			w.mustRotate(fmt.Sprintf("staged %v, judged %v, itself %v", staged, judged, self))
		}
	}
}

// A target that was itself put back to an old state refuses all that is known. Nothing is
// thrown away for that: once it has its own state again, what opens it comes back.
func TestTargetPutBackAndForth(t *testing.T) {
	for n := range 8 {
		newer, bySomebody, judged := n&1 == 0, n&2 == 0, n&4 == 0
		what := fmt.Sprintf("it has the newer %v, a person has written over what was left %v, judged %v", newer, bySomebody, judged)
		w := newWorld(t, true)
		before := *w.row()
		w.mustRotate(what)
		w.killedAfterStaging()
		if newer {
			_, w.target.secrets["app"] = w.secret(w.account)
		}
		*w.row() = before
		w.known = 2
		if bySomebody {
			w.setByHand("by hand")
		}
		if !judged {
			w.target.verify = unjudgedLogin(w)
		}
		has := w.target.secrets["app"]
		w.target.secrets["app"] = "of the old state"
		for range 3 {
			w.sweep()
			if _, err := w.rotate(); err != nil {
				t.Error(what, err)
			}
		}
		tries := w.target.logins
		for range 3 {
			w.sweep()
		}
		if judged && w.target.logins != tries {
			t.Errorf("%s: %d more logins that nobody asked for", what, w.target.logins-tries)
		}
		w.target.secrets["app"] = has
		if !newer && judged { // the older one was refused for good: a person may have it asked for again
			w.setByHand("a guess")
		}
		for range 3 {
			if w.opens() {
				break
			}
			if _, err := w.rotate(); err != nil {
				t.Error(what, err)
			}
		}
		if !w.opens() || w.target.secrets["app"] != has {
			t.Errorf("%s: the record opens the target: %v", what, w.opens())
		}
		w.mustRotate(what)
	}
}

// An owner may want few failed logins. An account that rotates itself has two secrets to try
// all the same, whichever way they came to be two.
func TestOneFailedLoginIsTooFewForItself(t *testing.T) {
	for name, lose := range map[string]func(w *world, before ksm.ExtRecord){
		"a candidate is staged, and not applied": func(w *world, _ ksm.ExtRecord) { w.killedAfterStaging() },
		"a commit and the candidate after it are lost": func(w *world, before ksm.ExtRecord) {
			w.mustRotate("the first")
			w.killedAfterStaging()
			*w.row() = before
		},
		"a person has written over a candidate": func(w *world, _ ksm.ExtRecord) {
			w.appliedAndLost()
			w.setByHand("by hand")
		},
	} {
		w := newWorld(t, true)
		statement := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
		statement.GetAccount().MaxProbe = 1
		w.put2(statement)
		lose(w, *w.row())
		w.mustRotate(name)
	}
}

// A current secret that does not open the account because it is disabled, or asked for more,
// is not refused: both are kept, and the run goes on by itself once it is let in. Nor is a
// kept copy asked for because of it.
func TestRefusedForAnotherReasonThanTheSecret(t *testing.T) {
	for _, reason := range []string{"disabled", "admin.must_change", "admin.dialogue", "second_factor"} {
		refused := &sdk.Error{Class: sdk.ClassAuth, Reason: reason, NotSent: true}
		w := newWorld(t, true)
		w.killedAfterStaging()
		w.target.openErr, w.target.verify = refused, func(int, string) (sdk.VerifyResponse, error) {
			return sdk.VerifyResponse{Reason: "not_judged"}, nil
		}
		if out, err := w.rotate(); err != nil || out.Credential != pending || !out.Later {
			t.Errorf("%s: %+v, %v", reason, out, err)
		}
		w.target.openErr, w.target.verify = nil, nil
		w.mustRotate(reason)

		w.appliedAndLost()
		w.setByHand("by hand")
		w.target.openErr, w.target.verify = refused, func(int, string) (sdk.VerifyResponse, error) {
			return sdk.VerifyResponse{Reason: "not_judged"}, nil
		}
		w.events()
		if out, err := w.rotate(); err != nil || out.Credential == done || out.Reason != reason {
			t.Errorf("%s, a copy: %+v, %v", reason, out, err)
		}
		if k, _, err := w.engine.Journal.Kept(w.account); err != nil || k == nil || len(w.events()) > 0 {
			t.Errorf("%s: the copy is kept: %v, %v", reason, k != nil, err)
		}
		w.target.openErr, w.target.verify = nil, nil
		w.mustRotate(reason + ", a copy")
	}
}

// What is staged beside an old value, and nobody attests, is not tried at the target nor
// signed away because a person wants the old candidate given up: whoever has the record's
// key may have put it there.
func TestUnattestedIsNotGivenUpWithAnOldValue(t *testing.T) {
	w := newWorld(t, false)
	before := *w.row()
	w.killedAfterStaging()
	staged := *w.row().Staged
	w.mustRotate("the candidate")
	key, err := seal.UnwrapKey(w.folderKey, w.row().RecordKey)
	must(t, err)
	staged.Data = trust.SealData(key, []byte(`{"title":"title","type":"pamUser","fields":[{"type":"password","value":["another's"]}]}`))
	*w.row() = before
	w.row().Staged = &staged
	tried := false
	w.target.verify = func(_ int, secret string) (sdk.VerifyResponse, error) {
		tried = tried || secret == "another's"
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	}
	w.known = 2
	w.events()
	if out := w.giveUp(); out.Reason != string(trust.CandidateUnattested) || w.row().Staged == nil || tried {
		t.Errorf("%+v; it is staged: %v, was tried: %v", out, w.row().Staged != nil, tried)
	}
	if _, err := w.rotate(); err != nil || tried {
		t.Errorf("%v; it was tried: %v", err, tried)
	}
}

// Another agent has committed over this one's change, and the target takes the secret of that
// for a while yet: it is not brought back over what is in force.
func TestForkWhereTheFormerLivesOn(t *testing.T) {
	for n := range 4 {
		self, unreachable := n&1 == 0, n&2 == 0
		w := newWorld(t, self)
		w.target.manifest.OldLives = time.Hour
		other := newParty(t, true)
		w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			w.target.set("app", r.Candidate.Secret.ExposeString())
			w.commitBy(other, "other's")
			w.target.apply = nil
			if unreachable { // when it is asked for what is in force
				w.target.verify = func(_ int, secret string) (sdk.VerifyResponse, error) {
					if secret == "other's" {
						return sdk.VerifyResponse{Reason: "unreachable"}, nil
					}
					return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
				}
			}
			return sdk.ApplyResponse{}, errors.New("no answer")
		}
		if out, err := w.rotate(); err != nil || !w.opens() {
			t.Errorf("itself %v: %+v, %v: the record opens the target: %v", self, out, err, w.opens())
		}
		if now, _ := w.secret(w.account); unreachable && now != "other's" {
			t.Errorf("itself %v: what is in force was not asked for, and the former one is %q", self, now)
		}
		w.target.still, w.target.verify = nil, nil
		if unreachable { // it tells of the fork now, and drops what is over
			if out, err := w.rotate(); err != nil || out.Reason != "value_fork" {
				t.Errorf("itself %v: %+v, %v", self, out, err)
			}
		}
		w.mustRotate("the next")
	}
}

// abandonedByHand is a person's own word that what is staged is given up.
func (w *world) abandonedByHand() {
	w.t.Helper()
	x := w.row()
	signed, _, err := trust.SignResult(w.log, w.device.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_ABANDONED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: w.seq() + 1,
		DataDigest: seal.Hash(x.Staged.Data).Bytes(), Time: w.now.UnixMilli(), Event: 1,
	})
	must(w.t, err)
	x.Staged, x.Recent = nil, append([][]byte{signed}, x.Recent...)
}

// What another agent has brought back, and this one keeps, was committed by none of its own
// words: staged again it may not be applied either.
func TestFormerOfAnotherIsNotApplied(t *testing.T) {
	w := newWorld(t, false)
	before := *w.row()
	w.killedAfterStaging()
	current, former := w.secret(w.account)
	k, _, err := w.engine.Journal.Kept(w.account)
	must(t, err)
	k.Former = true
	must(t, w.engine.Journal.Keep(w.account, *k, nil)) // its folder's key is there
	*w.row() = before
	w.target.secrets["app"] = former
	w.killedAfterStaging()
	if w.row().Staged == nil {
		t.Fatal("it was not staged again")
	}
	w.target.secrets["app"] = current
	applied := len(w.target.applied)
	for range 2 {
		if _, err := w.rotate(); err != nil {
			t.Error(err)
		}
	}
	if slices.Contains(w.target.applied[applied:], former) {
		t.Error("it was applied")
	}
}

// A candidate that nothing has come against is taken by the target because it was applied:
// that the record's own secret lives on beside it is no doubt.
func TestAppliedAndLostWhereTheFormerLivesOn(t *testing.T) {
	for _, self := range []bool{true, false} {
		w := newWorld(t, self)
		w.target.manifest.OldLives = time.Hour
		before := *w.row()
		w.killedAfterStaging()
		_, candidate := w.secret(w.account)
		w.target.set("app", candidate)
		*w.row() = before
		if out, err := w.engine.Do(t.Context(), Job{ID: seal.NewID(), Account: w.account, Recover: true}); err != nil || !w.opens() {
			t.Errorf("itself %v: %+v, %v: the record opens the target: %v", self, out, err, w.opens())
		}
		if now, _ := w.secret(w.account); now != candidate {
			t.Errorf("itself %v: the record has not what was applied", self)
		}
	}
}
