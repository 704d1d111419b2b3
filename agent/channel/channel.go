// Package channel is the agent's end of the channel to the router: it dials out,
// proves who it is, and then hears of commands and due runs, for as long as it
// runs, over as many connections as that takes.
//
// # How long a lease may be trusted
//
// A heartbeat that tells of leases is acknowledged only when the server has
// stored it; from then on the server gives the leases ten seconds, counted from
// when the heartbeat came. An agent counts from when it *sent* it: it may work on
// until 8 s after the sending of its last acknowledged heartbeat (LastAcked), or
// of the lease request itself, whichever is later, and has to stop then. Call
// SetLeases before asking for a lease, so that the heartbeats begin in time.
package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// ErrDraining says that this agent takes no more commands and goes on with what it has.
var ErrDraining = errors.New("the agent is draining")

// Config says where the channel leads and what happens to what comes. The
// callbacks run one after another in one goroutine, in the order of the frames.
type Config struct {
	Server string      // host:port
	TLS    *tls.Config // with the pinned authority; the server's name is set from Server

	// Proxy gives the HTTP proxy to dial through (http.ProxyFromEnvironment);
	// nil: none. The proxy sees TLS only.
	Proxy func(*http.Request) (*url.URL, error)

	// Dial makes the TCP connection, to Server or to the proxy; nil: a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	OrgID seal.Digest
	Agent seal.ID

	// Sign makes an ECDSA P-256 signature over SHA-256 of input (ASN.1 DER) with
	// the agent's device key.
	Sign func(input []byte) ([]byte, error)

	Version, OS, Arch string // what administrators see

	// Deliver takes sealed commands, those that came together at once, and answers
	// each: nil once the journal has it; a Refusal refuses it for good; ErrDraining
	// leaves it for the next channel. Any other error means "not now": the channel is
	// opened anew, and the command comes again.
	Deliver func(ctx context.Context, commands []*trustv1.CommandFrame) []error

	// RunDue proves nothing: the run's right comes from the account's mandate.
	// It has to return soon. It may be told of the same run again.
	RunDue func(ctx context.Context, due *channelv1.RunDue)

	// LogHead tells the head that the server claims, at the beginning of each
	// connection and when it moves while leases are held.
	LogHead func(ctx context.Context, epoch uint64, digest []byte)

	// Restored tells, at the beginning of each connection, when the server was put back
	// from a backup; of one that never was it is not called. It has to return at once.
	Restored func(at time.Time)

	// Misled is told when the other end did what no router does, and the channel
	// was ended for it. reason is a code of the log's checks.
	Misled func(reason string)

	// Now is this machine's clock as it is compared with the server's; nil:
	// time.Now. How long something took is measured beside it.
	Now func() time.Time
	Log *slog.Logger // nil: slog.Default
}

// Refusal is the stable reason code for which an agent refuses a command.
type Refusal string

func (r Refusal) Error() string { return "command refused: " + string(r) }

// Status is the channel's health.
type Status struct {
	Connected     bool // a socket stands
	Authenticated bool // and the router welcomed us
	Since         time.Time

	// LastError is why there is no channel, or why the former one ended, and
	// Reason its stable code (see Error); Failures counts since the last welcome.
	LastError error
	Reason    string
	Failures  int

	// Skew is how far the server's clock is before ours, negative: behind; good
	// to about a second. Above 120 s signed messages are refused.
	Skew time.Duration

	Retry time.Time // when the next connection is tried, while there is none
}

// Channel is one agent's channel. Run it once.
type Channel struct {
	cfg  Config
	host string

	progress chan *channelv1.Progress
	leases   atomic.Uint32
	spread   atomic.Int64 // of the server's agents, when it is gone: see Welcome.spread_ms
	draining atomic.Bool
	changed  chan struct{} // something that the next heartbeat should tell at once

	mu     sync.Mutex
	status Status
	acked  time.Time // when the last acknowledged heartbeat with leases was sent
}

// progressQueue bounds hints that wait to be sent; more are dropped.
const progressQueue = 256

