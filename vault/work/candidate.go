package work

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Why a value is in a record's history.
const (
	WhyReplaced   = "replaced"
	WhyAbandoned  = "abandoned"
	WhyRolledBack = "rolled_back"
	WhyRekeyed    = "rekeyed" // the same value, under another key
)

// settledByOther is why a run ended whose work another has done, or made void.
const settledByOther = "settled_by_other_run"

// Owners of a staged row.
const (
	OwnerAgent  = "agent"
	OwnerClient = "client"
)

// Stage stores a candidate beside the record. One per account is ever
// outstanding: the same one again is a success, another is run_outstanding. A
// foreign client's staged update gives way and goes to the history.
func (w *Work) Stage(ctx context.Context, q *db.Queries, a Agent, r ksm.StageRequest) error {
	run, account, err := w.holding(ctx, q, a, r.Account, r.RunID, r.Epoch)
	if err != nil {
		return err
	}
	digest := seal.Hash(r.Data)
	switch {
	case len(r.Data) == 0 || len(r.Data) > ksm.MaxData || len(r.Authority) > maxAuthority:
		return ksm.Refuse(ksm.CodeTooLarge, "a candidate has 1 to %d bytes, its authority at most %d", ksm.MaxData, maxAuthority)
	case string(r.DataDigest) != string(digest[:]):
		return ksm.Refuse(ksm.CodeBadRequest, "the data digest is not the data's")
	}
	result, err := w.result(ctx, q, a, r.Result, call{
		phase: trustv1.Phase_PHASE_STAGED, account: account, runID: r.RunID, epoch: r.Epoch, digest: digest[:],
	})
	if err != nil {
		return err
	}
	if result.ValueSeq != r.ValueSeq {
		return ksm.Refuse(ksm.CodeBadRequest, "the signed result names another value than the call")
	}
	record, err := w.record(ctx, q, a.Org, account)
	if err != nil {
		return err
	}
	staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: a.Org, RecordUid: account.Record[:]})
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("read candidate: %w", err)
	case staged.OwnerKind == OwnerClient:
		if err := w.toHistory(ctx, q, record, staged, WhyRolledBack, nil); err != nil {
			return err
		}
	case string(staged.DataDigest) == string(digest[:]):
		return nil // a repeat
	default:
		return ksm.Refuse(ksm.CodeOutstanding, "another candidate of this account is outstanding")
	}
	if record.Revision != r.Revision {
		return ksm.Refuse(ksm.CodeOutOfSync, "the record is at revision %d", record.Revision)
	}
	if err := w.follows(ctx, q, a, account, record.ValueSeq, r); err != nil {
		return err
	}
	now := w.now().UnixMilli()
	err = q.AddStaged(ctx, db.AddStagedParams{
		Org: a.Org, RecordUid: account.Record[:], OwnerKind: OwnerAgent, OwnerID: a.ID[:], RunID: r.RunID, Epoch: int64(r.Epoch),
		BaseRevision: r.Revision, Data: r.Data, DataDigest: digest[:], ValueSeq: int64(r.ValueSeq),
		Result: r.Result, Authority: r.Authority, Time: now,
	})
	if err != nil {
		return fmt.Errorf("write candidate: %w", err)
	}
	if err := w.keep(ctx, q, a.Org, result, account.Record[:], nil); err != nil {
		return err
	}
	before := run.State
	if err := move(&run, stage); err != nil {
		return err
	}
	run.Phase = Staged
	w.rest(&run, leaseCheck)
	if err := w.save(ctx, q, run, before); err != nil {
		return err
	}
	return w.tell(ctx, q, audit.Event{
		Org: a.Org, Name: audit.RunStaged, Actor: a.ID[:], Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{"epoch": strconv.FormatUint(r.Epoch, 10), "value_seq": strconv.FormatUint(r.ValueSeq, 10)},
	})
}

// follows holds a candidate's number against the record's: the next one, or the one
// after a value that the agent committed and that this database has lost. Any other
// would be out of everybody's reach for good.
func (w *Work) follows(ctx context.Context, q *db.Queries, a Agent, account trust.Ref, last int64, r ksm.StageRequest) error {
	out := ksm.Refuse(ksm.CodeOutOfSync, "value %d does not follow the record's value, number %d", r.ValueSeq, last)
	if int64(r.ValueSeq) == last+1 {
		return nil
	}
	if len(r.Former) == 0 || int64(r.ValueSeq) <= last || int64(r.ValueSeq) > last+trust.MaxFloorRaise {
		return out
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return err
	}
	former, err := trust.OpenResult(log, r.Former)
	if err != nil || former.Phase != trustv1.Phase_PHASE_COMMITTED || former.Account != account || former.Signer.ID != a.ID || former.ValueSeq >= r.ValueSeq {
		return out
	}
	return nil
}

