package work_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const (
	committed = trustv1.Phase_PHASE_COMMITTED
	abandoned = trustv1.Phase_PHASE_ABANDONED
	done      = trustv1.Outcome_OUTCOME_DONE
)

func TestRotation(t *testing.T) {
	v := newVault(t)
	hints := v.bus.Subscribe(bus.Push(v.org))
	defer hints.Close()
	former := v.record()
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	if r := v.record(); !bytes.Equal(r.Data, former.Data) || r.Revision != 1 {
		t.Error("staging changed the record")
	}
	if s, ok := v.staged(); !ok || !bytes.Equal(s.Data, data) || s.OwnerKind != work.OwnerAgent || string(s.Authority) != "sealed" {
		t.Errorf("staged: %+v", s)
	}
	settle := h.settleRequest(committed, data, 1)
	settle.Finish = true
	v.must(h.commit(settle))

	r := v.record()
	if !bytes.Equal(r.Data, data) || r.Revision != 2 || r.ValueSeq != 1 {
		t.Errorf("record: revision %d, value %d", r.Revision, r.ValueSeq)
	}
	opened, err := trust.OpenResult(v.o.Log, settle.Result)
	v.must(err)
	if !bytes.Equal(r.Attestation, opened.Digest[:]) {
		t.Error("the record is not attested by the commit")
	}
	if _, ok := v.staged(); ok {
		t.Error("the candidate is still outstanding")
	}
	if past := v.history(); len(past) != 1 || !bytes.Equal(past[0].Data, former.Data) || past[0].Why != work.WhyReplaced || past[0].Revision != 1 {
		t.Errorf("history: %+v", past)
	}
	row := v.runRow(run)
	if row.State != work.Finished || row.Finished == 0 || row.NextAttempt != 0 || row.Credential != int64(done) {
		t.Errorf("run: %+v", row)
	}
	if len(v.finished) != 1 || v.finished[0].State != work.Finished {
		t.Errorf("the rotation was told: %+v", v.finished)
	}
	if got, err := v.tryLease(v.a, run, "mandate"); err != nil || !got.Closed {
		t.Errorf("a finished run was leased: %+v, %v", got, err)
	}
	v.lease(v.b, v.start()) // and the account is free
	wantHints(t, hints, work.Queued, work.Leased, work.Staged, "record 2", work.Finished)
	if got := v.events("run."); !slices.Equal(got[:5], []string{"run.queued", "run.started", "run.staged", "run.committed", "run.finished"}) {
		t.Errorf("events: %v", got)
	}
}

// wantHints reads the run states and record revisions that were pushed.
func wantHints(t *testing.T, s bus.Subscription, want ...string) {
	t.Helper()
	for len(want) > 0 {
		var payload []byte
		select {
		case payload = <-s.C():
		case <-time.After(10 * time.Second):
			t.Fatalf("no further hint; missing %v", want)
		}
		var m clientv1.WatchResponse
		if err := proto.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		got := m.GetRun().GetState()
		if m.GetRecord().GetRevision() == 2 {
			got = "record 2"
		}
		if got == "" {
			continue // events, log
		}
		if got != want[0] {
			t.Fatalf("hint %q, want %q", got, want[0])
		}
		want = want[1:]
	}
}

func TestRepeatsAreSuccesses(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	stage := h.stageRequest(data, 1)
	v.must(h.stage(stage))
	v.must(h.stage(stage))
	settle := h.settleRequest(committed, data, 1)
	v.must(h.commit(settle))
	v.must(h.commit(settle))
	end := h.endRequest(done)
	v.must(h.report(end))
	v.must(h.report(end))
	v.must(h.commit(settle)) // also after the end
	if r := v.record(); r.Revision != 2 || len(v.history()) != 1 || len(v.finished) != 1 {
		t.Errorf("revision %d, %d former values, %d ends", r.Revision, len(v.history()), len(v.finished))
	}
}

