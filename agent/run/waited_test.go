package run

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// bob is a second member, with a device of his own.
func (w *world) bob(roles trust.Roles) (device party, member seal.ID) {
	device, member = newParty(w.t, false), seal.NewID()
	entry := device.entry(trustv1.EntryKind_ENTRY_KIND_DEVICE, member, "bob's")
	entry.NotAfter, entry.Roles = w.now.Add(24*time.Hour).UnixMilli(), uint32(trust.AllRoles)
	w.change(
		trust.PutOp(&trustv1.Entry{EntryId: member.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Bob", V: trust.Version}),
		trust.PutOp(entry), trust.GrantOp(w.folder, member, roles))
	return device, member
}

// What a command's signer lost while it waited it does no more.
func TestCommandThatWaited(t *testing.T) {
	for _, tc := range []struct {
		name   string
		since  func(w *world, member seal.ID)
		reason trust.Reason
	}{
		{"nothing", func(*world, seal.ID) {}, ""},
		{"removed", func(w *world, m seal.ID) { w.change(trust.RemoveOp(m)) }, trust.SignerUnknown},
		{"may read only", func(w *world, m seal.ID) { w.change(trust.GrantOp(w.folder, m, trust.Read)) }, trust.NotAllowed},
	} {
		for _, action := range []trustv1.Action{trustv1.Action_ACTION_ROTATE, trustv1.Action_ACTION_VERIFY, trustv1.Action_ACTION_CANCEL} {
			w := newWorld(t, false)
			device, member := w.bob(trust.Read | trust.Operate)
			c := w.commandBy(device, action, seal.NewID())
			tc.since(w, member)
			w.later(50 * time.Minute)
			out, err := w.engine.Do(t.Context(), Job{ID: seal.ID(c.RunId), Account: w.account, Command: c})
			if err != nil || out.Reason != string(tc.reason) && tc.reason != "" || tc.reason == "" && out.Credential == failed {
				t.Errorf("%s, %s: %+v, %v", tc.name, action, out, err)
			}
			if touched := len(w.target.applied) + w.target.logins; tc.reason != "" && touched > 0 {
				t.Errorf("%s, %s: the target saw %d calls", tc.name, action, touched)
			}
		}
	}
}

// A candidate that was staged while its signer might is probed and committed, for the
// target may have it; it is not applied.
func TestStagedBeforeItsSignerLeft(t *testing.T) {
	for name, applied := range map[string]bool{"the target has it": true, "the target does not": false} {
		w := newWorld(t, false)
		device, member := w.bob(trust.Read | trust.Operate)
		c := w.commandBy(device, trustv1.Action_ACTION_ROTATE, seal.NewID())
		job := Job{ID: seal.ID(c.RunId), Account: w.account, Command: c}
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, job); err == nil {
			t.Fatal("the run was not interrupted")
		}
		_, staged := w.secret(w.account)
		if applied {
			w.target.secrets["app"] = staged
		}
		w.change(trust.RemoveOp(member))
		out, err := w.engine.Do(t.Context(), job)
		current, _ := w.secret(w.account)
		if err != nil || len(w.target.applied) > 0 || applied != (out.Credential == done) || applied != (current == staged) {
			t.Errorf("%s: %+v, %v; applied %d times", name, out, err, len(w.target.applied))
		}
	}
}

// The policy of the agent's host that allows looking does not allow changing.
func TestVerifyUnderAPolicyThatForbidsRotation(t *testing.T) {
	forbids, err := policy.Parse("[actions]\nallow = [\"verify\"]\n")
	must(t, err)
	for _, person := range []bool{false, true} {
		w := newWorld(t, false)
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "stage", cancel
		if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); err == nil {
			t.Fatal("the run was not interrupted")
		}
		w.engine.Policy, w.vault.action = forbids, "verify"
		w.later(trust.StartGap + time.Second)
		job := Job{ID: seal.NewID(), Account: w.account}
		if person {
			job.Command = w.command(trustv1.Action_ACTION_VERIFY, job.ID)
		}
		out, err := w.engine.Do(t.Context(), job)
		if err != nil || out.Reason != string(trust.LocalPolicy) || len(w.target.applied) > 0 || w.target.logins == 0 {
			t.Errorf("person %v: %+v, %v: applied %d times, %d logins", person, out, err, len(w.target.applied), w.target.logins)
		}
		if w.vault.records[w.account.Record].Staged == nil {
			t.Errorf("person %v: the candidate is gone", person)
		}
	}
}

// A server that takes candidates, hides them and refuses every commit gets no more of
// them out of one run than out of many.
func TestOneRunIsBoundedLikeMany(t *testing.T) {
	w := newWorld(t, false)
	w.put(w.account, "pamUser", []byte("old"), w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 3000, ValidUntil: w.now.Add(time.Hour).UnixMilli()}))
	id := seal.NewID()
	for range 3 * trust.MaxNewCandidates {
		w.vault.fail = map[string]error{"commit": ksm.Refuse(ksm.CodeEpochOld, "the lease has moved on")}
		_, _ = w.run(id)
		w.vault.records[w.account.Record].Staged = nil
		w.later(trust.StartGap + time.Second)
	}
	slices.Sort(w.target.applied)
	if n := len(slices.Compact(w.target.applied)); n == 0 || n > trust.MaxNewCandidates {
		t.Errorf("%d candidates were applied, at most %d may be", n, trust.MaxNewCandidates)
	}
}

