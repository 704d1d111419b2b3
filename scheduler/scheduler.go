// Package scheduler decides when a run is due, and tells an agent so.
//
// Nothing is kept in memory that would be lost: an account's next firing and a
// run's next attempt are columns with an index, and one timer waits for the
// nearest of them. So a tick costs what is due, whatever the number of accounts.
//
// # A firing
//
// A due rotation becomes a run in state queued, and the row gets its next firing,
// in one transaction for a whole batch. A firing that finds the run before still
// under way is not made up: that run will change the secret. A firing that was
// missed, since the server was down, is left out (missed "skip") or made up once
// ("once"), however many there were; an event tells.
//
// # A run
//
// A due run goes to one connected agent of its pool, by turns, as the words "run
// due". They prove nothing; the agent's right comes from the account's mandate.
// While an agent holds the account's lease nobody is sent, and when the lease
// has run out any agent of the pool is: so a run outlives its agent. The words
// go out again, more and more rarely, until somebody takes the lease; at once, and
// to others, when the agent that was told goes or drains. A run that found no
// agent connected is looked at again now and then, and when one comes.
//
// # A failure
//
// A failed run is tried again after a minute, then after two, four and so on up
// to an hour, with jitter; after the sixth failure in a row the account is in
// state alert, with an event, and only its regular firings go on. A run that
// ended in alert itself, its candidate neither proven nor refuted, stops the
// account's schedule until a person has looked.
package scheduler

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// States of a rotation.
const (
	Scheduled = "scheduled"
	Running   = "running"
	Retrying  = "retrying"
	Alert     = "alert"
	Done      = "done" // the schedule never fires again
)

// batch bounds what one transaction handles. The single writer of the database
// must not be held for longer than a moment.
const batch = 200

// rounds bounds the batches of one pass: where runs fall due faster than they are
// dispatched, what comes after them in a pass has its turn all the same.
const rounds = 64

// Directory gives an organisation's log, which says what agents a pool has.
type Directory interface {
	View(ctx context.Context, q *db.Queries, org int64) (*trust.Log, error)
}

// Config is what a Scheduler is made of.
type Config struct {
	Store     store.Store
	Bus       bus.Bus
	Directory Directory
	Now       func() time.Time // nil: store.Now
	Log       *slog.Logger     // nil: slog.Default
}

// Scheduler fires schedules and dispatches runs. Several may work on one store:
// each firing is made by one of them.
type Scheduler struct {
	cfg Config

	mu      sync.Mutex
	parsed  map[string]*schedule.Schedule // by their encoded form
	turns   map[string]int                // of pools, whose agent is next
	overdue time.Time                     // when overdue runs were last looked for
	seen    time.Time                     // the clock at the last pass
	came    []arrival                     // agents since then
}

// arrival is an agent that has come.
type arrival struct {
	org   int64
	agent seal.ID
}

// maxKept bounds what is remembered to save work; beyond it is forgotten.
const maxKept = 10_000

// New makes a scheduler. It does nothing before Run.
func New(cfg Config) *Scheduler {
	if cfg.Now == nil {
		cfg.Now = store.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Scheduler{cfg: cfg, parsed: make(map[string]*schedule.Schedule), turns: make(map[string]int)}
}

const (
	// longest is how long Run waits at most: a clock that somebody set must not
	// make it sleep.
	longest = time.Second
	// breath lets what comes at once be handled at once.
	breath = 10 * time.Millisecond
)

// Run fires and dispatches until ctx ends, and returns its cause. It wakes for
// the next due time and by bus.Work.
func (s *Scheduler) Run(ctx context.Context) error {
	wake := s.cfg.Bus.Subscribe(bus.Work)
	defer wake.Close()
	here := s.cfg.Bus.Subscribe(bus.Here)
	defer here.Close()
	for {
		wait := longest
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("schedules could not be looked at; tried again soon", "error", err)
		} else if err == nil {
			wait = s.untilNext(ctx)
		}
		timer := time.NewTimer(breath)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		timer.Reset(max(0, wait-breath))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-wake.C():
		case payload := <-here.C():
			for org, agent := range bus.Arrivals(payload) {
				s.came = append(s.came, arrival{org, agent})
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pass handles what is due now: all of it, or as much as one pass may.
func (s *Scheduler) pass(ctx context.Context) error {
	if err := s.clockSetBack(ctx); err != nil {
		return fmt.Errorf("compute anew what is next: %w", err)
	}
	for range rounds {
		due, err := s.anythingDue(ctx)
		if err != nil {
			return err
		}
		if !due {
			break
		}
		fired, err := s.fire(ctx)
		if err != nil {
			return fmt.Errorf("fire schedules: %w", err)
		}
		sent, err := s.dispatch(ctx)
		if err != nil {
			return fmt.Errorf("dispatch runs: %w", err)
		}
		if fired+sent == 0 {
			break // somebody else did it, or it is not to be done: it waits for the next pass
		}
	}
	if err := s.welcome(ctx); err != nil {
		return fmt.Errorf("dispatch what waited for agents: %w", err)
	}
	return s.lookForOverdue(ctx)
}

// anythingDue asks before a write transaction is begun for nothing.
func (s *Scheduler) anythingDue(ctx context.Context) (bool, error) {
	next, err := s.next(ctx)
	if err != nil {
		return false, fmt.Errorf("look for what is due: %w", err)
	}
	return next > 0 && next <= s.cfg.Now().UnixMilli(), nil
}

// next is the nearest due time, Unix milliseconds; 0: none.
func (s *Scheduler) next(ctx context.Context) (next int64, err error) {
	err = s.cfg.Store.Read(ctx, func(q *db.Queries) error {
		rotation, err := q.NextRotationDue(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		run, err := q.NextRunDue(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		next = max(rotation, run)
		if rotation > 0 && run > 0 {
			next = min(rotation, run)
		}
		return nil
	})
	return next, err
}

func (s *Scheduler) untilNext(ctx context.Context) time.Duration {
	next, err := s.next(ctx)
	if err != nil || next == 0 {
		return longest
	}
	return min(longest, max(0, time.UnixMilli(next).Sub(s.cfg.Now())))
}

// schedule reads a rotation's schedule. A thousand accounts have a few.
func (s *Scheduler) schedule(encoded []byte) (*schedule.Schedule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if parsed := s.parsed[string(encoded)]; parsed != nil {
		return parsed, nil
	}
	var message clientv1.Schedule
	if err := proto.Unmarshal(encoded, &message); err != nil {
		return nil, fmt.Errorf("%w: %w", schedule.ErrBad, err)
	}
	parsed, err := schedule.Parse(&message)
	if err != nil {
		return nil, err
	}
	if len(s.parsed) >= maxKept {
		clear(s.parsed)
	}
	s.parsed[string(encoded)] = parsed
	return parsed, nil
}

func (s *Scheduler) tell(ctx context.Context, q *db.Queries, e audit.Event) error {
	return audit.Tell(ctx, q, s.cfg.Bus, e)
}

// tellRun tells the organisation's watching clients, once the run is durable.
func (s *Scheduler) tellRun(q *db.Queries, org int64, run, folder, account []byte, state string) {
	payload, err := proto.Marshal(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Run{Run: &clientv1.RunProgress{
		RunId: run, Account: &trustv1.Ref{FolderUid: folder, RecordUid: account}, State: state,
	}}})
	if err != nil {
		return // never: the message is plain
	}
	q.AfterCommit(func() { s.cfg.Bus.Publish(bus.Push(org), payload) })
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
