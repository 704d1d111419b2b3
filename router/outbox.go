package router

import (
	"database/sql"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// outbox delivers one agent's waiting commands in their order, at least once:
// what is not acknowledged is sent again over the next channel. No more than a
// window of them is under way, so that a slow agent fills no memory.
type outbox struct {
	c     *channel
	after int64             // number of the newest command sent on this channel
	sent  map[seal.ID]int64 // those not yet acknowledged, and when they expire
	more  bool              // the window was full: there may be more
}

// look sends what waits and has room; false: the channel is over.
func (o *outbox) look() bool {
	now := o.c.r.cfg.Now().UnixMilli()
	for id, expires := range o.sent {
		if expires < now {
			delete(o.sent, id) // swept or never taken; it holds up the others no longer
		}
	}
	room := window - len(o.sent)
	o.more = room == 0
	if room == 0 {
		return true
	}
	var waiting []db.WaitingCommandsRow
	err := o.c.r.cfg.Store.Read(o.c.r.ctx, func(q *db.Queries) (err error) {
		waiting, err = q.WaitingCommands(o.c.r.ctx, db.WaitingCommandsParams{
			Org: o.c.org, AgentID: o.c.id[:], After: o.after, Now: now, Rows: int64(room),
		})
		return err
	})
	if err != nil {
		o.c.r.cfg.Log.Error("an outbox could not be read; the agent is asked to come again", "agent", o.c.id, "error", err)
		o.c.end("closed", nil)
		return false
	}
	o.more = len(waiting) == room
	for _, w := range waiting {
		o.after = w.N
		var command trustv1.CommandFrame
		if err := proto.Unmarshal(w.Frame, &command); err != nil {
			o.c.r.cfg.Log.Error("a stored command is malformed and is not sent", "agent", o.c.id, "command", seal.ID(w.ID), "error", err)
			continue
		}
		frame, err := proto.Marshal(&channelv1.ToAgent{Frame: &channelv1.ToAgent_Deliver{Deliver: &channelv1.Deliver{Command: &command}}})
		if err != nil {
			o.c.r.cfg.Log.Error("a command could not be encoded", "agent", o.c.id, "error", err)
			continue
		}
		if !o.c.put(frame) {
			return false
		}
		if o.sent == nil {
			o.sent = make(map[seal.ID]int64)
		}
		o.sent[seal.ID(w.ID)] = command.GetExpires()
		o.c.r.stats.delivered.Add(1)
	}
	return true
}

// acked makes room in the window.
func (o *outbox) acked(id seal.ID) bool {
	delete(o.sent, id)
	if o.more {
		return o.look()
	}
	return true
}

// replayed is the reason by which an agent says that it had the command already:
// it is told, and the command counts as taken.
const replayed = "replayed"

// An acknowledgement waits so long for others before it is stored. One that is lost with
// the server costs a repetition, which the agent knows for one.
const (
	ackGather  = 20 * time.Millisecond
	acksAtOnce = 256
)

// storeAcks stores acknowledgements, those that come soon after one another in one
// write, until nothing more is read.
func (c *channel) storeAcks(acked <-chan *channelv1.Ack) {
	for first := range acked {
		acks := []*channelv1.Ack{first}
		c.taken(first)
		over := time.NewTimer(ackGather)
		for more := true; more && len(acks) < acksAtOnce; {
			select {
			case a, ok := <-acked:
				if more = ok; ok {
					acks = append(acks, a)
					c.taken(a)
				}
			case <-over.C:
				more = false
			}
		}
		over.Stop()
		if err := c.store(acks); err != nil {
			c.r.cfg.Log.Error("acknowledgements could not be stored; the commands come again", "agent", c.id, "error", err)
			c.end("closed", nil)
		}
	}
}

func (c *channel) store(acks []*channelv1.Ack) error {
	err := c.r.cfg.Store.Write(c.r.ctx, func(q *db.Queries) error {
		for _, a := range acks {
			if err := c.ack(q, a); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// taken makes room in the window: the agent has the command, whether that is stored
// here or not.
func (c *channel) taken(a *channelv1.Ack) {
	id, err := seal.IDFrom(a.GetCommandId())
	if err != nil {
		return
	}
	select {
	case c.acks <- id:
	case <-c.done:
	}
}

// ack notes that the agent has journalled a command or refused it for good. Only
// the first acknowledgement counts; one for another's command does nothing.
func (c *channel) ack(q *db.Queries, a *channelv1.Ack) error {
	id, err := seal.IDFrom(a.GetCommandId())
	if err != nil {
		return nil
	}
	ctx := c.r.ctx
	command, err := q.CommandOfAgent(ctx, db.CommandOfAgentParams{Org: c.org, AgentID: c.id[:], ID: id[:]})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	refused := a.GetReason()
	if refused == replayed {
		refused = ""
	}
	n, err := q.AckCommand(ctx, db.AckCommandParams{Reason: short(refused), Org: c.org, AgentID: c.id[:], ID: id[:]})
	if err != nil || n == 0 {
		return err
	}
	q.AfterCommit(func() {
		c.r.stats.acked.Add(1)
		c.r.push(c.org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Reply{Reply: id[:]}})
		if refused != "" {
			c.r.cfg.Bus.Publish(bus.Reply(c.org, id), nil)
		}
	})
	if a.GetReason() == "" {
		return nil
	}
	err = audit.Tell(ctx, q, c.r.cfg.Bus, audit.Event{
		Org: c.org, Time: c.r.cfg.Now(), Name: audit.CommandRefused, Actor: c.id[:], RunID: command.RunID, Reason: a.GetReason(),
		Fields: map[string]string{"command": id.String()},
	})
	if err != nil || refused == "" {
		return err
	}
	return c.r.cfg.Refused(ctx, q, c.org, c.id, id, short(refused))
}

const (
	sweepEvery = 30 * time.Second
	sweepRows  = 200

	// An agent takes a command until 120 s after its end, by its own clock; only
	// then nobody can be about to acknowledge it.
	sweepAfter = 150 * time.Second
)

// sweep drops commands whose time is over and that nobody took.
func (r *Router) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		if err := r.dropExpired(); err != nil {
			r.cfg.Log.Error("expired commands could not be dropped; tried again soon", "error", err)
		}
	}
}

func (r *Router) dropExpired() error {
	for {
		var n int
		err := r.cfg.Store.Write(r.ctx, func(q *db.Queries) error {
			expired, err := q.ExpiredCommands(r.ctx, db.ExpiredCommandsParams{
				Before: r.cfg.Now().Add(-sweepAfter).UnixMilli(), Rows: sweepRows,
			})
			if err != nil {
				return err
			}
			n = len(expired)
			for _, e := range expired {
				if err := r.drop(q, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || n < sweepRows {
			return err
		}
	}
}

func (r *Router) drop(q *db.Queries, e db.ExpiredCommandsRow) error {
	const expired = "expired"
	if _, err := q.AckCommand(r.ctx, db.AckCommandParams{Reason: expired, Org: e.Org, AgentID: e.AgentID, ID: e.ID}); err != nil {
		return err
	}
	err := audit.Tell(r.ctx, q, r.cfg.Bus, audit.Event{
		Org: e.Org, Time: r.cfg.Now(), Name: audit.CommandExpired, RunID: e.RunID, Reason: expired,
		Fields: map[string]string{"command": text(e.ID), "to": text(e.AgentID)},
	})
	if err != nil {
		return err
	}
	agent, err := seal.IDFrom(e.AgentID)
	if err != nil {
		return err
	}
	command, err := seal.IDFrom(e.ID)
	if err != nil {
		return err
	}
	q.AfterCommit(func() {
		r.push(e.Org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Reply{Reply: e.ID}})
		r.cfg.Bus.Publish(bus.Reply(e.Org, command), nil)
	})
	return r.cfg.Refused(r.ctx, q, e.Org, agent, command, expired)
}

func text(id []byte) string {
	parsed, err := seal.IDFrom(id)
	if err != nil {
		return ""
	}
	return parsed.String()
}
