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
	"github.com/rotunda-pam/rotunda/vault/work"
)

// A statement comes back only while the vault recovers, from an agent whose pool reads
// the record, and up to the number that the log vouches for.
func TestRestate(t *testing.T) {
	v := newVault(t)
	digest := seal.Hash([]byte("statement"))
	good := ksm.RestateRequest{
		Record: ksm.Ref{Folder: v.account.Folder[:], Record: v.account.Record[:]}, Seq: 3, Digest: digest[:], Blob: []byte("sealed"),
		Resource: ksm.Ref{Folder: v.target.Folder[:], Record: v.target.Record[:]},
	}
	restate := func(by work.Agent, alter func(*ksm.RestateRequest)) string {
		t.Helper()
		r := good
		if alter != nil {
			alter(&r)
		}
		return code(v.store.Write(t.Context(), func(q *db.Queries) error { return v.work.Restate(t.Context(), q, by, r) }))
	}
	a := work.Agent{Org: v.org, ID: v.a.ID}
	floor := v.o.Change(t, trust.FloorOp(v.account, 4))
	v.write(func(ctx context.Context, q *db.Queries) error {
		_, err := v.dir.Append(ctx, q, v.org, floor)
		return err
	})
	if got := restate(a, nil); got != ksm.CodeNotLost {
		t.Errorf("a vault that does not recover: %q", got)
	}
	if _, err := v.dir.MarkRestored(t.Context(), v.store); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		by    work.Agent
		alter func(*ksm.RestateRequest)
		want  string
	}{
		"an agent that is not in the log": {work.Agent{Org: v.org, ID: seal.NewID()}, nil, ksm.CodeAccessDenied},
		"a folder that it may not read":   {a, func(r *ksm.RestateRequest) { id := seal.NewID(); r.Record.Folder = id[:] }, ksm.CodeAccessDenied},
		"no such record":                  {a, func(r *ksm.RestateRequest) { id := seal.NewID(); r.Record.Record = id[:] }, ksm.CodeBadRequest},
		"above what the log vouches for":  {a, func(r *ksm.RestateRequest) { r.Seq = 5 }, ksm.CodeNotLost},
		"no number":                       {a, func(r *ksm.RestateRequest) { r.Seq = 0 }, ksm.CodeNotLost},
		"empty":                           {a, func(r *ksm.RestateRequest) { r.Blob = nil }, ksm.CodeTooLarge},
		"too large":                       {a, func(r *ksm.RestateRequest) { r.Blob = make([]byte, trust.MaxSigned+65) }, ksm.CodeTooLarge},
		"half a link":                     {a, func(r *ksm.RestateRequest) { r.Admin.Folder = v.account.Folder[:] }, ksm.CodeBadRequest},
		"half a digest":                   {a, func(r *ksm.RestateRequest) { r.Digest = digest[:16] }, ksm.CodeBadRequest},
	} {
		if got := restate(tc.by, tc.alter); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	for _, seq := range []uint64{3, 4} { // a newer one follows
		if got := restate(a, func(r *ksm.RestateRequest) { r.Seq = seq }); got != "" {
			t.Fatalf("statement %d: %q", seq, got)
		}
		if got := restate(work.Agent{Org: v.org, ID: v.b.ID}, func(r *ksm.RestateRequest) { r.Seq = seq }); got != ksm.CodeNotLost {
			t.Errorf("statement %d once more: %q", seq, got)
		}
	}
	v.write(func(ctx context.Context, q *db.Queries) error {
		rec, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: v.org, RecordUid: v.account.Record[:]})
		if err != nil || rec.StatementSeq != 4 || seal.ID(rec.ResourceUid) != v.target.Record {
			t.Errorf("the record has statement %d and resource %x, %v", rec.StatementSeq, rec.ResourceUid, err)
		}
		for _, seq := range []int64{3, 4} {
			if st, err := q.StatementBySeq(ctx, db.StatementBySeqParams{Org: v.org, RecordUid: v.account.Record[:], Seq: seq}); err != nil || string(st.Blob) != "sealed" {
				t.Errorf("statement %d: %q, %v", seq, st.Blob, err)
			}
		}
		return nil
	})
}

// After a restore the runs that were under way at the backup wait for the recovery's end,
// also where an agent has them from before. What a person asked for and an agent asks for
// anew goes on.
func TestRunsAreHeldWhileRecovering(t *testing.T) {
	v := newVault(t)
	staged := v.start()
	h := v.lease(v.a, staged)
	data := v.seal("second")
	v.must(h.stage(h.stageRequest(data, 1)))
	byHand := func(state string) seal.ID {
		id, due := seal.NewID(), v.clock().Add(time.Minute).UnixMilli()
		v.write(func(ctx context.Context, q *db.Queries) error {
			return errors.Join(
				q.AddRun(ctx, db.AddRunParams{
					Org: v.org, RunID: id[:], AccountUid: v.account.Record[:], FolderUid: v.account.Folder[:], PoolID: v.pool[:],
					AgentID: v.a.ID[:], Action: "rotate", Cause: "person", Created: v.clock().UnixMilli(), NextAttempt: due,
				}),
				q.MoveRun(ctx, db.MoveRunParams{State: state, AgentID: v.a.ID[:], NextAttempt: due, Org: v.org, RunID: id[:]}))
		})
		return id
	}
	queued, ofPerson, committedByPerson := v.start(), byHand(work.Queued), byHand(work.Committed)
	v.pass(time.Hour)
	_, err := v.dir.MarkRestored(t.Context(), v.store)
	v.must(err)
	held := map[string]seal.ID{"staged": staged, "queued": queued, "a person's, committed": committedByPerson}
	for name, id := range held {
		if r := v.runRow(id); r.NextAttempt >= 0 {
			t.Errorf("%s: due at %d", name, r.NextAttempt)
		}
		if got, err := v.tryLease(v.b, id, "mandate"); err != nil || !got.Busy {
			t.Errorf("%s: leased: %+v, %v", name, got, err)
		}
	}
	due := func() (n int) {
		v.read(func(ctx context.Context, q *db.Queries) error {
			list, err := q.DueRuns(ctx, db.DueRunsParams{Now: 1 << 60, Rows: 100})
			n = len(list)
			return err
		})
		return n
	}
	if n := due(); n != 1 {
		t.Errorf("%d runs are due, beside the person's", n-1)
	}
	if got, err := v.tryLease(v.a, ofPerson, "command"); err != nil || got.Busy || got.Closed {
		t.Errorf("a person's that is queued: %+v, %v", got, err)
	}
	v.pass(2 * work.Term)
	if got, err := v.tryLease(v.b, seal.NewID(), "recover"); err != nil || got.Busy {
		t.Errorf("an agent's own: %+v, %v", got, err)
	}
	v.pass(2 * work.Term)
	v.write(func(ctx context.Context, q *db.Queries) error {
		o, err := q.OrgByNumber(ctx, v.org)
		v.must(err)
		ended, err := v.dir.EndRecovery(ctx, q, v.org, time.UnixMilli(o.Restored), v.a.ID)
		if !ended {
			t.Error("the recovery is not ended")
		}
		return err
	})
	for name, id := range held {
		if r := v.runRow(id); r.NextAttempt <= 0 {
			t.Errorf("%s: not released: %d", name, r.NextAttempt)
		}
	}
	if got, err := v.tryLease(v.b, staged, "mandate"); err != nil || got.Busy {
		t.Errorf("then: %+v, %v", got, err)
	}
}
