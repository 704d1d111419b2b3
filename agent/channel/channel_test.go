package channel

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The channel against the real router is in package router. Here the other end is a
// router that does as the test says, and mostly wrong.

// enough bounds every wait of these tests.
const enough = 20 * time.Second

// fakeRouter lets whoever comes in and hands each channel to then.
type fakeRouter struct {
	*httptest.Server
	challenge []byte
	welcome   *channelv1.ToAgent
	then      func(*peer)
	came      atomic.Int32
}

// peer is one channel, as the router sees it.
type peer struct {
	t    *testing.T
	sock *socket.Conn
	auth *channelv1.Auth
}

func newRouter(t *testing.T, then func(*peer)) *fakeRouter {
	t.Helper()
	r := &fakeRouter{
		challenge: make([]byte, 32), then: then,
		welcome: toAgent(&channelv1.Welcome{IdleHeartbeatMs: 1000, LeaseHeartbeatMs: 1000, Now: time.Now().UnixMilli()}),
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sock, err := socket.Accept(w, req)
		if err != nil {
			t.Error(err)
			return
		}
		defer sock.Abort()
		p := &peer{t: t, sock: sock}
		if p.send(toAgent(&channelv1.Challenge{Challenge: r.challenge})) != nil {
			return
		}
		frame, err := p.receive()
		if err != nil {
			return // it took the challenge for none
		}
		p.auth = frame.GetAuth()
		r.came.Add(1)
		if p.send(r.welcome) == nil {
			r.then(p)
		}
	}))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

// toAgent wraps what a frame may hold.
func toAgent(m proto.Message) *channelv1.ToAgent {
	switch m := m.(type) {
	case *channelv1.Challenge:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Challenge{Challenge: m}}
	case *channelv1.Welcome:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Welcome{Welcome: m}}
	case *channelv1.Refused:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Refused{Refused: m}}
	case *channelv1.Deliver:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Deliver{Deliver: m}}
	case *channelv1.RunDue:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_RunDue{RunDue: m}}
	case *channelv1.LogHead:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_LogHead{LogHead: m}}
	case *channelv1.HeartbeatAck:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_HeartbeatAck{HeartbeatAck: m}}
	case *channelv1.Restarting:
		return &channelv1.ToAgent{Frame: &channelv1.ToAgent_Restarting{Restarting: m}}
	}
	panic("no frame of the router's")
}

func (p *peer) send(frame *channelv1.ToAgent) error {
	b, err := proto.Marshal(frame)
	if err != nil {
		p.t.Error(err)
	}
	return p.sock.Write(b, enough)
}

func (p *peer) deliver(id seal.ID) error {
	return p.send(toAgent(&channelv1.Deliver{Command: &trustv1.CommandFrame{Id: id[:]}}))
}

func (p *peer) receive() (*channelv1.ToRouter, error) {
	b, err := p.sock.Read(enough)
	if err != nil {
		return nil, err
	}
	var frame channelv1.ToRouter
	return &frame, proto.Unmarshal(b, &frame)
}

// ack reads until an acknowledgement.
func (p *peer) ack() *channelv1.Ack {
	for {
		frame, err := p.receive()
		if err != nil {
			return nil
		}
		if a := frame.GetAck(); a != nil {
			return a
		}
	}
}

// drain reads until the other side ends.
func (p *peer) drain() {
	for {
		if _, err := p.receive(); err != nil {
			return
		}
	}
}

// agent is a channel at work.
type agent struct {
	*Channel
	stop   context.CancelCauseFunc
	ended  chan error
	misled chan string
	signed atomic.Int32
}

// each makes a Deliver of what is done with one command.
func each(one func(context.Context, *trustv1.CommandFrame) error) func(context.Context, []*trustv1.CommandFrame) []error {
	return func(ctx context.Context, frames []*trustv1.CommandFrame) []error {
		answers := make([]error, len(frames))
		for i, f := range frames {
			answers[i] = one(ctx, f)
		}
		return answers
	}
}

