package pluginhost

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"time"
	"unique"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Plugin names one binary and, where that runs scripts, the script that its process is.
type Plugin struct {
	Name   string
	SHA256 [32]byte
	Script unique.Handle[string] // zero: none
}

// DialFunc is the way of net.Dialer.DialContext.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config of a Host. Zero values mean the defaults given.
type Config struct {
	// Dir is a folder of the host's own: what an earlier host left in it is swept at
	// start. Its path has at most 70 bytes, since sockets live in it; where plugins get
	// users of their own, others must be able to pass through its parents.
	Dir string
	// Catalogue finds the binaries.
	Catalogue *Catalogue
	// Processes is the most that run at once (16). More resources than that wait in order
	// of arrival, and the process that was idle longest makes room.
	Processes int
	// Spare is a plugin that runs scripts: a process of it is kept ready that has no script
	// yet, and that is counted neither in Processes nor in Running. Zero: none is.
	Spare Plugin
	// Idle ends a process that nobody used for so long (5 min).
	Idle time.Duration
	// StartTimeout bounds a start up to the answer to Describe (20 s).
	StartTimeout time.Duration
	// BackOff is the longest pause before a resource's process is started again, which grows
	// from 100 ms with each crash in a row (30 s).
	BackOff time.Duration
	// Connections is the most that one session or one Verify may have open (64).
	Connections int
	// Users are the user ids that plugins get where the agent is root (60706 to 61183, which
	// systemd leaves to nobody). Agents of one machine share them without giving one out twice. One that the
	// system's user database knows, or under which somebody else's process runs, is
	// passed over.
	Users UserIDs
	// Dial reaches targets when the job brings no dialer of its own (net.Dialer).
	Dial DialFunc
	// Log takes what plugins log, and what the host does (discarded).
	Log *slog.Logger

	bounds bounds // of one process
}

// UserIDs is a range of user ids, both ends within.
type UserIDs struct{ First, Last int }

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
	// Dial goes through jump hosts, if any; nil means Config.Dial. An *sdk.Error of it says
	// in the plugin's place why the target was not reached.
	Dial DialFunc
	// Way tells one Dial from another: a session goes on using the one that it was opened with.
	Way [32]byte
	// Local serves what the plugin asks of the agent's own machine: each connection that it
	// makes to the address local of the network agent. The connection ends with the job, which
	// the context does, too; Local returns then, and closes it. Nil: there is no such address.
	Local func(context.Context, net.Conn)
	// Hold is asked before anything that the plugin sends goes to the target, or to Local:
	// its error cuts the job's connections, those of a shared session for everybody who
	// shares it. It must not block. Nil: nobody is asked.
	Hold func() error
	// Refused is told of each dial to where the job does not lead; it must not block. Nil:
	// only the log is.
	Refused func()
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
	Fresh   bool // log in now: a session that is open already proves nothing
	// Limit bounds a call that needs no session, from when it has its process and its turn,
	// and before that the wait for each of the two. 0: the context does.
	Limit time.Duration
}

// VerifyJob is what a fresh login is made with.
type VerifyJob struct {
	Target
	Account    sdk.Account
	Credential sdk.Credential
}

// Description is a plugin's manifest as it came over the wire: Config and Dependent are nil,
// the schemas are their JSON Schemas.
type Description struct {
	sdk.Manifest
	Schema          json.RawMessage
	DependentSchema json.RawMessage
}
