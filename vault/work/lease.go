package work

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Term is how long a lease lives without a sign of its agent.
const Term = 10 * time.Second

// Live reports whether a lease is held at a time: until Term after the later of
// its taking and its agent's last sign of life (Unix milliseconds).
func Live(l db.Lease, seen int64, now time.Time) bool {
	return l.Live == 1 && now.UnixMilli() < max(l.Taken, seen)+Term.Milliseconds()
}

// Lease takes or retakes an account's lease for a run. Busy and Closed are
// answers. With cause "recover" a run that the vault does not know is made
// first (see recover): so an agent has an account looked at whose lease it lost
// while it was applying, or whose run a restored vault has forgotten.
func (w *Work) Lease(ctx context.Context, q *db.Queries, a Agent, r ksm.LeaseRequest) (ksm.LeaseAnswer, error) {
	account, err := w.account(ctx, q, a, r.Account)
	if err != nil {
		return ksm.LeaseAnswer{}, err
	}
	run, unknown, err := w.runToLease(ctx, q, a, r, account)
	if err != nil {
		return ksm.LeaseAnswer{}, err
	}
	if err := w.ofPool(ctx, q, a, account, run.PoolID); err != nil {
		return ksm.LeaseAnswer{}, err
	}
	answer := ksm.LeaseAnswer{TermMS: Term.Milliseconds(), Action: run.Action, Cause: run.Cause}
	if closed[run.State] {
		answer.Closed = true
		return answer, nil
	}
	if run.NextAttempt < 0 { // held until the recovery ends; an agent may have it from before
		answer.Busy = true
		return answer, nil
	}
	if _, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: a.Org, RecordUid: account.Record[:]}); errors.Is(err, store.ErrNotFound) {
		answer.Closed = true
		return answer, w.end(ctx, q, run, fail, trustv1.Outcome_OUTCOME_NONE, "", "record_deleted", nil)
	} else if err != nil {
		return answer, fmt.Errorf("read record: %w", err)
	}
	held, busy, err := w.heldByOther(ctx, q, a, account, run)
	if err != nil {
		return answer, err
	}
	if unknown {
		if run, err = w.recover(ctx, q, a, run, held, busy); err != nil {
			return answer, err
		}
	}
	if busy {
		answer.Busy, answer.Holder, answer.Epoch = true, held.RunID, uint64(held.Epoch)
		return answer, nil
	}
	now, epoch := w.now(), held.Epoch+1
	err = q.PutLease(ctx, db.PutLeaseParams{
		Org: a.Org, AccountUid: account.Record[:], RunID: run.RunID, Epoch: epoch, AgentID: a.ID[:], Taken: now.UnixMilli(),
	})
	if err != nil {
		return answer, fmt.Errorf("write lease: %w", err)
	}
	answer.Epoch = uint64(epoch)
	if err := w.begin(ctx, q, a, run); err != nil {
		return answer, err
	}
	if held.Live == 1 && string(held.AgentID) != string(a.ID[:]) {
		err := w.tell(ctx, q, audit.Event{
			Org: a.Org, Time: now, Name: audit.LeaseTaken, Actor: a.ID[:], Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
			Fields: map[string]string{"epoch": strconv.FormatInt(epoch, 10), "former": ksm.URL(held.AgentID)},
		})
		if err != nil {
			return answer, err
		}
	}
	return answer, w.tell(ctx, q, audit.Event{
		Org: a.Org, Time: now, Name: audit.RunStarted, Actor: a.ID[:], Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{
			"cause": run.Cause, "action": run.Action,
			"epoch": strconv.FormatInt(epoch, 10), "attempt": strconv.FormatInt(run.Attempt+1, 10),
		},
	})
}

// heldByOther finds an account's lease, and whether it lives and is not this agent's for
// this very run.
func (w *Work) heldByOther(ctx context.Context, q *db.Queries, a Agent, account trust.Ref, run db.Run) (held db.Lease, busy bool, err error) {
	held, err = q.LeaseOf(ctx, db.LeaseOfParams{Org: a.Org, AccountUid: account.Record[:]})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return held, false, fmt.Errorf("read lease: %w", err)
	}
	if held.Live != 1 || string(held.AgentID) == string(a.ID[:]) && string(held.RunID) == string(run.RunID) {
		return held, false, nil
	}
	seen, err := q.AgentSeenAt(ctx, db.AgentSeenAtParams{Org: a.Org, AgentID: held.AgentID})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return held, false, fmt.Errorf("read the holder's last sign: %w", err)
	}
	holder := Agent{Org: a.Org, ID: seal.ID(held.AgentID)}
	if err := w.ofPool(ctx, q, holder, account, run.PoolID); errors.As(err, new(*WrongPool)) {
		seen = 0 // the account's pool has changed since: it can finish nothing, and does not hold up those who can
	} else if err != nil {
		return held, false, err
	}
	return held, Live(held, seen, w.now()), nil
}

// begin moves the run whose lease was taken.
func (w *Work) begin(ctx context.Context, q *db.Queries, a Agent, run db.Run) error {
	before := run.State
	if err := move(&run, lease); err != nil {
		return err
	}
	if before == Alert {
		// It stopped with its candidate outstanding, or with none.
		staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: run.Org, RecordUid: run.AccountUid})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read candidate: %w", err)
		}
		if err == nil && string(staged.RunID) == string(run.RunID) {
			run.State = Staged
		}
	}
	run.AgentID = a.ID[:]
	run.Attempt++
	run.Class, run.Reason = "", ""
	if run.Started == 0 {
		run.Started = w.now().UnixMilli()
	}
	w.rest(&run, leaseCheck)
	return w.save(ctx, q, run, before)
}