// Commit makes the outstanding candidate the account's secret; the former value
// goes to the history. With Finish the run ends by it, with the outcomes of the
// signed result. A repeat of what was done is a success.
func (w *Work) Commit(ctx context.Context, q *db.Queries, a Agent, r ksm.SettleRequest) error {
	if done, err := w.repeated(ctx, q, a, r, trustv1.Phase_PHASE_COMMITTED); done || err != nil {
		return err
	}
	run, account, err := w.holding(ctx, q, a, r.Account, r.RunID, r.Epoch)
	if err != nil {
		return err
	}
	record, err := w.record(ctx, q, a.Org, account)
	if err != nil {
		return err
	}
	staged, found, err := w.candidate(ctx, q, a.Org, account, r.DataDigest)
	if err != nil {
		return err
	}
	if !found && string(record.DataDigest) == string(r.DataDigest) && record.ValueSeq > 0 {
		// Another attempt has committed this very value before its answer was lost.
		return w.afterCommit(ctx, q, a, run, r, nil)
	}
	if !found {
		return ksm.Refuse(ksm.CodeNotStaged, "no candidate of this account is outstanding")
	}
	result, err := w.result(ctx, q, a, r.Result, call{
		phase: trustv1.Phase_PHASE_COMMITTED, account: account, runID: r.RunID, epoch: r.Epoch, digest: r.DataDigest, detail: r.Detail,
	})
	if err != nil {
		return err
	}
	if int64(result.ValueSeq) != staged.ValueSeq {
		return ksm.Refuse(ksm.CodeBadRequest, "the signed result names another value than the candidate's")
	}
	now := w.now().UnixMilli()
	err = q.KeepInHistory(ctx, db.KeepInHistoryParams{
		Org: a.Org, RecordUid: record.RecordUid, Revision: record.Revision, RecordKey: record.RecordKey, KeyVersion: record.KeyVersion,
		Data: record.Data, Why: WhyReplaced, RunID: r.RunID, Result: record.Attestation, Time: now,
	})
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	err = q.CommitRecord(ctx, db.CommitRecordParams{
		Data: staged.Data, DataDigest: staged.DataDigest, ValueSeq: staged.ValueSeq, Attestation: result.Digest[:], Updated: now,
		Org: a.Org, RecordUid: record.RecordUid,
	})
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := q.DeleteStagedOf(ctx, db.DeleteStagedOfParams{Org: a.Org, RecordUid: record.RecordUid}); err != nil {
		return fmt.Errorf("remove candidate: %w", err)
	}
	if err := w.keep(ctx, q, a.Org, result, record.RecordUid, r.Detail); err != nil {
		return err
	}
	w.tellRecord(q, a.Org, record.FolderUid, record.RecordUid, record.Revision+1)
	err = w.tell(ctx, q, audit.Event{
		Org: a.Org, Name: audit.RunCommitted, Actor: a.ID[:], Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{"epoch": strconv.FormatUint(r.Epoch, 10), "value_seq": strconv.FormatInt(staged.ValueSeq, 10)},
	})
	if err != nil {
		return err
	}
	if err := w.settleOther(ctx, q, a, run, staged, commit); err != nil {
		return err
	}
	if err := w.overtake(ctx, q, run); err != nil {
		return err
	}
	return w.afterCommit(ctx, q, a, run, r, result)
}

// afterCommit moves the run whose value is committed, and ends it with Finish.
// result is nil where another call has stored the commit.
func (w *Work) afterCommit(ctx context.Context, q *db.Queries, a Agent, run db.Run, r ksm.SettleRequest, result *trust.Result) error {
	if result == nil {
		var err error
		result, err = w.result(ctx, q, a, r.Result, call{phase: trustv1.Phase_PHASE_COMMITTED, runID: r.RunID, digest: r.DataDigest})
		if err != nil {
			return err
		}
	}
	before := run.State
	if before != Committed {
		if err := move(&run, commit); err != nil {
			return err
		}
	}
	run.Phase = Committed
	outcomes(&run, result.Result)
	if r.Finish {
		return w.finish(ctx, q, a, run, before, int64(r.Epoch), succeed)
	}
	w.rest(&run, leaseCheck)
	return w.save(ctx, q, run, before)
}

