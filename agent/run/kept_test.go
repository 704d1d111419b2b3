package run

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// row is the account's record, as the vault has it.
func (w *world) row() *ksm.ExtRecord { return w.vault.records[w.account.Record] }

// rotate is a person's command, a while after whatever was before.
func (w *world) rotate() (Outcome, error) {
	w.t.Helper()
	w.later(2 * time.Minute)
	c := w.command(trustv1.Action_ACTION_ROTATE, seal.NewID())
	return w.engine.Do(w.t.Context(), Job{ID: seal.ID(c.RunId), Account: w.account, Command: c})
}

func (w *world) events() (out []string) {
	for _, f := range w.told {
		out = append(out, f.Name+" "+f.Reason)
	}
	w.told = nil
	return out
}

// The vault loses the candidate between its answer and the commit.
func TestCandidateLostWithinItsRun(t *testing.T) {
	w := newWorld(t, false)
	w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
		if len(w.target.applied) == 1 {
			w.row().Staged = nil
		}
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	out, err := w.rotate()
	if err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 1 {
		t.Errorf("%+v, %v: the record opens the target: %v, applied %d times", out, err, w.opens(), len(w.target.applied))
	}
	if got := w.events(); !slices.Equal(got, []string{"candidate_lost_by_vault candidate_lost_by_vault"}) {
		t.Errorf("events: %q", got)
	}
	if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.events()) > 0 {
		t.Errorf("the next: %+v, %v", out, err)
	}
}

// The agent dies after the change, and the vault loses the candidate before it is back.
func TestCandidateLostBetweenRuns(t *testing.T) {
	for _, staged := range []bool{true, false} { // the word that it was staged is lost, too
		w := newWorld(t, false)
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
		if out, err := w.rotate(); err != nil || out.Credential != pending || w.opens() {
			t.Fatalf("%+v, %v: the run should end between change and commit", out, err)
		}
		w.target.verify = nil
		if !staged {
			w.row().Recent = slices.DeleteFunc(w.row().Recent, func(r []byte) bool { return bytes.Equal(r, w.row().Staged.Result) })
		}
		w.row().Staged = nil
		out, err := w.rotate()
		if err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 1 {
			t.Errorf("%+v, %v: the record opens the target: %v, applied %d times", out, err, w.opens(), len(w.target.applied))
		}
		if got := w.events(); (len(got) == 1) != staged {
			t.Errorf("its word is there: %v, events: %q", staged, got)
		}
	}
}

