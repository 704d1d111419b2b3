package router

import (
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

const (
	flushEvery = time.Second // at most one transaction in this time
	flushRows  = 1000        // comings and goings in one; heartbeats are never held back
	maxEvents  = 4           // of one agent in one; a flapping agent fills no disk
	maxPhases  = 2000        // runs whose phase is kept for the next flush

	tellAgain   = 10 * time.Minute // a refused agent is told of once in this time
	maxToldThen = 10_000
)

// presence gathers what the hub has to store of agents, and writes it together.
type presence struct {
	r *Router

	mu     sync.Mutex
	agents map[key]*change
	fresh  map[runKey]phase // hints of this second
	ripe   map[runKey]phase // of the second before, and not overtaken: worth a write
	told   map[key]time.Time
	wake   chan struct{}
}

type key struct {
	org   int64
	agent seal.ID
}

type runKey struct {
	org int64
	run seal.ID
}

type phase struct {
	agent seal.ID
	name  string
}

// change is what is to be written of one agent.
type change struct {
	here   *agent // it came
	gone   bool   // and left, or only left
	drains bool   // it begins nothing more
	moves  bool   // others have to do what it had
	seen   int64
	beats  []beat // to be acknowledged once seen is stored
	events []audit.Event
}

// beat is the newest heartbeat of a channel.
type beat struct {
	c *channel
	n uint64
}

func newPresence(r *Router) *presence {
	return &presence{
		r: r, agents: make(map[key]*change), fresh: make(map[runKey]phase), told: make(map[key]time.Time),
		wake: make(chan struct{}, 1),
	}
}

// of gives the change of an agent to be added to; p.mu is held.
func (p *presence) of(org int64, agent seal.ID) *change {
	k := key{org, agent}
	if p.agents[k] == nil {
		p.agents[k] = &change{}
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return p.agents[k]
}

func (ch *change) tell(e audit.Event) {
	if len(ch.events) < maxEvents {
		ch.events = append(ch.events, e)
	}
}

// here notes that an agent opened its channel.
func (p *presence) here(c *channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.of(c.org, c.id)
	now := p.r.cfg.Now()
	ch.here, ch.gone, ch.drains, ch.seen = &c.agent, false, false, max(ch.seen, now.UnixMilli())
	ch.tell(audit.Event{
		Org: c.org, Time: now, Name: audit.AgentConnected, Actor: c.id[:],
		Fields: map[string]string{"address": c.address, "version": c.version, "os": c.os, "arch": c.arch, "node": p.r.cfg.Node},
	})
}

// gone notes that a channel ended. Unless it was the agent's newest here, the
// agent is still present. A restart of the server is one event, not ten thousand.
func (p *presence) gone(c *channel, newest bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.of(c.org, c.id)
	ch.gone = ch.gone || newest
	// Agents come back from a restart of the server, with all that they had.
	ch.moves = ch.moves || newest && c.reason != "restarting"
	if c.leases.Load() > 0 {
		ch.seen = max(ch.seen, c.beat.Load())
	}
	if c.reason != "restarting" {
		ch.tell(audit.Event{
			Org: c.org, Time: p.r.cfg.Now(), Name: audit.AgentDisconnected, Actor: c.id[:], Reason: c.reason,
			Fields: map[string]string{"node": p.r.cfg.Node},
		})
	}
}

// drains notes that an agent begins nothing more: what it was told of and has not begun
// is another's.
func (p *presence) drains(c *channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.of(c.org, c.id)
	ch.drains, ch.moves = true, true
}

// beat notes the heartbeat of an agent with leases. It is acknowledged after the
// next flush; a later one of the same channel stands for it.
func (p *presence) beat(c *channel, n uint64, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.of(c.org, c.id)
	ch.seen = max(ch.seen, at)
	for i := range ch.beats {
		if ch.beats[i].c == c {
			ch.beats[i].n = n
			return
		}
	}
	ch.beats = append(ch.beats, beat{c, n})
}

// refused notes that a known agent got no channel.
func (p *presence) refused(who agent, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, now := key{who.org, who.id}, time.Now()
	if last, ok := p.told[k]; ok && now.Sub(last) < tellAgain {
		return
	}
	if len(p.told) >= maxToldThen {
		clear(p.told)
	}
	p.told[k] = now
	p.of(who.org, who.id).tell(p.r.refusedEvent(who, reason))
}

// phase notes a run's newest hint. Only a phase that lasts is written: a run
// that takes a moment costs nothing here.
func (p *presence) phase(c *channel, run seal.ID, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := runKey{c.org, run}
	delete(p.ripe, k)
	if _, known := p.fresh[k]; !known && len(p.fresh) >= maxPhases {
		return
	}
	p.fresh[k] = phase{c.id, name}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run writes what has gathered, at most once in flushEvery, until the hub stops.
func (p *presence) run() {
	for {
		stopping := false
		select {
		case <-p.wake:
		case <-p.r.stop:
			stopping = true
		}
		p.flush()
		if stopping {
			p.leave()
			return
		}
		pause := time.NewTimer(flushEvery)
		select {
		case <-pause.C:
		case <-p.r.stop:
			pause.Stop()
		}
	}
}

// leave is the node's own going: nobody is connected here any more.
func (p *presence) leave() {
	for p.pending() {
		if !p.flush() {
			break // the next start of this node sets it right
		}
	}
	err := p.r.cfg.Store.Write(p.r.ctx, func(q *db.Queries) error { return q.NodeGone(p.r.ctx, p.r.cfg.Node) })
	if err != nil {
		p.r.cfg.Log.Error("presence could not be written; the next start sets it right", "error", err)
	}
}

func (p *presence) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.agents) > 0
}

// flush writes one batch; false: it could not, and keeps it for the next time.
func (p *presence) flush() bool {
	batch, phases := p.take()
	if len(batch) == 0 && len(phases) == 0 {
		return true
	}
	err := p.r.cfg.Store.Write(p.r.ctx, func(q *db.Queries) error {
		var came []byte
		for k, ch := range batch {
			if err := p.store(q, k, ch); err != nil {
				return err
			}
			if ch.here != nil && !ch.gone {
				came = bus.Arrival(came, k.org, k.agent)
			}
		}
		if len(came) > 0 {
			q.AfterCommit(func() { p.r.cfg.Bus.Publish(bus.Here, came) })
		}
		for k, ph := range phases {
			err := q.NotePhase(p.r.ctx, db.NotePhaseParams{Phase: ph.name, Org: k.org, RunID: k.run[:], AgentID: ph.agent[:]})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.r.cfg.Log.Error("presence could not be written; heartbeats wait for it", "agents", len(batch), "error", err)
		p.putBack(batch)
		return false
	}
	p.r.stats.flushes.Add(1)
	for _, ch := range batch {
		for _, b := range ch.beats {
			b.c.send(b.c.beatAck(b.n))
		}
	}
	return true
}

func (p *presence) store(q *db.Queries, k key, ch *change) error {
	ctx := p.r.ctx
	if h := ch.here; h != nil {
		err := q.AgentHere(ctx, db.AgentHereParams{
			Org: k.org, AgentID: k.agent[:], Seen: ch.seen, Node: p.r.cfg.Node, Version: h.version, Os: h.os, Arch: h.arch,
		})
		if err != nil {
			return err
		}
	} else if ch.seen > 0 {
		if err := q.AgentSeen(ctx, db.AgentSeenParams{Seen: ch.seen, Org: k.org, AgentID: k.agent[:]}); err != nil {
			return err
		}
	}
	if ch.drains {
		if err := q.AgentDrains(ctx, db.AgentDrainsParams{Org: k.org, AgentID: k.agent[:], Node: p.r.cfg.Node}); err != nil {
			return err
		}
	}
	if ch.gone {
		if err := q.AgentGone(ctx, db.AgentGoneParams{Org: k.org, AgentID: k.agent[:], Node: p.r.cfg.Node}); err != nil {
			return err
		}
	}
	if ch.moves {
		// The scheduler looks at them now, and again when their leases run out.
		if err := q.LookAtRunsOf(ctx, db.LookAtRunsOfParams{Now: p.r.cfg.Now().UnixMilli(), Org: k.org, AgentID: k.agent[:]}); err != nil {
			return err
		}
		q.AfterCommit(func() { p.r.cfg.Bus.Publish(bus.Work, nil) })
	}
	for _, e := range ch.events {
		if err := audit.Tell(ctx, q, p.r.cfg.Bus, e); err != nil {
			return err
		}
	}
	return nil
}

// take gives one batch: all heartbeats, and as many comings and goings as fit.
func (p *presence) take() (map[key]*change, map[runKey]phase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	phases := p.ripe
	p.ripe, p.fresh = p.fresh, make(map[runKey]phase)
	if len(p.ripe) > 0 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	if len(p.agents) <= flushRows {
		batch := p.agents
		p.agents = make(map[key]*change)
		return batch, phases
	}
	batch := make(map[key]*change)
	for k, ch := range p.agents {
		if len(ch.beats) > 0 || len(batch) < flushRows {
			batch[k] = ch
			delete(p.agents, k)
		}
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return batch, phases
}

// putBack keeps a batch that could not be written, below what came since.
func (p *presence) putBack(batch map[key]*change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, old := range batch {
		ch := p.of(k.org, k.agent)
		if ch.here == nil {
			ch.here, ch.gone, ch.drains = old.here, ch.gone || old.gone, ch.drains || old.drains
		}
		ch.moves = ch.moves || old.moves
		ch.seen = max(ch.seen, old.seen)
		newer := ch.events
		ch.events = nil
		for _, e := range append(old.events, newer...) {
			ch.tell(e)
		}
		for _, b := range old.beats {
			if !answers(ch.beats, b.c) {
				ch.beats = append(ch.beats, b)
			}
		}
	}
}

func answers(beats []beat, c *channel) bool {
	for _, b := range beats {
		if b.c == c {
			return true
		}
	}
	return false
}
