// Package router is the agents' hub: one WebSocket for each agent, which the
// agent dials. It tells agents that work waits, carries sealed commands from the
// outbox until they are acknowledged, and keeps who is present.
//
// The router is a postman. What it carries is sealed and signed by others; it
// opens nothing, and a test of this package sees to it that it cannot. It may
// lose any hint: commands stand in the outbox, runs in their table.
//
// # What an agent costs
//
// An idle agent costs two goroutines and no write: its heartbeats change nothing
// in the store. An agent that holds leases has a row that tells when it was last
// seen; those rows are written together, in one transaction a second at most,
// and only then are the heartbeats acknowledged. So what an agent may rely on is
// on the disk.
package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
)

// Times of the channel. An agent learns the heartbeats from Welcome.
const (
	idleBeat  = 30 * time.Second
	leaseBeat = 3 * time.Second
	leaseTerm = 10 * time.Second
)

// patience is how long the hub waits for an agent.
type patience struct {
	auth, write time.Duration // an answer to the challenge; a frame to be taken
	idle, lease time.Duration // a frame, without leases and with some
}

var usualPatience = patience{
	auth:  10 * time.Second,
	write: 10 * time.Second,
	idle:  75 * time.Second,       // two heartbeats may be lost
	lease: leaseTerm - flushEvery, // so that its silence is written down when its leases have run out
}

const (
	defaultMax = 50_000 // channels
	maxPending = 2_000  // channels that have not answered their challenge
)

// Config is what a Router is made of.
type Config struct {
	Store store.Store
	Bus   bus.Bus
	Node  string // name of this server node, for presence and events

	// Hosts are the names, without port, by which agents reach this server: an
	// agent signs the one that it dialled.
	Hosts []string

	// Refused is called, in the transaction that stores it, when a command will
	// not be carried out: its agent refused it for good, or nobody took it in
	// time ("expired"). So the run that waits for it ends. nil: nothing.
	Refused func(ctx context.Context, q *db.Queries, org int64, agent, command seal.ID, reason string) error

	MaxAgents int // channels at once; 0: 50,000

	Now func() time.Time // nil: store.Now
	Log *slog.Logger     // nil: slog.Default
}

// Router is the hub of one server node. It is an http.Handler for socket.Path.
type Router struct {
	cfg      Config
	patience patience
	presence *presence
	ctx      context.Context // of store and bus work; ends when Shutdown gives up waiting
	cancel   context.CancelFunc

	mu      sync.Mutex
	orgs    map[int64]*org            // those with agents here
	signing map[*socket.Conn]struct{} // not yet signed in
	closing bool

	channels sync.WaitGroup // channels and the watchers of organisations
	chores   sync.WaitGroup // presence and sweeping
	stop     chan struct{}  // closed when the chores have to end

	open, pending atomic.Int64
	stats         counters
}

type counters struct {
	authenticated, refused, delivered, acked, slow, dead, flushes atomic.Uint64
}

// Stats are counters since New, and the channels open now.
type Stats struct {
	Connected     int64  // channels open now, authenticated or not
	Authenticated uint64 // channels that were opened
	Refused       uint64 // sign-ins that were refused
	Delivered     uint64 // commands sent, repetitions included
	Acked         uint64 // commands taken or refused for good
	Slow          uint64 // channels cut since the agent did not take its frames
	Dead          uint64 // channels cut since the agent was silent
	Flushes       uint64 // transactions that wrote presence
}