// The agent's copy may be the only one: a vault that does not take it back ends nothing.
func TestOnlyCopyIsKept(t *testing.T) {
	for _, code := range []string{ksm.CodeOutOfSync, ksm.CodeOutstanding, ksm.CodeEpochOld, ksm.CodeAccessDenied} {
		w := newWorld(t, false)
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
		if out, err := w.rotate(); err != nil || out.Credential != pending || w.opens() {
			t.Fatalf("%+v, %v: the run should end between change and commit", out, err)
		}
		w.target.verify = nil
		w.row().Staged = nil
		w.vault.fail = map[string]error{"stage": ksm.Refuse(code, "not now")}
		if out, err := w.rotate(); err == nil && out.Credential == done || w.opens() {
			t.Fatalf("%s: the vault took it: %+v, %v", code, out, err)
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 1 {
			t.Errorf("%s, the next: %+v, %v: the record opens the target: %v, applied %d times", code, out, err, w.opens(), len(w.target.applied))
		}
	}
}

// A candidate that others have settled is not brought back, nor told of.
func TestCandidateSettledByOthers(t *testing.T) {
	for name, settle := range map[string]func(w *world, digest seal.Digest){
		"given up by a person": func(w *world, d seal.Digest) {
			signed, _, err := trust.SignResult(w.log, w.device.sign, &trustv1.Result{
				Phase: trustv1.Phase_PHASE_ABANDONED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: 2, DataDigest: d.Bytes(), Time: w.now.UnixMilli(), Event: 1,
			})
			must(w.t, err)
			w.row().Recent = append([][]byte{signed}, w.row().Recent...)
		},
		"set by a person": func(w *world, d seal.Digest) {
			digest := seal.Hash(w.row().Data)
			signed, _, err := trust.SignResult(w.log, w.device.sign, &trustv1.Result{
				Phase: trustv1.Phase_PHASE_EDITED, By: w.device.id.Bytes(), Account: w.account.Proto(), ValueSeq: 2, DataDigest: digest.Bytes(), Time: w.now.UnixMilli(), Event: 1,
			})
			must(w.t, err)
			w.row().Recent = append([][]byte{signed}, w.row().Recent...)
			w.row().Attestation = signed
		},
	} {
		w := newWorld(t, false)
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); err == nil {
			t.Fatal("the run was not interrupted")
		}
		_, lost := w.secret(w.account)
		settle(w, seal.Hash(w.row().Staged.Data))
		w.row().Staged = nil
		out, err := w.rotate()
		if err != nil || out.Credential != done || !w.opens() || len(w.events()) > 0 || slices.Contains(w.target.applied, lost) {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}

// keepsAnothers has the agent keep a candidate that another one staged, and the vault lose it.
func (w *world) keepsAnothers() (k *journal.Kept, secret string) {
	w.t.Helper()
	other := newParty(w.t, true)
	w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
	ctx, cancel := context.WithCancel(w.t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); err == nil {
		w.t.Fatal("the run was not interrupted")
	}
	_, secret = w.secret(w.account)
	k, _, err := w.engine.Journal.Kept(w.account)
	must(w.t, err)
	if k == nil {
		w.t.Fatal("the candidate is not kept")
	}
	k.Result, _, err = trust.SignResult(w.log, other.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_STAGED, By: other.id.Bytes(), Account: w.account.Proto(), ValueSeq: 2, DataDigest: k.Digest.Bytes(), RunId: seal.NewID().Bytes(), Time: w.now.UnixMilli(), Event: 1,
	})
	must(w.t, err)
	must(w.t, w.engine.Journal.Keep(w.account, *k, nil)) // the folder's key it has
	w.row().Staged, w.row().Recent = nil, nil
	return k, secret
}

// A candidate that another agent staged, perhaps without a command, is not applied under the
// next one because the vault has lost it: it is brought back where the target has it.
func TestAnothersCandidateIsNotAppliedAnew(t *testing.T) {
	for _, has := range []bool{true, false} {
		w := newWorld(t, false)
		_, secret := w.keepsAnothers()
		if has {
			w.target.secrets["app"] = secret
		}
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
		if out, err := w.rotate(); err != nil || out.Credential != pending || w.row().Staged != nil {
			t.Errorf("the target does not answer: %+v, %v; staged: %v", out, err, w.row().Staged != nil)
		}
		w.target.verify = nil
		out, err := w.rotate()
		if err != nil || len(w.target.applied) > 0 || has != (out.Credential == done) || !w.opens() {
			t.Errorf("the target has it %v: %+v, %v: applied %d times; the record opens the target: %v", has, out, err, len(w.target.applied), w.opens())
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
			t.Errorf("the target has it %v, the next: %+v, %v", has, out, err)
		}
	}
}

// Where nobody can judge a login, a copy that may not be applied is not dropped for it: a new
// secret takes its place where one is asked for, and until that is committed it stays.
func TestCopyThatNobodyCanJudge(t *testing.T) {
	for n := range 4 {
		self, answers := n&1 == 0, n&2 == 0
		w := newWorld(t, self)
		k, _ := w.keepsAnothers()
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
			return sdk.VerifyResponse{Reason: "not_judged"}, nil
		}
		kept := func() bool {
			outstanding, _, err := w.engine.Journal.Kept(w.account)
			must(t, err)
			return outstanding != nil && outstanding.Digest == k.Digest
		}
		if _, err := w.engine.Do(t.Context(), Job{ID: seal.NewID(), Account: w.account, Recover: true}); !kept() || w.row().Staged != nil {
			t.Errorf("itself %v, nobody asked for a new one: %v; kept: %v; staged: %v", self, err, kept(), w.row().Staged != nil)
		}
		if !answers { // the target, to a change
			w.target.openErr = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
			if out, err := w.rotate(); err != nil || out.Credential == done || !kept() {
				t.Errorf("itself %v, the target does not answer: %+v, %v; kept: %v", self, out, err, kept())
			}
			w.target.openErr = nil
		}
		tries := 0
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
			if tries++; tries == 1 { // the copy
				return sdk.VerifyResponse{Reason: "not_judged"}, nil
			}
			return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() || len(w.target.applied) != 1 || kept() {
			t.Errorf("itself %v, a new one: %+v, %v: the record opens the target: %v; applied %d times; kept: %v", self, out, err, w.opens(), len(w.target.applied), kept())
		}
	}
}