func TestCommitIsRepeatedUnderANewLease(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	v.must(h.commit(h.settleRequest(committed, data, 1)))
	again := v.lease(v.a, run) // the answer was lost with the agent
	settle := again.settleRequest(committed, data, 1)
	settle.Finish = true
	v.must(again.commit(settle))
	if r := v.runRow(run); r.State != work.Finished || v.record().Revision != 2 {
		t.Errorf("run %s, revision %d", r.State, v.record().Revision)
	}
}

func TestOneCandidateIsOutstanding(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	first, second := v.seal("second"), v.seal("third")
	v.wantCode("commit before staging", h.commit(h.settleRequest(committed, first, 1)), ksm.CodeNotStaged)
	v.wantCode("abandon before staging", h.abandon(h.settleRequest(abandoned, first, 1)), ksm.CodeNotStaged)
	v.must(h.stage(h.stageRequest(first, 1)))

	v.wantCode("another candidate", h.stage(h.stageRequest(second, 1)), ksm.CodeOutstanding)
	v.wantCode("commit of another", h.commit(h.settleRequest(committed, second, 1)), ksm.CodeDigest)
	v.wantCode("abandon of another", h.abandon(h.settleRequest(abandoned, second, 1)), ksm.CodeDigest)
	v.pass(work.Term)
	taken := v.lease(v.b, v.start())
	v.wantCode("another agent's candidate in another run", taken.stage(taken.stageRequest(second, 1)), ksm.CodeOutstanding)
	if s, _ := v.staged(); !bytes.Equal(s.Data, first) {
		t.Error("the first candidate is gone")
	}
}

func TestStageComparesTheRecord(t *testing.T) {
	v := newVault(t)
	h := v.lease(v.a, v.start())
	data := v.seal("second")
	r := h.stageRequest(data, 1)
	r.Revision++
	v.wantCode("another revision", h.stage(r), ksm.CodeOutOfSync)
	v.must(h.stage(h.stageRequest(data, 1)))
	v.must(h.commit(h.settleRequest(committed, data, 1)))
	v.wantCode("a value number again", h.stage(h.stageRequest(v.seal("third"), 1)), ksm.CodeOutOfSync)
	r = h.stageRequest(data, 2)
	r.DataDigest[0] ^= 1
	v.wantCode("a digest of other data", h.stage(r), ksm.CodeBadRequest)
	r = h.stageRequest(make([]byte, ksm.MaxData+1), 2)
	v.wantCode("too large", h.stage(r), ksm.CodeTooLarge)
}

// TestResultsSayWhatTheCallSays: a result that nobody would believe later is
// refused at once, and leaves nothing.
func TestResultsSayWhatTheCallSays(t *testing.T) {
	v := newVault(t)
	h := v.lease(v.a, v.start())
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	sign := func(by *hand, alter func(*trustv1.Result)) []byte { return by.result(committed, data, 1, alter) }
	other := &hand{v, v.b, h.run, h.epoch}
	for name, signed := range map[string][]byte{
		"phase":        sign(h, func(r *trustv1.Result) { r.Phase = trustv1.Phase_PHASE_STAGED }),
		"account":      sign(h, func(r *trustv1.Result) { r.Account.RecordUid = seal.NewID().Bytes() }),
		"folder":       sign(h, func(r *trustv1.Result) { r.Account.FolderUid = seal.NewID().Bytes() }),
		"run":          sign(h, func(r *trustv1.Result) { r.RunId = seal.NewID().Bytes() }),
		"lease epoch":  sign(h, func(r *trustv1.Result) { r.LeaseEpoch++ }),
		"digest":       sign(h, func(r *trustv1.Result) { r.DataDigest = seal.Hash([]byte("x")).Bytes() }),
		"value number": sign(h, func(r *trustv1.Result) { r.ValueSeq++ }),
		"signer":       sign(other, func(*trustv1.Result) {}),
		"signature": func() []byte {
			b := sign(h, func(*trustv1.Result) {})
			b[len(b)-1] ^= 1
			return b
		}(),
		"nothing": nil,
	} {
		r := h.settleRequest(committed, data, 1)
		r.Result = signed
		v.wantCode(name, h.commit(r), ksm.CodeBadRequest)
	}
	r := h.settleRequest(committed, data, 1)
	r.Detail = []byte("not what the result says")
	v.wantCode("detail", h.commit(r), ksm.CodeBadRequest)
	if v.record().Revision != 1 || len(v.history()) != 0 {
		t.Fatal("a refused result changed the record")
	}
	v.must(h.commit(h.settleRequest(committed, data, 1))) // the honest one counts
}

