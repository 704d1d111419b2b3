package scheduler

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// grace is how late a firing may be and still count as on time. A server that
// was down for less than that has missed nothing.
const grace = 2 * time.Minute

// fire makes runs of one batch of due rotations and gives their number.
func (s *Scheduler) fire(ctx context.Context) (n int, err error) {
	err = s.cfg.Store.Write(ctx, func(q *db.Queries) error {
		now := s.cfg.Now()
		due, err := q.DueRotations(ctx, db.DueRotationsParams{Now: now.UnixMilli(), Rows: batch})
		if err != nil {
			return err
		}
		n = len(due)
		for _, rot := range due {
			if err := s.fireOne(ctx, q, rot, now); err != nil {
				return fmt.Errorf("account %x: %w", rot.AccountUid, err)
			}
		}
		return nil
	})
	return n, err
}

func (s *Scheduler) fireOne(ctx context.Context, q *db.Queries, rot db.Rotation, now time.Time) error {
	sched, err := s.schedule(rot.Schedule)
	if errors.Is(err, schedule.ErrBad) {
		return s.broken(ctx, q, rot, now)
	}
	if err != nil {
		return err
	}
	busy, err := underWay(ctx, q, rot)
	if err != nil {
		return err
	}
	// A retry is due before the firing that is next; a firing is due with or
	// after it.
	firing := rot.NextNominal > 0 && rot.NextNominal <= rot.NextDue
	late := now.Sub(time.UnixMilli(rot.NextDue)) > grace
	starts := !busy && !(firing && late && rot.Missed == "skip")
	if firing && (busy || late) {
		if err := s.missed(ctx, q, rot, sched, now, busy); err != nil {
			return err
		}
	}
	due, nominal := sched.Due(rot.AccountUid, time.Duration(rot.JitterS)*time.Second, now)
	fired := db.FireRotationParams{
		NextDue: milli(due), NextNominal: milli(nominal), LastDue: rot.LastDue,
		State: rot.State, Reason: rot.Reason, RunID: rot.RunID, Now: now.UnixMilli(),
		Org: rot.Org, AccountUid: rot.AccountUid, WasDue: rot.NextDue,
	}
	run := seal.NewID()
	switch {
	case starts:
		fired.State, fired.RunID, fired.LastDue = Running, run[:], now.UnixMilli()
	case busy:
		fired.State = Running
	case due.IsZero():
		fired.State = Done
	case rot.State == Retrying:
		fired.State = Scheduled
	}
	changed, err := q.FireRotation(ctx, fired)
	if err != nil || changed == 0 || !starts {
		return err // changed 0: another scheduler made this firing
	}
	return s.queue(ctx, q, rot, run, now)
}

// queue writes the run of a firing.
func (s *Scheduler) queue(ctx context.Context, q *db.Queries, rot db.Rotation, run seal.ID, now time.Time) error {
	err := q.AddRun(ctx, db.AddRunParams{
		Org: rot.Org, RunID: run[:], AccountUid: rot.AccountUid, FolderUid: rot.FolderUid,
		ResourceUid: rot.ResourceUid, ResourceFolder: rot.ResourceFolder, PoolID: rot.PoolID,
		Action: "rotate", Cause: "schedule", Created: now.UnixMilli(), NextAttempt: now.UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("write run: %w", err)
	}
	s.tellRun(q, rot.Org, run[:], rot.FolderUid, rot.AccountUid, "queued")
	return s.tell(ctx, q, audit.Event{
		Org: rot.Org, Time: now, Name: audit.RunQueued, Folder: rot.FolderUid, Record: rot.AccountUid, RunID: run[:],
		Fields: map[string]string{"cause": "schedule", "action": "rotate"},
	})
}

// underWay reports whether the run that the rotation started last goes on.
func underWay(ctx context.Context, q *db.Queries, rot db.Rotation) (bool, error) {
	if len(rot.RunID) == 0 {
		return false, nil
	}
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: rot.Org, RunID: rot.RunID})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read run: %w", err)
	}
	return run.Finished == 0, nil
}

// missed tells of the firings from the one that is due until now.
func (s *Scheduler) missed(ctx context.Context, q *db.Queries, rot db.Rotation, sched *schedule.Schedule, now time.Time, busy bool) error {
	n, first, last := sched.Missed(time.UnixMilli(rot.NextNominal-1), now)
	if n == 0 {
		// The schedule was changed by hand under a firing; it is this one.
		n, first, last = 1, time.UnixMilli(rot.NextNominal), time.UnixMilli(rot.NextNominal)
	}
	e := audit.Event{
		Org: rot.Org, Time: now, Name: audit.ScheduleMissed, Folder: rot.FolderUid, Record: rot.AccountUid, Reason: "down",
		Fields: map[string]string{
			"count": strconv.Itoa(n), "policy": rot.Missed,
			"first": strconv.FormatInt(first.UnixMilli(), 10), "last": strconv.FormatInt(last.UnixMilli(), 10),
		},
	}
	if busy {
		e.Reason, e.RunID, e.Fields["policy"] = "busy", rot.RunID, "skip"
	}
	return s.tell(ctx, q, e)
}

// broken stops a schedule that can no longer be read.
func (s *Scheduler) broken(ctx context.Context, q *db.Queries, rot db.Rotation, now time.Time) error {
	err := q.SettleRotation(ctx, db.SettleRotationParams{
		Failures: rot.Failures, State: Alert, Reason: schedule.Reason, Now: now.UnixMilli(), Org: rot.Org, AccountUid: rot.AccountUid,
	})
	if err != nil {
		return err
	}
	return s.tell(ctx, q, audit.Event{
		Org: rot.Org, Time: now, Name: audit.ScheduleBroken, Folder: rot.FolderUid, Record: rot.AccountUid, Reason: schedule.Reason,
	})
}