// The vault goes back to a state before a commit: the agent that made it brings the value
// back.
func TestCommitLost(t *testing.T) {
	for name, tc := range map[string]struct {
		lose   func(w *world, before, staged ksm.ExtRecord)
		target string // what it has; empty: what was committed
		want   trustv1.Outcome
		reason string
	}{
		"all of it":        {func(w *world, before, _ ksm.ExtRecord) { *w.row() = before }, "", done, "healed"},
		"the commit alone": {func(w *world, _, staged ksm.ExtRecord) { *w.row() = staged }, "", done, "healed"},
		"an older candidate came back": {func(w *world, before, staged ksm.ExtRecord) {
			other := *staged.Staged
			other.Data = slices.Clone(before.Data)
			before.Staged = &other
			*w.row() = before
		}, "", done, "healed"},
		"and the target was set by hand": {func(w *world, before, _ ksm.ExtRecord) { *w.row() = before }, "by hand", failed, "value_rollback"},
	} {
		w := newWorld(t, false)
		before := *w.row()
		var staged ksm.ExtRecord
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			staged = *w.row()
			w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
			return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
		}
		if out, err := w.rotate(); err != nil || out.Credential != done {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		tc.lose(w, before, staged)
		if tc.target != "" {
			w.target.secrets["app"] = tc.target
		}
		out, err := w.rotate()
		if err != nil || out.Credential != tc.want || out.Reason != tc.reason || len(w.target.applied) != 1 || w.row().Staged != nil {
			t.Errorf("%s: %+v, %v: applied %d times, staged %v", name, out, err, len(w.target.applied), w.row().Staged != nil)
		}
		if got := w.events(); !slices.Equal(got, []string{"record.refused value_rollback"}) {
			t.Errorf("%s: events: %q", name, got)
		}
		logins := w.target.logins
		out, err = w.rotate()
		switch {
		case err != nil:
			t.Errorf("%s, the next: %v", name, err)
		case tc.want == done && (out.Credential != done || out.Reason != "" || !w.opens() || len(w.target.applied) != 2):
			t.Errorf("%s, the next: %+v: applied %d times", name, out, len(w.target.applied))
		case tc.want == failed && (out.Credential != failed || w.target.logins != logins):
			t.Errorf("%s, the next: %+v: %d more logins", name, out, w.target.logins-logins)
		}
	}
}

// The vault gave the account to another agent, without the candidate, and that one has
// committed: whatever the target has now is in the vault in the end.
func TestFork(t *testing.T) {
	for _, mine := range []bool{true, false} {
		w := newWorld(t, false)
		other := newParty(t, true)
		w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			// Meanwhile the other agent's run, from lease to commit.
			w.commitBy(other, "other's")
			if mine {
				w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
			}
			w.target.apply = nil
			return sdk.ApplyResponse{}, errors.New("no answer")
		}
		out, err := w.rotate()
		if err != nil || !w.opens() || mine != (out.Credential == done) {
			t.Errorf("the target has mine %v: %+v, %v: the record opens the target: %v", mine, out, err, w.opens())
		}
		if !mine { // its candidate is still kept, and proven to be over now
			if out, err := w.rotate(); err != nil || out.Credential != failed || out.Reason != "value_fork" || !w.opens() {
				t.Errorf("the loser: %+v, %v", out, err)
			}
		}
		if got := w.events(); !slices.Equal(got, []string{"value_fork value_fork"}) {
			t.Errorf("the target has mine %v: events: %q", mine, got)
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
			t.Errorf("the next: %+v, %v", out, err)
		}
	}
}