func TestAbandonKeepsTheCandidateInHistory(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	settle := h.settleRequest(abandoned, data, 1)
	v.must(h.abandon(settle))
	v.must(h.abandon(settle))
	if past := v.history(); len(past) != 1 || past[0].Why != work.WhyAbandoned || !bytes.Equal(past[0].Data, data) {
		t.Errorf("history: %+v", past)
	}
	if v.record().Revision != 1 || v.runRow(run).State != work.Leased {
		t.Error("abandoning changed more than the candidate")
	}
	next := v.seal("third") // the run goes on with another one
	v.must(h.stage(h.stageRequest(next, 1)))
}

func TestCandidateOfOneRunIsSettledByAnother(t *testing.T) {
	for _, phase := range []trustv1.Phase{committed, abandoned} {
		t.Run(phase.String(), func(t *testing.T) {
			v := newVault(t)
			first := v.start()
			h := v.lease(v.a, first)
			data := v.seal("second")
			v.must(h.stage(h.stageRequest(data, 1)))
			v.pass(work.Term)
			second := v.lease(v.b, v.start())
			settle := second.settleRequest(phase, data, 1)
			settle.Finish = true
			do, want := second.commit, work.Finished
			if phase == abandoned {
				do, want = second.abandon, work.Failed
			}
			v.must(do(settle))
			for _, id := range []seal.ID{first, second.run} {
				if r := v.runRow(id); r.State != want {
					t.Errorf("run is %s, want %s", r.State, want)
				}
			}
			if v.runRow(first).Reason != "settled_by_other_run" || len(v.finished) != 2 {
				t.Error("the first run's end says nothing")
			}
		})
	}
}

func TestClientsStagedUpdateGivesWay(t *testing.T) {
	v := newVault(t)
	theirs := v.seal("a client's")
	v.write(func(ctx context.Context, q *db.Queries) error {
		return q.AddStaged(ctx, db.AddStagedParams{
			Org: v.org, RecordUid: v.account.Record[:], OwnerKind: work.OwnerClient, OwnerID: make([]byte, 64), BaseRevision: 1, Data: theirs,
		})
	})
	h := v.lease(v.a, v.start())
	v.wantCode("a client's update is no candidate", h.commit(h.settleRequest(committed, theirs, 1)), ksm.CodeNotStaged)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	if past := v.history(); len(past) != 1 || past[0].Why != work.WhyRolledBack || !bytes.Equal(past[0].Data, theirs) {
		t.Errorf("history: %+v", past)
	}
}

func TestPersonAbandons(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.a, run)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	signed, _, err := trust.SignResult(v.o.Log, v.o.Admin.Sign, &trustv1.Result{
		Phase: abandoned, By: v.o.Admin.ID.Bytes(), Account: v.account.Proto(), RunId: run.Bytes(), Cause: make([]byte, 32),
		ValueSeq: 1, DataDigest: seal.Hash(data).Bytes(), Time: v.clock().UnixMilli(),
	})
	v.must(err)
	result, err := trust.OpenResult(v.o.Log, signed)
	v.must(err)
	v.write(func(ctx context.Context, q *db.Queries) error {
		return v.work.AbandonByDevice(ctx, q, v.org, result, nil)
	})
	if _, ok := v.staged(); ok || v.runRow(run).State != work.Failed {
		t.Error("the candidate or its run is still there")
	}
	v.wantCode("the agent that drove it", h.commit(h.settleRequest(committed, data, 1)), ksm.CodeEpochOld)
}