func newAgent(t *testing.T, r *fakeRouter, edit func(*Config)) *agent {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(r.Certificate())
	a := &agent{ended: make(chan error, 1), misled: make(chan string, 16)}
	cfg := Config{
		Server: r.Listener.Addr().String(), TLS: &tls.Config{RootCAs: roots},
		OrgID: seal.Hash([]byte("org")), Agent: seal.NewID(),
		Sign:    func(input []byte) ([]byte, error) { a.signed.Add(1); return input[:8], nil },
		Deliver: each(func(context.Context, *trustv1.CommandFrame) error { return nil }),
		RunDue:  func(context.Context, *channelv1.RunDue) {},
		Misled:  func(reason string) { a.misled <- reason },
		Log:     slog.New(slog.DiscardHandler),
	}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if a.Channel, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancelCause(context.Background())
	go func() { a.ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		a.stop(errors.New("the test is over"))
		select {
		case <-a.ended:
		case <-time.After(enough):
			t.Error("the channel does not end")
		}
	})
	return a
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(enough); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

func get[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(enough):
		t.Fatalf("it does not come: %s", what)
	}
	panic("unreachable")
}

// What no router sends ends the channel, with a code, and is told; the next connection
// is tried. Nothing of it reaches the agent.
func TestHostileFrames(t *testing.T) {
	raw := func(b []byte) func(*peer) {
		return func(p *peer) { _ = p.sock.Write(b, enough); p.drain() }
	}
	for name, c := range map[string]struct {
		then   func(*peer)
		edit   func(*fakeRouter)
		reason string
		misled bool
	}{
		"no frame":               {then: raw([]byte{0xff, 0xff, 0xff}), reason: "malformed", misled: true},
		"random bytes":           {then: raw(bytes.Repeat([]byte("\x0a\xff garbage"), 100)), reason: "malformed", misled: true},
		"a short challenge":      {edit: func(r *fakeRouter) { r.challenge = make([]byte, 31) }, reason: "malformed", misled: true},
		"a long challenge":       {edit: func(r *fakeRouter) { r.challenge = make([]byte, 64<<10) }, reason: "malformed", misled: true},
		"neither let in nor not": {edit: func(r *fakeRouter) { r.welcome = toAgent(&channelv1.RunDue{}) }, reason: "malformed", misled: true},
		"an unknown answer":      {edit: func(r *fakeRouter) { r.welcome = &channelv1.ToAgent{} }, reason: "malformed", misled: true},
		"refused":                {edit: func(r *fakeRouter) { r.welcome = toAgent(&channelv1.Refused{Reason: "revoked"}) }, reason: "revoked"},
		"refused later":          {then: func(p *peer) { _ = p.send(toAgent(&channelv1.Refused{Reason: "replaced"})); p.drain() }, reason: "replaced"},
		"restarting":             {then: func(p *peer) { _ = p.send(toAgent(&channelv1.Restarting{ComeBackAfterMs: math.MaxUint32})); p.drain() }, reason: "restarting"},
		"restarting at once":     {edit: func(r *fakeRouter) { r.welcome = toAgent(&channelv1.Restarting{ComeBackAfterMs: 1e9}) }, reason: "restarting"},
		"closed":                 {then: func(p *peer) { p.sock.Close() }, reason: "closed"},
		"cut":                    {then: func(p *peer) { p.sock.Abort() }, reason: "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, c.then)
			if c.edit != nil {
				c.edit(r)
			}
			a := newAgent(t, r, func(cfg *Config) {
				cfg.Deliver = each(func(context.Context, *trustv1.CommandFrame) error { t.Error("a command"); return nil })
				cfg.RunDue = func(context.Context, *channelv1.RunDue) { t.Error("a run due") }
			})
			until(t, "the channel is down", func() bool { return a.Status().LastError != nil })
			s := a.Status()
			if s.Reason != c.reason || s.Authenticated || s.Connected || s.Failures == 0 || s.Retry.IsZero() {
				t.Errorf("status: %+v, want reason %s", s, c.reason)
			}
			if c.misled {
				if reason := get(t, "that it was misled", a.misled); reason != "malformed" {
					t.Errorf("misled: %s", reason)
				}
			} else if len(a.misled) > 0 {
				t.Error("misled, by what a router may do")
			}
			if wait := time.Until(s.Retry); wait > 11*time.Minute {
				t.Errorf("the router keeps the agent away for %s", wait)
			}
		})
	}
}

