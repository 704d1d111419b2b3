package pluginhost

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Plugin names one binary.
type Plugin struct {
	Name   string
	SHA256 [32]byte
}

// DialFunc is the way of net.Dialer.DialContext.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config of a Host. Zero values mean the defaults given.
type Config struct {
	// Dir is a folder of the host's own: everything in it is swept at start. Its path has
	// at most 70 bytes, since sockets live in it; where plugins get users of their own,
	// others must be able to pass through its parents.
	Dir string
	// Catalogue finds the binaries.
	Catalogue *Catalogue
	// Processes is the most that run at once (16). More resources than that wait in order
	// of arrival, and the process that was idle longest makes room.
	Processes int
	// Idle ends a process that nobody used for so long (5 min).
	Idle time.Duration
	// StartTimeout bounds a start up to the answer to Describe (20 s).
	StartTimeout time.Duration
	// Connections is the most that one session or one Verify may have open (32).
	Connections int
	// FirstUID is the first of Processes consecutive user ids that plugins get where the
	// agent is root (64000). Nothing else may run under them: leftovers are killed.
	FirstUID int
	// Dial reaches targets when the job brings no dialer of its own (net.Dialer).
	Dial DialFunc
	// Log takes what plugins log, and what the host does (discarded).
	Log *slog.Logger
}

// Target is where a job goes.
type Target struct {
	// Key names the resource, and keeps its jobs in one process and their sessions shared:
	// the resource's record id.
	Key      string
	Resource sdk.Resource
	// Allow lists the addresses (host:port) that the job's dialer reaches.
	Allow []string
	// Pins go to the plugin as Host.Pins.
	Pins map[string][]byte
	// Dial goes through jump hosts, if any; nil means Config.Dial.
	Dial DialFunc
	// Progress gets the plugin's steps, in a goroutine of the host's: it must not block.
	// Of a shared session, the one that opened it gets them.
	Progress func(step string)
}

// Job is what a session is opened with.
type Job struct {
	Target
	Admin   sdk.Credential
	AdminAs sdk.Account
	Extra   map[string]sdk.Credential
	Self    bool
}

// VerifyJob is what a fresh login is made with.
type VerifyJob struct {
	Target
	Account    sdk.Account
	Credential sdk.Credential
}

// Description is a plugin's manifest as it came over the wire: Config is nil, Schema
// is the JSON Schema of the resource's settings.
type Description struct {
	sdk.Manifest
	Schema json.RawMessage
}

// Host runs plugins. It is safe for concurrent use.
type Host struct{}

// New sweeps what an earlier host left in cfg.Dir and makes ready. No process is
// started before it is needed.
func New(cfg Config) (*Host, error) { panic("unbuilt") }

// Close ends every process and waits for them: those in use when their calls have
// returned, or when ctx ends.
func (h *Host) Close(ctx context.Context) error { panic("unbuilt") }

// Isolation says what keeps plugins in on this system.
func (h *Host) Isolation() Isolation { panic("unbuilt") }

// Describe gives the plugin's manifest, starting it if it was never seen.
func (h *Host) Describe(ctx context.Context, p Plugin) (Description, error) { panic("unbuilt") }

// Open gives a session on the job's resource. Sessions of equal jobs, secrets
// included, are one session of the plugin's: it stays open between uses until its
// process is idle for too long or Forget is called. Self jobs share nothing.
func (h *Host) Open(ctx context.Context, p Plugin, j Job) (*Session, error) { panic("unbuilt") }

// Verify logs in afresh, in the resource's process. Any error means undecided.
func (h *Host) Verify(ctx context.Context, p Plugin, j VerifyJob) (sdk.VerifyResponse, error) {
	panic("unbuilt")
}

// Forget closes the idle sessions of a resource, and those in use when they are
// closed: call it when its administrator's secret changes.
func (h *Host) Forget(key string) { panic("unbuilt") }

// Session is a share in an administrative session. Its verbs may be used at once by
// many; they wait for a turn when the manifest's Concurrency is reached.
//
// A missing answer is Outcome Unknown together with an error; NotSent tells when
// nothing can have happened. After a deadline or a crash the session is of no more
// use: close it and open another.
type Session struct{}

// Manifest of the session's plugin.
func (s *Session) Manifest() Description { panic("unbuilt") }

// Apply as sdk.Session.
func (s *Session) Apply(ctx context.Context, r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	panic("unbuilt")
}

// Retire as sdk.Retirer.
func (s *Session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	panic("unbuilt")
}

// Readback as sdk.Readback.
func (s *Session) Readback(ctx context.Context, r sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	panic("unbuilt")
}

// Cut closes the session's connections to the target now: the agent's lease has run
// out. The session is of no more use to anybody.
func (s *Session) Cut() { panic("unbuilt") }

// Traffic counts the bytes to and from the target over the session's connections.
func (s *Session) Traffic() (sent, received int64) { panic("unbuilt") }

// Close gives the share back. It may be called twice.
func (s *Session) Close() { panic("unbuilt") }

// Isolation says what keeps plugins in, for doctor and the start-up log.
type Isolation struct {
	User         bool // a user id of its own: the agent's files and memory are out of reach
	Network      bool // an empty network: the dialer is the only way out
	Processes    bool // sees and signals no others, and its children die with it
	NoPrivileges bool // set-user-id programs give it nothing
	Landlock     int  // version of the kernel's Landlock that shuts paths; 0: none
	// Note says in a sentence what is missing and what to do; empty if nothing is.
	Note string
}

// Catalogue finds plugin binaries by name and hash.
type Catalogue struct{}

// NewCatalogue reads dir, whose files are called NAME@SHA256 (.exe on Windows).
// builtin lists the hashes that the agent was built with, as NAME@SHA256; logged tells
// whether the organisation's log allows another.
func NewCatalogue(dir string, builtin []string, logged func(Plugin) bool) (*Catalogue, error) {
	panic("unbuilt")
}

// Find gives the plugin of that name which may run: the built-in one before those of
// the log. None is an *Error, plugin_unknown.
func (c *Catalogue) Find(name string) (Plugin, error) { panic("unbuilt") }

// List gives every plugin that may run now, by name.
func (c *Catalogue) List() []Plugin { panic("unbuilt") }
