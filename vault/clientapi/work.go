package clientapi

import (
	"errors"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// operated is an account on which the caller may operate.
func (w *writer) operated(r *trustv1.Ref) (trust.Ref, error) {
	name, err := ref(r)
	if err != nil {
		return name, err
	}
	if err := w.need(name.Folder, trust.Operate); err != nil {
		return name, err
	}
	_, err = w.record(name)
	return name, err
}

// pool is a live pool that may read a record's folder: no other could do the work.
func (w *writer) pool(b []byte, reads trust.Ref) (seal.ID, error) {
	pool, err := id("pool", b)
	if err != nil {
		return pool, err
	}
	e, ok := w.log.Entry(pool)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_POOL {
		return pool, notFound("the log knows no pool %s", pool)
	}
	if !w.log.Roles(pool, reads.Folder).Has(trust.Read) {
		return pool, notAllowed("pool %s may not read folder %s: an administrator has to let it", pool, reads.Folder)
	}
	return pool, nil
}

// Bounds of what is stored as it came, with fields that this server does not know.
const (
	maxSchedule = 1 << 10
	maxFrame    = 256 // of a command, without what is sealed
)

func parseSchedule(s *clientv1.Schedule) (*schedule.Schedule, error) {
	if n := proto.Size(s); n > maxSchedule {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "a schedule of %d bytes, at most %d", n, maxSchedule)
	}
	parsed, err := schedule.Parse(s)
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, ReasonSchedule, "", "%v", err)
	}
	return parsed, nil
}

func (w *writer) putRotation(r *clientv1.PutRotation) error {
	account, err := w.operated(r.GetAccount())
	if err != nil {
		return err
	}
	resource, err := w.operated(r.GetResource())
	if err != nil {
		return err
	}
	pool, err := w.pool(r.GetPoolId(), account)
	if err != nil {
		return err
	}
	parsed, err := parseSchedule(r.GetSchedule())
	if err != nil {
		return err
	}
	if err := parsed.Spaced(); err != nil {
		return refuse(connect.CodeInvalidArgument, ReasonSchedule, "", "%v", err)
	}
	missed, jitter := r.GetMissed(), time.Duration(r.GetJitterS())*time.Second
	if missed == "" {
		missed = "once"
	}
	switch {
	case missed != "skip" && missed != "once":
		return malformed("what to do about missed firings is skip or once, not %q", missed)
	case jitter > schedule.MaxJitter:
		return malformed("a jitter of %s, at most %s", span.Text(jitter), span.Text(schedule.MaxJitter))
	}
	due, nominal := parsed.Due(account.Record[:], jitter, w.now)
	if due.IsZero() {
		return refuse(connect.CodeInvalidArgument, ReasonSchedule, "", "the schedule never fires again")
	}
	encoded, err := proto.Marshal(r.GetSchedule())
	if err != nil {
		return malformed("schedule: %v", err)
	}
	err = w.q.PutRotation(w.ctx, db.PutRotationParams{
		Org: w.org, AccountUid: account.Record[:], FolderUid: account.Folder[:], ResourceUid: resource.Record[:], ResourceFolder: resource.Folder[:],
		PoolID: pool[:], Schedule: encoded, Missed: missed, JitterS: int64(r.GetJitterS()), Paused: flag(r.GetPaused()),
		NextDue: due.UnixMilli(), NextNominal: nominal.UnixMilli(), Now: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	w.wake()
	return w.tell(audit.Event{
		Name: audit.ScheduleSet, Folder: account.Folder[:], Record: account.Record[:],
		Fields: map[string]string{"schedule": parsed.String(), "next": strconv.FormatInt(due.UnixMilli(), 10)},
	})
}

func (w *writer) pauseRotation(r *clientv1.PauseRotation) error {
	account, err := w.operated(r.GetAccount())
	if err != nil {
		return err
	}
	rot, err := w.q.RotationOf(w.ctx, db.RotationOfParams{Org: w.org, AccountUid: account.Record[:]})
	if errors.Is(err, store.ErrNotFound) {
		return notFound("record %s has no schedule", account)
	}
	if err != nil {
		return err
	}
	if (rot.Paused&1 != 0) == r.GetPaused() {
		return nil
	}
	e := audit.Event{Name: audit.SchedulePaused, Folder: account.Folder[:], Record: account.Record[:]}
	due, nominal := time.UnixMilli(rot.NextDue), time.UnixMilli(rot.NextNominal)
	if !r.GetPaused() { // what would have fired meanwhile was not missed
		var s clientv1.Schedule
		if err := proto.Unmarshal(rot.Schedule, &s); err != nil {
			return refuse(connect.CodeFailedPrecondition, ReasonSchedule, "set the schedule again", "the stored schedule cannot be read")
		}
		parsed, err := parseSchedule(&s)
		if err != nil {
			return err
		}
		due, nominal = parsed.Due(account.Record[:], time.Duration(rot.JitterS)*time.Second, w.now)
		if due.IsZero() {
			return refuse(connect.CodeFailedPrecondition, ReasonSchedule, "set another schedule", "the schedule never fires again")
		}
		e.Name, e.Fields = audit.ScheduleResumed, map[string]string{"next": strconv.FormatInt(due.UnixMilli(), 10)}
	}
	err = w.q.PauseRotation(w.ctx, db.PauseRotationParams{
		Paused: flag(r.GetPaused()) | rot.Paused&^1, NextDue: due.UnixMilli(), NextNominal: nominal.UnixMilli(), Updated: w.now.UnixMilli(),
		Org: w.org, AccountUid: account.Record[:],
	})
	if err != nil {
		return err
	}
	w.wake()
	return w.tell(e)
}

func (w *writer) deleteRotation(r *clientv1.DeleteRotation) error {
	account, err := w.operated(r.GetAccount())
	if err != nil {
		return err
	}
	n, err := w.q.DeleteRotation(w.ctx, db.DeleteRotationParams{Org: w.org, AccountUid: account.Record[:]})
	if err != nil {
		return err
	}
	if n == 0 {
		return notFound("record %s has no schedule", account)
	}
	return w.tell(audit.Event{Name: audit.ScheduleDeleted, Folder: account.Folder[:], Record: account.Record[:]})
}

// wake tells the scheduler after the commit.
func (w *writer) wake() { w.q.AfterCommit(func() { w.s.Bus.Publish(bus.Work, nil) }) }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// frame checks the clear part of a command: it comes from the caller, and goes
// to a live agent. The agent trusts none of it.
func (w *writer) frame(f *trustv1.CommandFrame) (agent trust.Entry, err error) {
	to, err := id("command's recipient", f.GetTo())
	if err != nil {
		return agent, err
	}
	if _, err := id("command id", f.GetId()); err != nil {
		return agent, err
	}
	if string(f.GetFrom()) != string(w.entry[:]) {
		return agent, notAllowed("the command is from another device")
	}
	agent, ok := w.log.Entry(to)
	if !ok || agent.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT {
		return agent, refuse(connect.CodeNotFound, ReasonAgent, "list the agents, choose another", "%s is no live agent", to)
	}
	expires := time.UnixMilli(f.GetExpires())
	switch {
	case len(f.GetSealed()) == 0 || len(f.GetSealed()) > trust.MaxSealedCommand:
		return agent, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "a command of %d bytes, at most %d", len(f.GetSealed()), trust.MaxSealedCommand)
	case proto.Size(f) > len(f.GetSealed())+maxFrame:
		return agent, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "a command's frame of %d bytes, at most %d more than the command", proto.Size(f), maxFrame)
	case !expires.After(w.now.Add(-trust.Skew)):
		return agent, refuse(connect.CodeFailedPrecondition, ReasonExpired, "check this computer's clock, sign again", "the command has expired")
	case expires.After(w.now.Add(trust.StagingTime + trust.Skew)):
		return agent, malformed("the command expires too late")
	}
	return agent, nil
}