// A message above the bound, or of another kind, ends the channel before it is read.
func TestMessagesThatAreNone(t *testing.T) {
	for name, send := range map[string]func(*websocket.Conn) error{
		"too large": func(ws *websocket.Conn) error {
			return ws.WriteMessage(websocket.BinaryMessage, make([]byte, socket.MaxMessage+1))
		},
		"too large in fragments": func(ws *websocket.Conn) error {
			w, err := ws.NextWriter(websocket.BinaryMessage)
			for range 1 << 20 { // a gibibyte, if it were taken
				if err == nil {
					_, err = w.Write(make([]byte, 1024))
				}
			}
			return err
		},
		"text": func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, []byte("hello")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := websocket.Upgrader{Subprotocols: []string{socket.Protocol}, WriteBufferSize: 4096}
			r := &fakeRouter{Server: httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				ws, err := up.Upgrade(w, req, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.Close()
				for _, f := range []*channelv1.ToAgent{toAgent(&channelv1.Challenge{Challenge: make([]byte, 32)}), toAgent(&channelv1.Welcome{})} {
					b, err := proto.Marshal(f)
					if err != nil || ws.WriteMessage(websocket.BinaryMessage, b) != nil {
						t.Error("it does not come in")
					}
				}
				_ = send(ws) // the agent hangs up in the middle
				for {
					if _, _, err := ws.ReadMessage(); err != nil {
						return
					}
				}
			}))}
			t.Cleanup(r.Close)
			a := newAgent(t, r, nil)
			until(t, "the channel is down", func() bool { return a.Status().LastError != nil })
			if s := a.Status(); s.Reason != "malformed" {
				t.Errorf("%+v", s)
			}
			get(t, "that it was misled", a.misled)
		})
	}
}

// A challenge is answered once: after the welcome the agent signs nothing more.
func TestOneSignature(t *testing.T) {
	done := make(chan struct{})
	r := newRouter(t, func(p *peer) {
		for range 10 {
			_ = p.send(toAgent(&channelv1.Challenge{Challenge: make([]byte, 32)}))
		}
		_ = p.deliver(seal.NewID())
		if p.ack() == nil {
			p.t.Error("the channel did not survive")
		}
		close(done)
		p.drain()
	})
	a := newAgent(t, r, nil)
	get(t, "the end", done)
	if n := a.signed.Load(); n != 1 {
		t.Errorf("%d signatures", n)
	}
}

// A command that cannot be journalled now is not acknowledged, and comes again over the
// next connection. Each delivery that was taken is acknowledged once, a repeated one
// too; one that was refused says why.
func TestDelivery(t *testing.T) {
	id, refused, ok := seal.NewID(), seal.NewID(), make(chan struct{})
	r := newRouter(t, nil)
	r.then = func(p *peer) {
		if err := p.deliver(id); err != nil {
			p.t.Error(err)
		}
		if r.came.Load() == 1 {
			p.drain() // it hangs up, without a word
			return
		}
		_ = p.deliver(id)
		_ = p.deliver(refused)
		for i, want := range []struct {
			id     seal.ID
			reason string
		}{{id, ""}, {id, ""}, {refused, "expired"}} {
			if a := p.ack(); a == nil || !bytes.Equal(a.CommandId, want.id[:]) || a.Reason != want.reason {
				p.t.Errorf("acknowledgement %d: %v", i, a)
			}
		}
		close(ok)
		p.drain()
	}
	var calls atomic.Int32
	newAgent(t, r, func(cfg *Config) {
		cfg.Deliver = each(func(_ context.Context, f *trustv1.CommandFrame) error {
			switch {
			case calls.Add(1) == 1:
				return errors.New("the disk is full")
			case bytes.Equal(f.Id, refused[:]):
				return Refusal("expired")
			}
			return nil
		})
	})
	get(t, "the acknowledgements", ok)
	if n := calls.Load(); n != 4 {
		t.Errorf("%d deliveries", n)
	}
}