// New checks a configuration. Nothing is dialled before Run.
func New(cfg Config) (*Channel, error) {
	host, port, err := net.SplitHostPort(cfg.Server)
	if err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("channel: server %q: give host:port", cfg.Server)
	}
	if cfg.TLS == nil || cfg.Sign == nil || cfg.Deliver == nil || cfg.RunDue == nil {
		return nil, errors.New("channel: TLS, Sign, Deliver and RunDue have to be given")
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if cfg.Restored == nil {
		cfg.Restored = func(time.Time) {}
	}
	if cfg.LogHead == nil {
		cfg.LogHead = func(context.Context, uint64, []byte) {}
	}
	if cfg.Misled == nil {
		cfg.Misled = func(string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Channel{
		cfg: cfg, host: host,
		progress: make(chan *channelv1.Progress, progressQueue),
		changed:  make(chan struct{}, 1),
	}, nil
}

// Backoff between connections: doubled from the least to the most, each drawn
// between half and all of it. An agent that was refused for good asks rarely. The first
// one after a connection that stood is drawn from the time that the server gave for it:
// ten thousand agents do not come back to it at once.
const (
	leastPause = 500 * time.Millisecond
	mostPause  = 30 * time.Second
	// With leases, which live by heartbeats: runs take up their work as soon as the server
	// is back, and would lose it again during a longer pause.
	mostPauseLeased = 2 * time.Second
	refusedPause    = 5 * time.Minute
	mostSpread      = 2 * time.Minute
)

// Run keeps the channel until ctx ends, and returns ctx's cause.
func (c *Channel) Run(ctx context.Context) error {
	failures := 0
	for {
		welcomed, err := c.session(ctx)
		if ctx.Err() != nil {
			c.set(func(s *Status) { *s = Status{Skew: s.Skew, LastError: context.Cause(ctx), Reason: "stopped"} })
			return context.Cause(ctx)
		}
		if welcomed {
			failures = 0
		}
		failures++
		pause := c.pause(failures, err)
		c.set(func(s *Status) {
			*s = Status{LastError: err, Reason: ReasonOf(err), Failures: failures, Skew: s.Skew, Retry: c.cfg.Now().Add(pause)}
		})
		if e := (*Error)(nil); errors.As(err, &e) && e.misled {
			c.cfg.Misled(e.Reason)
		}
		level := slog.LevelWarn
		if ReasonOf(err) == "restarting" {
			level = slog.LevelInfo
		}
		c.cfg.Log.Log(ctx, level, "the channel to the server is down", "server", c.cfg.Server, "reason", ReasonOf(err), "error", err, "again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// noteSpread keeps what the server says of its agents' return.
func (c *Channel) noteSpread(ms uint32) {
	c.spread.Store(int64(min(time.Duration(ms)*time.Millisecond, mostSpread)))
}

func (c *Channel) pause(failures int, err error) time.Duration {
	spread := time.Duration(c.spread.Swap(0)) // once: from then on they are spread
	var e *Error
	if errors.As(err, &e) {
		switch {
		case e.comeBack > 0:
			return e.comeBack
		case e.lasting():
			return refusedPause/2 + rand.N(refusedPause/2)
		}
	}
	most := mostPause
	if c.leases.Load() > 0 {
		most = mostPauseLeased
	} else if spread > leastPause {
		return leastPause/2 + rand.N(spread)
	}
	pause := min(most, leastPause<<min(failures-1, 10))
	return pause/2 + rand.N(pause/2)
}

// Status tells how the channel fares.
func (c *Channel) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Channel) set(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

// SetLeases tells how many leases the agent holds, or is about to ask for. With
// any, heartbeats go every 3 s instead of every 30; the first goes at once.
func (c *Channel) SetLeases(n int) {
	was := c.leases.Swap(uint32(max(0, n)))
	if (was == 0) != (n <= 0) {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

// Drain tells the server, now and with each heartbeat, that this agent begins nothing
// more: others get what it has not begun.
func (c *Channel) Drain() {
	c.draining.Store(true)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Progress passes a hint to people who follow a run. It never blocks; a hint
// that finds no room, or no channel, is lost.
func (c *Channel) Progress(run seal.ID, account *trustv1.Ref, phase string) {
	if !c.Status().Authenticated {
		return
	}
	select {
	case c.progress <- &channelv1.Progress{RunId: run[:], Account: account, Phase: phase}:
	default:
	}
}

// LastAcked is when the last acknowledged heartbeat that told of leases was
// sent; zero: there was none. The time has its monotonic reading.
func (c *Channel) LastAcked() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}
