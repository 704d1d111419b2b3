package directory_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// A database that was put back takes only what was signed before, until an administrator
// ends that.
func TestRestored(t *testing.T) {
	n := newNode(t)
	o := orgtest.New(t, time.Now)
	org := n.create(o)
	pool := o.Pool(t, "since the backup") // which the restored database has not
	before := o.Changes[len(o.Changes)-1]
	account := seal.NewID()
	rotation := func() (r db.Rotation) {
		t.Helper()
		err := n.Read(t.Context(), func(q *db.Queries) (err error) {
			r, err = q.RotationOf(t.Context(), db.RotationOfParams{Org: org, AccountUid: account[:]})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		return q.PutRotation(ctx, db.PutRotationParams{Org: org, AccountUid: account[:], NextDue: 1, NextNominal: 1})
	})
	if err != nil {
		t.Fatal(err)
	}

	// It was put back a minute from now, so that what was signed in this test is older.
	restored := time.Now().Add(time.Minute).Truncate(time.Millisecond)
	d := directory.New(n.bus, func() time.Time { return restored })
	list, err := d.MarkRestored(t.Context(), n.Store)
	if err != nil || len(list) != 1 || list[0].Org != o.ID {
		t.Fatalf("%+v, %v", list, err)
	}
	may := func() error {
		return n.Read(t.Context(), func(q *db.Queries) error { return n.MayGrow(t.Context(), q, org) })
	}
	if reason := trust.ReasonOf(may()); reason != trust.LogRecovering {
		t.Errorf("it may grow: %q", reason)
	}
	if r := rotation(); r.Paused != 2 {
		t.Errorf("the schedule is not held: %+v", r)
	}
	if err := n.append(org, before); err != nil {
		t.Fatalf("sent back: %v", err)
	}
	if _, live := n.view(org).Entry(pool); !live {
		t.Error("what was sent back is not there")
	}
	after, _, err := trust.SignChange(o.ID, o.Log.NewChange(o.Admin.ID, restored), o.Admin.Sign) // honest, and too late
	if err != nil {
		t.Fatal(err)
	}
	late := directory.New(n.bus, func() time.Time { return restored.Add(time.Hour) })
	grow := func(change []byte) error {
		return n.write(func(ctx context.Context, q *db.Queries) error {
			_, err := late.Append(ctx, q, org, change)
			return err
		})
	}
	if reason := trust.ReasonOf(grow(after)); reason != trust.LogRecovering {
		t.Errorf("a new change: %q", reason)
	}

	reported := func() []db.Reported {
		t.Helper()
		var rows []db.Reported
		err := n.Read(t.Context(), func(q *db.Queries) (err error) {
			rows, err = q.ReportedOf(t.Context(), org)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	for _, changes := range []uint64{7, 3, 9} { // a party that verifies all anew asks from the beginning
		err := n.write(func(ctx context.Context, q *db.Queries) error { return n.Report(ctx, q, org, pool, changes) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if rows := reported(); len(rows) != 1 || rows[0].Changes != 9 {
		t.Errorf("reported: %+v", rows)
	}
	end := func(at time.Time) (ended bool) {
		t.Helper()
		err := n.write(func(ctx context.Context, q *db.Queries) (err error) {
			ended, err = n.EndRecovery(ctx, q, org, at, pool)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ended
	}
	woken := n.bus.Subscribe(bus.Work)
	defer woken.Close()
	if end(restored.Add(-time.Hour)) {
		t.Error("another restore's recovery was ended")
	}
	if !end(restored) || end(restored) {
		t.Error("it is not ended once")
	}
	select {
	case <-woken.C():
	case <-time.After(10 * time.Second):
		t.Error("the scheduler is not woken")
	}
	if err := may(); err != nil {
		t.Errorf("it may not grow: %v", err)
	}
	if r := rotation(); r.Paused != 0 {
		t.Errorf("the schedule is held: %+v", r)
	}
	if err := grow(after); err != nil {
		t.Errorf("a new change: %v", err)
	}
	names, _ := n.events(org)
	if !slices.Contains(names, audit.ServerRestored) || !slices.Contains(names, audit.ServerRecovered) {
		t.Errorf("events: %v", names)
	}

	// A second restore asks everybody anew.
	if _, err := late.MarkRestored(t.Context(), n.Store); err != nil {
		t.Fatal(err)
	}
	if rows := reported(); len(rows) != 0 {
		t.Errorf("reported before: %+v", rows)
	}
}