// Abandon moves the outstanding candidate to the record's history. A repeat is a
// success. With Finish the run ends by it as failed.
func (w *Work) Abandon(ctx context.Context, q *db.Queries, a Agent, r ksm.SettleRequest) error {
	if done, err := w.repeated(ctx, q, a, r, trustv1.Phase_PHASE_ABANDONED); done || err != nil {
		return err
	}
	run, account, err := w.holding(ctx, q, a, r.Account, r.RunID, r.Epoch)
	if err != nil {
		return err
	}
	record, err := w.record(ctx, q, a.Org, account)
	if err != nil {
		return err
	}
	staged, found, err := w.candidate(ctx, q, a.Org, account, r.DataDigest)
	if err != nil {
		return err
	}
	if !found {
		return ksm.Refuse(ksm.CodeNotStaged, "no candidate of this account is outstanding")
	}
	result, err := w.result(ctx, q, a, r.Result, call{
		phase: trustv1.Phase_PHASE_ABANDONED, account: account, runID: r.RunID, epoch: r.Epoch, digest: r.DataDigest, detail: r.Detail,
	})
	if err != nil {
		return err
	}
	if err := w.abandoned(ctx, q, record, staged, result, r.Detail, int64(r.Epoch)); err != nil {
		return err
	}
	if err := w.settleOther(ctx, q, a, run, staged, abandon); err != nil {
		return err
	}
	before := run.State
	if err := move(&run, abandon); err != nil {
		return err
	}
	run.Phase = WhyAbandoned
	if r.Finish {
		outcomes(&run, result.Result)
		return w.finish(ctx, q, a, run, before, int64(r.Epoch), fail)
	}
	w.rest(&run, leaseCheck)
	return w.save(ctx, q, run, before)
}

// AbandonByDevice is Abandon by a person, for a candidate that no agent accepts
// as attested. The caller has checked the signer's EDIT and OPERATE. The run
// that staged it ends.
func (w *Work) AbandonByDevice(ctx context.Context, q *db.Queries, org int64, result *trust.Result, detail []byte) error {
	if result.Phase != trustv1.Phase_PHASE_ABANDONED {
		return ksm.Refuse(ksm.CodeBadRequest, "the signed result's phase is not abandoned")
	}
	record, err := w.record(ctx, q, org, result.Account)
	if err != nil {
		return err
	}
	staged, found, err := w.candidate(ctx, q, org, result.Account, result.DataDigest)
	if err != nil {
		return err
	}
	if !found {
		return ksm.Refuse(ksm.CodeNotStaged, "no candidate of this account is outstanding")
	}
	if err := w.abandoned(ctx, q, record, staged, result, detail, staged.Epoch); err != nil {
		return err
	}
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: org, RunID: staged.RunID})
	if errors.Is(err, store.ErrNotFound) || err == nil && run.State != Staged && run.State != Alert {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read run: %w", err)
	}
	before := run.State
	run.State = Failed
	run.Reason = result.Reason
	if l, err := q.LeaseOf(ctx, db.LeaseOfParams{Org: org, AccountUid: run.AccountUid}); err == nil && string(l.RunID) == string(run.RunID) {
		// The agent that drives it, if any still does, is fenced off.
		if err := q.ReturnLease(ctx, db.ReturnLeaseParams{Org: org, AccountUid: run.AccountUid, Epoch: l.Epoch}); err != nil {
			return fmt.Errorf("write lease: %w", err)
		}
	}
	return w.save(ctx, q, run, before)
}

func (w *Work) abandoned(ctx context.Context, q *db.Queries, record db.Record, staged db.Staged, result *trust.Result, detail []byte, epoch int64) error {
	if err := w.toHistory(ctx, q, record, staged, WhyAbandoned, result.Digest[:]); err != nil {
		return err
	}
	if err := w.keep(ctx, q, record.Org, result, record.RecordUid, detail); err != nil {
		return err
	}
	w.tellRecord(q, record.Org, record.FolderUid, record.RecordUid, record.Revision)
	return w.tell(ctx, q, audit.Event{
		Org: record.Org, Name: audit.CandidateAbandoned, Actor: result.By, Reason: result.Reason,
		Folder: record.FolderUid, Record: record.RecordUid, RunID: staged.RunID,
		Fields: map[string]string{"epoch": strconv.FormatInt(epoch, 10), "value_seq": strconv.FormatInt(staged.ValueSeq, 10)},
	})
}

