package work_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// vault is a real store with an organisation, a pool of two agents and one
// account that the pool may read.
type vault struct {
	t       *testing.T
	store   store.Store
	dir     *directory.Directory
	bus     bus.Bus
	work    *work.Work
	o       *orgtest.Org
	org     int64
	pool    seal.ID
	a, b    *orgtest.Party
	account trust.Ref
	target  trust.Ref // the account's resource
	key     seal.Key

	mu       sync.Mutex
	now      time.Time
	finished []db.Run
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, now: time.Now().Truncate(time.Millisecond), bus: bus.New(), key: seal.NewKey()}
	var err error
	v.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	v.must(err)
	t.Cleanup(func() { v.must(v.store.Close()) })
	v.dir = directory.New(v.bus, v.clock)
	v.work = &work.Work{Directory: v.dir, Bus: v.bus, Finisher: v, Now: v.clock}
	v.o = orgtest.New(t, v.clock)
	v.pool = v.o.Pool(t, "plant")
	v.a, v.b = v.o.Agent(t, "a", v.pool), v.o.Agent(t, "b", v.pool)
	v.account = trust.Ref{Folder: v.o.Folder(t), Record: seal.NewID()}
	v.o.Grant(t, v.account.Folder, v.pool, trust.Read)
	v.write(func(ctx context.Context, q *db.Queries) error {
		v.org, _, err = v.dir.Create(ctx, q, "test", v.o.Changes...)
		if err != nil {
			return err
		}
		v.target = trust.Ref{Folder: v.account.Folder, Record: seal.NewID()}
		for name, ref := range map[string]trust.Ref{"first": v.account, "target": v.target} {
			data := v.seal(name)
			digest := seal.Hash(data)
			err := q.CreateRecord(ctx, db.CreateRecordParams{
				Org: v.org, RecordUid: ref.Record[:], FolderUid: ref.Folder[:], Kind: "pamUser",
				RecordKey: seal.WrapKey(v.o.Folders[ref.Folder], v.key), KeyVersion: 1, Data: data, DataDigest: digest[:],
				Now: v.now.UnixMilli(),
			})
			if err != nil {
				return err
			}
		}
		return q.SetRecordLinks(ctx, db.SetRecordLinksParams{
			ResourceUid: v.target.Record[:], ResourceFolder: v.target.Folder[:], Org: v.org, RecordUid: v.account.Record[:],
		})
	})
	v.aim(v.pool)
	return v
}

// aim has the resource name a pool, as its statement's signer does.
func (v *vault) aim(pool seal.ID) {
	v.t.Helper()
	v.write(func(ctx context.Context, q *db.Queries) error {
		return q.SetRecordLinks(ctx, db.SetRecordLinksParams{PoolID: pool[:], Org: v.org, RecordUid: v.target.Record[:]})
	})
}

// Finished is work.Finisher.
func (v *vault) Finished(_ context.Context, q *db.Queries, run db.Run) error {
	q.AfterCommit(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.finished = append(v.finished, run)
	})
	return nil
}

func (v *vault) clock() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

func (v *vault) pass(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = v.now.Add(d)
}

func (v *vault) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) try(f func(ctx context.Context, q *db.Queries) error) error {
	return v.store.Write(v.t.Context(), func(q *db.Queries) error { return f(v.t.Context(), q) })
}

func (v *vault) write(f func(ctx context.Context, q *db.Queries) error) {
	v.t.Helper()
	v.must(v.try(f))
}

func (v *vault) seal(value string) []byte { return trust.SealData(v.key, []byte(value)) }

func (v *vault) ref() ksm.Ref {
	return ksm.Ref{Folder: v.account.Folder[:], Record: v.account.Record[:]}
}

// change appends the organisation's newest changes to the vault's log.
func (v *vault) sync() {
	v.t.Helper()
	v.write(func(ctx context.Context, q *db.Queries) error {
		_, err := v.dir.Append(ctx, q, v.org, v.o.Changes...)
		return err
	})
}

// start queues a scheduled run.
func (v *vault) start() seal.ID {
	v.t.Helper()
	id := seal.NewID()
	v.write(func(ctx context.Context, q *db.Queries) error {
		return v.work.StartRun(ctx, q, v.org, work.Start{
			RunID: id, Account: v.account.Proto(), PoolID: v.pool[:], Action: "rotate", Cause: "schedule",
		})
	})
	return id
}

// hand is one agent's hold on a run.
type hand struct {
	*vault
	by    *orgtest.Party
	run   seal.ID
	epoch uint64
}

func (v *vault) agent(p *orgtest.Party) work.Agent { return work.Agent{Org: v.org, ID: p.ID} }

func (v *vault) tryLease(p *orgtest.Party, run seal.ID, cause string) (ksm.LeaseAnswer, error) {
	var got ksm.LeaseAnswer
	err := v.try(func(ctx context.Context, q *db.Queries) (err error) {
		got, err = v.work.Lease(ctx, q, v.agent(p), ksm.LeaseRequest{Account: v.ref(), RunID: run[:], Cause: cause})
		return err
	})
	return got, err
}

func (v *vault) lease(p *orgtest.Party, run seal.ID) *hand {
	v.t.Helper()
	got, err := v.tryLease(p, run, "mandate")
	v.must(err)
	if got.Busy || got.Closed {
		v.t.Fatalf("lease: %+v", got)
	}
	return &hand{v, p, run, got.Epoch}
}

