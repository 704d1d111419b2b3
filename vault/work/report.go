package work

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// maxRefusals bounds one report.
const maxRefusals = 64

// Report does what its request says, in this order: it notes refusals; it
// stores the reply to a command (CommandID); or, under a lease (RunID), it ends
// the run or, with Retry, gives it back to be tried again. A repeat is a success.
func (w *Work) Report(ctx context.Context, q *db.Queries, a Agent, r ksm.ReportRequest) error {
	if err := w.refusals(ctx, q, a, r.Refusals); err != nil {
		return err
	}
	switch {
	case len(r.CommandID) > 0:
		return w.reply(ctx, q, a, r)
	case len(r.RunID) > 0 && r.Retry:
		return w.retry(ctx, q, a, r)
	case len(r.RunID) > 0:
		return w.finished(ctx, q, a, r)
	case len(r.Refusals) == 0:
		return ksm.Refuse(ksm.CodeBadRequest, "the report says nothing")
	}
	return nil
}

func (w *Work) finished(ctx context.Context, q *db.Queries, a Agent, r ksm.ReportRequest) error {
	if done, err := w.ended(ctx, q, a, r); done || err != nil {
		return err
	}
	run, account, err := w.holding(ctx, q, a, r.Account, r.RunID, r.Epoch)
	if err != nil {
		return err
	}
	result, err := w.result(ctx, q, a, r.Result, call{
		phase: trustv1.Phase_PHASE_FINISHED, account: account, runID: r.RunID, epoch: r.Epoch, detail: r.Detail,
	})
	if err != nil {
		return err
	}
	if err := w.keep(ctx, q, a.Org, result, account.Record[:], r.Detail); err != nil {
		return err
	}
	before := run.State
	outcomes(&run, result.Result)
	return w.finish(ctx, q, a, run, before, int64(r.Epoch), endOf(result.Credential))
}

// ended reports whether this very report was done before.
func (w *Work) ended(ctx context.Context, q *db.Queries, a Agent, r ksm.ReportRequest) (bool, error) {
	account, err := w.account(ctx, q, a, r.Account)
	if err != nil {
		return false, err
	}
	return w.known(ctx, q, a, r.Result, call{phase: trustv1.Phase_PHASE_FINISHED, account: account})
}

// endOf says how a run ends whose credential had this outcome. What is not
// known is never an end that anybody may overlook.
func endOf(credential trustv1.Outcome) step {
	switch credential {
	case trustv1.Outcome_OUTCOME_NONE, trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_UNVERIFIABLE:
		return succeed
	case trustv1.Outcome_OUTCOME_FAILED:
		return fail
	}
	return alert
}

func outcomes(run *db.Run, r *trustv1.Result) {
	run.Credential, run.Dependents, run.Scripts = int64(r.Credential), int64(r.Dependents), int64(r.Scripts)
	run.Class, run.Reason = r.Class, r.Reason
}

// finish ends a run under a lease and returns the lease.
func (w *Work) finish(ctx context.Context, q *db.Queries, a Agent, run db.Run, before string, epoch int64, s step) error {
	if err := q.ReturnLease(ctx, db.ReturnLeaseParams{Org: run.Org, AccountUid: run.AccountUid, Epoch: epoch}); err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	if err := move(&run, s); err != nil {
		return err
	}
	run.Phase = run.State
	if err := w.save(ctx, q, run, before); err != nil {
		return err
	}
	return w.tellEnd(ctx, q, run, a.ID[:])
}

// end ends a run that has no lease to return.
func (w *Work) end(ctx context.Context, q *db.Queries, run db.Run, s step, credential trustv1.Outcome, class, reason string, actor []byte) error {
	before := run.State
	if err := move(&run, s); err != nil {
		return err
	}
	run.Phase, run.Credential, run.Class, run.Reason = run.State, int64(credential), class, reason
	if err := w.save(ctx, q, run, before); err != nil {
		return err
	}
	return w.tellEnd(ctx, q, run, actor)
}

func (w *Work) tellEnd(ctx context.Context, q *db.Queries, run db.Run, actor []byte) error {
	e := audit.Event{
		Org: run.Org, Name: audit.RunFinished, Actor: actor, Reason: run.Reason,
		Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{
			"credential": outcomeName(run.Credential), "dependents": outcomeName(run.Dependents), "scripts": outcomeName(run.Scripts),
			"class": run.Class,
		},
	}
	switch run.State {
	case Failed:
		e.Name = audit.RunFailed
	case Alert:
		e.Name = audit.RunAlert
		e.Fields = map[string]string{"class": run.Class}
	}
	return w.tell(ctx, q, e)
}

func outcomeName(n int64) string {
	name := strings.ToLower(strings.TrimPrefix(trustv1.Outcome(n).String(), "OUTCOME_"))
	if name == "unspecified" {
		return "unknown"
	}
	return name
}

// lastAttempt is the attempt, some eight hours after the first, whose failure ends a
// run in alert: a person has to look. Its candidate stays, and the next run of the
// account takes it up.
const lastAttempt = 12

// leastAfter is how soon a run may come back without its attempts being counted: one that
// did so at once could go on for ever.
const leastAfter = time.Minute

