package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const soon = 20 * time.Second

// world is a real store with an organisation, a pool of two agents and a folder
// that the pool may read. The time is the test's.
type world struct {
	t      testing.TB
	store  store.Store
	bus    bus.Bus
	dir    *directory.Directory
	work   *work.Work
	s      *Scheduler
	o      *orgtest.Org
	org    int64
	pool   seal.ID
	folder seal.ID
	a, b   *orgtest.Party
	subs   map[seal.ID]bus.Subscription

	mu  sync.Mutex
	now time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, bus: bus.New(), now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), subs: make(map[seal.ID]bus.Subscription)}
	var err error
	w.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.dir = directory.New(w.bus, w.clock)
	w.s = w.scheduler()
	w.work = &work.Work{Directory: w.dir, Bus: w.bus, Finisher: w.s, Now: w.clock}
	w.o = orgtest.New(t, w.clock)
	w.pool = w.o.Pool(t, "plant")
	w.a, w.b = w.o.Agent(t, "a", w.pool), w.o.Agent(t, "b", w.pool)
	w.folder = w.o.Folder(t)
	w.o.Grant(t, w.folder, w.pool, trust.Read)
	w.write(func(q *db.Queries) error {
		w.org, _, err = w.dir.Create(t.Context(), q, "test", w.o.Changes...)
		return err
	})
	for _, p := range []*orgtest.Party{w.a, w.b} {
		w.subs[p.ID] = w.bus.Subscribe(bus.Agent(w.org, p.ID))
	}
	return w
}

func (w *world) scheduler() *Scheduler {
	return New(Config{Store: w.store, Bus: w.bus, Directory: w.dir, Now: w.clock, Log: slog.New(slog.DiscardHandler)})
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) set(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = now
}

func (w *world) later(d time.Duration) { w.set(w.clock().Add(d)) }

func (w *world) write(f func(q *db.Queries) error) {
	w.t.Helper()
	if err := w.store.Write(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(f func(q *db.Queries) error) {
	w.t.Helper()
	if err := w.store.Read(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pass() {
	w.t.Helper()
	if err := w.s.pass(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// account makes an account's record and its rotation, as the client API does.
func (w *world) account(s *clientv1.Schedule, change ...func(*db.PutRotationParams)) seal.ID {
	w.t.Helper()
	id := seal.NewID()
	encoded, err := proto.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	p := db.PutRotationParams{
		Org: w.org, AccountUid: id[:], FolderUid: w.folder[:], PoolID: w.pool[:], Schedule: encoded, Missed: "once", Now: w.clock().UnixMilli(),
	}
	parsed, err := w.s.schedule(encoded)
	if err != nil {
		w.t.Fatal(err)
	}
	due, nominal := parsed.Due(id[:], 0, w.clock())
	p.NextDue, p.NextNominal = milli(due), milli(nominal)
	for _, f := range change {
		f(&p)
	}
	w.write(func(q *db.Queries) error {
		err := q.CreateRecord(w.t.Context(), db.CreateRecordParams{Org: w.org, RecordUid: id[:], FolderUid: w.folder[:], Kind: "pamUser", DataDigest: id[:]})
		if err != nil {
			return err
		}
		return q.PutRotation(w.t.Context(), p)
	})
	return id
}

func hourly() *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: "0 * * * *"}}
}

func cronIn(text, zone string) *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: text}, TimeZone: zone}
}

func (w *world) rotation(account seal.ID) db.Rotation {
	w.t.Helper()
	var rot db.Rotation
	w.read(func(q *db.Queries) (err error) {
		rot, err = q.RotationOf(context.Background(), db.RotationOfParams{Org: w.org, AccountUid: account[:]})
		return err
	})
	return rot
}

func (w *world) runs(account seal.ID) []db.Run {
	w.t.Helper()
	var runs []db.Run
	w.read(func(q *db.Queries) (err error) {
		runs, err = q.RunsOfAccountBefore(context.Background(), db.RunsOfAccountBeforeParams{
			Org: w.org, AccountUid: account[:], Created: 1 << 62, RunID: nil, Rows: 1000,
		})
		return err
	})
	slices.Reverse(runs)
	return runs
}

func (w *world) last(account seal.ID) db.Run {
	w.t.Helper()
	runs := w.runs(account)
	if len(runs) == 0 {
		w.t.Fatal("no run")
	}
	return runs[len(runs)-1]
}

func (w *world) events(names ...string) []db.Event {
	w.t.Helper()
	var events []db.Event
	w.read(func(q *db.Queries) (err error) {
		events, err = audit.List(context.Background(), q, audit.Filter{Org: w.org, Names: names, Limit: 1000})
		return err
	})
	return events
}