// result signs what an honest agent would say of a candidate.
func (h *hand) result(phase trustv1.Phase, data []byte, seq uint64, alter ...func(*trustv1.Result)) []byte {
	h.t.Helper()
	r := &trustv1.Result{
		Phase: phase, By: h.by.ID.Bytes(), Account: h.account.Proto(), RunId: h.run.Bytes(), LeaseEpoch: h.epoch, ValueSeq: seq,
		Cause: seal.Hash([]byte("a mandate")).Bytes(), Time: h.clock().UnixMilli(),
		Credential: trustv1.Outcome_OUTCOME_DONE, Dependents: trustv1.Outcome_OUTCOME_NONE, Scripts: trustv1.Outcome_OUTCOME_NONE,
	}
	if data != nil {
		r.DataDigest = seal.Hash(data).Bytes()
	}
	for _, f := range alter {
		f(r)
	}
	signed, _, err := trust.SignResult(h.o.Log, h.by.Sign, r)
	h.must(err)
	return signed
}

func (h *hand) stageRequest(data []byte, seq uint64) ksm.StageRequest {
	h.t.Helper()
	return ksm.StageRequest{
		Account: h.ref(), RunID: h.run[:], Epoch: h.epoch, Revision: h.record().Revision, Data: data,
		DataDigest: seal.Hash(data).Bytes(), ValueSeq: seq, Authority: []byte("sealed"),
		Result: h.result(trustv1.Phase_PHASE_STAGED, data, seq),
	}
}

func (h *hand) stage(r ksm.StageRequest) error {
	return h.try(func(ctx context.Context, q *db.Queries) error { return h.work.Stage(ctx, q, h.agent(h.by), r) })
}

func (h *hand) settleRequest(phase trustv1.Phase, data []byte, seq uint64) ksm.SettleRequest {
	h.t.Helper()
	return ksm.SettleRequest{
		Account: h.ref(), RunID: h.run[:], Epoch: h.epoch, DataDigest: seal.Hash(data).Bytes(), Result: h.result(phase, data, seq),
	}
}

func (h *hand) commit(r ksm.SettleRequest) error {
	return h.try(func(ctx context.Context, q *db.Queries) error { return h.work.Commit(ctx, q, h.agent(h.by), r) })
}

func (h *hand) abandon(r ksm.SettleRequest) error {
	return h.try(func(ctx context.Context, q *db.Queries) error { return h.work.Abandon(ctx, q, h.agent(h.by), r) })
}

func (h *hand) report(r ksm.ReportRequest) error {
	return h.try(func(ctx context.Context, q *db.Queries) error { return h.work.Report(ctx, q, h.agent(h.by), r) })
}

func (h *hand) endRequest(credential trustv1.Outcome) ksm.ReportRequest {
	return ksm.ReportRequest{
		Account: h.ref(), RunID: h.run[:], Epoch: h.epoch,
		Result: h.result(trustv1.Phase_PHASE_FINISHED, nil, 0, func(r *trustv1.Result) {
			r.Credential, r.Reason, r.Class = credential, "why.not", "policy"
		}),
	}
}

func (v *vault) record() db.Record {
	v.t.Helper()
	var r db.Record
	v.read(func(ctx context.Context, q *db.Queries) (err error) {
		r, err = q.RecordByUID(ctx, db.RecordByUIDParams{Org: v.org, RecordUid: v.account.Record[:]})
		return err
	})
	return r
}

func (v *vault) staged() (s db.Staged, ok bool) {
	v.t.Helper()
	v.read(func(ctx context.Context, q *db.Queries) (err error) {
		s, err = q.StagedOf(ctx, db.StagedOfParams{Org: v.org, RecordUid: v.account.Record[:]})
		ok = err == nil
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return s, ok
}

func (v *vault) history() (rows []db.RecordHistory) {
	v.t.Helper()
	v.read(func(ctx context.Context, q *db.Queries) (err error) {
		rows, err = q.HistoryBefore(ctx, db.HistoryBeforeParams{Org: v.org, RecordUid: v.account.Record[:], Before: 1 << 40, Rows: 100})
		return err
	})
	return rows
}

func (v *vault) runRow(id seal.ID) (r db.Run) {
	v.t.Helper()
	v.read(func(ctx context.Context, q *db.Queries) (err error) {
		r, err = q.RunByID(ctx, db.RunByIDParams{Org: v.org, RunID: id[:]})
		return err
	})
	return r
}

func (v *vault) events(prefix string) (names []string) {
	v.t.Helper()
	v.read(func(ctx context.Context, q *db.Queries) error {
		list, err := audit.List(ctx, q, audit.Filter{Org: v.org, Names: []string{prefix}, Limit: 1000})
		for _, e := range list {
			names = append(names, e.Name)
		}
		return err
	})
	return names
}

func (v *vault) read(f func(ctx context.Context, q *db.Queries) error) {
	v.t.Helper()
	v.must(v.store.Read(v.t.Context(), func(q *db.Queries) error { return f(v.t.Context(), q) }))
}

// code is the code of a refusal; "" for success, the text of any other error.
func code(err error) string {
	var refused *ksm.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return refused.Code
	}
	return err.Error()
}

func (v *vault) wantCode(what string, err error, want string) {
	v.t.Helper()
	if got := code(err); got != want {
		v.t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}
