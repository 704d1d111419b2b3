package router

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

const (
	queued = 8  // frames that wait for a slow agent; one more and it is cut
	window = 16 // commands sent that the agent has not taken yet

	maxFrames   = 2000 // from one agent within a second; one more and it is cut
	maxProgress = 500  // of those, hints that are passed on
	maxPhase    = 32   // bytes
)

// channel is one agent's connection. The goroutine that runs it reads, and answers idle
// heartbeats; a second one writes all else and alone delivers commands; a third, from the
// first acknowledgement on, stores those, so that such as come together share a write and
// no heartbeat waits for one.
type channel struct {
	r       *Router
	sock    *socket.Conn
	writing sync.Mutex     // one writes at a time
	others  sync.WaitGroup // the goroutines beside the reader
	agent

	out   outbox              // open's first, then the writer's alone
	queue chan []byte         // encoded frames
	hints bus.Subscription    // for this agent
	acks  chan seal.ID        // acknowledged commands, for the window
	acked chan *channelv1.Ack // the reader's: to be stored; closed when nothing more is read; nil: none came yet
	done  chan struct{}       // closed by end
	last  *channelv1.ToAgent  // to be sent at the end; set before done is closed

	once   sync.Once
	reason string // why it ended; set before done is closed
	leases atomic.Uint32
	drains atomic.Bool
	beat   atomic.Int64 // when the newest heartbeat came, Unix milliseconds
}

func newChannel(r *Router, sock *socket.Conn, who agent) *channel {
	c := &channel{
		r: r, sock: sock, agent: who,
		queue: make(chan []byte, queued),
		hints: r.cfg.Bus.Subscribe(bus.Agent(who.org, who.id)),
		acks:  make(chan seal.ID, 1),
		done:  make(chan struct{}),
	}
	c.out.c = c
	return c
}

// open welcomes the agent and sends what waits for it. A failure ends the channel.
func (c *channel) open() {
	c.beat.Store(c.r.cfg.Now().UnixMilli())
	welcome := &channelv1.ToAgent{Frame: &channelv1.ToAgent_Welcome{Welcome: &channelv1.Welcome{
		Now:              c.r.cfg.Now().UnixMilli(),
		IdleHeartbeatMs:  uint32(idleBeat.Milliseconds()),
		LeaseHeartbeatMs: uint32(leaseBeat.Milliseconds()),
		LeaseTermMs:      uint32(leaseTerm.Milliseconds()),
		LogHead:          c.head,
		SpreadMs:         c.spread(),
	}}}
	c.head = nil
	if err := write(c.sock, welcome); err != nil {
		c.end("closed", nil)
		return
	}
	c.out.look()
}

// run is the channel from then until its end.
func (c *channel) run() {
	defer c.hints.Close()
	c.others.Go(c.write)
	c.read()
	if c.acked != nil {
		close(c.acked)
	}
	c.others.Wait()
}

// end ends the channel. The first reason counts. With a last frame the writer
// sends it and closes; without one the connection is cut at once, also under a
// write that hangs.
func (c *channel) end(reason string, last *channelv1.ToAgent) {
	c.once.Do(func() {
		c.reason, c.last = reason, last
		switch reason {
		case "slow":
			c.r.stats.slow.Add(1)
		case "dead":
			c.r.stats.dead.Add(1)
		}
		close(c.done)
		if last == nil {
			c.sock.Abort() //nolint:errcheck // it is over either way
		}
	})
}

// send queues a frame. An agent whose queue is full is cut: what it misses is in
// the store, and a queue without bound would be everybody's problem.
func (c *channel) send(frame *channelv1.ToAgent) {
	message, err := proto.Marshal(frame)
	if err != nil {
		c.r.cfg.Log.Error("a frame could not be encoded", "agent", c.id, "error", err)
		return
	}
	select {
	case <-c.done:
	case c.queue <- message:
	default:
		c.end("slow", nil)
	}
}

// write sends what is queued, what the bus brings, and what is in the outbox.
func (c *channel) write() {
	defer c.sock.Abort() // the reader ends with the writer
	for {
		select {
		case <-c.done:
			if c.last != nil {
				if message, err := proto.Marshal(c.last); err == nil {
					c.writing.Lock()
					c.sock.Write(message, time.Second) //nolint:errcheck // a courtesy
					c.writing.Unlock()
				}
				c.sock.Close()
			}
			return
		case message := <-c.queue:
			if !c.put(message) {
				return
			}
		case id := <-c.acks:
			if !c.out.acked(id) {
				return
			}
		case payload := <-c.hints.C():
			if !c.hint(payload) {
				return
			}
		}
	}
}

// put writes one frame; false: the channel is over.
func (c *channel) put(message []byte) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.sock.Write(message, c.r.patience.write)
	if err == nil {
		return true
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.end("slow", nil)
	} else {
		c.end("closed", nil)
	}
	return false
}

