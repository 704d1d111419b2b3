package scheduler

import (
	"context"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// A night in which no agent is connected: 100,000 runs are open, and the scheduler looks
// at them once a second of the test's time. An op is such a second.
func BenchmarkSecondOfManyOpenRuns(b *testing.B) {
	w := newWorld(b)
	const open = 100_000
	created := w.clock()
	for range open / 1000 {
		w.write(func(q *db.Queries) error {
			for range 1000 {
				id, account := seal.NewID(), seal.NewID()
				err := q.AddRun(context.Background(), db.AddRunParams{
					Org: w.org, RunID: id[:], AccountUid: account[:], FolderUid: w.folder[:], PoolID: w.pool[:],
					Action: "rotate", Cause: "schedule", Created: created.UnixMilli(), NextAttempt: created.UnixMilli(),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	// Each is told of as waiting, and later as overdue, once; what follows lasts.
	for range 30 * 60 {
		w.later(time.Second)
		began := time.Now()
		w.pass()
		if at := w.clock().Sub(created); at == time.Second || at == 20*time.Second || at == time.Minute || at == 5*time.Minute || at == 10*time.Minute {
			b.Logf("after %v: %v", at, time.Since(began).Round(time.Millisecond))
		}
	}
	var most time.Duration
	b.ResetTimer()
	for b.Loop() {
		w.later(time.Second)
		began := time.Now()
		w.pass()
		most = max(most, time.Since(began))
	}
	b.ReportMetric(float64(most.Milliseconds()), "ms-most")
}
