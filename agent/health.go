package agent

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/version"
)

// Health is what the health endpoint tells. It holds no secret and no name of a
// target.
type Health struct {
	OK            bool      `json:"ok"` // signed in to the router, clock and log good
	Version       string    `json:"version"`
	Connected     bool      `json:"connected"`
	Authenticated bool      `json:"authenticated"`
	Since         time.Time `json:"since,omitzero"`
	LastError     string    `json:"lastError,omitempty"`
	Reason        string    `json:"reason,omitempty"`
	ClockSkewMS   int64     `json:"clockSkewMs"`
	LogEpoch      uint64    `json:"logEpoch"`
	LogValidUntil time.Time `json:"logValidUntil,omitzero"`
	LogStale      bool      `json:"logStale"`
	Draining      bool      `json:"draining"`
	ActiveRuns    int       `json:"activeRuns"`
	LastRun       time.Time `json:"lastRun,omitzero"`
	LastOutcome   string    `json:"lastOutcome,omitempty"`
	Recovering    bool      `json:"recovering"`          // sends back what a restored server has lost
	Isolation     string    `json:"isolation,omitempty"` // what is missing, and what to do
	Plugins       []Plugin  `json:"plugins"`             // those that may start, and those that run
}

// Plugin is a plugin file as the agent has it.
type Plugin struct {
	Name      string `json:"name"`
	SHA256    string `json:"sha256"`
	BuiltIn   bool   `json:"builtIn"`
	Approved  bool   `json:"approved"` // by the log, or by coming with this agent
	Processes int    `json:"processes"`
}

// maxSkew is the difference of clocks above which signed messages are refused.
const maxSkew = 2 * time.Minute

// Health says how the agent fares, now.
func (a *Agent) Health() Health {
	s := a.channel.Status()
	head := a.dir.Known().Head()
	h := Health{
		Version: version.Version, Connected: s.Connected, Authenticated: s.Authenticated, Since: s.Since,
		Reason: s.Reason, ClockSkewMS: s.Skew.Milliseconds(), LogEpoch: head.Epoch, LogValidUntil: head.ValidUntil,
		LogStale: a.dir.Known().CheckFresh(a.now()) != nil, Draining: a.draining.Load(), ActiveRuns: a.activeRuns(),
		Isolation: a.plugins.Isolation().Note, Recovering: a.sweep.active.Load(),
	}
	if s.LastError != nil {
		h.LastError = s.LastError.Error()
	}
	a.mu.Lock()
	h.LastRun, h.LastOutcome = a.lastRun.at, a.lastRun.outcome
	a.mu.Unlock()
	h.Plugins = a.pluginFiles()
	h.OK = h.Authenticated && !h.LogStale && !h.Draining && s.Skew.Abs() < maxSkew
	return h
}

// pluginFiles lists what may start now, and what still runs of what may not, or is not
// there, any more.
func (a *Agent) pluginFiles() []Plugin {
	running := a.plugins.Running()
	files := []Plugin{}
	add := func(p pluginhost.Plugin, approved bool) {
		files = append(files, Plugin{p.Name, hex.EncodeToString(p.SHA256[:]), a.catalog.BuiltIn(p), approved, running[p]})
		delete(running, p)
	}
	for _, p := range a.catalog.List() {
		add(p, true)
	}
	for _, p := range slices.SortedFunc(maps.Keys(running), func(x, y pluginhost.Plugin) int { return strings.Compare(x.String(), y.String()) }) {
		add(p, false)
	}
	return files
}

// Handler serves /healthz (200 when OK, else 503; the same JSON either way) and
// /metrics. It is meant for a loopback address.
func (a *Agent) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{a}, a.steps)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := a.Health()
		w.Header().Set("Content-Type", "application/json")
		if !h.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // the caller is gone, or it is not
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// newSteps counts what a run's time goes into: waiting for its turn on the resource
// (queue), the steps of run/steps.go, and the journal's last word (end).
func newSteps() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rotunda_agent_step_seconds", Help: "Time that runs spend in each step.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 9), // 1 ms to 65 s
	}, []string{"step"})
}

// collector reads the agent's state when it is asked: nothing is counted twice.
type collector struct{ a *Agent }

var (
	descUp       = prometheus.NewDesc("rotunda_agent_authenticated", "1 while the router has let this agent in.", nil, nil)
	descActive   = prometheus.NewDesc("rotunda_agent_active_runs", "Runs under way.", nil, nil)
	descRuns     = prometheus.NewDesc("rotunda_agent_runs_total", "Runs since the start, by how their credential ended.", []string{"credential"}, nil)
	descSkew     = prometheus.NewDesc("rotunda_agent_clock_skew_seconds", "The server's clock less this host's.", nil, nil)
	descLogEpoch = prometheus.NewDesc("rotunda_agent_log_epoch", "Newest change of the organisation's log that this agent knows.", nil, nil)
	descCommits  = prometheus.NewDesc("rotunda_agent_journal_commits_total", "Durable writes of the journal since the start.", nil, nil)
	descWrites   = prometheus.NewDesc("rotunda_agent_journal_writes_total", "Changes of the journal since the start; those that come together share a durable write.", nil, nil)
	descRequests = prometheus.NewDesc("rotunda_agent_vault_requests_total", "Requests to the vault since the start.", nil, nil)
	descSweep    = prometheus.NewDesc("rotunda_agent_recovering", "1 while this agent sends back what a restored server has lost.", nil, nil)
	descBack     = prometheus.NewDesc("rotunda_agent_sent_back_total", "What restored servers had lost, since the start: changes of the log and statements that they took, runs for lost values.", []string{"what"}, nil)
	descLogValid = prometheus.NewDesc("rotunda_agent_log_valid_until_seconds", "When the log grows stale and the agent stops, Unix time.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descUp, descActive, descRuns, descSkew, descLogEpoch, descLogValid, descCommits, descWrites, descRequests, descSweep, descBack} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	h := c.a.Health()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	up := 0.0
	if h.Authenticated {
		up = 1
	}
	gauge(descUp, up)
	gauge(descActive, float64(h.ActiveRuns))
	gauge(descSkew, float64(h.ClockSkewMS)/1000)
	gauge(descLogEpoch, float64(h.LogEpoch))
	if !h.LogValidUntil.IsZero() { // there is no log before the first fetch
		gauge(descLogValid, float64(h.LogValidUntil.Unix()))
	}
	sweeping := 0.0
	if h.Recovering {
		sweeping = 1
	}
	gauge(descSweep, sweeping)
	for what, n := range map[string]uint64{"changes": c.a.dir.sent.Load(), "statements": c.a.sweep.statements.Load(), "runs": c.a.sweep.runs.Load()} {
		ch <- prometheus.MustNewConstMetric(descBack, prometheus.CounterValue, float64(n), what)
	}
	commits, writes := c.a.journal.Stats()
	ch <- prometheus.MustNewConstMetric(descCommits, prometheus.CounterValue, float64(commits))
	ch <- prometheus.MustNewConstMetric(descWrites, prometheus.CounterValue, float64(writes))
	ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue, float64(c.a.vault.Requests()))
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	for outcome, n := range c.a.counts {
		ch <- prometheus.MustNewConstMetric(descRuns, prometheus.CounterValue, float64(n), outcome)
	}
}