// The other agent has committed twice, and this one's change came last: where nobody else
// can set the secret, what this one keeps is the only way in.
func TestForkOfTwo(t *testing.T) {
	w := newWorld(t, true)
	other := newParty(t, true)
	w.change(trust.PutOp(other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, w.pool, "gw2")))
	w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		w.commitBy(other, "the other's")
		w.commitBy(other, "the other's second")
		w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
		w.target.apply = nil
		return sdk.ApplyResponse{}, errors.New("no answer")
	}
	w.appliedAndLost()
	if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
		t.Errorf("%+v, %v: the record opens the target: %v", out, err, w.opens())
	}
}

// commitBy has another agent of the pool change the secret, at target and vault.
func (w *world) commitBy(agent party, secret string) {
	w.t.Helper()
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	x.HistoryKey, x.HistoryData = x.RecordKey, x.Data
	x.Data = trust.SealData(key, []byte(`{"title":"title","type":"pamUser","fields":[{"type":"password","value":["`+secret+`"]}]}`))
	digest := seal.Hash(x.Data)
	former := seal.Digest{}
	if r, err := trust.OpenResult(w.log, x.Attestation); err == nil {
		former = r.Digest
	}
	signed, _, err := trust.SignResult(w.log, agent.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_COMMITTED, By: agent.id.Bytes(), Account: w.account.Proto(), ValueSeq: w.seq() + 1, DataDigest: digest.Bytes(),
		Prev: former.Bytes(), RunId: seal.NewID().Bytes(), Time: w.now.UnixMilli(), Event: 1,
	})
	must(w.t, err)
	x.Attestation, x.Recent, x.Staged = signed, append([][]byte{signed}, x.Recent...), nil
	x.Revision++
	w.target.set("app", secret)
}

// A vault that was put back from a backup lost a commit and the candidate after it: what
// the target has of the two is brought back.
func TestCommitAndCandidateLost(t *testing.T) {
	for _, applied := range []bool{true, false} {
		w := newWorld(t, false)
		before := *w.row()
		if out, err := w.rotate(); err != nil || out.Credential != done {
			t.Fatalf("%+v, %v", out, err)
		}
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			if applied {
				w.target.secrets[r.Account.Name] = r.Candidate.Secret.ExposeString()
			}
			return sdk.ApplyResponse{}, errCrash
		}
		w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errCrash }
		if out, err := w.rotate(); err != nil || out.Credential != pending {
			t.Fatalf("%+v, %v", out, err)
		}
		w.target.apply, w.target.verify = nil, nil
		*w.row() = before
		for range 3 { // as the sweep's passes
			w.later(trust.StartGap + time.Second)
			jobs, err := w.engine.Lost(t.Context(), []trust.Ref{w.account, w.admin})
			must(t, err)
			for _, j := range jobs {
				if _, err := w.engine.Do(t.Context(), j); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !w.opens() || len(w.target.applied) != 2 || w.row().Staged != nil {
			t.Errorf("applied %v: the record opens the target: %v; applied %d times; staged: %v", applied, w.opens(), len(w.target.applied), w.row().Staged != nil)
		}
		if jobs, err := w.engine.Lost(t.Context(), []trust.Ref{w.account}); err != nil || len(jobs) > 0 {
			t.Errorf("it is still looked for: %v, %v", jobs, err)
		}
	}
}