// runToLease finds the run. unknown: it is to be made, for an agent that asks for it to
// recover.
func (w *Work) runToLease(ctx context.Context, q *db.Queries, a Agent, r ksm.LeaseRequest, account trust.Ref) (run db.Run, unknown bool, err error) {
	id, err := seal.IDFrom(r.RunID)
	if err != nil || id.IsZero() {
		return run, false, ksm.Refuse(ksm.CodeBadRequest, "the lease names no run")
	}
	run, err = q.RunByID(ctx, db.RunByIDParams{Org: a.Org, RunID: id[:]})
	switch {
	case errors.Is(err, store.ErrNotFound) && r.Cause == "recover":
		record, err := w.record(ctx, q, a.Org, account)
		if err != nil {
			return run, false, err
		}
		pool, err := w.poolOf(ctx, q, a.Org, account)
		if err != nil {
			return run, false, err
		}
		return db.Run{
			Org: a.Org, RunID: id[:], AccountUid: account.Record[:], FolderUid: account.Folder[:], PoolID: pool,
			ResourceUid: record.ResourceUid, ResourceFolder: record.ResourceFolder, Action: "verify", Cause: "recover", State: Queued,
		}, true, w.ofPool(ctx, q, a, account, nil) // nobody has said for which pool this run is but the records
	case errors.Is(err, store.ErrNotFound):
		return run, false, ksm.Refuse(ksm.CodeRunUnknown, "there is no run %s", id)
	case err != nil:
		return run, false, fmt.Errorf("read run: %w", err)
	case string(run.AccountUid) != string(account.Record[:]) || string(run.FolderUid) != string(account.Folder[:]):
		return run, false, ksm.Refuse(ksm.CodeAccessDenied, "run %s concerns another account", id)
	}
	return run, false, nil
}

// recover makes the run that an agent asks for, so that the account is looked at after
// what this agent did. One that waits does that as well: while the account is leased none
// is made beside it, and it gives way to this one where the agent can begin at once. So
// an agent that asks without end makes no queue.
func (w *Work) recover(ctx context.Context, q *db.Queries, a Agent, run db.Run, held db.Lease, busy bool) (db.Run, error) {
	open, err := q.OpenRecoveriesOf(ctx, db.OpenRecoveriesOfParams{Org: run.Org, AccountUid: run.AccountUid})
	if err != nil {
		return run, fmt.Errorf("read runs: %w", err)
	}
	for _, other := range open {
		switch {
		case busy && string(other.RunID) == string(held.RunID): // it may have looked before
		case busy:
			return run, nil
		case other.State == Queued || other.State == Leased: // else it has more to do than to look
			if err := w.dropped(ctx, q, other, "superseded", a.ID[:]); err != nil {
				return run, err
			}
		}
	}
	err = w.StartRun(ctx, q, run.Org, Start{
		RunID: seal.ID(run.RunID), Account: &trustv1.Ref{FolderUid: run.FolderUid, RecordUid: run.AccountUid},
		Resource: &trustv1.Ref{FolderUid: run.ResourceFolder, RecordUid: run.ResourceUid},
		PoolID:   run.PoolID, Action: run.Action, Cause: run.Cause, Actor: a.ID[:],
	})
	if err != nil {
		return run, err
	}
	run, err = q.RunByID(ctx, db.RunByIDParams{Org: run.Org, RunID: run.RunID})
	if err != nil {
		return run, fmt.Errorf("read run: %w", err)
	}
	return run, nil
}

// holding finds what an operation under a lease concerns, and refuses it when
// the lease has moved on or the account is not of the agent's pool. A lease whose
// time is over but which nobody took is still the agent's: its epoch is the
// greatest.
func (w *Work) holding(ctx context.Context, q *db.Queries, a Agent, ref ksm.Ref, runID []byte, epoch uint64) (db.Run, trust.Ref, error) {
	account, err := w.account(ctx, q, a, ref)
	if err != nil {
		return db.Run{}, account, err
	}
	l, err := q.LeaseOf(ctx, db.LeaseOfParams{Org: a.Org, AccountUid: account.Record[:]})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return db.Run{}, account, fmt.Errorf("read lease: %w", err)
	}
	if l.Live != 1 || uint64(l.Epoch) != epoch || string(l.AgentID) != string(a.ID[:]) || string(l.RunID) != string(runID) {
		return db.Run{}, account, ksm.Refuse(ksm.CodeEpochOld, "the lease has moved on: epoch %d is current", l.Epoch)
	}
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: a.Org, RunID: runID})
	if err != nil {
		return db.Run{}, account, fmt.Errorf("read run: %w", err)
	}
	return run, account, w.ofPool(ctx, q, a, account, run.PoolID)
}

// giveBack ends a lease before its run's end; the run is due again after a delay.
func (w *Work) giveBack(ctx context.Context, q *db.Queries, a Agent, run db.Run, epoch int64, in time.Duration, reason string) error {
	before := run.State
	if err := move(&run, release); err != nil {
		return err
	}
	w.rest(&run, in)
	if err := q.ReturnLease(ctx, db.ReturnLeaseParams{Org: run.Org, AccountUid: run.AccountUid, Epoch: epoch}); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	if err := w.save(ctx, q, run, before); err != nil {
		return err
	}
	w.wake(q)
	return w.tell(ctx, q, audit.Event{
		Org: run.Org, Time: w.now(), Name: audit.RunReleased, Actor: a.ID[:], Reason: reason,
		Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{"epoch": strconv.FormatInt(epoch, 10)},
	})
}
