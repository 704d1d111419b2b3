// Package agent is the on-prem part: it dials out to the router, takes commands and
// due runs, checks them, and has its plugins do the work.
//
// intake.go is where a command enters, run/steps.go what a rotation is, reply.go
// what is answered without a run, directory.go how the log is kept.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/jump"
	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// builtinPlugins lists NAME@SHA256 of the plugins built together with this agent,
// separated by commas. The build sets it (make build).
var builtinPlugins string

// Config is what an agent is started with.
type Config struct {
	DataDir   string // journal, key file, sockets
	PluginDir string // binaries named NAME@SHA256
	Policy    *policy.Policy
	Identity  *Identity
	Enrolled  bool // just now: nothing can have been forgotten
	Runs      int  // on targets at once (64)
	Processes int  // of plugins at once (16)
	// PluginUsers are the user ids of plugins where the agent is root (pluginhost.Config).
	PluginUsers pluginhost.UserIDs
	Log         *slog.Logger
}

// Agent is a running agent.
type Agent struct {
	cfg      Config
	id       *Identity
	log      *slog.Logger
	now      func() time.Time
	started  time.Time
	journal  *journal.Journal
	vault    *ksm.Client
	dir      *directory
	plugins  *pluginhost.Host
	ways     *jump.Ways
	catalog  *pluginhost.Catalogue
	channel  *channel.Channel
	leases   *run.Leases
	engine   *run.Engine
	refusals chan ksm.Refusal
	steps    *prometheus.HistogramVec // how long the steps of runs take

	sweep sweep

	work     sync.WaitGroup // runs and replies under way
	ctx      context.Context
	stopWork context.CancelCauseFunc
	draining atomic.Bool

	later      sync.WaitGroup // runs that broke off and wait to be started again
	againAfter time.Duration
	patience   context.Context
	endWaits   context.CancelFunc

	mu      sync.Mutex
	active  map[trust.Ref][]run.Job // by account: the run under way, and the commands that wait for it
	waits   []waiting               // those of later
	lastRun lastRun
	counts  map[string]uint64  // runs by how they ended
	keys    map[seal.ID][]byte // public, of devices that asked for something
}

type lastRun struct {
	at      time.Time
	outcome string
}

// errDraining ends what is still under way when the time for a drain is over.
var errDraining = errors.New("the agent is stopping")

// maxActive bounds the runs and replies that this agent takes on at a time; more
// are announced again by the vault, to any agent of the pool.
const maxActive = 10_000

// New opens the journal and makes ready. Nothing is dialled before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.Runs <= 0 {
		cfg.Runs = 64
	}
	a := &Agent{
		cfg: cfg, id: cfg.Identity, log: cfg.Log, now: fault.Now, started: fault.Now(),
		againAfter: againAfter, active: map[trust.Ref][]run.Job{}, counts: map[string]uint64{}, keys: map[seal.ID][]byte{},
		refusals: make(chan ksm.Refusal, 256), steps: newSteps(), sweep: sweep{wanted: make(chan time.Time, 1), jitter: sweepJitter, again: sweepAgain},
	}
	a.ctx, a.stopWork = context.WithCancelCause(context.Background())
	a.patience, a.endWaits = context.WithCancel(a.ctx)
	var err error
	var rebuilt bool
	if a.journal, rebuilt, err = journal.Open(filepath.Join(cfg.DataDir, "journal.db"), cfg.Enrolled, a.now()); err != nil {
		return nil, err
	}
	if rebuilt {
		a.log.Error("the journal was lost or damaged; a new one was begun", "effect", "commands issued until two minutes from now are refused (replay_floor)")
	}
	if err := a.connect(); err != nil {
		a.journal.Close()
		return nil, err
	}
	return a, nil
}