// hint acts on what came over the bus.
func (c *channel) hint(payload []byte) bool {
	if c.hints.Overflowed() && !c.out.look() {
		return false
	}
	if len(payload) == 0 {
		return c.out.look()
	}
	for r := bytes.NewReader(payload); r.Len() > 0; {
		var frame channelv1.ToAgent
		if err := protodelim.UnmarshalFrom(r, &frame); err != nil {
			c.r.cfg.Log.Error("the bus brought a malformed payload", "agent", c.id, "error", err)
			return true
		}
		switch frame.GetFrame().(type) {
		case *channelv1.ToAgent_Deliver:
			// Commands go by way of the outbox alone: there they are until acknowledged.
			if !c.out.look() {
				return false
			}
		case *channelv1.ToAgent_RunDue, *channelv1.ToAgent_LogHead:
			message, err := proto.Marshal(&frame)
			if err == nil && !c.put(message) {
				return false
			}
		}
	}
	return true
}

// read handles what the agent sends, until the channel is over.
func (c *channel) read() {
	var flow flow
	for {
		patience := c.r.patience.idle
		if c.leases.Load() > 0 {
			patience = c.r.patience.lease
		}
		message, err := c.sock.Read(patience)
		if err != nil {
			c.end(whyEnded(err), nil)
			return
		}
		if !c.handle(message, &flow) {
			return
		}
	}
}

// handle acts on one frame; false: the channel is over.
func (c *channel) handle(message []byte, flow *flow) bool {
	var frame channelv1.ToRouter
	if err := proto.Unmarshal(message, &frame); err != nil {
		c.end("malformed", refusal(socket.Malformed, "a frame is malformed"))
		return false
	}
	if flow.count(time.Now()) > maxFrames {
		c.end("malformed", refusal(socket.Malformed, "too many frames within a second"))
		return false
	}
	switch f := frame.GetFrame().(type) {
	case *channelv1.ToRouter_Heartbeat:
		return c.heartbeat(f.Heartbeat)
	case *channelv1.ToRouter_Ack:
		if c.acked == nil {
			c.acked = make(chan *channelv1.Ack, window)
			acked := c.acked
			c.others.Go(func() { c.storeAcks(acked) })
		}
		select {
		case c.acked <- f.Ack:
		case <-c.done:
			return false
		}
	case *channelv1.ToRouter_Progress:
		if flow.progress++; flow.progress <= maxProgress {
			c.progress(f.Progress)
		}
	default: // of a newer agent, or a second Auth
	}
	return true
}

// flow counts frames within a second.
type flow struct {
	since            time.Time
	frames, progress int
}

func (f *flow) count(now time.Time) int {
	if now.Sub(f.since) >= time.Second {
		*f = flow{since: now}
	}
	f.frames++
	return f.frames
}

func whyEnded(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "dead"
	case errors.Is(err, socket.ErrTooLarge), errors.Is(err, socket.ErrNotBinary):
		return "malformed"
	}
	return "closed"
}

// heartbeat: without leases it is answered at once, by the reader itself, whose stack is
// deep enough already; with leases only when the store has it, since the agent goes on by
// what was acknowledged. false: the channel is over.
func (c *channel) heartbeat(b *channelv1.Heartbeat) bool {
	now := c.r.cfg.Now().UnixMilli()
	c.beat.Store(now)
	c.leases.Store(b.GetLeases())
	if b.GetDraining() && !c.drains.Swap(true) {
		c.r.presence.drains(c)
	}
	if b.GetLeases() > 0 {
		c.r.presence.beat(c, b.GetN(), now)
		return true
	}
	message, err := proto.Marshal(c.beatAck(b.GetN()))
	return err == nil && c.put(message)
}

func (c *channel) beatAck(n uint64) *channelv1.ToAgent {
	return &channelv1.ToAgent{Frame: &channelv1.ToAgent_HeartbeatAck{
		HeartbeatAck: &channelv1.HeartbeatAck{N: n, Now: c.r.cfg.Now().UnixMilli(), SpreadMs: c.spread()},
	}}
}

// spread is the time in which the agents should come back if this server were killed now.
func (c *channel) spread() uint32 { return uint32(spreadOf(c.r.open.Load()).Milliseconds()) }

// progress passes an unsigned hint on to whoever watches.
func (c *channel) progress(p *channelv1.Progress) {
	run, err := seal.IDFrom(p.GetRunId())
	if err != nil || !word(p.GetPhase()) {
		return
	}
	c.r.push(c.org, &clientv1.WatchResponse{What: &clientv1.WatchResponse_Run{
		Run: &clientv1.RunProgress{RunId: run[:], Account: p.GetAccount(), Phase: p.GetPhase()},
	}})
	c.r.presence.phase(c, run, p.GetPhase())
}

// word accepts the names of phases.
func word(s string) bool {
	if s == "" || len(s) > maxPhase {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && r != '_' {
			return false
		}
	}
	return true
}

// push tells an organisation's watching clients.
func (r *Router) push(org int64, what *clientv1.WatchResponse) {
	payload, err := proto.Marshal(what)
	if err != nil {
		r.cfg.Log.Error("a hint could not be encoded", "error", err)
		return
	}
	r.cfg.Bus.Publish(bus.Push(org), payload)
}
