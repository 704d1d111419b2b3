package work_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// stranger is an agent of another pool that may read the account.
func (v *vault) stranger() (*orgtest.Party, seal.ID) {
	v.t.Helper()
	pool := v.o.Pool(v.t, "office")
	v.o.Grant(v.t, v.account.Folder, pool, trust.Read)
	p := v.o.Agent(v.t, "stranger", pool)
	v.sync()
	return p, pool
}

func (v *vault) wantWrongPool(what string, err error) {
	v.t.Helper()
	v.wantCode(what, err, ksm.CodeAccessDenied)
	if !errors.As(err, new(*work.WrongPool)) {
		v.t.Errorf("%s: %v is not told from other refusals", what, err)
	}
}

func TestAgentsOfAnotherPoolDriveNothing(t *testing.T) {
	v := newVault(t)
	p, _ := v.stranger()
	run := v.start()
	for name, lease := range map[string]struct {
		run   seal.ID
		cause string
	}{"a scheduled run": {run, "mandate"}, "a run of its own": {seal.NewID(), "recover"}} {
		_, err := v.tryLease(p, lease.run, lease.cause)
		v.wantWrongPool("lease for "+name, err)
	}
	if s := v.runRow(run).State; s != work.Queued {
		t.Errorf("the run is %s", s)
	}
	h := v.lease(v.a, run)
	if h.epoch != 1 {
		t.Errorf("the stranger used up epochs: %d is the first", h.epoch)
	}
}

// The run's maker named a pool, but the resource's statement is what counts.
func TestPoolIsTheResources(t *testing.T) {
	v := newVault(t)
	p, office := v.stranger()
	run := v.start()
	old := v.lease(v.a, run)
	data := v.seal("second")
	v.must(old.stage(old.stageRequest(data, 1)))
	v.aim(office)

	v.wantWrongPool("stage", old.stage(old.stageRequest(v.seal("third"), 1)))
	v.wantWrongPool("commit", old.commit(old.settleRequest(committed, data, 1)))
	v.wantWrongPool("abandon", old.abandon(old.settleRequest(abandoned, data, 1)))
	v.wantWrongPool("report", old.report(old.endRequest(done)))
	if r := v.record(); r.Revision != 1 || r.ValueSeq != 0 {
		t.Errorf("revision %d, value %d", r.Revision, r.ValueSeq)
	}

	// It holds up nobody, however alive it is.
	v.pass(work.Term - time.Millisecond)
	v.seen(v.a)
	if got, err := v.tryLease(p, run, "mandate"); err != nil || !got.Busy {
		t.Errorf("within the term: %+v, %v", got, err)
	}
	v.pass(time.Millisecond)
	h := v.lease(p, run)
	v.must(h.commit(h.settleRequest(committed, data, 1)))
}

// Where the records name no pool, what a signed-in person or his schedule said
// stands; an agent's own word does not.
func TestPoolThatNoRecordNames(t *testing.T) {
	v := newVault(t)
	p, _ := v.stranger()
	v.write(func(ctx context.Context, q *db.Queries) error {
		return q.SetRecordLinks(ctx, db.SetRecordLinksParams{Org: v.org, RecordUid: v.account.Record[:]})
	})
	_, err := v.tryLease(v.a, seal.NewID(), "recover")
	v.wantWrongPool("a run of its own", err)
	run := v.start()
	_, err = v.tryLease(p, run, "mandate")
	v.wantWrongPool("another pool's run", err)
	v.lease(v.a, run)
}

func TestCandidateIsTheNextValue(t *testing.T) {
	v := newVault(t)
	h := v.lease(v.a, v.start())
	data := v.seal("second")
	for _, seq := range []uint64{2, 1_000_000, 1 << 61} {
		v.wantCode("a gap before any value", h.stage(h.stageRequest(data, seq)), ksm.CodeOutOfSync)
	}
	v.must(h.stage(h.stageRequest(data, 1)))
	v.must(h.commit(h.settleRequest(committed, data, 1)))
	v.must(h.report(h.endRequest(done)))
	h = v.lease(v.a, v.start())
	for _, seq := range []uint64{1, 3, 1 << 61} {
		v.wantCode("after value 1", h.stage(h.stageRequest(v.seal("third"), seq)), ksm.CodeOutOfSync)
	}
	v.must(h.stage(h.stageRequest(v.seal("third"), 2)))
}