// connect makes the parts that stand on the journal.
func (a *Agent) connect() error {
	tlsConfig, err := enrol.TLSConfig(a.id.Server, a.id.CAPin)
	if err != nil {
		return err
	}
	if a.vault, err = ksm.NewClient(ksm.ClientConfig{
		BaseURL:  "https://" + a.id.Server,
		HTTP:     vaultHTTP(tlsConfig, a.cfg.Runs+otherRequests),
		ClientID: seal.AgentClientID(a.id.OrgID, a.id.Entry), Key: a.id.Device(), Version: version.Version,
	}); err != nil {
		return err
	}
	if a.dir, err = newDirectory(a.id.OrgID, a.journal, a.now); err != nil {
		return err
	}
	a.dir.vault, a.dir.logger, a.dir.refuse = a.vault, a.log, a.refuse

	if a.catalog, err = pluginhost.NewCatalogue(a.cfg.PluginDir, Builtins(), func(p pluginhost.Plugin) bool {
		logged, ok := a.dir.Known().Plugin(seal.Digest(p.SHA256))
		return ok && logged.Name == p.Name && logged.OS == runtime.GOOS && logged.Arch == runtime.GOARCH
	}); err != nil {
		return err
	}
	spare, _ := a.catalog.Find(script.Plugin) // without it there are no scripts to wait for
	if a.plugins, err = pluginhost.New(pluginhost.Config{
		Dir: filepath.Join(a.cfg.DataDir, "run"), Catalogue: a.catalog, Processes: a.cfg.Processes, Users: a.cfg.PluginUsers,
		Dial: a.dial, Log: a.log, Spare: spare,
	}); err != nil {
		return err
	}
	if iso := a.plugins.Isolation(); iso.Note != "" {
		a.log.Warn("plugins are not wholly shut in", "isolation", iso.Note, "have", iso.String())
	}
	if a.channel, err = channel.New(channel.Config{
		Server: a.id.Server, TLS: tlsConfig, Proxy: http.ProxyFromEnvironment, OrgID: a.id.OrgID, Agent: a.id.Entry,
		Sign:    func(input []byte) ([]byte, error) { return seal.SignP256(a.id.Device(), input) },
		Version: version.Version, OS: runtime.GOOS, Arch: runtime.GOARCH,
		Deliver: a.deliver, RunDue: a.runDue,
		LogHead:  func(_ context.Context, epoch uint64, _ []byte) { a.dir.Hint(epoch) },
		Restored: a.restored,
		Misled: func(reason string) {
			a.refuse(ksm.Refusal{Name: "channel.refused", Reason: reason, Time: a.now().UnixMilli()})
		},
		Now: a.now, Log: a.log,
	}); err != nil {
		return err
	}
	a.leases = run.NewLeases(a.channel.LastAcked, a.channel.SetLeases, time.Now)
	a.ways = jump.New(jump.Config{Dial: a.dial, Reach: a.reach})
	a.engine = &run.Engine{
		Me:    run.Identity{ID: a.id.Entry, Sign: a.id.Keys.Sign, Seal: a.id.Keys.Seal},
		Vault: runVault{a.vault}, Plugins: hostPlugins{a.plugins, a.catalog}, Directory: a.dir, Journal: a.journal,
		Policy: a.cfg.Policy, Dial: a.dial, Ways: a.ways, Leases: a.leases, Slots: run.NewSlots(a.cfg.Runs), Limits: run.DefaultLimits,
		Took: func(step string, d time.Duration) { a.steps.WithLabelValues(step).Observe(d.Seconds()) },
		Hint: func(id seal.ID, account trust.Ref, phase string) { a.channel.Progress(id, account.Proto(), phase) },
		Tell: a.refuse,
		Log:  a.log, Now: a.now, Open: a.patience, Local: local.Handler(a.cfg.Policy, a.log),
	}
	return nil
}