// An agent counts its candidates itself: a server that serves nothing of the runs before
// gets no more of them.
func TestCandidatesAreCountedWithoutTheServer(t *testing.T) {
	w := newWorld(t, false)
	w.put(w.account, "pamUser", []byte("old"), w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 3600, ValidUntil: w.now.Add(24 * time.Hour).UnixMilli()}))
	before := *w.vault.records[w.account.Record]
	w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
	}
	tries := func() (reason string) {
		for range 2 * trust.MaxNewCandidates {
			w.later(trust.StartGap + time.Second)
			out, err := w.run(seal.NewID())
			must(t, err)
			reason = out.Reason
			*w.vault.records[w.account.Record] = before
		}
		return reason
	}
	if reason := tries(); reason != string(trust.TooOften) || len(w.target.applied) != trust.MaxNewCandidates {
		t.Errorf("within the mandate's interval: %d candidates, %s; want %d", len(w.target.applied), reason, trust.MaxNewCandidates)
	}
	w.later(time.Hour)
	if tries(); len(w.target.applied) != 2*trust.MaxNewCandidates {
		t.Errorf("after it: %d candidates, want %d", len(w.target.applied), 2*trust.MaxNewCandidates)
	}
}

// Each look at a candidate costs the account failed logins: the server may ask for one
// now and then.
func TestAStagedCandidateIsNotProbedAtWill(t *testing.T) {
	w := newWorld(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); err == nil {
		t.Fatal("the run was not interrupted")
	}
	w.target.secrets["app"] = "set by hand"
	w.later(trust.StartGap + time.Second)
	before := w.target.opens + w.target.logins
	for range 20 {
		if out, err := w.run(seal.NewID()); err != nil || out.Credential != pending {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	if tries := w.target.opens + w.target.logins - before; tries > 2 {
		t.Errorf("%d logins without any time passing", tries)
	}
	w.later(trust.StartGap + time.Second)
	if out, err := w.run(seal.NewID()); err != nil || out.Reason == string(trust.TooOften) {
		t.Errorf("after the gap: %+v, %v", out, err)
	}
}

// A rotation that could not end the secret it replaced is overtaken by another one: that
// one ends both.
func TestTheNextRotationEndsWhatIsLeft(t *testing.T) {
	w := newWorld(t, false)
	w.target.manifest.Overlap, w.target.retire = []sdk.Kind{sdk.Password}, sdk.Unchanged
	first := seal.NewID()
	if out, err := w.run(first); err != nil || out.Reason != "retire.pending" {
		t.Fatalf("%+v, %v", out, err)
	}
	between, _ := w.secret(w.account)
	rotate := func() (Outcome, error) {
		w.later(2 * time.Minute)
		c := w.command(trustv1.Action_ACTION_ROTATE, seal.NewID())
		return w.engine.Do(t.Context(), Job{ID: seal.ID(c.RunId), Account: w.account, Command: c})
	}
	if out, err := rotate(); err != nil || out.Reason != "retire.pending" || len(w.target.applied) != 1 {
		t.Errorf("while the target refuses: %+v, %v: applied %d times", out, err, len(w.target.applied))
	}
	w.target.retire, w.target.retired = 0, nil
	if out, err := rotate(); err != nil || out.Credential != done || !slices.Equal(w.target.retired, []string{"old", between}) {
		t.Errorf("then: %+v, %v: ended %q", out, err, w.target.retired)
	}
	w.target.retired = nil
	if out, err := rotate(); err != nil || out.Credential != done || len(w.target.retired) != 1 {
		t.Errorf("with nothing left: %+v, %v: ended %d secrets", out, err, len(w.target.retired))
	}
}

// What a server serves as a uid, or a stolen agent signs without a run, may have any
// length.
func TestServedBytesOfAnyLength(t *testing.T) {
	w := newWorld(t, false)
	short := *w.vault.records[w.account.Record]
	short.Ref.Record = []byte{1, 2, 3}
	w.vault.records[seal.NewID()] = &short
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
		t.Errorf("beside a record with a short uid: %+v, %v", out, err)
	}

	w = newWorld(t, false)
	x := w.vault.records[w.account.Record]
	digest := seal.Hash(x.Data)
	signed, _, err := trust.SignResult(w.log, w.agent.sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_COMMITTED, By: w.agent.id.Bytes(), Account: w.account.Proto(), ValueSeq: 2,
		DataDigest: digest.Bytes(), Time: w.now.Add(-time.Hour).UnixMilli(), Event: 1,
	})
	must(t, err)
	x.Attestation, x.Recent = signed, [][]byte{signed}
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
		t.Errorf("with a commit of no run: %+v, %v", out, err)
	}
}