// While it drains, an agent takes no more commands; its heartbeats go on, since they
// keep the leases of what is under way.
func TestDrainingKeepsTheChannel(t *testing.T) {
	id, ok := seal.NewID(), make(chan struct{})
	r := newRouter(t, func(p *peer) {
		if err := p.deliver(id); err != nil {
			p.t.Error(err)
		}
		for range 3 {
			frame, err := p.receive()
			if err != nil || frame.GetHeartbeat() == nil {
				p.t.Errorf("a channel that drains: %v, %v", frame, err)
				break
			}
		}
		close(ok)
		p.drain()
	})
	newAgent(t, r, func(cfg *Config) {
		cfg.Deliver = each(func(context.Context, *trustv1.CommandFrame) error { return ErrDraining })
	})
	get(t, "three heartbeats", ok)
	if n := r.came.Load(); n != 1 {
		t.Errorf("%d channels", n)
	}
}

// The callbacks run one after another; while one hangs the agent reads no further, so
// that a router cannot fill its memory.
func TestQueuesAreBounded(t *testing.T) {
	hang, taken := make(chan struct{}), make(chan int, 1)
	r := newRouter(t, func(p *peer) {
		n := 0
		command := make([]byte, 100<<10)
		for ; n < 2000; n++ {
			frame, err := proto.Marshal(toAgent(&channelv1.Deliver{Command: &trustv1.CommandFrame{Sealed: command}}))
			if err != nil {
				p.t.Error(err)
			}
			if p.sock.Write(frame, 500*time.Millisecond) != nil {
				break
			}
		}
		taken <- n
	})
	var atOnce, most atomic.Int32
	a := newAgent(t, r, func(cfg *Config) {
		cfg.Deliver = each(func(ctx context.Context, _ *trustv1.CommandFrame) error {
			most.Store(max(most.Load(), atOnce.Add(1)))
			defer atOnce.Add(-1)
			select {
			case <-hang:
			case <-ctx.Done():
			}
			return nil
		})
	})
	// 64 wait, one is read, one is at work; the rest is in buffers of the network.
	if n := get(t, "the router gives up", taken); n > inbox+2+200 {
		t.Errorf("the agent took %d commands of 100 KiB that nobody asked for", n)
	}
	if most.Load() != 1 {
		t.Errorf("%d callbacks at once", most.Load())
	}
	close(hang)

	// Hints of its own that find no way out are dropped, and hold nobody up.
	until(t, "the channel is down", func() bool { return !a.Status().Authenticated })
	began := time.Now()
	for range 100_000 {
		a.Progress(seal.NewID(), nil, "apply")
	}
	if took := time.Since(began); took > 20*time.Second || len(a.progress) > progressQueue {
		t.Errorf("100000 hints took %s, %d are kept", took, len(a.progress))
	}
}

// A flood of log heads is no obstacle to a command behind it.
func TestFloodOfHints(t *testing.T) {
	ok := make(chan struct{})
	r := newRouter(t, func(p *peer) {
		for i := range 20_000 {
			if p.send(toAgent(&channelv1.LogHead{Epoch: uint64(i)})) != nil {
				p.t.Error("cut")
				return
			}
		}
		_ = p.deliver(seal.NewID())
		if p.ack() != nil {
			close(ok)
		}
		p.drain()
	})
	newAgent(t, r, func(cfg *Config) {
		cfg.LogHead = func(context.Context, uint64, []byte) { time.Sleep(time.Millisecond) } // slower than they come
	})
	get(t, "the command", ok)
}

