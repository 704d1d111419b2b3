package channel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	signInPatience = 15 * time.Second
	writePatience  = 10 * time.Second

	// inbox holds what the callbacks have not taken yet. When it is full, nothing
	// more is read: callbacks that hang end the channel by its silence.
	inbox = 64

	// silence is how long the router may say nothing when a heartbeat is due,
	// beyond the heartbeat's own interval.
	idleSilence  = 15 * time.Second
	leaseSilence = 5 * time.Second

	// The router's heartbeats are kept within these.
	leastBeat = time.Second
	mostBeat  = time.Minute

	maxSkew = 120 * time.Second
)

// session is one connection, from dialling to its end.
type session struct {
	c    *Channel
	sock *socket.Conn

	idleBeat, leaseBeat time.Duration

	out  chan *channelv1.ToRouter // acknowledgements
	work chan any                 // *trustv1.CommandFrame, *channelv1.RunDue, *channelv1.LogHead

	mu    sync.Mutex
	sent  map[uint64]time.Time // heartbeats with leases, not yet acknowledged
	heard time.Time            // when the router last said something

	once sync.Once
	err  error
	over chan struct{}
}

// session runs one connection and says why it ended, and whether it began.
func (c *Channel) session(ctx context.Context) (welcomed bool, err error) {
	sock, exporter, err := c.dial(ctx)
	if err != nil {
		return false, err
	}
	c.set(func(s *Status) { *s = Status{Connected: true, Since: c.cfg.Now(), Skew: s.Skew, Failures: s.Failures} })
	stop := context.AfterFunc(ctx, func() { sock.Abort() })
	defer stop()
	defer sock.Abort()
	welcome, err := c.signIn(sock, exporter)
	if err != nil {
		return false, err
	}
	s := &session{
		c: c, sock: sock,
		idleBeat: beat(welcome.GetIdleHeartbeatMs()), leaseBeat: beat(welcome.GetLeaseHeartbeatMs()),
		out:  make(chan *channelv1.ToRouter, inbox),
		work: make(chan any, inbox),
		sent: make(map[uint64]time.Time), heard: time.Now(),
		over: make(chan struct{}),
	}
	c.noteSkew(welcome.GetNow())
	c.noteSpread(welcome.GetSpreadMs())
	c.set(func(st *Status) {
		*st = Status{Connected: true, Authenticated: true, Since: c.cfg.Now(), Skew: st.Skew}
	})
	if at := welcome.GetLogHead().GetRestored(); at > 0 {
		c.cfg.Restored(time.UnixMilli(at))
	}
	if head := welcome.GetLogHead(); head != nil {
		s.work <- head
	}
	workCtx, stopWork := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(s.write)
	both.Go(func() { s.handle(workCtx) })
	s.read()
	stopWork()
	both.Wait()
	return true, s.err
}

func beat(ms uint32) time.Duration {
	return min(max(time.Duration(ms)*time.Millisecond, leastBeat), mostBeat)
}

// signIn answers the challenge (keys.md 3.7). Nothing that the server chose is
// signed without the prefix, the organisation and the name that we dialled.
func (c *Channel) signIn(sock *socket.Conn, exporter [32]byte) (*channelv1.Welcome, error) {
	first, err := receive(sock)
	if err != nil {
		return nil, err
	}
	challenge := first.GetChallenge().GetChallenge()
	if r := first.GetRefused(); r != nil {
		return nil, refused(r.GetReason(), r.GetMessage())
	}
	if len(challenge) != 32 {
		return nil, misled(fmt.Errorf("a challenge of %d bytes, want 32", len(challenge)))
	}
	id := seal.AgentClientID(c.cfg.OrgID, c.cfg.Agent)
	signature, err := c.cfg.Sign(seal.ChannelInput(c.cfg.OrgID, id, c.host, [32]byte(challenge), exporter))
	if err != nil {
		return nil, failed("key", fmt.Errorf("sign with the agent's device key: %w", err))
	}
	err = put(sock, &channelv1.ToRouter{Frame: &channelv1.ToRouter_Auth{Auth: &channelv1.Auth{
		OrgId: c.cfg.OrgID[:], ClientId: id[:], Signature: signature,
		Version: c.cfg.Version, Os: c.cfg.OS, Arch: c.cfg.Arch,
	}}})
	if err != nil {
		return nil, failed("closed", err)
	}
	answer, err := receive(sock)
	if err != nil {
		return nil, err
	}
	switch f := answer.GetFrame().(type) {
	case *channelv1.ToAgent_Welcome:
		return f.Welcome, nil
	case *channelv1.ToAgent_Refused:
		return nil, refused(f.Refused.GetReason(), f.Refused.GetMessage())
	case *channelv1.ToAgent_Restarting:
		return nil, restarting(f.Restarting)
	}
	return nil, misled(errors.New("the server neither welcomed nor refused the agent"))
}