// New makes the hub of a node that just started: whoever it left connected is
// not, and every lease gets one fresh term, since no heartbeat could be written
// while the server was down. Shutdown has to be called.
func New(ctx context.Context, cfg Config) (*Router, error) {
	if cfg.Now == nil {
		cfg.Now = store.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.MaxAgents == 0 {
		cfg.MaxAgents = defaultMax
	}
	if cfg.Refused == nil {
		cfg.Refused = func(context.Context, *db.Queries, int64, seal.ID, seal.ID, string) error { return nil }
	}
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("router: no host name: agents sign the name that they dial, so the server must know its own")
	}
	err := cfg.Store.Write(ctx, func(q *db.Queries) error {
		if err := q.NodeGone(ctx, cfg.Node); err != nil {
			return err
		}
		return q.FreshTerms(ctx, cfg.Now().UnixMilli())
	})
	if err != nil {
		return nil, fmt.Errorf("router: give leases a fresh term: %w", err)
	}
	r := &Router{cfg: cfg, patience: usualPatience, orgs: make(map[int64]*org), signing: make(map[*socket.Conn]struct{}), stop: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.presence = newPresence(r)
	r.chores.Go(r.presence.run)
	r.chores.Go(r.sweep)
	return r, nil
}

// Stats tells how the hub fares.
func (r *Router) Stats() Stats {
	return Stats{
		Connected:     r.open.Load(),
		Authenticated: r.stats.authenticated.Load(),
		Refused:       r.stats.refused.Load(),
		Delivered:     r.stats.delivered.Load(),
		Acked:         r.stats.acked.Load(),
		Slow:          r.stats.slow.Load(),
		Dead:          r.stats.dead.Load(),
		Flushes:       r.stats.flushes.Load(),
	}
}

// ServeHTTP opens an agent's channel. It returns once the WebSocket stands, so
// that net/http can let go of its buffers; the channel goes on by itself.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.TLS == nil {
		http.Error(w, "the agent channel needs TLS", http.StatusUpgradeRequired)
		return
	}
	if !r.enter() {
		w.Header().Set("Retry-After", fmt.Sprint(5+rand.IntN(25)))
		http.Error(w, "too many agents, or the server is stopping", http.StatusServiceUnavailable)
		return
	}
	started := false
	defer func() {
		if !started {
			r.leave()
			r.pending.Add(-1)
		}
	}()
	var exporter [32]byte
	material, err := req.TLS.ExportKeyingMaterial(seal.ChannelExporter, nil, len(exporter))
	if err != nil || req.TLS.Version < tls.VersionTLS13 { // the exporter of older versions may bind nothing
		http.Error(w, "the agent channel needs TLS 1.3", http.StatusUpgradeRequired)
		return
	}
	copy(exporter[:], material)
	sock, err := socket.Accept(w, req)
	if err != nil {
		r.cfg.Log.Debug("no channel opened", "address", req.RemoteAddr, "error", err)
		return
	}
	started = true
	address := req.RemoteAddr
	go r.serve(sock, exporter, address)
}

// enter counts a channel in, unless there is no room or the server stops.
func (r *Router) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing || r.open.Load() >= int64(r.cfg.MaxAgents) || r.pending.Load() >= maxPending {
		return false
	}
	r.open.Add(1)
	r.pending.Add(1)
	r.channels.Add(1)
	return true
}

func (r *Router) leave() {
	r.open.Add(-1)
	r.channels.Done()
}

// serve opens a channel. The channel itself then runs in goroutines of its own:
// signing in takes a deep stack, and an idle agent should not keep one.
func (r *Router) serve(sock *socket.Conn, exporter [32]byte, address string) {
	c, err := r.admit(sock, exporter, address)
	if err != nil {
		r.stats.refused.Add(1)
		r.cfg.Log.Debug("channel refused", "address", address, "error", err)
		sock.Close()
		r.leave()
		return
	}
	r.stats.authenticated.Add(1)
	c.open()
	go func() {
		defer r.leave()
		c.run()
		r.part(c)
	}()
}

var errStopping = errors.New("the server is stopping")

func (r *Router) admit(sock *socket.Conn, exporter [32]byte, address string) (*channel, error) {
	defer r.pending.Add(-1)
	if !r.begin(sock) {
		return nil, errStopping
	}
	who, err := r.authenticate(sock, exporter, address)
	r.signedIn(sock)
	if err != nil {
		return nil, err
	}
	c := newChannel(r, sock, who)
	if !r.join(c) {
		c.hints.Close()
		return nil, errStopping
	}
	return c, nil
}

// begin notes a sign-in, so that Shutdown need not wait for it.
func (r *Router) begin(sock *socket.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.signing[sock] = struct{}{}
	return true
}

func (r *Router) signedIn(sock *socket.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.signing, sock)
}

// returnEach is how much longer agents take to come back for each that the server has:
// 500 a second, so that people and runs find it answering meanwhile.
const returnEach = 2 * time.Millisecond

func spreadOf(agents int64) time.Duration { return time.Duration(agents) * returnEach }

// Shutdown ends every channel with word of when to come back, spread so that a
// thousand agents do not come at once, and those soon that hold leases. It waits
// until all is written or ctx ends, and then cuts.
func (r *Router) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	already := r.closing
	r.closing = true
	var all []*channel
	for _, o := range r.orgs {
		for _, c := range o.agents {
			all = append(all, c)
		}
	}
	for sock := range r.signing {
		sock.Abort()
	}
	r.mu.Unlock()
	if already {
		return errors.New("router: shut down already")
	}
	spread := max(time.Second, spreadOf(int64(len(all))))
	for _, c := range all {
		after := 500*time.Millisecond + rand.N(spread)
		if c.leases.Load() > 0 {
			after = 200*time.Millisecond + rand.N(1500*time.Millisecond)
		}
		c.end("restarting", &channelv1.ToAgent{Frame: &channelv1.ToAgent_Restarting{
			Restarting: &channelv1.Restarting{ComeBackAfterMs: uint32(after.Milliseconds())},
		}})
	}
	gone := make(chan struct{})
	go func() {
		r.channels.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = context.Cause(ctx)
		for _, c := range all {
			c.sock.Abort()
		}
		<-gone
	}
	close(r.stop)
	r.chores.Wait()
	r.cancel()
	return err
}
