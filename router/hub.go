package router

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
)

// org is one organisation's agents on this node.
type org struct {
	number  int64
	agents  map[seal.ID]*channel // the newest of each
	members int                  // channels that joined and have not parted
	log     bus.Subscription
	none    chan struct{} // closed when the last has parted
}

// join puts a channel into the hub. An older one of the same agent ends: the
// newer is the one that the agent knows of.
func (r *Router) join(c *channel) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	o := r.orgs[c.org]
	if o == nil {
		o = &org{
			number: c.org, agents: make(map[seal.ID]*channel),
			log: r.cfg.Bus.Subscribe(bus.Log(c.org)), none: make(chan struct{}),
		}
		r.orgs[c.org] = o
		r.channels.Go(func() { r.watchLog(o) })
	}
	if old := o.agents[c.id]; old != nil {
		old.end(socket.Replaced, refusal(socket.Replaced, "the same agent opened a newer channel"))
	}
	o.agents[c.id] = c
	o.members++
	r.presence.here(c)
	return true
}

// part takes a channel out of the hub.
func (r *Router) part(c *channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.orgs[c.org]
	current := o.agents[c.id] == c
	if current {
		delete(o.agents, c.id)
	}
	r.presence.gone(c, current)
	if o.members--; o.members == 0 {
		delete(r.orgs, c.org)
		close(o.none)
	}
}

// logEvery spaces what a change of the log sets off.
const logEvery = time.Second

// watchLog looks, after changes of an organisation's log, whether agents of this
// node were removed, and tells the head to those at work. Idle agents learn it
// with their next command or run: a change must not send ten thousand of them
// after the log at once.
func (r *Router) watchLog(o *org) {
	defer o.log.Close()
	for {
		select {
		case <-o.none:
			return
		case <-o.log.C():
		}
		r.logChanged(o)
		pause := time.NewTimer(logEvery)
		select {
		case <-o.none:
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

func (r *Router) logChanged(o *org) {
	var head db.Org
	var revoked [][]byte
	err := r.cfg.Store.Read(r.ctx, func(q *db.Queries) (err error) {
		if head, err = q.OrgByNumber(r.ctx, o.number); err != nil {
			return err
		}
		revoked, err = q.RevokedAgents(r.ctx, o.number)
		return err
	})
	if err != nil {
		r.cfg.Log.Error("a changed log could not be read: removed agents keep their channels until the next change", "org", o.number, "error", err)
		return
	}
	frame := &channelv1.ToAgent{Frame: &channelv1.ToAgent_LogHead{
		LogHead: &channelv1.LogHead{Epoch: uint64(head.Epoch), Digest: head.Head},
	}}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, raw := range revoked {
		id, err := seal.IDFrom(raw)
		if c := o.agents[id]; err == nil && c != nil {
			c.end(socket.Revoked, refusal(socket.Revoked, "the agent was removed"))
		}
	}
	for _, c := range o.agents {
		if c.leases.Load() > 0 {
			c.send(frame)
		}
	}
}
