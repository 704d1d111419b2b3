package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// mostWait is longer than any run waits for its next attempt.
const mostWait = 2 * time.Hour

// clockSetBack computes anew what was computed by a clock that was ahead and has been
// set right: else an account would be due, and a dead agent's lease live, as late as that
// clock said. It looks through the rows at the first pass, and when the clock is seen to
// go back: then no run waits by the former clock, but a person's that its agent has not
// taken, which would end.
func (s *Scheduler) clockSetBack(ctx context.Context) error {
	now := s.cfg.Now()
	hasten := db.HastenRunsParams{Now: now.UnixMilli(), Until: now.UnixMilli(), UntilUntaken: now.Add(mostWait).UnixMilli()}
	if s.seen.IsZero() {
		hasten.Until = hasten.UntilUntaken
	} else if !now.Before(s.seen.Add(-grace)) {
		s.seen = now
		return nil
	}
	for n := batch; n == batch; {
		err := s.cfg.Store.Write(ctx, func(q *db.Queries) error {
			rows, err := q.RotationsOfLater(ctx, db.RotationsOfLaterParams{Until: now.Add(grace).UnixMilli(), Rows: batch})
			if err != nil {
				return err
			}
			n = len(rows)
			for _, rot := range rows {
				if err := s.dueAnew(ctx, q, rot, now); err != nil {
					return fmt.Errorf("account %x: %w", rot.AccountUid, err)
				}
			}
			if err := q.LeasesOfLater(ctx, now.UnixMilli()); err != nil {
				return err
			}
			if err := q.SeenLater(ctx, now.UnixMilli()); err != nil {
				return err
			}
			return q.HastenRuns(ctx, hasten)
		})
		if err != nil {
			return err
		}
		if n > 0 {
			s.cfg.Log.Warn("the clock was set back; what comes next is computed anew", "rotations", n)
		}
	}
	s.seen = now
	return nil
}

func (s *Scheduler) dueAnew(ctx context.Context, q *db.Queries, rot db.Rotation, now time.Time) error {
	sched, err := s.schedule(rot.Schedule)
	if errors.Is(err, schedule.ErrBad) {
		return s.broken(ctx, q, rot, now)
	}
	if err != nil {
		return err
	}
	due, nominal := sched.Due(rot.AccountUid, time.Duration(rot.JitterS)*time.Second, now)
	if rot.State == Retrying {
		due = now // it has waited for long
	}
	return q.SettleRotation(ctx, db.SettleRotationParams{
		NextDue: milli(due), NextNominal: milli(nominal), Failures: rot.Failures, State: rot.State, Reason: rot.Reason,
		Now: now.UnixMilli(), Org: rot.Org, AccountUid: rot.AccountUid,
	})
}
