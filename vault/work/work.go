// Package work is the vault's part in a run: leases, candidates, commits and the
// run's state, each one transaction over the store.
//
// Every function runs inside a store's Write and does nothing outside of it but
// by AfterCommit, so that a caller can join it with writes of its own. What an
// agent's message claims is held against the log and the agent's signature as
// far as the honest server can see it; the parties that read a value check all
// of it again.
//
// Refusals are *ksm.Error; any other error is the store's.
package work

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Directory gives an organisation's log, as the honest server replayed it.
type Directory interface {
	View(ctx context.Context, q *db.Queries, org int64) (*trust.Log, error)
}

// Finisher is told when a run has ended (finished, failed, alert, dropped), in
// the same transaction, so that the account's rotation follows.
type Finisher interface {
	Finished(ctx context.Context, q *db.Queries, run db.Run) error
}

// Work holds what the transactions need.
type Work struct {
	Directory Directory
	Bus       bus.Bus
	Finisher  Finisher         // may be nil
	Now       func() time.Time // for tests; nil is store.Now
}

// Agent is the caller of an agent's operation, authenticated by its request's
// signature.
type Agent struct {
	Org int64
	ID  seal.ID
}

// Start describes a new run.
type Start struct {
	RunID    seal.ID
	Account  *trustv1.Ref
	Resource *trustv1.Ref // may be nil
	PoolID   []byte
	Action   string // rotate, verify, script
	Cause    string // person, schedule, recover
	// Command is a person's sealed command, written to the agent's outbox in
	// the same transaction; nil for the others.
	Command *trustv1.CommandFrame
	Actor   []byte // the person's device, for the event
}

// StartRun writes a run in state queued. The same run id with the same account
// again only sends the new command: so a client follows a command that nobody
// took with one for another agent.
func (w *Work) StartRun(ctx context.Context, q *db.Queries, org int64, s Start) error {
	account, err := trust.RefFrom(s.Account)
	if err != nil {
		return ksm.Refuse(ksm.CodeBadRequest, "the run's account: %s", err)
	}
	if s.RunID.IsZero() || s.Action != "rotate" && s.Action != "verify" && s.Action != "script" {
		return ksm.Refuse(ksm.CodeBadRequest, "a run needs an id, and an action that is rotate, verify or script")
	}
	if s.Action == "script" && s.Command == nil {
		return ksm.Refuse(ksm.CodeBadRequest, "scripts alone run by a person's command")
	}
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: org, RunID: s.RunID[:]})
	switch {
	case errors.Is(err, store.ErrNotFound):
		if err := w.addRun(ctx, q, org, s, account); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("read run: %w", err)
	case seal.ID(run.AccountUid) != account.Record || closed[run.State] || s.Command == nil:
		return ksm.Refuse(ksm.CodeBadRequest, "run %s exists already", s.RunID)
	default:
		err := q.AimRun(ctx, db.AimRunParams{AgentID: s.Command.GetTo(), CommandID: s.Command.GetId(), Org: org, RunID: run.RunID})
		if err != nil {
			return fmt.Errorf("write run: %w", err)
		}
	}
	if s.Command == nil {
		w.wake(q)
		return nil
	}
	return w.SendCommand(ctx, q, org, s.Command, s.Actor)
}

func (w *Work) addRun(ctx context.Context, q *db.Queries, org int64, s Start, account trust.Ref) error {
	now := w.now()
	run := db.Run{
		Org: org, RunID: s.RunID[:], AccountUid: account.Record[:], FolderUid: account.Folder[:],
		ResourceUid: s.Resource.GetRecordUid(), ResourceFolder: s.Resource.GetFolderUid(), PoolID: s.PoolID,
		AgentID: s.Command.GetTo(), CommandID: s.Command.GetId(), Action: s.Action, Cause: s.Cause, State: Queued, Created: now.UnixMilli(),
	}
	w.rest(&run, 0)
	err := q.AddRun(ctx, db.AddRunParams{
		Org: org, RunID: run.RunID, AccountUid: run.AccountUid, FolderUid: run.FolderUid,
		ResourceUid: run.ResourceUid, ResourceFolder: run.ResourceFolder, PoolID: run.PoolID, AgentID: run.AgentID,
		Action: run.Action, Cause: run.Cause, CommandID: run.CommandID, Created: run.Created, NextAttempt: run.NextAttempt,
	})
	if err != nil {
		return fmt.Errorf("write run: %w", err)
	}
	w.tellRun(q, run)
	return w.tell(ctx, q, audit.Event{
		Org: org, Time: now, Name: audit.RunQueued, Actor: s.Actor, Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
		Fields: map[string]string{"cause": s.Cause, "action": s.Action},
	})
}

// maxWaiting bounds an agent's outbox.
const maxWaiting = 1000