// Only an acknowledgement of a heartbeat that told of leases, and was sent, lets the
// agent work on; and it counts from when that heartbeat was sent.
func TestForgedAcknowledgements(t *testing.T) {
	beats := make(chan *channelv1.Heartbeat, 64)
	forge := make(chan uint64)
	r := newRouter(t, func(p *peer) {
		go func() {
			for n := range forge {
				_ = p.send(toAgent(&channelv1.HeartbeatAck{N: n, Now: time.Now().UnixMilli()}))
			}
		}()
		for {
			frame, err := p.receive()
			if err != nil {
				return
			}
			if h := frame.GetHeartbeat(); h != nil {
				beats <- h
			}
		}
	})
	defer close(forge)
	a := newAgent(t, r, nil)
	first := get(t, "an idle heartbeat", beats)
	if first.Leases != 0 {
		t.Errorf("leases: %d", first.Leases)
	}
	forge <- first.N // idle ones let nobody work
	before := time.Now()
	a.SetLeases(2)
	var told *channelv1.Heartbeat
	until(t, "a heartbeat with leases", func() bool {
		told = get(t, "a heartbeat", beats)
		return told.Leases == 2
	})
	after := time.Now()
	for _, n := range []uint64{0, told.N + 1000, math.MaxUint64} {
		forge <- n
		forge <- n
	}
	if got := a.LastAcked(); !got.IsZero() {
		t.Errorf("acknowledged at %s, by numbers that were never sent", got)
	}
	// The forged ones have made it forget what they were said to acknowledge; the next counts.
	until(t, "a heartbeat is acknowledged", func() bool {
		select {
		case h := <-beats:
			after = time.Now()
			forge <- h.N
		default:
		}
		return !a.LastAcked().IsZero()
	})
	if at := a.LastAcked(); at.Before(before) || at.After(after) {
		t.Errorf("acknowledged at %s, sent between %s and %s", at, before, after)
	}
}

// Heartbeats keep to a range, whatever the router would like.
func TestBeat(t *testing.T) {
	for ms, want := range map[uint32]time.Duration{0: time.Second, 1: time.Second, 3000: 3 * time.Second, 60_000: time.Minute, math.MaxUint32: time.Minute} {
		if got := beat(ms); got != want {
			t.Errorf("%d ms: %s, want %s", ms, got, want)
		}
	}
}

// The pause doubles from half a second to half a minute, each drawn between half and all
// of it; who holds leases comes back within two; who was refused for good asks rarely; who
// was asked to come back does so.
func TestPause(t *testing.T) {
	idle, leased := &Channel{}, &Channel{}
	leased.leases.Store(1)
	for _, row := range []struct {
		c           *Channel
		failures    int
		err         error
		least, most time.Duration
	}{
		{idle, 1, errors.New("x"), 250 * time.Millisecond, 500 * time.Millisecond},
		{idle, 2, failed("tls", errors.New("x")), 500 * time.Millisecond, time.Second},
		{idle, 3, failed("closed", errors.New("x")), time.Second, 2 * time.Second},
		{idle, 7, errors.New("x"), 15 * time.Second, 30 * time.Second},
		{idle, 1_000_000, errors.New("x"), 15 * time.Second, 30 * time.Second},
		{idle, 1, refused(socket.Revoked, ""), refusedPause / 2, refusedPause},
		{idle, 1, refused(socket.AgentUnknown, ""), refusedPause / 2, refusedPause},
		{idle, 1, refused(socket.Busy, ""), 250 * time.Millisecond, 500 * time.Millisecond},
		{idle, 5, restarting(&channelv1.Restarting{ComeBackAfterMs: 700}), 700 * time.Millisecond, 700 * time.Millisecond},
		{idle, 5, restarting(&channelv1.Restarting{}), time.Millisecond, time.Millisecond},
		{idle, 5, restarting(&channelv1.Restarting{ComeBackAfterMs: math.MaxUint32}), 10 * time.Minute, 10 * time.Minute},
		{leased, 1, errors.New("x"), 250 * time.Millisecond, 500 * time.Millisecond},
		{leased, 7, errors.New("x"), time.Second, 2 * time.Second},
		{leased, 1, refused(socket.Revoked, ""), refusedPause / 2, refusedPause},
	} {
		seen := map[time.Duration]bool{}
		for range 200 {
			p := row.c.pause(row.failures, row.err)
			seen[p] = true
			if p < row.least || p > row.most {
				t.Errorf("failure %d, %v: %s, want %s to %s", row.failures, row.err, p, row.least, row.most)
				break
			}
		}
		if row.least != row.most && len(seen) < 50 {
			t.Errorf("failure %d, %v: all agents come back at once", row.failures, row.err)
		}
	}
}

