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