// Builtins lists the plugins that were built together with this agent, as NAME@SHA256.
func Builtins() []string {
	var out []string
	for _, s := range strings.Split(builtinPlugins, ",") {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// otherRequests are those beside the runs': the log, refusals, replies.
const otherRequests = 8

// vaultHTTP keeps enough connections alive for all runs to share, and makes no more: in
// a burst, when every connection is in use for a moment, each request would begin one,
// and most handshakes would be done for nothing. HTTP/1.1: each request brings its own
// key and signature in headers, which HTTP/2 compresses for nothing, at twice the
// processor time.
func vaultHTTP(config *tls.Config, connections int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config.Clone(), Protocols: http1(),
			MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, IdleConnTimeout: 2 * time.Minute, TLSHandshakeTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// dial reaches targets. The local policy is asked with the resolved address, just
// before the connect call: no name can lead around it.
func (a *Agent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, Control: func(_, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err != nil {
			return err
		}
		if err := a.reach(ap.Addr()); err != nil {
			return &sdk.Error{Class: sdk.ClassPermission, Reason: string(trust.LocalPolicy), NotSent: true, Err: err}
		}
		return nil
	}}
	return d.DialContext(ctx, network, address)
}

// reach asks the local policy.
func (a *Agent) reach(to netip.Addr) error {
	err := a.cfg.Policy.Reach(to)
	if err != nil {
		a.log.Warn("a target was not reached", "error", err) // a plugin learns the reason alone
	}
	return err
}

// Run works until ctx ends, then drains: what is under way may finish within
// grace; what does not is found by the next start, or by another agent.
func (a *Agent) Run(ctx context.Context, grace time.Duration) error {
	background, stop := context.WithCancel(context.Background())
	var services sync.WaitGroup
	services.Go(func() { a.leases.Watch(background) })
	services.Go(func() { a.tellRefusals(background) })
	services.Go(func() { a.keepFresh(background) })
	services.Go(func() { a.sweeps(a.patience) })
	if err := a.resume(); err != nil {
		a.log.Error("some work of before could not be taken up again", "error", err)
	}
	// The channel outlives ctx: heartbeats keep the leases of what is draining.
	services.Go(func() { _ = a.channel.Run(background) })

	<-ctx.Done()
	a.mu.Lock() // whoever is to be waited for was started before this
	a.draining.Store(true)
	a.mu.Unlock()
	a.endWaits()      // the journal has them, for the next start; due runs are others'
	a.channel.Drain() // and others are told of them now
	a.later.Wait()
	a.log.Info("draining", "runs", a.activeRuns(), "grace", grace)
	drained := make(chan struct{})
	go func() { a.work.Wait(); close(drained) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		a.log.Info("the grace is over: what is under way is left to others, or to the next start", "runs", a.activeRuns())
		a.stopWork(errDraining)
		<-drained
	}
	closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := a.plugins.Close(closing)
	a.ways.Close()
	stop()
	services.Wait()
	return errors.Join(err, a.journal.Close())
}

// keepFresh fetches the log hourly and forgets what the journal need not keep.
func (a *Agent) keepFresh(ctx context.Context) {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		if err := a.dir.Fetch(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the log could not be fetched", "error", err)
		}
		if l := a.dir.Known(); l.Next() > 0 && l.Warn(a.now()) {
			a.log.Warn("the organisation's log grows old: an administrator's client must sign in", "valid_until", l.ValidUntil())
		}
		if err := a.journal.Forget(a.now()); err != nil {
			a.log.Error("journal", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// refuse queues an event for the vault. When the queue is full the event is in the
// agent's own log alone.
func (a *Agent) refuse(r ksm.Refusal) {
	select {
	case a.refusals <- r:
	default:
		a.log.Warn("too many refusals to report", "reason", r.Reason)
	}
}

func (a *Agent) tellRefusals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-a.refusals:
			call, cancel := context.WithTimeout(ctx, 30*time.Second)
			if err := a.vault.Report(call, ksm.ReportRequest{Refusals: []ksm.Refusal{r}}); err != nil {
				a.log.Warn("a refusal could not be reported", "reason", r.Reason, "error", err)
			}
			cancel()
		}
	}
}
