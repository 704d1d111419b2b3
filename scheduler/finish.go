package scheduler

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	firstRetry  = time.Minute
	lastRetry   = time.Hour
	maxFailures = 6 // in a row; then alert

	// tooOften is the agent's reason for a run with nothing to do: the secret was
	// changed within the mandate's least interval.
	tooOften = string(trust.TooOften)
)

// Finished follows the end of a run in its account's rotation, within the
// transaction that ended it. It is the vault's work.Finisher.
func (s *Scheduler) Finished(ctx context.Context, q *db.Queries, run db.Run) error {
	rot, err := q.RotationOf(ctx, db.RotationOfParams{Org: run.Org, AccountUid: run.AccountUid})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read rotation: %w", err)
	}
	own := string(rot.RunID) == string(run.RunID)
	changed := run.State == "finished" && (run.Credential == int64(trustv1.Outcome_OUTCOME_DONE) || run.Credential == int64(trustv1.Outcome_OUTCOME_UNVERIFIABLE))
	if !own && !(changed && run.Action == "rotate") {
		return nil // a verify, or a person's attempt that changed nothing
	}
	if !own {
		// A person's new secret heals a failing schedule; a run of its own that
		// is still under way goes on.
		busy, err := underWay(ctx, q, rot)
		if err != nil || busy {
			return err
		}
	}
	now := s.cfg.Now()
	sched, err := s.schedule(rot.Schedule)
	if errors.Is(err, schedule.ErrBad) {
		return s.broken(ctx, q, rot, now)
	}
	if err != nil {
		return err
	}
	due, nominal := sched.Due(rot.AccountUid, time.Duration(rot.JitterS)*time.Second, now)
	settled := db.SettleRotationParams{
		NextDue: milli(due), NextNominal: milli(nominal), State: Scheduled, Now: now.UnixMilli(), Org: rot.Org, AccountUid: rot.AccountUid,
	}
	if due.IsZero() {
		settled.State = Done
	}
	switch {
	case run.State == "finished" && run.Credential == int64(trustv1.Outcome_OUTCOME_NONE) && run.Reason == tooOften:
		return s.skipped(ctx, q, run, settled)
	case run.State == "finished", run.State == "dropped":
		return s.settle(ctx, q, settled)
	}
	settled.Failures, settled.Reason = rot.Failures+1, run.Reason
	e := audit.Event{
		Org: run.Org, Time: now, Name: audit.RunAlert, Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID, Reason: run.Reason,
		Fields: map[string]string{"failures": strconv.FormatInt(settled.Failures, 10), "class": run.Class},
	}
	switch {
	case run.State == "alert": // the vault told of it
		settled.State, settled.NextDue, settled.NextNominal = Alert, 0, 0
		return s.settle(ctx, q, settled)
	case settled.Failures >= maxFailures:
		settled.State = Alert
		if err := s.settle(ctx, q, settled); err != nil || settled.Failures > maxFailures {
			return err // told when it began
		}
		return s.tell(ctx, q, e)
	}
	settled.State = Retrying
	if retry := now.Add(retryDelay(settled.Failures)); due.IsZero() || retry.Before(nominal) {
		settled.NextDue = retry.UnixMilli()
	}
	if err := s.settle(ctx, q, settled); err != nil {
		return err
	}
	e.Name, e.Fields = audit.RunRetry, map[string]string{"failures": e.Fields["failures"], "at": strconv.FormatInt(settled.NextDue, 10)}
	return s.tell(ctx, q, e)
}

// settle writes what comes next, and has the loop wait for that.
func (s *Scheduler) settle(ctx context.Context, q *db.Queries, settled db.SettleRotationParams) error {
	if err := q.SettleRotation(ctx, settled); err != nil {
		return fmt.Errorf("write rotation: %w", err)
	}
	q.AfterCommit(func() { s.cfg.Bus.Publish(bus.Work, nil) })
	return nil
}

// skipped settles a firing that found a fresh secret. A single firing is over by it,
// too: made up later, it would come at an hour that nobody chose.
func (s *Scheduler) skipped(ctx context.Context, q *db.Queries, run db.Run, settled db.SettleRotationParams) error {
	settled.Reason = run.Reason
	if err := s.settle(ctx, q, settled); err != nil {
		return err
	}
	e := audit.Event{
		Org: run.Org, Time: time.UnixMilli(settled.Now), Name: audit.ScheduleSkipped,
		Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID, Reason: run.Reason,
	}
	if settled.NextDue > 0 {
		e.Fields = map[string]string{"next": strconv.FormatInt(settled.NextDue, 10)}
	}
	return s.tell(ctx, q, e)
}

// retryDelay doubles from failure to failure, with a fifth of jitter, so that
// what failed together does not come back together.
func retryDelay(failures int64) time.Duration {
	d := min(firstRetry<<min(max(failures-1, 0), 10), lastRetry)
	return d - d/10 + rand.N(d/5)
}