func (w *writer) startRun(r *clientv1.StartRun) error {
	run, err := id("run id", r.GetRunId())
	if err != nil {
		return err
	}
	account, err := w.operated(r.GetAccount())
	if err != nil {
		return err
	}
	resource, err := ref(r.GetResource())
	if err != nil {
		return err
	}
	pool, err := w.pool(r.GetPoolId(), account)
	if err != nil {
		return err
	}
	agent, err := w.frame(r.GetCommand())
	switch {
	case err != nil:
		return err
	case agent.Owner != pool:
		return refuse(connect.CodeNotFound, ReasonAgent, "choose an agent of the resource's pool", "agent %s is not of pool %s", agent.ID, pool)
	case string(r.GetCommand().GetRunId()) != string(run[:]):
		return malformed("the command is for another run")
	}
	return w.s.Work.StartRun(w.ctx, w.q, w.org, work.Start{
		RunID: run, Account: account.Proto(), Resource: resource.Proto(), PoolID: pool[:],
		Action: r.GetAction(), Cause: "person", Command: r.GetCommand(), Actor: w.entry.Bytes(),
	})
}

// sendCommand carries a command that starts no run. The server cannot see what
// it is about: it asks for OPERATE on some folder of the agent's pool.
func (w *writer) sendCommand(r *clientv1.SendCommand) error {
	agent, err := w.frame(r.GetCommand())
	if err != nil {
		return err
	}
	if !w.operatesWith(agent.Owner) {
		return notAllowed("this needs operate on a folder that the agent's pool reads")
	}
	return w.s.Work.SendCommand(w.ctx, w.q, w.org, r.GetCommand(), w.entry[:])
}

// operatesWith reports whether the caller may operate in a folder that a pool reads.
func (p *party) operatesWith(pool seal.ID) bool {
	if p.has(seal.ID{}, trust.Operate) {
		return true
	}
	for _, g := range p.log.GrantsTo(pool) {
		if g.Folder.IsZero() { // the pool reads all: any folder of the caller's will do
			return len(p.folders(trust.Operate)) > 0
		}
		if p.has(g.Folder, trust.Operate) {
			return true
		}
	}
	return false
}

func (w *writer) dropRun(r *clientv1.DropRun) error {
	runID, err := id("run id", r.GetRunId())
	if err != nil {
		return err
	}
	run, err := w.q.RunByID(w.ctx, db.RunByIDParams{Org: w.org, RunID: runID[:]})
	if errors.Is(err, store.ErrNotFound) || err == nil && !w.has(seal.ID(run.FolderUid), trust.Read) {
		return notFound("no run %s", runID)
	}
	if err != nil {
		return err
	}
	if err := w.need(seal.ID(run.FolderUid), trust.Operate); err != nil {
		return err
	}
	if run.State != work.Queued {
		return refuse(connect.CodeFailedPrecondition, ReasonStarted, "cancel it with a command to its agent", "run %s is %s", runID, run.State)
	}
	return w.s.Work.Drop(w.ctx, w.q, w.org, runID[:], "dropped", w.entry[:])
}
