package work_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/work"
)

func (v *vault) seen(p *orgtest.Party) {
	v.t.Helper()
	v.write(func(ctx context.Context, q *db.Queries) error {
		return q.AgentHere(ctx, db.AgentHereParams{Org: v.org, AgentID: p.ID[:], Seen: v.clock().UnixMilli(), Node: "n"})
	})
}

func TestLeaseHoldsUntilItsAgentIsSilent(t *testing.T) {
	v := newVault(t)
	run := v.start()
	first := v.lease(v.a, run)

	v.pass(work.Term - time.Millisecond)
	got, err := v.tryLease(v.b, run, "mandate")
	v.must(err)
	if !got.Busy || string(got.Holder) != string(run[:]) {
		t.Fatalf("before the term has passed: %+v", got)
	}
	v.seen(v.a) // a heartbeat is the renewal
	v.pass(work.Term - time.Millisecond)
	if got, _ := v.tryLease(v.b, run, "mandate"); !got.Busy {
		t.Fatalf("within a term after a heartbeat: %+v", got)
	}
	v.pass(time.Millisecond)
	second := v.lease(v.b, run)
	if second.epoch <= first.epoch {
		t.Errorf("epoch went from %d to %d", first.epoch, second.epoch)
	}
	if !slices.Contains(v.events("lease."), "lease.taken_over") {
		t.Error("nobody was told of the taking over")
	}
	if r := v.runRow(run); r.Attempt != 2 || string(r.AgentID) != string(v.b.ID[:]) || r.State != work.Leased {
		t.Errorf("run: %+v", r)
	}
}

func TestSameAgentTakesItsRunAgainAtOnce(t *testing.T) {
	v := newVault(t)
	run, other := v.start(), v.start()
	first := v.lease(v.a, run)
	second := v.lease(v.a, run)
	if second.epoch != first.epoch+1 {
		t.Errorf("epochs %d, %d", first.epoch, second.epoch)
	}
	if got, err := v.tryLease(v.a, other, "mandate"); err != nil || !got.Busy {
		t.Errorf("another run of the same agent: %+v, %v", got, err)
	}
	err := first.report(first.endRequest(1))
	v.wantCode("the older epoch", err, ksm.CodeEpochOld)
}

func TestEveryCallOfAnOlderEpochIsRefused(t *testing.T) {
	v := newVault(t)
	run := v.start()
	old := v.lease(v.a, run)
	data := v.seal("second")
	v.must(old.stage(old.stageRequest(data, 1)))
	v.pass(work.Term)
	v.lease(v.b, run)

	other := v.seal("third")
	v.wantCode("stage", old.stage(old.stageRequest(other, 1)), ksm.CodeEpochOld)
	v.wantCode("commit", old.commit(old.settleRequest(committed, data, 1)), ksm.CodeEpochOld)
	v.wantCode("abandon", old.abandon(old.settleRequest(abandoned, data, 1)), ksm.CodeEpochOld)
	v.wantCode("report", old.report(old.endRequest(done)), ksm.CodeEpochOld)
	v.wantCode("retry", old.report(ksm.ReportRequest{Account: v.ref(), RunID: run[:], Epoch: old.epoch, Retry: true}), ksm.CodeEpochOld)
	if s, ok := v.staged(); !ok || string(s.Data) != string(data) || v.record().Revision != 1 {
		t.Error("a call of an older epoch changed something")
	}
}

// A lease is one run's: its agent does nothing under it in the name of another run of the
// account.
func TestEveryCallOfAnotherRunIsRefused(t *testing.T) {
	v := newVault(t)
	run, other := v.start(), v.start()
	own := v.lease(v.a, run)
	data := v.seal("second")
	v.must(own.stage(own.stageRequest(data, 1)))

	h := &hand{v, v.a, other, own.epoch}
	v.wantCode("stage", h.stage(h.stageRequest(data, 1)), ksm.CodeEpochOld)
	v.wantCode("commit", h.commit(h.settleRequest(committed, data, 1)), ksm.CodeEpochOld)
	v.wantCode("abandon", h.abandon(h.settleRequest(abandoned, data, 1)), ksm.CodeEpochOld)
	v.wantCode("report", h.report(h.endRequest(done)), ksm.CodeEpochOld)
	v.wantCode("retry", h.report(ksm.ReportRequest{Account: v.ref(), RunID: other[:], Epoch: h.epoch, Retry: true}), ksm.CodeEpochOld)
	if _, ok := v.staged(); !ok || v.record().Revision != 1 || v.runRow(other).State != "queued" {
		t.Error("a call of another run changed something")
	}
	v.must(own.commit(own.settleRequest(committed, data, 1)))
}

func TestLeaseIsForAgentsThatReadTheAccount(t *testing.T) {
	v := newVault(t)
	run := v.start()
	stranger := v.o.Agent(t, "stranger", v.o.Pool(t, "elsewhere"))
	v.o.Change(t, trust.RemoveOp(v.b.ID))
	v.sync()
	for name, p := range map[string]*orgtest.Party{
		"an agent of a pool without READ": stranger,
		"a removed agent":                 v.b,
		"a device":                        v.o.Admin,
	} {
		_, err := v.tryLease(p, run, "mandate")
		v.wantCode(name, err, ksm.CodeAccessDenied)
	}
	v.lease(v.a, run)
}