// A candidate that the vault has lost, with the run that made it, is brought back where
// the target has it, and never applied: nobody asks for a new secret any more.
func TestRunForgotten(t *testing.T) {
	for _, applied := range []bool{true, false} {
		w := newWorld(t, false)
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); err == nil {
			t.Fatal("the run was not interrupted")
		}
		if _, staged := w.secret(w.account); applied {
			w.target.secrets["app"] = staged
		}
		w.row().Staged = nil
		w.vault.forgets = true
		out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.account})
		if err != nil || !w.opens() || len(w.target.applied) != 0 || w.row().Staged != nil || (out.Credential == done) != applied {
			t.Errorf("applied %v: %+v, %v: the record opens the target: %v", applied, out, err, w.opens())
		}
		if open, err := w.engine.Journal.OpenRuns(); err != nil || len(open) > 0 {
			t.Errorf("open runs: %v, %v", open, err)
		}
		// Of a run that was not begun here, and that the vault does not know, nothing is done.
		if out, err := w.engine.Do(t.Context(), Job{ID: seal.NewID(), Account: w.account}); err != nil || out.Credential != trustv1.Outcome_OUTCOME_NONE {
			t.Errorf("an unknown run: %+v, %v", out, err)
		}
	}
}

// Statements that a restored vault has lost are sent back, where the log still vouches
// for them.
func TestRestate(t *testing.T) {
	w := newWorld(t, false)
	first := *w.row()
	w.put2(w.accountStatement("app", nil))
	if out, err := w.rotate(); err != nil || out.Credential != done { // it sees the second
		t.Fatalf("%+v, %v", out, err)
	}
	second := w.row().Statement
	refs := []trust.Ref{w.account, w.admin, w.res, w.ref()}
	restate := func(want int) {
		t.Helper()
		w.vault.restated = nil
		if n, err := w.engine.Restate(t.Context(), refs); err != nil || n != want {
			t.Fatalf("%d statements, %v; want %d", n, err, want)
		}
	}
	restate(0)
	for name, lose := range map[string]func(){
		"an older one": func() { w.row().Statement = first.Statement },
		"none":         func() { w.row().Statement = nil },
	} {
		lose()
		restate(1)
		r := w.vault.restated[0]
		if r.Seq != 2 || seal.ID(r.Record.Record) != w.account.Record || seal.ID(r.Resource.Record) != w.res.Record || len(r.Admin.Record) != 0 || len(r.PoolID) != 0 {
			t.Errorf("%s: sent back %+v", name, r)
		}
		if out, err := w.rotate(); err != nil || out.Credential != done {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		restate(0)
	}
	// The vault does not want it, which ends nothing.
	w.row().Statement = first.Statement
	w.vault.fail = map[string]error{"restate": ksm.Refuse(ksm.CodeNotLost, "it is not lost")}
	restate(0)
	// A newer one is known to the log: this agent's is not the one.
	w.change(trust.FloorOp(w.account, 3))
	restate(0)
	w.row().Statement = second
	restate(0)
}

// put2 signs the account's second statement.
func (w *world) put2(s *trustv1.Statement) {
	w.t.Helper()
	key, err := seal.UnwrapKey(w.folderKey, w.row().RecordKey)
	must(w.t, err)
	former := w.statements[w.account]
	s.RecordUid, s.FolderUid, s.KeyCheck = w.account.Record.Bytes(), w.account.Folder.Bytes(), seal.RecordKeyCheck(w.log.Org(), key, w.account.Record).Bytes()
	s.Seq, s.Prev, s.Issued = 2, former.Bytes(), w.now.UnixMilli()
	signed, digest, err := trust.SignStatement(w.log, w.device.sign, s)
	must(w.t, err)
	w.statements[w.account] = digest
	w.row().Statement = trust.SealStatement(w.log.Org(), key, w.account.Record, signed)
}

// While a restored server recovers, a candidate from before is committed where the target
// has it. It is not applied: what came after it may be what the target has.
func TestHeldCandidate(t *testing.T) {
	for _, applied := range []bool{true, false} {
		for _, as := range []string{"a schedule's", "another, by hand", "the agent's own"} {
			w := newWorld(t, false)
			id := seal.NewID()
			ctx, cancel := context.WithCancel(t.Context())
			w.vault.crash, w.vault.stop = "stage", cancel
			if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); err == nil {
				t.Fatal("the run was not interrupted")
			}
			if _, staged := w.secret(w.account); applied {
				w.target.secrets["app"] = staged
			} else {
				w.target.secrets["app"] = "newer, and lost"
			}
			w.row().Staged.Held = true
			w.later(trust.StartGap * 2)
			var out Outcome
			var err error
			switch as {
			case "a schedule's":
				out, err = w.run(id)
			case "another, by hand":
				out, err = w.rotate()
			default:
				out, err = w.engine.Do(t.Context(), Job{ID: seal.NewID(), Account: w.account, Recover: true})
			}
			if err != nil || len(w.target.applied) > 0 || (out.Credential == done) != applied || (w.row().Staged == nil) != applied {
				t.Errorf("%s, applied %v: %+v, %v: applied %d times, staged %v", as, applied, out, err, len(w.target.applied), w.row().Staged != nil)
			}
			if !applied && (out.Reason != "server.recovering" || out.Later != (as != "another, by hand")) {
				t.Errorf("%s: %+v", as, out)
			}
			if applied {
				continue
			}
			w.row().Staged.Held = false // the recovery has ended
			if out, err := w.rotate(); err != nil || out.Credential != done || !w.opens() {
				t.Errorf("%s, then: %+v, %v", as, out, err)
			}
		}
	}
}