// here makes agents present, as the router does.
func (w *world) here(agents ...*orgtest.Party) {
	w.t.Helper()
	w.write(func(q *db.Queries) error {
		for _, p := range agents {
			err := q.AgentHere(context.Background(), db.AgentHereParams{Org: w.org, AgentID: p.ID[:], Seen: w.clock().UnixMilli(), Node: "one"})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// beat is a heartbeat of an agent with leases.
func (w *world) beat(p *orgtest.Party) {
	w.t.Helper()
	w.write(func(q *db.Queries) error {
		return q.AgentSeen(context.Background(), db.AgentSeenParams{Seen: w.clock().UnixMilli(), Org: w.org, AgentID: p.ID[:]})
	})
}

// told gives what was published to an agent since it was last asked.
func (w *world) told(p *orgtest.Party) []*channelv1.RunDue {
	w.t.Helper()
	var due []*channelv1.RunDue
	for {
		select {
		case payload := <-w.subs[p.ID].C():
			for r := bytes.NewReader(payload); r.Len() > 0; {
				var frame channelv1.ToAgent
				if err := protodelim.UnmarshalFrom(r, &frame); err != nil {
					w.t.Fatal(err)
				}
				due = append(due, frame.GetRunDue())
			}
		default:
			return due
		}
	}
}

func (w *world) lease(p *orgtest.Party, account seal.ID, run []byte) {
	w.t.Helper()
	w.write(func(q *db.Queries) error {
		answer, err := w.work.Lease(context.Background(), q, work.Agent{Org: w.org, ID: p.ID}, ksm.LeaseRequest{
			Account: ksm.Ref{Folder: w.folder[:], Record: account[:]}, RunID: run,
		})
		if err == nil && (answer.Busy || answer.Closed) {
			w.t.Fatalf("the lease was not given: %+v", answer)
		}
		return err
	})
}

// end ends the account's newest run, as the vault does.
func (w *world) end(account seal.ID, state string, credential trustv1.Outcome, reason string) {
	w.t.Helper()
	run := w.last(account)
	w.write(func(q *db.Queries) error {
		run.State, run.Credential, run.Reason, run.Finished, run.NextAttempt = state, int64(credential), reason, w.clock().UnixMilli(), 0
		err := q.MoveRun(context.Background(), db.MoveRunParams{
			State: run.State, Reason: run.Reason, Finished: run.Finished, Credential: run.Credential, Org: run.Org, RunID: run.RunID,
		})
		if err != nil {
			return err
		}
		return w.s.Finished(context.Background(), q, run)
	})
}

func (w *world) succeed(account seal.ID) {
	w.t.Helper()
	w.end(account, "finished", trustv1.Outcome_OUTCOME_DONE, "")
}

func (w *world) fail(account seal.ID, reason string) {
	w.t.Helper()
	w.end(account, "failed", trustv1.Outcome_OUTCOME_FAILED, reason)
}

func TestADueRotationBecomesARunAndAnAgentIsTold(t *testing.T) {
	w := newWorld(t)
	w.here(w.a)
	account := w.account(hourly())
	w.later(59 * time.Minute)
	w.pass()
	if n := len(w.runs(account)); n != 0 {
		t.Fatalf("%d runs before it is due", n)
	}
	w.later(time.Minute)
	w.pass()
	run, rot := w.last(account), w.rotation(account)
	if run.State != "queued" || run.Cause != "schedule" || run.Action != "rotate" || !bytes.Equal(run.PoolID, w.pool[:]) {
		t.Errorf("run %+v", run)
	}
	if rot.State != Running || !bytes.Equal(rot.RunID, run.RunID) || rot.LastDue != w.clock().UnixMilli() ||
		rot.NextDue != w.clock().Add(time.Hour).UnixMilli() {
		t.Errorf("rotation %+v", rot)
	}
	told := w.told(w.a)
	if len(told) != 1 || !bytes.Equal(told[0].RunId, run.RunID) || told[0].Action != "rotate" ||
		!bytes.Equal(told[0].Account.RecordUid, account[:]) || !bytes.Equal(told[0].Account.FolderUid, w.folder[:]) {
		t.Errorf("told %v", told)
	}
	if e := w.events(audit.RunQueued); len(e) != 1 || !bytes.Equal(e[0].RecordUid, account[:]) {
		t.Errorf("events %+v", e)
	}
	w.pass()
	if n := len(w.runs(account)); n != 1 {
		t.Errorf("%d runs of one firing", n)
	}
	w.lease(w.a, account, run.RunID)
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Scheduled || rot.Failures != 0 {
		t.Errorf("after success: %+v", rot)
	}
}

// A pass with nothing due is two looks at an index, however many accounts wait.
func TestNothingDueCostsNoWrite(t *testing.T) {
	w := newWorld(t)
	for range 50 {
		w.account(hourly())
	}
	w.pass() // looks for overdue runs, once a minute
	before := w.store.Stats()
	for range 100 {
		w.pass()
	}
	after := w.store.Stats()
	if after.Commits != before.Commits || after.Reads-before.Reads > 100 {
		t.Errorf("a hundred passes: %d commits, %d reads", after.Commits-before.Commits, after.Reads-before.Reads)
	}
}

func TestTheAgentsOfAPoolTakeTurns(t *testing.T) {
	w := newWorld(t)
	w.here(w.a, w.b)
	for range 10 {
		w.account(hourly())
	}
	w.later(time.Hour)
	w.pass()
	if a, b := len(w.told(w.a)), len(w.told(w.b)); a != 5 || b != 5 {
		t.Errorf("told %d and %d", a, b)
	}
}

func TestAnotherPoolsAgentIsNotAsked(t *testing.T) {
	w := newWorld(t)
	other := w.o.Pool(t, "office")
	stranger := w.o.Agent(t, "stranger", other)
	w.write(func(q *db.Queries) error {
		_, err := w.dir.Append(t.Context(), q, w.org, w.o.Changes...)
		return err
	})
	w.here(stranger)
	sub := w.bus.Subscribe(bus.Agent(w.org, stranger.ID))
	defer sub.Close()
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	select {
	case <-sub.C():
		t.Error("an agent of another pool was told")
	default:
	}
	if w.last(account).Reason != noAgent {
		t.Errorf("run %+v", w.last(account))
	}
}

func TestManyDueAtOnce(t *testing.T) {
	w := newWorld(t)
	w.here(w.a)
	const n = 2*batch + 50
	for range n {
		w.account(hourly())
	}
	w.later(time.Hour)
	// Two nodes look at the same moment: each firing is made once.
	var wg sync.WaitGroup
	for _, s := range []*Scheduler{w.s, w.scheduler()} {
		wg.Go(func() {
			if err := s.pass(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if e := w.events(audit.RunQueued); len(e) != n {
		t.Errorf("%d runs, want %d", len(e), n)
	}
	if told := w.told(w.a); len(told) != n {
		t.Errorf("told of %d runs, want %d", len(told), n)
	}
}

func TestMissedFirings(t *testing.T) {
	for _, c := range []struct {
		what, missed string
		down         time.Duration
		runs         int
		count        string // of the event; empty: none
	}{
		{"on time", "once", time.Hour, 1, ""},
		{"a little late", "skip", time.Hour + grace, 1, ""},
		{"down over one, once", "once", time.Hour + 10*time.Minute, 1, "1"},
		{"down over three, once", "once", 3*time.Hour + 10*time.Minute, 1, "3"},
		{"down over one, skip", "skip", time.Hour + 10*time.Minute, 0, "1"},
		{"down over three, skip", "skip", 3*time.Hour + 10*time.Minute, 0, "3"},
		{"down for years", "once", 5 * 365 * 24 * time.Hour, 1, "1000"},
	} {
		w := newWorld(t)
		account := w.account(hourly(), func(p *db.PutRotationParams) { p.Missed = c.missed })
		w.later(c.down)
		w.pass()
		if n := len(w.runs(account)); n != c.runs {
			t.Errorf("%s: %d runs, want %d", c.what, n, c.runs)
		}
		rot := w.rotation(account)
		if next := time.UnixMilli(rot.NextDue); !next.After(w.clock()) || next.Sub(w.clock()) > time.Hour {
			t.Errorf("%s: next is %s at %s", c.what, next.UTC(), w.clock())
		}
		if c.runs == 0 && rot.State != Scheduled {
			t.Errorf("%s: state %s", c.what, rot.State)
		}
		e := w.events(audit.ScheduleMissed)
		if c.count == "" {
			if len(e) != 0 {
				t.Errorf("%s: told of %+v", c.what, e)
			}
			continue
		}
		if len(e) != 1 {
			t.Errorf("%s: %d events", c.what, len(e))
			continue
		}
		var fields map[string]string
		err := json.Unmarshal([]byte(e[0].Fields), &fields)
		if err != nil || fields["count"] != c.count || fields["policy"] != c.missed || e[0].Reason != "down" {
			t.Errorf("%s: %s %v, %v", c.what, e[0].Reason, fields, err)
		}
	}
}

func TestAFiringThatFindsItsRunUnderWay(t *testing.T) {
	w := newWorld(t)
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	w.later(time.Hour)
	w.pass()
	if n := len(w.runs(account)); n != 1 {
		t.Errorf("%d runs", n)
	}
	if e := w.events(audit.ScheduleMissed); len(e) != 1 || e[0].Reason != "busy" {
		t.Errorf("events %+v", e)
	}
	w.succeed(account)
	w.later(time.Hour)
	w.pass()
	if n := len(w.runs(account)); n != 2 {
		t.Errorf("%d runs after it ended", n)
	}
}

func TestJitterDelaysAndSpreads(t *testing.T) {
	w := newWorld(t)
	moments := make(map[int64]bool)
	var accounts []seal.ID
	for range 20 {
		accounts = append(accounts, w.account(hourly(), func(p *db.PutRotationParams) { p.JitterS = 600 }))
	}
	w.later(time.Hour)
	w.pass()
	for _, a := range accounts {
		rot := w.rotation(a)
		if late := time.Duration(rot.NextDue-rot.NextNominal) * time.Millisecond; late < 0 || late > 10*time.Minute {
			t.Errorf("%s late", late)
		}
		moments[rot.NextDue] = true
	}
	if len(moments) < 15 {
		t.Errorf("20 accounts start at %d moments", len(moments))
	}
}

func TestFailuresAreRetriedMoreAndMoreRarelyAndEndInAlert(t *testing.T) {
	w := newWorld(t)
	account := w.account(cronIn("0 1 1 * *", "")) // monthly, so that no firing meets a retry
	w.set(time.Date(2026, 6, 1, 1, 0, 0, 0, time.UTC))
	w.pass()
	for i, want := range []time.Duration{1, 2, 4, 8, 16} {
		w.fail(account, "timeout")
		rot := w.rotation(account)
		if rot.State != Retrying || rot.Failures != int64(i+1) || rot.Reason != "timeout" {
			t.Fatalf("failure %d: %+v", i+1, rot)
		}
		wait := time.UnixMilli(rot.NextDue).Sub(w.clock())
		if mean := want * time.Minute; wait < mean*9/10 || wait > mean*11/10 {
			t.Errorf("failure %d: again in %s, want about %s", i+1, wait, mean)
		}
		w.later(wait - time.Millisecond)
		w.pass()
		if n := len(w.runs(account)); n != i+1 {
			t.Fatalf("failure %d: %d runs before the retry is due", i+1, n)
		}
		w.later(time.Millisecond)
		w.pass()
		if n := len(w.runs(account)); n != i+2 {
			t.Fatalf("failure %d: %d runs", i+1, n)
		}
	}
	w.fail(account, "timeout")
	rot := w.rotation(account)
	if rot.State != Alert || rot.NextDue != time.Date(2026, 7, 1, 1, 0, 0, 0, time.UTC).UnixMilli() {
		t.Fatalf("after the last: %+v", rot)
	}
	if e := w.events(audit.RunRetry, audit.RunAlert); len(e) != 6 || e[5].Name != audit.RunAlert || e[5].Reason != "timeout" {
		t.Errorf("events %+v", e)
	}
	// The regular firings go on, one attempt each, and nobody is told again.
	w.set(time.UnixMilli(rot.NextDue))
	w.pass()
	w.fail(account, "timeout")
	if rot := w.rotation(account); rot.State != Alert || rot.NextDue != time.Date(2026, 8, 1, 1, 0, 0, 0, time.UTC).UnixMilli() {
		t.Errorf("a firing in alert: %+v", rot)
	}
	if e := w.events(audit.RunAlert); len(e) != 1 {
		t.Errorf("%d alerts", len(e))
	}
	w.set(time.Date(2026, 8, 1, 1, 0, 0, 0, time.UTC))
	w.pass()
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Scheduled || rot.Failures != 0 || rot.Reason != "" {
		t.Errorf("healed: %+v", rot)
	}
}

func TestARegularFiringComesBeforeALateRetry(t *testing.T) {
	w := newWorld(t)
	account := w.account(&clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 120}, Anchor: w.clock().UnixMilli()})
	w.later(2 * time.Minute)
	w.pass()
	for range 3 { // the third retry would be due after four minutes
		w.fail(account, "timeout")
		w.set(time.UnixMilli(w.rotation(account).NextDue))
		w.pass()
	}
	w.fail(account, "timeout")
	if wait := time.UnixMilli(w.rotation(account).NextDue).Sub(w.clock()); wait > 2*time.Minute {
		t.Errorf("again in %s, though the schedule fires every two minutes", wait)
	}
}

func TestEndsThatAreNoFailure(t *testing.T) {
	for _, c := range []struct {
		what       string
		state      string
		credential trustv1.Outcome
		reason     string
	}{
		{"unverifiable", "finished", trustv1.Outcome_OUTCOME_UNVERIFIABLE, ""},
		{"a fresh secret", "finished", trustv1.Outcome_OUTCOME_NONE, "too_often"},
		{"dropped by a person", "dropped", trustv1.Outcome_OUTCOME_UNSPECIFIED, "dropped"},
	} {
		w := newWorld(t)
		account := w.account(hourly())
		w.later(time.Hour)
		w.pass()
		w.end(account, c.state, c.credential, c.reason)
		if rot := w.rotation(account); rot.State != Scheduled || rot.Failures != 0 || rot.NextDue != w.clock().Add(time.Hour).UnixMilli() {
			t.Errorf("%s: %+v", c.what, rot)
		}
	}
}

// The firing of a secret that a person has just rotated is skipped, and an event says so.
func TestAFiringOfAFreshSecretIsSkipped(t *testing.T) {
	for name, c := range map[string]struct {
		schedule *clientv1.Schedule
		state    string
		next     time.Duration // after now; 0: none
	}{
		"hourly": {hourly(), Scheduled, time.Hour},
		"once":   {&clientv1.Schedule{Kind: &clientv1.Schedule_Once{Once: time.Date(2026, 5, 1, 1, 0, 0, 0, time.UTC).UnixMilli()}}, Done, 0},
	} {
		w := newWorld(t)
		account := w.account(c.schedule)
		w.later(time.Hour)
		w.pass()
		w.end(account, "finished", trustv1.Outcome_OUTCOME_NONE, "too_often")
		next := int64(0)
		if c.next > 0 {
			next = w.clock().Add(c.next).UnixMilli()
		}
		if rot := w.rotation(account); rot.State != c.state || rot.Failures != 0 || rot.NextDue != next || rot.Reason != "too_often" {
			t.Errorf("%s: %+v", name, rot)
		}
		if e := w.events(audit.ScheduleSkipped); len(e) != 1 || e[0].Reason != "too_often" || string(e[0].RecordUid) != string(account[:]) {
			t.Errorf("%s: events %+v", name, e)
		}
	}
}

// Candidates that come to nothing use the mandate up: the account is not rotated, and that
// must not be silent.
func TestAMandateUsedUpByFailuresIsAFailure(t *testing.T) {
	w := newWorld(t)
	account := w.account(cronIn("0 1 1 * *", ""))
	w.set(time.Date(2026, 6, 1, 1, 0, 0, 0, time.UTC))
	w.pass()
	for n := range maxFailures {
		w.fail(account, map[bool]string{true: "auth.rejected", false: "too_often"}[n < 3])
		w.set(time.UnixMilli(w.rotation(account).NextDue))
		if n < maxFailures-1 {
			w.pass()
		}
	}
	if rot := w.rotation(account); rot.State != Alert || rot.Failures != maxFailures || rot.Reason != "too_often" {
		t.Errorf("%+v", rot)
	}
	if e := w.events(audit.RunAlert); len(e) != 1 {
		t.Errorf("%d alerts", len(e))
	}
}

// What an ended run leaves to be done wakes the loop, which may sleep.
func TestAnEndWakesTheLoop(t *testing.T) {
	for what, end := range map[string]func(*world, seal.ID){
		"success": func(w *world, account seal.ID) { w.succeed(account) },
		"failure": func(w *world, account seal.ID) { w.fail(account, "timeout") },
	} {
		w := newWorld(t)
		account := w.account(hourly())
		w.later(time.Hour)
		w.pass()
		wake := w.bus.Subscribe(bus.Work)
		end(w, account)
		select {
		case <-wake.C():
		case <-time.After(soon):
			t.Errorf("%s: the loop sleeps on", what)
		}
		wake.Close()
	}
}

func TestARunThatEndsInAlertStopsItsSchedule(t *testing.T) {
	w := newWorld(t)
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	w.end(account, "alert", trustv1.Outcome_OUTCOME_PENDING, "both_rejected")
	if rot := w.rotation(account); rot.State != Alert || rot.NextDue != 0 || rot.Reason != "both_rejected" {
		t.Fatalf("rotation %+v", rot)
	}
	w.later(48 * time.Hour)
	w.pass()
	if n := len(w.runs(account)); n != 1 {
		t.Errorf("%d runs", n)
	}
	// A person had it looked at, and the candidate was committed after all.
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Scheduled || rot.NextDue != w.clock().Add(time.Hour).UnixMilli() {
		t.Errorf("healed: %+v", rot)
	}
}

func TestAPersonsRunAndTheSchedule(t *testing.T) {
	w := newWorld(t)
	account := w.account(cronIn("0 1 1 * *", ""))
	w.set(time.Date(2026, 6, 1, 1, 0, 0, 0, time.UTC))
	w.pass()
	w.fail(account, "timeout")
	w.later(time.Second)
	person := func(action string) {
		w.write(func(q *db.Queries) error {
			return w.work.StartRun(context.Background(), q, w.org, work.Start{
				RunID: seal.NewID(), Account: &trustv1.Ref{FolderUid: w.folder[:], RecordUid: account[:]}, PoolID: w.pool[:],
				Action: action, Cause: "person",
			})
		})
	}
	person("rotate")
	w.fail(account, "wrong")
	if rot := w.rotation(account); rot.State != Retrying || rot.Failures != 1 {
		t.Errorf("a person's failure: %+v", rot)
	}
	w.later(time.Second)
	person("verify")
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Retrying {
		t.Errorf("a person's verify: %+v", rot)
	}
	w.later(time.Second)
	person("rotate")
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Scheduled || rot.Failures != 0 {
		t.Errorf("a person's success: %+v", rot)
	}
}

func TestWhileALeaseLivesNobodyElseIsSent(t *testing.T) {
	w := newWorld(t)
	w.here(w.a, w.b)
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	run := w.last(account)
	w.told(w.a)
	w.told(w.b)
	w.lease(w.a, account, run.RunID)
	for range 40 { // two minutes of heartbeats
		w.later(3 * time.Second)
		w.beat(w.a)
		w.pass()
	}
	if n := len(w.told(w.b)); n != 0 {
		t.Errorf("told %d times of a run that is under way elsewhere", n)
	}
	// The holder is reminded: it may have been killed before it wrote the run down.
	if told := w.told(w.a); len(told) == 0 || len(told) > 15 || !bytes.Equal(told[0].RunId, run.RunID) {
		t.Errorf("the holder was told %v", told)
	}
	// The agent is dead; its candidate is not.
	w.write(func(q *db.Queries) error {
		return q.MoveRun(context.Background(), db.MoveRunParams{
			State: "staged", AgentID: w.a.ID[:], Attempt: 1, NextAttempt: w.last(account).NextAttempt, Org: w.org, RunID: run.RunID,
		})
	})
	w.write(func(q *db.Queries) error {
		return q.AgentGone(context.Background(), db.AgentGoneParams{Org: w.org, AgentID: w.a.ID[:], Node: "one"})
	})
	w.later(leaseTerm - time.Second)
	w.pass()
	if n := len(w.told(w.b)); n != 0 {
		t.Fatal("another agent was sent before the lease had run out")
	}
	w.later(2 * time.Second)
	w.pass()
	told := w.told(w.b)
	if len(told) != 1 || told[0].Action != "recover" || !bytes.Equal(told[0].RunId, run.RunID) {
		t.Errorf("told %v", told)
	}
	w.lease(w.b, account, run.RunID)
}

// The router has the runs of an agent that is gone, or drains, looked at now.
func TestWhatAnAgentHadIsAnothersAtOnce(t *testing.T) {
	for _, c := range []struct {
		what   string
		leased bool
		leave  func(w *world, q *db.Queries) error
		after  time.Duration // until the other is told
	}{
		{"told, and gone", false, (*world).gone, 0},
		{"told, and drains", false, (*world).drains, 0},
		{"it has the lease, and is gone", true, (*world).gone, leaseTerm},
	} {
		w := newWorld(t)
		w.here(w.a)
		account := w.account(hourly())
		w.later(time.Hour)
		w.pass()
		if told := w.told(w.a); len(told) != 1 {
			t.Fatalf("%s: told %v", c.what, told)
		}
		if run := w.last(account); !bytes.Equal(run.AgentID, w.a.ID[:]) {
			t.Errorf("%s: it is %x's turn", c.what, run.AgentID)
		}
		w.here(w.b)
		if c.leased {
			w.lease(w.a, account, w.last(account).RunID)
		}
		w.pass()
		w.write(func(q *db.Queries) error {
			return errors.Join(c.leave(w, q), q.LookAtRunsOf(context.Background(), db.LookAtRunsOfParams{Now: w.clock().UnixMilli(), Org: w.org, AgentID: w.a.ID[:]}))
		})
		w.pass()
		if told := w.told(w.b); c.after > 0 && len(told) > 0 {
			t.Errorf("%s: the other is told before the lease has run out", c.what)
		} else if c.after > 0 {
			w.later(c.after)
			w.pass()
			if told := w.told(w.b); len(told) != 1 {
				t.Errorf("%s: told %v when the lease has run out", c.what, told)
			}
		} else if len(told) != 1 {
			t.Errorf("%s: told %v at once", c.what, told)
		}
	}
}

func (w *world) gone(q *db.Queries) error {
	return q.AgentGone(context.Background(), db.AgentGoneParams{Org: w.org, AgentID: w.a.ID[:], Node: "one"})
}

func (w *world) drains(q *db.Queries) error {
	return q.AgentDrains(context.Background(), db.AgentDrainsParams{Org: w.org, AgentID: w.a.ID[:], Node: "one"})
}

func TestARunThatNobodyTakesIsOfferedAgainMoreAndMoreRarely(t *testing.T) {
	w := newWorld(t)
	w.here(w.a)
	account := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	began := w.clock()
	if n := len(w.told(w.a)); n != 1 {
		t.Fatalf("told %d times at first", n)
	}
	var at []time.Duration
	for w.clock().Sub(began) < 50*time.Minute {
		w.later(time.Second)
		w.pass()
		for range w.told(w.a) {
			at = append(at, w.clock().Sub(began))
		}
	}
	if at[0] != leastAgain {
		t.Errorf("first again after %s", at[0])
	}
	for i := 1; i < len(at); i++ {
		if gap := at[i] - at[i-1]; gap < leastAgain || gap > mostAgain+time.Second {
			t.Errorf("again after %s", gap)
		}
	}
	if len(at) < 20 || len(at) > 45 {
		t.Errorf("offered %d times in 50 minutes", len(at))
	}
	if w.last(account).State != "queued" {
		t.Errorf("run %+v", w.last(account))
	}
}

// After a night without agents, or a restart of the server, nobody waits for the next
// look: what found no agent goes out as soon as one has come, each run once, and to the
// pool alone that it is for.
func TestWhatWaitedForAnAgentGoesOutWhenOneComes(t *testing.T) {
	w := newWorld(t)
	const runs = 2*batch + 1
	for range runs {
		w.account(hourly())
	}
	other := w.o.Pool(t, "other")
	elsewhere := w.account(hourly(), func(p *db.PutRotationParams) { p.PoolID = other[:] })
	w.later(time.Hour)
	w.pass()
	w.later(time.Second)
	w.here(w.b)
	w.s.came = []arrival{{w.org, w.b.ID}, {w.org, w.b.ID}, {w.org, seal.NewID()}}
	w.pass()
	if told := w.told(w.b); len(told) != runs {
		t.Fatalf("the agent that came was told of %d runs, not of %d", len(told), runs)
	}
	w.s.came = []arrival{{w.org, w.b.ID}}
	w.pass()
	if told := w.told(w.b); len(told) != 0 {
		t.Errorf("told of %d runs again", len(told))
	}
	if run := w.last(elsewhere); run.Reason != noAgent {
		t.Errorf("the other pool's run: %+v", run)
	}
	// One that has left again gets nothing, and what waits goes on waiting.
	account := w.account(hourly())
	w.write(func(q *db.Queries) error {
		return q.AgentGone(context.Background(), db.AgentGoneParams{Org: w.org, AgentID: w.b.ID[:], Node: "one"})
	})
	w.later(time.Hour)
	w.s.came = []arrival{{w.org, w.b.ID}}
	w.pass()
	if run := w.last(account); run.Reason != noAgent || len(w.told(w.b)) != 0 {
		t.Errorf("the run for an agent that left: %+v", run)
	}
}

func TestWithoutAnAgentARunWaitsAndIsToldOfOnce(t *testing.T) {
	w := newWorld(t)
	account := w.account(hourly())
	w.later(time.Hour)
	for range 600 {
		w.pass()
		w.later(time.Second)
	}
	if e := w.events(audit.RunWaiting); len(e) != 1 || e[0].Reason != noAgent {
		t.Errorf("events %+v", e)
	}
	w.here(w.b)
	for range int(mostAlone/time.Second) + 1 {
		w.pass()
		w.later(time.Second)
	}
	if told := w.told(w.b); len(told) == 0 {
		t.Error("the agent that came was not told")
	}
	if run := w.last(account); run.Reason == noAgent {
		t.Errorf("run %+v", run)
	}
}

func TestAPersonsRunIsSentToNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.here(w.a, w.b)
	account := w.account(hourly(), func(p *db.PutRotationParams) { p.Paused = 1 })
	id, command, from := seal.NewID(), seal.NewID(), seal.NewID()
	w.write(func(q *db.Queries) error {
		return w.work.StartRun(context.Background(), q, w.org, work.Start{
			RunID: id, Account: &trustv1.Ref{FolderUid: w.folder[:], RecordUid: account[:]}, PoolID: w.pool[:], Action: "rotate", Cause: "person",
			Command: &trustv1.CommandFrame{To: w.a.ID[:], From: from[:], Id: command[:], RunId: id[:], Expires: w.clock().Add(time.Minute).UnixMilli()},
		})
	})
	if payload := <-w.subs[w.a.ID].C(); len(payload) != 0 {
		t.Errorf("the outbox's hint is %q", payload)
	}
	for range 60 {
		w.later(time.Minute)
		w.pass()
	}
	if n := len(w.told(w.a)) + len(w.told(w.b)); n != 0 {
		t.Errorf("told %d times", n)
	}
	w.later(10 * time.Minute)
	w.pass()
	if run := w.last(account); run.State != "failed" || run.Reason != "expired" || run.Finished == 0 {
		t.Errorf("run %+v", run)
	}
	if e := w.events(audit.RunFailed); len(e) != 1 || e[0].Reason != "expired" {
		t.Errorf("events %+v", e)
	}
}

func TestAVerifyThatTheVaultQueuedIsDispatched(t *testing.T) {
	w := newWorld(t)
	w.here(w.a)
	account := w.account(hourly(), func(p *db.PutRotationParams) { p.Paused = 1 })
	w.write(func(q *db.Queries) error {
		return w.work.StartRun(context.Background(), q, w.org, work.Start{
			RunID: seal.NewID(), Account: &trustv1.Ref{FolderUid: w.folder[:], RecordUid: account[:]}, PoolID: w.pool[:], Action: "verify", Cause: "recover",
		})
	})
	w.pass()
	if told := w.told(w.a); len(told) != 1 || told[0].Action != "verify" {
		t.Errorf("told %v", told)
	}
}

func TestASingleTime(t *testing.T) {
	w := newWorld(t)
	account := w.account(&clientv1.Schedule{Kind: &clientv1.Schedule_Once{Once: w.clock().Add(time.Hour).UnixMilli()}})
	w.later(time.Hour)
	w.pass()
	w.fail(account, "timeout")
	if rot := w.rotation(account); rot.State != Retrying || rot.NextDue == 0 {
		t.Fatalf("after a failure: %+v", rot)
	}
	w.later(2 * time.Minute)
	w.pass()
	w.succeed(account)
	if rot := w.rotation(account); rot.State != Done || rot.NextDue != 0 {
		t.Errorf("after success: %+v", rot)
	}
	w.later(1000 * time.Hour)
	w.pass()
	if n := len(w.runs(account)); n != 2 {
		t.Errorf("%d runs", n)
	}
}

func TestAPausedScheduleDoesNotFire(t *testing.T) {
	w := newWorld(t)
	account := w.account(hourly(), func(p *db.PutRotationParams) { p.Paused = 1 })
	w.later(10 * time.Hour)
	w.pass()
	if n := len(w.runs(account)); n != 0 {
		t.Errorf("%d runs", n)
	}
}

// A night of each kind, minute by minute: the loop fires once where a wall time
// comes twice, and once where it does not come.
func TestTheNightsWhenTheClockChanges(t *testing.T) {
	for _, c := range []struct{ what, cron, zone, from, want string }{
		{"spring, Berlin", "30 2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", "2026-03-29T01:00:00Z"},
		{"autumn, New York", "30 1 * * *", "America/New_York", "2026-11-01T03:00:00Z", "2026-11-01T05:30:00Z"},
	} {
		w := newWorld(t)
		from, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		w.set(from)
		account := w.account(cronIn(c.cron, c.zone))
		var fired []string
		for range 8 * 60 {
			w.later(time.Minute)
			before := len(w.runs(account))
			w.pass()
			if len(w.runs(account)) > before {
				fired = append(fired, w.clock().Format(time.RFC3339))
				w.succeed(account)
			}
		}
		if len(fired) != 1 || fired[0] != c.want {
			t.Errorf("%s: fired at %v, want %s", c.what, fired, c.want)
		}
	}
}

func TestABrokenScheduleIsToldOfAndStops(t *testing.T) {
	w := newWorld(t)
	account := w.account(hourly(), func(p *db.PutRotationParams) { p.Schedule = []byte{0xff} })
	fine := w.account(hourly())
	w.later(time.Hour)
	w.pass()
	if rot := w.rotation(account); rot.State != Alert || rot.Reason != "schedule_bad" || rot.NextDue != 0 {
		t.Errorf("rotation %+v", rot)
	}
	if e := w.events(audit.ScheduleBroken); len(e) != 1 {
		t.Errorf("events %+v", e)
	}
	if n := len(w.runs(fine)); n != 1 {
		t.Errorf("the other account has %d runs", n)
	}
}

func TestOverdueRunsAreToldOfOnce(t *testing.T) {
	w := newWorld(t)
	w.here(w.a)
	account := w.account(cronIn("0 1 * * *", ""))
	w.later(time.Hour)
	w.pass()
	run := w.last(account).RunID
	for range 60 {
		w.later(time.Minute)
		w.pass()
		w.write(func(q *db.Queries) error { // an agent tried, and gave it back
			return q.AskAgain(context.Background(), db.AskAgainParams{NextAttempt: w.clock().UnixMilli(), Reason: "timeout", Org: w.org, RunID: run})
		})
	}
	e := w.events(audit.RunOverdue)
	if len(e) != 1 || !bytes.Equal(e[0].RunID, w.last(account).RunID) {
		t.Fatalf("events %+v", e)
	}
	if at := time.UnixMilli(e[0].Time).Sub(time.UnixMilli(w.last(account).Created)); at < overdueAfter || at > overdueAfter+2*time.Minute {
		t.Errorf("told after %s", at)
	}
}

// Who has more due than one pass dispatches keeps nobody else waiting: late runs are told
// of, and agents that came get what waited for them, and what is left goes on.
func TestAPassEnds(t *testing.T) {
	w := newWorld(t)
	const runs = rounds*batch + 1
	w.write(func(q *db.Queries) error {
		for range runs {
			account := seal.NewID()
			err := w.work.StartRun(context.Background(), q, w.org, work.Start{
				RunID: seal.NewID(), Account: &trustv1.Ref{FolderUid: w.folder[:], RecordUid: account[:]}, PoolID: w.pool[:],
				Action: "rotate", Cause: "schedule",
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.later(overdueAfter)
	due := func() (n int) {
		w.read(func(q *db.Queries) error {
			rows, err := q.DueRuns(context.Background(), db.DueRunsParams{Now: w.clock().UnixMilli(), Rows: runs})
			n = len(rows)
			return err
		})
		return n
	}
	w.pass()
	if n := due(); n != 1 {
		t.Errorf("after one pass %d runs are due, want 1", n)
	}
	if n := len(w.events(audit.RunOverdue)); n != batch {
		t.Errorf("told of %d late runs, want %d", n, batch)
	}
	w.pass()
	if n := due(); n != 0 {
		t.Errorf("after the next pass %d runs are due", n)
	}
}

// A pool that is down makes many runs overdue at once; telling of them keeps
// nobody waiting.
func TestManyOverdueRunsAreToldOfInBatches(t *testing.T) {
	w := newWorld(t)
	const runs = 2*batch + 50
	for range runs {
		account := seal.NewID()
		w.write(func(q *db.Queries) error {
			return w.work.StartRun(context.Background(), q, w.org, work.Start{
				RunID: seal.NewID(), Account: &trustv1.Ref{FolderUid: w.folder[:], RecordUid: account[:]}, PoolID: w.pool[:],
				Action: "rotate", Cause: "schedule",
			})
		})
	}
	w.later(overdueAfter)
	for _, want := range []int{batch, 2 * batch, runs, runs} {
		w.pass()
		if n := len(w.events(audit.RunOverdue)); n != want {
			t.Fatalf("told of %d, want %d", n, want)
		}
	}
}

// The loop itself, on the real clock: it wakes by the bus and by its timer.
func TestRunWakes(t *testing.T) {
	w := newWorld(t)
	w.set(time.Now())
	s := New(Config{Store: w.store, Bus: w.bus, Directory: w.dir, Log: slog.New(slog.DiscardHandler)})
	w.here(w.a)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) }) //nolint:errcheck // ends with the context
	defer wg.Wait()
	defer cancel()
	due := func(in time.Duration) {
		w.account(hourly(), func(p *db.PutRotationParams) {
			p.NextNominal = time.Now().Add(in).UnixMilli()
			p.NextDue = p.NextNominal
		})
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-w.subs[w.a.ID].C():
		case <-time.After(soon):
			t.Fatalf("%s: nobody was told", what)
		}
	}
	due(0)
	w.bus.Publish(bus.Work, nil)
	wait("by the bus")
	due(300 * time.Millisecond)
	wait("by the timer")
}

func TestRetryDelay(t *testing.T) {
	for failures, mean := range map[int64]time.Duration{1: time.Minute, 3: 4 * time.Minute, 7: time.Hour, 1 << 40: time.Hour} {
		for range 100 {
			if d := retryDelay(failures); d < mean*9/10 || d > mean*11/10 {
				t.Fatalf("failure %s: %s", strconv.FormatInt(failures, 10), d)
			}
		}
	}
}