// SendCommand writes a sealed command to an agent's outbox and wakes its channel.
func (w *Work) SendCommand(ctx context.Context, q *db.Queries, org int64, frame *trustv1.CommandFrame, actor []byte) error {
	if len(frame.GetTo()) != 16 || len(frame.GetFrom()) != 16 || len(frame.GetId()) != 16 {
		return ksm.Refuse(ksm.CodeBadRequest, "a command's frame names no agent, no sender or no id")
	}
	if len(frame.GetSealed()) > trust.MaxSealedCommand {
		return ksm.Refuse(ksm.CodeTooLarge, "a command has %d bytes, at most %d are carried", len(frame.GetSealed()), trust.MaxSealedCommand)
	}
	n, err := q.CountWaitingCommands(ctx, db.CountWaitingCommandsParams{Org: org, AgentID: frame.To})
	if err != nil {
		return fmt.Errorf("count commands: %w", err)
	}
	if n >= maxWaiting {
		e := ksm.Refuse(ksm.CodeThrottled, "%d commands wait for this agent already", n)
		e.RetryAfter = time.Minute
		return e
	}
	raw, err := proto.Marshal(frame)
	if err != nil {
		return fmt.Errorf("encode command frame: %w", err)
	}
	now := w.now()
	err = q.AddCommand(ctx, db.AddCommandParams{
		Org: org, ID: frame.Id, AgentID: frame.To, FromID: frame.From, RunID: frame.RunId,
		Frame: raw, Expires: frame.Expires, Created: now.UnixMilli(),
	})
	if errors.Is(err, store.ErrExists) {
		return ksm.Refuse(ksm.CodeBadRequest, "a command with this id was sent already")
	}
	if err != nil {
		return fmt.Errorf("write command: %w", err)
	}
	agent := bus.Agent(org, [16]byte(frame.To))
	q.AfterCommit(func() { w.Bus.Publish(agent, nil) })
	return w.tell(ctx, q, audit.Event{
		Org: org, Time: now, Name: audit.CommandSent, Actor: actor, RunID: frame.RunId,
		Fields: map[string]string{"command": ksm.URL(frame.Id), "to": ksm.URL(frame.To), "expires": fmt.Sprint(frame.Expires)},
	})
}

// CommandRefused follows an agent's refusal of a command for good (its
// acknowledgement named a reason): the run that the command was to start, and
// that nobody has taken, has failed. The command's row is the router's.
func (w *Work) CommandRefused(ctx context.Context, q *db.Queries, a Agent, commandID []byte, reason string) error {
	c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: a.Org, ID: commandID})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read command: %w", err)
	}
	if len(c.RunID) == 0 || seal.ID(c.AgentID) != a.ID {
		return nil
	}
	return w.refused(ctx, q, a, c.RunID, c.ID, reason)
}

// refused fails a queued run that an agent will not take. commandID is that of
// the refused command, nil for a scheduled run: an older command's refusal does
// not end a run that a newer command has gone out for.
func (w *Work) refused(ctx context.Context, q *db.Queries, a Agent, runID, commandID []byte, reason string) error {
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: a.Org, RunID: runID})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read run: %w", err)
	}
	if run.State != Queued || commandID != nil && string(run.CommandID) != string(commandID) {
		return nil
	}
	return w.end(ctx, q, run, fail, trustv1.Outcome_OUTCOME_NONE, "", reason, a.ID[:])
}

// Drop ends a run that nobody has taken, e.g. since its time is over.
func (w *Work) Drop(ctx context.Context, q *db.Queries, org int64, runID []byte, reason string, actor []byte) error {
	run, err := q.RunByID(ctx, db.RunByIDParams{Org: org, RunID: runID})
	if errors.Is(err, store.ErrNotFound) {
		return ksm.Refuse(ksm.CodeBadRequest, "there is no such run")
	}
	if err != nil {
		return fmt.Errorf("read run: %w", err)
	}
	if run.State != Queued {
		return ksm.Refuse(ksm.CodeOutstanding, "an agent has taken the run: it is %s", run.State)
	}
	return w.dropped(ctx, q, run, reason, actor)
}

func (w *Work) dropped(ctx context.Context, q *db.Queries, run db.Run, reason string, actor []byte) error {
	before := run.State
	if err := move(&run, drop); err != nil {
		return err
	}
	run.Reason = reason
	if err := w.save(ctx, q, run, before); err != nil {
		return err
	}
	return w.tell(ctx, q, audit.Event{
		Org: run.Org, Time: w.now(), Name: audit.RunDropped, Actor: actor, Reason: reason,
		Folder: run.FolderUid, Record: run.AccountUid, RunID: run.RunID,
	})
}

func (w *Work) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return store.Now()
}

func (w *Work) tell(ctx context.Context, q *db.Queries, e audit.Event) error {
	return audit.Tell(ctx, q, w.Bus, e)
}
