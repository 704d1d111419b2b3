package directory

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// A database that was put back from a backup has forgotten changes of the log that
// others know. Whoever signed a new one on its head would fork the log, unknowing. So
// until an administrator says that everybody who matters has reported, it takes only
// what was signed before. Schedules are held as long, and so are the runs that were under
// way at the backup: an agent that never saw a value that is lost would rotate the account
// again, and those who did would refuse the result. A person's run that has no candidate
// yet is not held: his agent has the command, or drops it as too old.

func recovery(ctx context.Context, q *db.Queries, org int64) (recovering bool, restored time.Time, err error) {
	row, err := q.OrgByNumber(ctx, org)
	if err != nil {
		return false, time.Time{}, fmt.Errorf("organisation %d: %w", org, err)
	}
	return row.Recovering != 0, time.UnixMilli(row.Restored), nil
}

func errRecovering(restored time.Time) error {
	return &trust.Error{Reason: trust.LogRecovering, What: "the server was restored at " + restored.UTC().Format(time.RFC3339)}
}

// MayGrow is trust.LogRecovering while the log takes no new change.
func (d *Directory) MayGrow(ctx context.Context, q *db.Queries, org int64) error {
	recovering, restored, err := recovery(ctx, q, org)
	if err == nil && recovering {
		err = errRecovering(restored)
	}
	return err
}

// Restored is one organisation of a database that was put back, with its log.
type Restored struct {
	Org seal.Digest
	Log *trust.Log
}

// MarkRestored verifies every organisation's log and marks it as recovering since now.
func (d *Directory) MarkRestored(ctx context.Context, s store.Store) ([]Restored, error) {
	var out []Restored
	err := s.Write(ctx, func(q *db.Queries) error {
		out = nil
		now := d.now()
		orgs, err := q.ListOrgs(ctx)
		if err != nil {
			return fmt.Errorf("read the organisations: %w", err)
		}
		for _, o := range orgs {
			log, err := d.View(ctx, q, o.ID)
			if err != nil {
				return err
			}
			if err := q.MarkRestored(ctx, db.MarkRestoredParams{ID: o.ID, Restored: now.UnixMilli()}); err != nil {
				return fmt.Errorf("mark organisation %s: %w", log.Org(), err)
			}
			if err := errors.Join(q.ForgetReported(ctx, o.ID), q.HoldRotations(ctx, o.ID), q.HoldRuns(ctx, o.ID)); err != nil {
				return fmt.Errorf("mark organisation %s: %w", log.Org(), err)
			}
			err = audit.Tell(ctx, q, d.bus, audit.Event{
				Org: o.ID, Time: now, Name: audit.ServerRestored, Fields: map[string]string{"epoch": strconv.FormatUint(log.Head().Epoch, 10)},
			})
			if err != nil {
				return err
			}
			out = append(out, Restored{log.Org(), log})
		}
		return nil
	})
	return out, err
}

// Report notes how many changes of the log a party holds, within a Write.
func (d *Directory) Report(ctx context.Context, q *db.Queries, org int64, entry seal.ID, changes uint64) error {
	err := q.PutReported(ctx, db.PutReportedParams{Org: org, EntryID: entry[:], Changes: int64(min(changes, 1<<62)), Time: d.now().UnixMilli()})
	if err != nil {
		return fmt.Errorf("note what %s holds: %w", entry, err)
	}
	return nil
}

// EndRecovery lets the log grow again, within a Write; false where that restore is over
// already, or another came after it.
func (d *Directory) EndRecovery(ctx context.Context, q *db.Queries, org int64, restored time.Time, actor seal.ID) (bool, error) {
	n, err := q.EndRecovering(ctx, db.EndRecoveringParams{ID: org, Restored: restored.UnixMilli()})
	if err != nil || n == 0 {
		return false, err
	}
	if err := errors.Join(q.ReleaseRotations(ctx, org), q.ReleaseRuns(ctx, org)); err != nil {
		return false, fmt.Errorf("let schedules and runs go on: %w", err)
	}
	q.AfterCommit(func() { d.bus.Publish(bus.Work, nil) })
	return true, audit.Tell(ctx, q, d.bus, audit.Event{
		Org: org, Name: audit.ServerRecovered, Actor: actor.Bytes(), Fields: map[string]string{"restored": strconv.FormatInt(restored.UnixMilli(), 10)},
	})
}