// toHistory moves a staged value to the record's history: never away.
func (w *Work) toHistory(ctx context.Context, q *db.Queries, record db.Record, staged db.Staged, why string, result []byte) error {
	err := q.KeepInHistory(ctx, db.KeepInHistoryParams{
		Org: record.Org, RecordUid: record.RecordUid, Revision: record.Revision, RecordKey: record.RecordKey, KeyVersion: record.KeyVersion,
		Data: staged.Data, Why: why, RunID: staged.RunID, Result: result, Time: w.now().UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if err := q.DeleteStagedOf(ctx, db.DeleteStagedOfParams{Org: record.Org, RecordUid: record.RecordUid}); err != nil {
		return fmt.Errorf("remove candidate: %w", err)
	}
	return nil
}

// settleOther ends the run that staged the candidate, where another run has
// settled it: its work is done or void.
func (w *Work) settleOther(ctx context.Context, q *db.Queries, a Agent, run db.Run, staged db.Staged, by step) error {
	if string(staged.RunID) == string(run.RunID) {
		return nil
	}
	other, err := q.RunByID(ctx, db.RunByIDParams{Org: a.Org, RunID: staged.RunID})
	if errors.Is(err, store.ErrNotFound) || err == nil && closed[other.State] {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read run: %w", err)
	}
	before := other.State
	other.State, other.Credential = Finished, int64(trustv1.Outcome_OUTCOME_DONE)
	if by == abandon {
		other.State, other.Credential = Failed, int64(trustv1.Outcome_OUTCOME_FAILED)
	}
	other.Reason = settledByOther
	return w.save(ctx, q, other, before)
}

// overtake ends the runs of the account that were committed before and had more to do:
// before a run makes a candidate, it ends what they have left.
func (w *Work) overtake(ctx context.Context, q *db.Queries, run db.Run) error {
	before, err := q.CommittedRunsOf(ctx, db.CommittedRunsOfParams{Org: run.Org, AccountUid: run.AccountUid, But: run.RunID})
	if err != nil {
		return fmt.Errorf("read runs: %w", err)
	}
	for _, r := range before {
		r.State, r.Phase, r.Reason = Finished, Finished, settledByOther
		if err := w.save(ctx, q, r, Committed); err != nil {
			return err
		}
	}
	return nil
}

// candidate reads an account's outstanding candidate and holds it against the
// digest that the caller means.
func (w *Work) candidate(ctx context.Context, q *db.Queries, org int64, account trust.Ref, digest []byte) (db.Staged, bool, error) {
	staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: org, RecordUid: account.Record[:]})
	if errors.Is(err, store.ErrNotFound) || err == nil && staged.OwnerKind != OwnerAgent {
		return db.Staged{}, false, nil
	}
	if err != nil {
		return db.Staged{}, false, fmt.Errorf("read candidate: %w", err)
	}
	if string(staged.DataDigest) != string(digest) {
		return db.Staged{}, false, ksm.Refuse(ksm.CodeDigest, "another candidate of this account is outstanding")
	}
	return staged, true, nil
}

func (w *Work) record(ctx context.Context, q *db.Queries, org int64, account trust.Ref) (db.Record, error) {
	record, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: org, RecordUid: account.Record[:]})
	if errors.Is(err, store.ErrNotFound) || err == nil && string(record.FolderUid) != string(account.Folder[:]) {
		return db.Record{}, ksm.Refuse(ksm.CodeBadRequest, "there is no record %s", account)
	}
	if err != nil {
		return db.Record{}, fmt.Errorf("read record: %w", err)
	}
	return record, nil
}

// repeated reports whether this very commit or abandon was done before. The
// agent must still be one that may read the account.
func (w *Work) repeated(ctx context.Context, q *db.Queries, a Agent, r ksm.SettleRequest, phase trustv1.Phase) (bool, error) {
	account, err := w.account(ctx, q, a, r.Account)
	if err != nil {
		return false, err
	}
	return w.known(ctx, q, a, r.Result, call{phase: phase, account: account, digest: r.DataDigest})
}