// retry gives an undecided run back: neither value is given up, and the run is
// due again after a delay that grows with its attempts.
func (w *Work) retry(ctx context.Context, q *db.Queries, a Agent, r ksm.ReportRequest) error {
	if len(r.Result) > 0 {
		if done, err := w.ended(ctx, q, a, r); done || err != nil {
			return err
		}
	}
	run, account, err := w.holding(ctx, q, a, r.Account, r.RunID, r.Epoch)
	if err != nil {
		return err
	}
	reason := "retry"
	if len(r.Result) > 0 {
		result, err := w.result(ctx, q, a, r.Result, call{
			phase: trustv1.Phase_PHASE_FINISHED, account: account, runID: r.RunID, epoch: r.Epoch, detail: r.Detail,
		})
		if err != nil {
			return err
		}
		if err := w.keep(ctx, q, a.Org, result, account.Record[:], r.Detail); err != nil {
			return err
		}
		outcomes(&run, result.Result)
		reason = result.Reason
	}
	if r.After > 0 { // no attempt has failed
		after := min(max(r.After, leastAfter.Milliseconds()), trust.MaxDrain.Milliseconds())
		run.Attempt = max(run.Attempt-1, 0)
		return w.giveBack(ctx, q, a, run, int64(r.Epoch), time.Duration(after)*time.Millisecond, reason)
	}
	if run.Attempt >= lastAttempt {
		return w.finish(ctx, q, a, run, run.State, int64(r.Epoch), alert)
	}
	return w.giveBack(ctx, q, a, run, int64(r.Epoch), retryDelay(run.Attempt), reason)
}

// reply stores the answer to a command that starts no run. The first one stays.
func (w *Work) reply(ctx context.Context, q *db.Queries, a Agent, r ksm.ReportRequest) error {
	c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: a.Org, ID: r.CommandID})
	if errors.Is(err, store.ErrNotFound) || err == nil && string(c.AgentID) != string(a.ID[:]) {
		return ksm.Refuse(ksm.CodeBadRequest, "no such command was sent to this agent")
	}
	if err != nil {
		return fmt.Errorf("read command: %w", err)
	}
	if len(c.Reply) > 0 {
		return nil
	}
	result, err := w.result(ctx, q, a, r.Result, call{phase: trustv1.Phase_PHASE_REPLIED, detail: r.Detail})
	if err != nil {
		return err
	}
	err = q.SetReply(ctx, db.SetReplyParams{Reply: result.Signed, ReplyDetail: r.Detail, Org: a.Org, ID: r.CommandID})
	if err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	w.push(q, a.Org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Reply{Reply: r.CommandID}})
	q.AfterCommit(func() { w.Bus.Publish(bus.Reply(a.Org, [16]byte(r.CommandID)), nil) })
	return w.tell(ctx, q, audit.Event{
		Org: a.Org, Name: audit.CommandReplied, Actor: a.ID[:], Folder: result.Account.Folder[:], Record: result.Account.Record[:],
		Fields: map[string]string{"command": ksm.URL(r.CommandID)},
	})
}

// refusals notes what an agent would not do. Its refusal of a run that nobody
// has taken ends that run.
func (w *Work) refusals(ctx context.Context, q *db.Queries, a Agent, list []ksm.Refusal) error {
	if len(list) > maxRefusals {
		return ksm.Refuse(ksm.CodeTooLarge, "%d refusals in one report, at most %d", len(list), maxRefusals)
	}
	for _, f := range list {
		if !audit.AgentMayReport(f.Name) {
			return ksm.Refuse(ksm.CodeBadRequest, "an agent reports no event %q", f.Name)
		}
		for field := range f.Fields {
			if !audit.HasField(f.Name, field) {
				return ksm.Refuse(ksm.CodeBadRequest, "an event %s has no field %q", f.Name, field)
			}
		}
		if len(f.Record.Folder) > 16 || len(f.Record.Record) > 16 || len(f.RunID) > 16 {
			return ksm.Refuse(ksm.CodeBadRequest, "a refusal's ids are malformed")
		}
		e := audit.Event{
			Org: a.Org, Name: f.Name, Actor: a.ID[:], Reason: f.Reason,
			Folder: f.Record.Folder, Record: f.Record.Record, RunID: f.RunID, Fields: f.Fields,
		}
		if f.Time > 0 && f.Time <= w.now().UnixMilli() {
			e.Time = time.UnixMilli(f.Time)
		}
		if err := w.tell(ctx, q, e); err != nil {
			return err
		}
		if len(f.RunID) == 0 || f.Name != audit.RunRefused && f.Name != audit.CommandRefused {
			continue
		}
		if err := w.refusedByPool(ctx, q, a, f); err != nil {
			return err
		}
	}
	return nil
}

// refusedByPool: an agent ends by its refusal only runs of its own pool.
func (w *Work) refusedByPool(ctx context.Context, q *db.Queries, a Agent, f ksm.Refusal) error {
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return err
	}
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: a.Org, RunID: f.RunID})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read run: %w", err)
	}
	e, _ := log.Entry(a.ID)
	if string(run.PoolID) != string(e.Owner[:]) {
		return nil
	}
	if run.Cause == "person" && string(run.AgentID) != string(a.ID[:]) {
		return nil // its command went out to another agent
	}
	return w.refused(ctx, q, a, run.RunID, nil, f.Reason)
}