// A result confirms the head of the log that it was signed with.
func TestResultsConfirmTheLog(t *testing.T) {
	v := newVault(t)
	v.seen(v.a)
	h := v.lease(v.a, v.start())
	v.must(h.stage(h.stageRequest(v.seal("new"), 1)))
	v.read(func(ctx context.Context, q *db.Queries) error {
		seen, err := q.PresenceOf(ctx, db.PresenceOfParams{Org: v.org, Ids: [][]byte{v.a.ID[:]}})
		if head := v.o.Log.Head().Epoch; err != nil || len(seen) != 1 || uint64(seen[0].LogEpoch) != head {
			t.Errorf("shown as confirmed: %+v, %v, want change %d", seen, err, head)
		}
		return err
	})
}

// A candidate's number is the next one. One that brings back what this database has lost
// may leave a gap, where its agent shows that it committed a value of a lower number.
func TestNumberOfWhatIsBroughtBack(t *testing.T) {
	for name, c := range map[string]struct {
		seq    uint64
		former func(v *vault, h *hand) []byte
		taken  bool
	}{
		"the next":                 {1, nil, true},
		"a gap, and no word":       {4, nil, false},
		"above what was committed": {3, func(_ *vault, h *hand) []byte { return h.result(committed, h.seal("lost"), 2) }, true},
		"above the edits after it": {7, func(_ *vault, h *hand) []byte { return h.result(committed, h.seal("lost"), 2) }, true},
		"the one committed":        {2, func(_ *vault, h *hand) []byte { return h.result(committed, h.seal("lost"), 2) }, false},
		"one that was staged alone": {3, func(_ *vault, h *hand) []byte {
			return h.result(trustv1.Phase_PHASE_STAGED, h.seal("lost"), 2)
		}, false},
		"another agent's": {3, func(v *vault, h *hand) []byte {
			return (&hand{v, v.b, h.run, h.epoch}).result(committed, h.seal("lost"), 2)
		}, false},
		"another account's": {3, func(_ *vault, h *hand) []byte {
			return h.result(committed, h.seal("lost"), 2, func(r *trustv1.Result) { r.Account.RecordUid = seal.NewID().Bytes() })
		}, false},
		"out of reach": {trust.MaxFloorRaise + 1, func(_ *vault, h *hand) []byte { return h.result(committed, h.seal("lost"), 2) }, false},
	} {
		v := newVault(t)
		h := v.lease(v.a, v.start())
		r := h.stageRequest(v.seal("lost"), c.seq)
		if c.former != nil {
			r.Former = c.former(v, h)
		}
		if err := h.stage(r); (err == nil) != c.taken || err != nil && !errors.Is(err, &ksm.Error{Code: ksm.CodeOutOfSync}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A run that has more to do after its commit is overtaken by another rotation, which has
// ended what was left: it does not come back to begin anew.
func TestOvertakenAfterItsCommit(t *testing.T) {
	v := newVault(t)
	first := v.start()
	h := v.lease(v.a, first)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	v.must(h.commit(h.settleRequest(committed, data, 1)))
	if r := v.runRow(first); r.State != work.Committed {
		t.Fatalf("it is %s", r.State)
	}
	v.pass(2 * work.Term)
	next := v.lease(v.b, v.start())
	third := v.seal("third")
	v.must(next.stage(next.stageRequest(third, 2)))
	if r := v.runRow(first); r.State != work.Committed {
		t.Errorf("a candidate alone has made it %s", r.State)
	}
	v.must(next.commit(next.settleRequest(committed, third, 2)))
	if r := v.runRow(first); r.State != work.Finished || r.NextAttempt != 0 || r.Finished == 0 || r.Credential != int64(done) || r.Reason != "settled_by_other_run" {
		t.Errorf("then: %+v", r)
	}
	if r := v.runRow(next.run); r.State != work.Committed {
		t.Errorf("the one that overtook it is %s", r.State)
	}
	if got, err := v.tryLease(v.a, first, "mandate"); err != nil || !got.Closed {
		t.Errorf("leased: %+v, %v", got, err)
	}
}