func receive(sock *socket.Conn) (*channelv1.ToAgent, error) {
	message, err := sock.Read(signInPatience)
	if noFrame(err) {
		return nil, misled(fmt.Errorf("signing in: %w", err))
	}
	if err != nil {
		return nil, failed("closed", fmt.Errorf("signing in: %w", err))
	}
	var frame channelv1.ToAgent
	if err := proto.Unmarshal(message, &frame); err != nil {
		return nil, misled(fmt.Errorf("signing in: %w", err))
	}
	return &frame, nil
}

func put(sock *socket.Conn, frame *channelv1.ToRouter) error {
	message, err := proto.Marshal(frame)
	if err != nil {
		return err
	}
	return sock.Write(message, writePatience)
}

func restarting(r *channelv1.Restarting) error {
	after := min(time.Duration(r.GetComeBackAfterMs())*time.Millisecond, 10*time.Minute)
	return &Error{Reason: "restarting", Err: fmt.Errorf("the server restarts and asks us back in %s", after), comeBack: max(after, time.Millisecond)}
}

// end ends the session. The first error counts.
func (s *session) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.over)
		s.sock.Abort()
	})
}

// read takes what the router sends until the session is over. Silence is judged
// by the writer, who knows which heartbeats are due.
func (s *session) read() {
	for {
		message, err := s.sock.Read(mostBeat + idleSilence)
		if err != nil {
			s.end(ended(err))
			return
		}
		s.mu.Lock()
		s.heard = time.Now()
		s.mu.Unlock()
		if !s.take(message) {
			return
		}
	}
}

// take takes one message; after some there are no more.
func (s *session) take(message []byte) bool {
	var frame channelv1.ToAgent
	if err := proto.Unmarshal(message, &frame); err != nil {
		s.end(misled(fmt.Errorf("the server sent a malformed frame: %w", err)))
		return false
	}
	switch f := frame.GetFrame().(type) {
	case *channelv1.ToAgent_HeartbeatAck:
		s.acked(f.HeartbeatAck)
	case *channelv1.ToAgent_Deliver:
		return s.queue(f.Deliver.GetCommand())
	case *channelv1.ToAgent_RunDue:
		return s.queue(f.RunDue)
	case *channelv1.ToAgent_LogHead:
		select {
		case s.work <- f.LogHead:
		default: // each command carries its own
		}
	case *channelv1.ToAgent_Restarting:
		s.end(restarting(f.Restarting))
		return false
	case *channelv1.ToAgent_Refused:
		s.end(refused(f.Refused.GetReason(), f.Refused.GetMessage()))
		return false
	default: // of a newer router
	}
	return true
}

// queue waits until the callbacks have room for it.
func (s *session) queue(item any) bool {
	select {
	case s.work <- item:
		return true
	case <-s.over:
		return false
	}
}

// noFrame: a message came, of a size or a kind that no frame has.
func noFrame(err error) bool {
	return errors.Is(err, socket.ErrTooLarge) || errors.Is(err, socket.ErrNotBinary)
}

func ended(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return failed("silent", fmt.Errorf("the server said nothing for %s: %w", mostBeat+idleSilence, err))
	}
	if noFrame(err) {
		return misled(fmt.Errorf("the server sent what is no frame: %w", err))
	}
	return failed("closed", fmt.Errorf("the server closed the channel: %w", err))
}