func TestLeaseOfWhatIsNotThere(t *testing.T) {
	v := newVault(t)
	_, err := v.tryLease(v.a, seal.NewID(), "mandate")
	v.wantCode("an unknown run", err, ksm.CodeRunUnknown)

	run := v.start()
	v.write(func(ctx context.Context, q *db.Queries) error {
		return q.DeleteRecordRow(ctx, db.DeleteRecordRowParams{Org: v.org, RecordUid: v.account.Record[:]})
	})
	got, err := v.tryLease(v.a, run, "mandate")
	if err != nil || !got.Closed {
		t.Errorf("a deleted record: %+v, %v", got, err)
	}
	if r := v.runRow(run); r.State != work.Failed || r.Reason != "record_deleted" {
		t.Errorf("its run: %+v", r)
	}
}

func TestRecoverMakesARunEvenWhileAnotherWorks(t *testing.T) {
	v := newVault(t)
	v.lease(v.b, v.start())
	id := seal.NewID()
	got, err := v.tryLease(v.a, id, "recover")
	if err != nil || !got.Busy {
		t.Fatalf("got %+v, %v", got, err)
	}
	if r := v.runRow(id); r.State != work.Queued || r.Action != "verify" || r.Cause != "recover" || r.NextAttempt == 0 || string(r.PoolID) != string(v.pool[:]) {
		t.Errorf("run: %+v", r)
	}
}

// openRuns are the account's runs that have not ended.
func (v *vault) openRuns() (open []db.Run) {
	v.t.Helper()
	v.read(func(ctx context.Context, q *db.Queries) (err error) {
		open, err = q.OpenRunsBefore(ctx, db.OpenRunsBeforeParams{Org: v.org, Created: 1 << 62, RunID: []byte{}, Rows: 1000})
		return err
	})
	return open
}

func TestAnAgentThatAsksToRecoverWithoutEndMakesNoQueue(t *testing.T) {
	for _, c := range []struct {
		what string
		then func(v *vault, h *hand) // with each lease that it gets
		most int                     // runs open at once
	}{
		{"another works on the account", nil, 2},
		{"it gives each back", func(v *vault, h *hand) {
			v.must(h.report(ksm.ReportRequest{Account: v.ref(), RunID: h.run[:], Epoch: h.epoch, Retry: true}))
		}, 1},
		{"it is silent with each", func(v *vault, _ *hand) { v.pass(work.Term) }, 1},
		{"it commits with each", func(v *vault, h *hand) {
			data, seq := v.seal("next"), uint64(v.record().ValueSeq)+1
			v.must(h.stage(h.stageRequest(data, seq)))
			v.must(h.commit(h.settleRequest(committed, data, seq)))
			v.pass(work.Term)
		}, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			v := newVault(t)
			if c.then == nil {
				v.lease(v.b, v.start())
			}
			for range 20 {
				id := seal.NewID()
				got, err := v.tryLease(v.a, id, "recover")
				v.must(err)
				if got.Busy != (c.then == nil) {
					t.Fatalf("got %+v", got)
				}
				if c.then != nil {
					c.then(v, &hand{v, v.a, id, got.Epoch})
				}
				if open := v.openRuns(); len(open) > c.most {
					t.Fatalf("%d runs are open: %+v", len(open), open)
				}
			}
		})
	}
}

// What an agent did after the holder began is looked at again, by a run that waits.
func TestRecoverMakesARunBesideARecoveryUnderWay(t *testing.T) {
	v := newVault(t)
	under := seal.NewID()
	if got, err := v.tryLease(v.b, under, "recover"); err != nil || got.Busy {
		t.Fatalf("got %+v, %v", got, err)
	}
	waits := seal.NewID()
	if got, err := v.tryLease(v.a, waits, "recover"); err != nil || !got.Busy || string(got.Holder) != string(under[:]) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if r := v.runRow(waits); r.State != work.Queued {
		t.Errorf("run: %+v", r)
	}
}

// The agent that keeps a secret has to do the work itself: it does not wait for a run that
// another asked for.
func TestRecoverTakesTheAccountThatARunWaitsFor(t *testing.T) {
	v := newVault(t)
	run := v.start()
	h := v.lease(v.b, run)
	waits := seal.NewID()
	if got, err := v.tryLease(v.a, waits, "recover"); err != nil || !got.Busy {
		t.Fatalf("got %+v, %v", got, err)
	}
	v.must(h.report(h.endRequest(done)))
	own := seal.NewID()
	if got, err := v.tryLease(v.b, own, "recover"); err != nil || got.Busy || got.Closed {
		t.Fatalf("got %+v, %v", got, err)
	}
	if r := v.runRow(waits); r.State != work.Dropped || r.Reason != "superseded" {
		t.Errorf("the run that waited: %+v", r)
	}
	if r := v.runRow(own); r.State != work.Leased {
		t.Errorf("the run: %+v", r)
	}
}

func TestOneOfManyGetsTheLease(t *testing.T) {
	v := newVault(t)
	agents := []*orgtest.Party{v.a, v.b}
	for i := range 6 {
		agents = append(agents, v.o.Agent(t, string(rune('c'+i)), v.pool))
	}
	v.sync()
	run := v.start()
	var wg sync.WaitGroup
	got := make([]ksm.LeaseAnswer, len(agents))
	for i, p := range agents {
		wg.Go(func() {
			var err error
			if got[i], err = v.tryLease(p, run, "mandate"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	taken := 0
	for _, g := range got {
		if !g.Busy {
			taken++
		}
	}
	if taken != 1 {
		t.Errorf("%d agents got the lease", taken)
	}
}