// The agents of a server with many come back spread over the time that it gave them, once;
// those at work do not wait for that, and no server sends them away for hours.
func TestSpread(t *testing.T) {
	lost := failed("closed", errors.New("x"))
	const spread = 20 * time.Second
	late := 0
	for range 200 {
		c := &Channel{}
		c.noteSpread(uint32(spread.Milliseconds()))
		p := c.pause(1, lost)
		if p < leastPause/2 || p > leastPause/2+spread {
			t.Fatalf("comes back after %s", p)
		}
		if p > spread/2 {
			late++
		}
		if p := c.pause(1, lost); p > leastPause {
			t.Fatalf("is spread twice: %s", p)
		}
	}
	if late < 50 || late > 150 {
		t.Errorf("%d of 200 come in the second half", late)
	}
	asked := &Channel{}
	asked.noteSpread(20_000)
	asked.pause(1, restarting(&channelv1.Restarting{ComeBackAfterMs: 700}))
	if p := asked.pause(1, lost); p > leastPause {
		t.Errorf("asked to come back, and spread again: %s", p)
	}
	leased := &Channel{}
	leased.leases.Store(1)
	leased.noteSpread(20_000)
	if p := leased.pause(1, lost); p > leastPause {
		t.Errorf("with leases: %s", p)
	}
	sent := &Channel{}
	sent.noteSpread(math.MaxUint32)
	if p := sent.pause(1, lost); p > leastPause/2+mostSpread {
		t.Errorf("sent away for %s", p)
	}
}

// After a cut the agent comes back, signs in anew, and its failures are counted from the
// last welcome on.
func TestReconnects(t *testing.T) {
	auths := make(chan *channelv1.Auth, 16)
	r := newRouter(t, func(p *peer) {
		auths <- p.auth
		p.sock.Abort()
	})
	a := newAgent(t, r, nil)
	id := seal.AgentClientID(a.cfg.OrgID, a.cfg.Agent)
	began := time.Now()
	for range 3 {
		auth := get(t, "a sign-in", auths)
		if !bytes.Equal(auth.ClientId, id[:]) || !bytes.Equal(auth.OrgId, a.cfg.OrgID[:]) || len(auth.Signature) == 0 {
			t.Errorf("signed in as %v", auth)
		}
		until(t, "a failure is shown", func() bool { return a.Status().LastError != nil })
		if s := a.Status(); s.Failures != 1 {
			t.Errorf("%d failures since the last welcome", s.Failures)
		}
		until(t, "it comes back", func() bool { return len(auths) > 0 })
	}
	if took := time.Since(began); took < 3*leastPause/2 {
		t.Errorf("three times back within %s: no pause is made", took)
	}
}