// acked notes an acknowledged heartbeat, and by that those sent before it.
func (s *session) acked(a *channelv1.HeartbeatAck) {
	s.c.noteSkew(a.GetNow())
	s.c.noteSpread(a.GetSpreadMs())
	s.mu.Lock()
	at, known := s.sent[a.GetN()]
	for n := range s.sent {
		if n <= a.GetN() {
			delete(s.sent, n)
		}
	}
	s.mu.Unlock()
	if !known {
		return
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if at.After(s.c.acked) {
		s.c.acked = at
	}
}

// noteSkew compares the server's clock with ours.
func (c *Channel) noteSkew(server int64) {
	skew := time.UnixMilli(server).Sub(c.cfg.Now().Round(0))
	c.mu.Lock()
	was := c.status.Skew
	c.status.Skew = skew
	c.mu.Unlock()
	if skew.Abs() > maxSkew && was.Abs() <= maxSkew {
		c.cfg.Log.Warn("this machine's clock and the server's differ: signed messages will be refused; set the clock", "server_is_ahead_by", skew)
	}
}

// handle calls the callbacks, one after another.
func (s *session) handle(ctx context.Context) {
	var next any
	for {
		if next == nil {
			select {
			case <-s.over:
				return
			case next = <-s.work:
			}
		}
		item := next
		next = nil
		switch item := item.(type) {
		case *trustv1.CommandFrame:
			commands := []*trustv1.CommandFrame{item}
			commands, next = s.waiting(commands)
			if !s.deliver(ctx, commands) {
				return
			}
		case *channelv1.RunDue:
			s.c.cfg.RunDue(ctx, item)
		case *channelv1.LogHead:
			s.c.cfg.LogHead(ctx, item.GetEpoch(), item.GetDigest())
		}
	}
}

// waiting adds the commands that have come already, up to what is not one: taken
// together they share the journal's write.
func (s *session) waiting(commands []*trustv1.CommandFrame) (_ []*trustv1.CommandFrame, next any) {
	for len(commands) < inbox {
		select {
		case item := <-s.work:
			command, ok := item.(*trustv1.CommandFrame)
			if !ok {
				return commands, item
			}
			commands = append(commands, command)
		default:
			return commands, nil
		}
	}
	return commands, nil
}

// deliver acknowledges what was taken; false: the session is over.
func (s *session) deliver(ctx context.Context, commands []*trustv1.CommandFrame) bool {
	for i, err := range s.c.cfg.Deliver(ctx, commands) {
		if errors.Is(err, ErrDraining) {
			continue // what is under way needs this channel's heartbeats
		}
		var refusal Refusal
		if err != nil && !errors.As(err, &refusal) {
			s.end(failed("journal", fmt.Errorf("a command could not be taken and has to come again: %w", err)))
			return false
		}
		ack := &channelv1.ToRouter{Frame: &channelv1.ToRouter_Ack{Ack: &channelv1.Ack{CommandId: commands[i].GetId(), Reason: string(refusal)}}}
		select {
		case s.out <- ack:
		case <-s.over:
			return false
		}
	}
	return true
}

// hintEvery is how often hints go out at most. Of a run that takes a few steps in
// between only the last one is worth a frame.
const hintEvery = 100 * time.Millisecond

// write sends heartbeats, acknowledgements and hints, and judges the silence.
func (s *session) write() {
	var n uint64
	due := time.NewTimer(0)
	defer due.Stop()
	hints := map[string]*channelv1.Progress{} // by run
	flush := time.NewTimer(hintEvery)
	defer flush.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-s.c.changed:
			n++
			s.heartbeat(n, due)
		case <-due.C:
			n++
			s.heartbeat(n, due)
		case frame := <-s.out:
			s.put(frame)
		case p := <-s.c.progress:
			if len(hints) == 0 {
				flush.Reset(hintEvery)
			}
			hints[string(p.GetRunId())] = p
		case <-flush.C:
			for _, p := range hints {
				s.put(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Progress{Progress: p}})
			}
			clear(hints)
		}
	}
}

func (s *session) put(frame *channelv1.ToRouter) {
	err := put(s.sock, frame)
	if errors.Is(err, websocket.ErrCloseSent) {
		return // by the reader, which says why
	}
	if err != nil {
		s.end(failed("closed", fmt.Errorf("send to the server: %w", err)))
	}
}

func (s *session) heartbeat(n uint64, due *time.Timer) {
	leases := s.c.leases.Load()
	interval, patience := s.idleBeat, s.idleBeat+idleSilence
	if leases > 0 {
		interval, patience = s.leaseBeat, s.leaseBeat+leaseSilence
	}
	now := time.Now()
	s.mu.Lock()
	silent := now.Sub(s.heard)
	if leases > 0 {
		s.sent[n] = now // before it is sent: never later than the truth
	}
	// The first heartbeat with leases ends an idle stretch, whose silence was in order.
	judge := leases == 0 || len(s.sent) > 1
	s.mu.Unlock()
	if judge && silent > patience {
		s.end(failed("silent", fmt.Errorf("the server said nothing for %s", silent.Round(time.Millisecond))))
		return
	}
	s.put(&channelv1.ToRouter{Frame: &channelv1.ToRouter_Heartbeat{Heartbeat: &channelv1.Heartbeat{N: n, Leases: leases, Draining: s.c.draining.Load()}}})
	due.Reset(interval)
}