// edit writes the record's data anew, and says nothing of it.
func (w *world) edit(title, secret string) {
	w.t.Helper()
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	rec := record.New("pamUser", title)
	must(w.t, rec.SetText("password", []byte(secret)))
	plain, err := rec.JSON()
	must(w.t, err)
	x.Data = trust.SealData(key, plain)
	x.Revision++
}

func (w *world) title() string {
	w.t.Helper()
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	plain, err := seal.OpenGCM(key, x.Data, nil)
	must(w.t, err)
	rec, err := record.Parse(plain)
	must(w.t, err)
	return rec.Title()
}

// A value that is brought back has the fields that it had, or those that a person has
// attested since. What else is served beside an older word comes from whoever has the
// record's key, a reader or an application: it is not signed, nor is its secret ended.
func TestOnlyWhatIsAttestedIsBroughtBack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		serve  func(w *world)
		title  string
		reason string
		ended  []string
	}{
		{"the value before", func(*world) {}, "title", trust.Healed, []string{"old"}},
		{"other data under its word", func(w *world) { w.edit("another's", "another's") }, "title", "retire.pending", nil},
		{"what a person made of the value before", func(w *world) { w.edit("new title", "old"); w.attestSame() }, "new title", trust.Healed, []string{"old"}},
	} {
		w := newWorld(t, false)
		w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
		before := *w.row()
		if out, err := w.rotate(); err != nil || out.Credential != done {
			t.Fatalf("%s: %+v, %v", tc.name, out, err)
		}
		w.known = w.seq()
		*w.row() = before
		tc.serve(w)
		w.target.retired = nil
		out, err := w.rotate()
		if err != nil || out.Credential != done || out.Reason != tc.reason || !w.opens() || len(w.target.applied) != 1 {
			t.Errorf("%s: %+v, %v: applied %d times", tc.name, out, err, len(w.target.applied))
		}
		if w.title() != tc.title || !slices.Equal(w.target.retired, tc.ended) {
			t.Errorf("%s: the title is %q, ended %d secrets", tc.name, w.title(), len(w.target.retired))
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || out.Reason != "" || !w.opens() || w.title() != tc.title {
			t.Errorf("%s, the next: %+v, %v: the title is %q", tc.name, out, err, w.title())
		}
		if slices.Contains(w.target.retired, "another's") {
			t.Errorf("%s, the next: it ended a secret that nobody attests", tc.name)
		}
	}
}
