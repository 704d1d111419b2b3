package scheduler

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	// leaseTerm is the vault's: a lease lives until that long after the later of
	// its taking and its agent's last sign of life.
	leaseTerm = 10 * time.Second

	// The words "run due" go out again after a quarter of the run's age, within
	// these: a run that waits behind ten thousand others is not told every
	// moment.
	leastAgain = 15 * time.Second
	mostAgain  = 2 * time.Minute
	mostAlone  = 5 * time.Minute // while no agent is connected

	noAgent = "no_agent" // marks a run of which this was told
)

// dispatching is one batch: what was found out for it, and what is to be sent.
type dispatching struct {
	s     *Scheduler
	q     *db.Queries
	now   time.Time
	pools map[string][]seal.ID     // connected agents by organisation and pool
	out   map[string]*bytes.Buffer // frames by topic
}

// dispatch handles one batch of due runs and gives their number.
func (s *Scheduler) dispatch(ctx context.Context) (int, error) {
	return s.send(ctx, func(d *dispatching) ([]db.Run, error) {
		return d.q.DueRuns(ctx, db.DueRunsParams{Now: d.now.UnixMilli(), Rows: batch})
	})
}

// welcome sends out what has waited for the agents that came.
func (s *Scheduler) welcome(ctx context.Context) error {
	came := s.came
	s.came = nil
	done := make(map[string]bool) // pools
	for _, a := range came {
		pool, err := s.poolOf(ctx, a)
		if err != nil {
			s.cfg.Log.Error("an agent's pool cannot be looked up; what waits for it goes out later", "org", a.org, "agent", a.agent, "error", err)
			continue
		}
		key := poolKey(a.org, pool[:])
		if pool.IsZero() || done[key] {
			continue
		}
		done[key] = true
		for n := batch; n == batch; {
			n, err = s.send(ctx, func(d *dispatching) ([]db.Run, error) {
				agents, err := d.connected(ctx, a.org, pool[:])
				if err != nil || len(agents) == 0 {
					return nil, err // they are gone again
				}
				return d.q.LonelyRuns(ctx, db.LonelyRunsParams{Org: a.org, PoolID: pool[:], Rows: batch})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// poolOf is an agent's pool; zero where the log does not know it.
func (s *Scheduler) poolOf(ctx context.Context, a arrival) (pool seal.ID, err error) {
	err = s.cfg.Store.Read(ctx, func(q *db.Queries) error {
		log, err := s.cfg.Directory.View(ctx, q, a.org)
		if err == nil {
			e, _ := log.Entry(a.agent)
			pool = e.Owner
		}
		return err
	})
	return pool, err
}

// send handles a batch of runs and gives their number.
func (s *Scheduler) send(ctx context.Context, find func(*dispatching) ([]db.Run, error)) (n int, err error) {
	err = s.cfg.Store.Write(ctx, func(q *db.Queries) error {
		d := &dispatching{s: s, q: q, now: s.cfg.Now(), pools: make(map[string][]seal.ID), out: make(map[string]*bytes.Buffer)}
		runs, err := find(d)
		if err != nil {
			return err
		}
		n = len(runs)
		for _, run := range runs {
			if err := d.one(ctx, run); err != nil {
				return fmt.Errorf("run %x: %w", run.RunID, err)
			}
		}
		q.AfterCommit(func() {
			for topic, frames := range d.out {
				s.cfg.Bus.Publish(topic, frames.Bytes())
			}
		})
		return nil
	})
	return n, err
}

func (d *dispatching) one(ctx context.Context, run db.Run) error {
	until, holder, err := d.leased(ctx, run)
	if err != nil {
		return err
	}
	if d.now.Before(until) {
		// An agent that was killed between the lease and its journal does not know that it
		// has this run, and its heartbeats keep the lease. One that is at it lets the words
		// pass.
		if !holder.IsZero() {
			if err := d.send(run, holder); err != nil {
				return err
			}
		}
		// Somebody works on this account: look again when the lease may be over.
		return d.again(ctx, run, until, agentsKnown(run.Reason))
	}
	if run.Cause == "person" && (run.State == "queued" || run.State == "leased") {
		// Only the agent that has the command could, and its time is over.
		return d.expired(ctx, run)
	}
	agents, err := d.connected(ctx, run.Org, run.PoolID)
	if err != nil {
		return err
	}
	age := d.now.Sub(time.UnixMilli(run.Created))
	if len(agents) == 0 {
		return d.alone(ctx, run, d.now.Add(untilLookedFor(age)))
	}
	agent := agents[d.s.turn(run.Org, run.PoolID)%len(agents)]
	if err := d.send(run, agent); err != nil {
		return err
	}
	after := leastAgain
	if run.State == "queued" {
		after = min(max(age/4, leastAgain), mostAgain)
	}
	// Whose turn it is stands with the run, so that it is another's at once when that agent
	// goes.
	return d.q.TellAgent(ctx, db.TellAgentParams{
		AgentID: agent[:], NextAttempt: d.now.Add(after).UnixMilli(), Reason: agentsKnown(run.Reason), Org: run.Org, RunID: run.RunID,
	})
}

// agentsKnown is a run's reason from when there is an agent for it.
func agentsKnown(reason string) string {
	if reason == noAgent {
		return ""
	}
	return reason
}

// untilLookedFor is when agents are looked for again for a run of that age. It is spread:
// what waits together, a hundred thousand runs perhaps, is not looked at all at once.
func untilLookedFor(age time.Duration) time.Duration {
	wait := min(max(age, leastAgain), mostAlone)
	return wait - rand.N(wait/4)
}

// leased is when the account's lease runs out, the zero time where nobody holds it, and
// who holds it for this very run.
func (d *dispatching) leased(ctx context.Context, run db.Run) (until time.Time, holder seal.ID, err error) {
	lease, err := d.q.LeaseOf(ctx, db.LeaseOfParams{Org: run.Org, AccountUid: run.AccountUid})
	if errors.Is(err, sql.ErrNoRows) || err == nil && lease.Live == 0 {
		return time.Time{}, seal.ID{}, nil
	}
	if err != nil {
		return time.Time{}, seal.ID{}, fmt.Errorf("read lease: %w", err)
	}
	seen, err := d.q.AgentSeenAt(ctx, db.AgentSeenAtParams{Org: run.Org, AgentID: lease.AgentID})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, seal.ID{}, fmt.Errorf("read the holder's last sign: %w", err)
	}
	if bytes.Equal(lease.RunID, run.RunID) {
		holder = seal.ID(lease.AgentID)
	}
	return time.UnixMilli(max(lease.Taken, seen)).Add(leaseTerm), holder, nil
}

// connected gives the agents of a pool that stand in the log and are connected.
func (d *dispatching) connected(ctx context.Context, org int64, pool []byte) ([]seal.ID, error) {
	key := poolKey(org, pool)
	if agents, known := d.pools[key]; known {
		return agents, nil
	}
	agents, err := d.lookUp(ctx, org, pool)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// One organisation's trouble must not hold up the others: its runs wait.
		d.s.cfg.Log.Error("the agents of a pool cannot be looked up; its runs wait", "org", org, "error", err)
	}
	d.pools[key] = agents
	return agents, nil
}

func (d *dispatching) lookUp(ctx context.Context, org int64, pool []byte) ([]seal.ID, error) {
	id, err := seal.IDFrom(pool)
	if err != nil {
		return nil, nil // a record without a pool: no agent may
	}
	log, err := d.s.cfg.Directory.View(ctx, d.q, org)
	if err != nil {
		return nil, err
	}
	var ids [][]byte
	for _, e := range log.Owned(id) {
		if e.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT {
			ids = append(ids, e.ID.Bytes())
		}
	}
	var agents []seal.ID
	for len(ids) > 0 {
		part := ids[:min(len(ids), 500)]
		ids = ids[len(part):]
		present, err := d.q.PresenceOf(ctx, db.PresenceOfParams{Org: org, Ids: part})
		if err != nil {
			return nil, err
		}
		for _, p := range present {
			if p.Connected == 1 { // and does not drain
				agents = append(agents, seal.ID(p.AgentID))
			}
		}
	}
	return agents, nil
}

// turn counts a pool's runs, so that its agents get them one after another.
func (s *Scheduler) turn(org int64, pool []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.turns) >= maxKept {
		clear(s.turns)
	}
	key := poolKey(org, pool)
	s.turns[key]++
	return s.turns[key]
}

func poolKey(org int64, pool []byte) string { return strconv.FormatInt(org, 10) + "/" + string(pool) }

// send adds the words "run due" to what goes to an agent. A candidate that is
// outstanding makes the run a recovery, whatever it began as.
func (d *dispatching) send(run db.Run, agent seal.ID) error {
	action := run.Action
	if run.State == "staged" || run.State == "committed" {
		action = "recover"
	}
	topic := bus.Agent(run.Org, agent)
	if d.out[topic] == nil {
		d.out[topic] = new(bytes.Buffer)
	}
	_, err := protodelim.MarshalTo(d.out[topic], &channelv1.ToAgent{Frame: &channelv1.ToAgent_RunDue{RunDue: &channelv1.RunDue{
		RunId: run.RunID, Account: &trustv1.Ref{FolderUid: run.FolderUid, RecordUid: run.AccountUid}, Action: action,
		Resource: &trustv1.Ref{FolderUid: run.ResourceFolder, RecordUid: run.ResourceUid},
	}}})
	return err
}

func (d *dispatching) again(ctx context.Context, run db.Run, at time.Time, reason string) error {
	return d.q.AskAgain(ctx, db.AskAgainParams{NextAttempt: at.UnixMilli(), Reason: reason, Org: run.Org, RunID: run.RunID})
}

// alone lets a run wait that no agent can take, and tells so once.
func (d *dispatching) alone(ctx context.Context, run db.Run, until time.Time) error {
	if run.Reason != "" {
		return d.again(ctx, run, until, run.Reason)
	}
	e := audit.Event{
		Org: run.Org, Time: d.now, Name: audit.RunWaiting, Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID, Reason: noAgent,
	}
	if pool, err := seal.IDFrom(run.PoolID); err == nil {
		e.Fields = map[string]string{"pool": pool.String()}
	}
	if err := d.s.tell(ctx, d.q, e); err != nil {
		return err
	}
	return d.again(ctx, run, until, noAgent)
}

// expired ends a person's run that nobody can take any more.
func (d *dispatching) expired(ctx context.Context, run db.Run) error {
	const reason = "expired"
	n, err := d.q.EndUntakenRun(ctx, db.EndUntakenRunParams{Reason: reason, Now: d.now.UnixMilli(), Org: run.Org, RunID: run.RunID})
	if err != nil || n == 0 {
		return err
	}
	run.State, run.Phase, run.Reason, run.Finished, run.NextAttempt = "failed", "failed", reason, d.now.UnixMilli(), 0
	d.s.tellRun(d.q, run.Org, run.RunID, run.FolderUid, run.AccountUid, run.State)
	err = d.s.tell(ctx, d.q, audit.Event{
		Org: run.Org, Time: d.now, Name: audit.RunFailed, Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID, Reason: reason,
	})
	if err != nil {
		return err
	}
	return d.s.Finished(ctx, d.q, run)
}

const (
	overdueAfter = 15 * time.Minute
	overdueEvery = time.Minute
)

// lookForOverdue tells, once for each, of runs that have been under way for long:
// one batch of them, since what is due goes before. The others come with the next
// pass.
func (s *Scheduler) lookForOverdue(ctx context.Context) error {
	now := s.cfg.Now()
	if now.Sub(s.overdue).Abs() < overdueEvery {
		return nil
	}
	before := now.Add(-overdueAfter).UnixMilli()
	var late []db.Run
	find := func(q *db.Queries) (err error) {
		late, err = q.OverdueRuns(ctx, db.OverdueRunsParams{Before: before, Rows: batch})
		return err
	}
	if err := s.cfg.Store.Read(ctx, find); err != nil {
		return fmt.Errorf("look for overdue runs: %w", err)
	}
	if len(late) < batch {
		s.overdue = now
	}
	if len(late) == 0 {
		return nil
	}
	err := s.cfg.Store.Write(ctx, func(q *db.Queries) error {
		for _, run := range late {
			n, err := q.MarkOverdue(ctx, db.MarkOverdueParams{Org: run.Org, RunID: run.RunID})
			if err != nil {
				return err
			}
			if n == 0 {
				continue // it has ended, or another server has told
			}
			err = s.tell(ctx, q, audit.Event{
				Org: run.Org, Time: now, Name: audit.RunOverdue, Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID, Reason: "overdue",
				Fields: map[string]string{"state": run.State, "since": strconv.FormatInt(run.Created, 10)},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tell of overdue runs: %w", err)
	}
	return nil
}