// Servers that are none, or not this agent's.
func TestWhoAnswers(t *testing.T) {
	serve := func(t *testing.T, h http.HandlerFunc) *fakeRouter {
		r := &fakeRouter{Server: httptest.NewTLSServer(h)}
		t.Cleanup(r.Close)
		return r
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		edit    func(t *testing.T, cfg *Config)
		reason  string
		says    string
	}{
		"another program": {handler: http.NotFound, reason: "status", says: "is this a Rotunda server?"},
		"a busy one": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "17")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, reason: "busy"},
		"a busy one for ever": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999999999999999999")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, reason: "busy"},
		"another authority": {handler: http.NotFound, edit: func(_ *testing.T, cfg *Config) { cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()} }, reason: "ca_mismatch", says: "somebody stands in between"},
		"another name": {handler: http.NotFound, edit: func(_ *testing.T, cfg *Config) {
			_, port, _ := net.SplitHostPort(cfg.Server)
			cfg.Server = "localhost:" + port
		}, reason: "wrong_host", says: "give the agent a name that the certificate has"},
		"no TLS": {handler: http.NotFound, edit: func(t *testing.T, cfg *Config) {
			plain := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(plain.Close)
			cfg.Server = plain.Listener.Addr().String()
		}, reason: "tls", says: "does not speak TLS"},
		"nobody":       {handler: http.NotFound, edit: func(_ *testing.T, cfg *Config) { cfg.Server = "127.0.0.1:1" }, reason: "unreachable", says: "connection refused"},
		"no such host": {handler: http.NotFound, edit: func(_ *testing.T, cfg *Config) { cfg.Server = "nowhere.invalid:443" }, reason: "unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t, serve(t, c.handler), func(cfg *Config) {
				if c.edit != nil {
					c.edit(t, cfg)
				}
			})
			until(t, "an error is shown", func() bool { return a.Status().LastError != nil })
			s := a.Status()
			if s.Reason != c.reason || !strings.Contains(s.LastError.Error(), c.says) || s.Connected {
				t.Errorf("%+v, want %s: %s", s, c.reason, c.says)
			}
			if c.reason == "busy" {
				if wait := time.Until(s.Retry); name == "a busy one" && (wait < 15*time.Second || wait > 17*time.Second) || wait > 30*time.Second {
					t.Errorf("it comes back in %s", wait)
				}
			}
		})
	}
}

// Run ends at once when it is told to, whatever it is waiting for.
func TestRunEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, c := range map[string]struct {
		edit  func(*Config)
		ready func(*agent) bool
	}{
		"in a channel":   {nil, func(a *agent) bool { return a.Status().Authenticated }},
		"in a handshake": {func(cfg *Config) { cfg.Server = silent.Addr().String() }, func(*agent) bool { return true }},
		"in a pause":     {func(cfg *Config) { cfg.Server = "127.0.0.1:1" }, func(a *agent) bool { return a.Status().Failures >= 2 }},
		"in a callback": {func(cfg *Config) {
			cfg.LogHead = func(ctx context.Context, _ uint64, _ []byte) { <-ctx.Done() }
		}, func(a *agent) bool { return a.Status().Authenticated }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, func(p *peer) { p.drain() })
			r.welcome.GetWelcome().LogHead = &channelv1.LogHead{Epoch: 1}
			a := newAgent(t, r, c.edit)
			until(t, "ready", func() bool { return c.ready(a) })
			why := errors.New("stop")
			began := time.Now()
			a.stop(why)
			err := get(t, "its end", a.ended)
			if !errors.Is(err, why) || time.Since(began) > 2*time.Second {
				t.Errorf("%v, after %s", err, time.Since(began))
			}
			if s := a.Status(); s.Connected || s.Authenticated || s.Reason != "stopped" {
				t.Errorf("status: %+v", s)
			}
			a.ended <- err // for the end of the test
		})
	}
}

// New refuses what could not work.
func TestNewChecks(t *testing.T) {
	good := Config{
		Server: "h:1", TLS: &tls.Config{}, Sign: func([]byte) ([]byte, error) { return nil, nil },
		Deliver: each(func(context.Context, *trustv1.CommandFrame) error { return nil }), RunDue: func(context.Context, *channelv1.RunDue) {},
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Config){
		"no port":    func(c *Config) { c.Server = "host" },
		"no host":    func(c *Config) { c.Server = ":443" },
		"empty port": func(c *Config) { c.Server = "host:" },
		"no TLS":     func(c *Config) { c.TLS = nil },
		"no key":     func(c *Config) { c.Sign = nil },
		"no journal": func(c *Config) { c.Deliver = nil },
	} {
		bad := good
		edit(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
