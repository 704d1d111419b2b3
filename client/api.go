// Package client is the library of people's side: the keys, the checks and the
// calls behind the command line and the demo. Everything that a server serves
// is verified here before it is shown, and everything secret is sealed here
// before it leaves.
//
// A Client is one person's device in one organisation. It is safe for
// concurrent use. Every error is an *Error (class, reason, hint).
package client

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Ref names a record: the pair is the name.
type Ref = trust.Ref

// Roles is a set of rights.
type Roles = trust.Roles

// The roles of the log.
const (
	Read          = trust.Read          // open records
	Edit          = trust.Edit          // change records, sign statements
	Operate       = trust.Operate       // sign commands, enable mandates
	Share         = trust.Share         // grant what one has; includes Read
	ApproveScript = trust.ApproveScript // let a script into a record
	Admin         = trust.Admin         // members, agents, pools, plugins, policy
)

// ---- directory ----

// Member is a person.
type Member struct {
	ID      seal.ID
	Name    string
	Roles   Roles // on every folder, and the organisation
	Devices []Device
	Pending bool // a token is out and no device has joined
}

// Device is one person's device.
type Device struct {
	ID       seal.ID
	Member   seal.ID
	Name     string
	Roles    Roles // the mask
	NotAfter time.Time
	Current  bool // this very device
}

// Pool is a named set of agents that reach the same network.
type Pool struct {
	ID     seal.ID
	Name   string
	Agents int
}

// Agent is one agent. Connected, Seen, Version, OS, Arch, Leases and LogEpoch are
// the server's word.
type Agent struct {
	ID        seal.ID
	Pool      seal.ID
	PoolName  string
	Name      string
	Connected bool
	Seen      time.Time // zero: never
	Version   string
	OS, Arch  string
	Leases    int
	LogEpoch  uint64
}

// Folder is a shared root folder.
type Folder struct {
	UID        seal.ID
	Name       string
	KeyVersion uint32
	Records    int64
	OldKeys    int64 // records whose key is from before the folder's was changed; the server's word
	Roles      Roles // the caller's
	Missing    bool  // the caller holds no key for it yet: name and records stay closed
	Grants     []Grant
}

// Grant is one right on a folder.
type Grant struct {
	To    seal.ID
	Kind  trustv1.EntryKind // member, pool, app
	Name  string
	Roles Roles
}

// PendingToken is an enrolment that waits for its party.
type PendingToken struct {
	ID       seal.ID
	Name     string
	Kind     trustv1.EntryKind // device or agent
	Owner    seal.ID
	NotAfter time.Time
}

// ---- records ----

// ValueState says what may be thought of a record's value.
type ValueState string

// The states of a value.
const (
	InUse         ValueState = "in use"         // an agent committed it, or an entitled person set it
	Unconfirmed   ValueState = "unconfirmed"    // no result whose word counts attests any value yet
	Unattested    ValueState = "unattested"     // a result attests another value than the one served
	Unsigned      ValueState = "unsigned"       // no statement: agents do not use the record
	EditedOutside ValueState = "edited outside" // a machine client wrote it after the last attested value
	NotLinked     ValueState = "not linked"     // it names a record on which its signer, or the pool, has no right: agents do not use it
	RolledBack    ValueState = "rolled back"    // this device has seen a newer value or statement
	Kept          ValueState = "kept"           // a record without statement that needs none, e.g. of type login
	Broken        ValueState = "broken"         // it does not open, or a check failed: Reason says why
)

// Record is a record, opened and checked.
type Record struct {
	Ref      Ref
	Type     string // pamUser, pamMachine, pamDatabase, pamDirectory, login, …
	Title    string
	Revision int64
	Updated  time.Time

	State  ValueState
	Reason string // code of the check that failed; empty in good states

	// Statement is verified, nil when there is none or it was refused.
	Statement       *trustv1.Statement
	StatementDigest seal.Digest
	SignedBy        seal.ID // device
	SignedByName    string  // "member / device"
	// Unlinked is what the statement names on which its signer has no right. Whoever signs
	// it anew would give it his own: nobody does unasked.
	Unlinked []trust.Reference

	// Attested is the newest result whose word counts, nil for none. PoolUnknown: it is an
	// agent's, and whether that is of the resource's pool cannot be told here. Where the
	// caller may read the resource, the word does not count then.
	Attested    *trustv1.Result
	PoolUnknown bool

	// Candidate is set while a run's new value is outstanding.
	Candidate *Candidate

	data *record.Record
	// What the value is worth where State tells of the links, and its reason.
	word       ValueState
	wordReason string
}

// ValueState is the state of the value alone, with its reason: State, unless that tells of
// the links.
func (r *Record) ValueState() (ValueState, string) {
	if r.State == NotLinked && r.word != "" {
		return r.word, r.wordReason
	}
	return r.State, r.Reason
}

// Candidate is a value that is staged and not settled.
type Candidate struct {
	RunID  seal.ID
	Owner  string // agent or client
	Staged time.Time
	Value  sdk.Secret // as the record's kind of secret; empty when it did not open
	Reason string     // code of the check that failed

	by seal.ID // who signed for it, where that could be read
}

// HistoryValue is a former value of a record.
type HistoryValue struct {
	Revision int64
	Time     time.Time
	Why      string // replaced, abandoned, rolled_back, rekeyed
	RunID    seal.ID
	Attested bool // a result whose word counts names exactly this value
	Reason   string
	data     *record.Record
}

// LoginSpec is a record that is kept and not rotated: type login.
type LoginSpec struct {
	Folder seal.ID
	Title  string
	Login  string
	URL    string
	Notes  string
	Secret sdk.Secret
}

// AccountSpec is a new account (pamUser) with its statement.
type AccountSpec struct {
	Folder     seal.ID
	Title      string
	Resource   Ref // where it logs in
	Login      string
	Scope      string     // database, DN
	SecretKind string     // password (default), ssh_key, api_key, token
	Secret     sdk.Secret // the present value; may be empty: the first run sets it
	PublicKey  string     // of an ssh_key: may be empty, else it must belong to the Secret
	KeyID      string     // of an api_key or token: its id at the target
	Policy     *trustv1.PasswordPolicy
	VerifyMode string // login (default), readback
	MaxProbe   uint32
	Dependents []*trustv1.Dependent
	Drain      time.Duration // how long who used the former secret may go on
	Notes      string
	URL        string
	SameLogin  bool // another account may have this login on the resource
}

// ResourceSpec is a new resource with its statement.
type ResourceSpec struct {
	Folder       seal.ID
	Type         string // pamMachine, pamDatabase, pamDirectory
	Title        string
	Pool         seal.ID
	Plugin       string // postgres, ssh, …
	Host         string
	Port         uint16
	Via          Ref // jump resource
	TLS          *trustv1.Tls
	SSHHostKeys  []seal.Digest
	TOFU         bool
	AdminAccount Ref // may be set later with EditResource
	Extras       []*trustv1.Extra
	Config       []byte             // JSON for the plugin
	Concurrency  int                // runs at once that it takes; 0: a few
	Rotator      *trustv1.ScriptUse // with the plugin lua: Script.Use of the script that it is
	Discoverer   *trustv1.ScriptUse // finds its accounts; nil: none does
	Notes        string
}

// RecordEdit changes a record's values; nil leaves a value as it is.
type RecordEdit struct {
	Title     *string
	Notes     *string
	Login     *string // login records only: an account's login stands in its statement
	URL       *string
	Secret    *sdk.Secret
	PublicKey *string // of an ssh_key account: must belong to its Secret
	KeyID     *string // of an api_key or token: its id at the target
	SameLogin bool    // of an ssh_key account: another may have the same key
	// Revision that the caller saw; 0: the newest. Another writer in between is a Conflict.
	Revision int64
}

// ImportReport tells what an import did, line by line where it failed.
type ImportReport struct {
	Added  int
	Failed []ImportFailure
}

// ImportFailure is a line that was not imported.
type ImportFailure struct {
	Line int
	Err  error
}

// ---- rotation ----

// Schedule is when an account is rotated. Exactly one of Cron, Every and Once is set.
type Schedule struct {
	Cron     string // five fields
	Every    time.Duration
	Once     time.Time
	TimeZone string    // IANA name; empty: UTC
	Anchor   time.Time // Every counts from here; zero: now
}

// RotationSpec sets an account's rotation.
type RotationSpec struct {
	Account Ref
	// Schedule nil: the account rotates only by hand, its mandate is switched off.
	Schedule    *Schedule
	Missed      string        // skip, or once (default): what happens to firings that were missed
	Jitter      time.Duration // spreads firings
	MinInterval time.Duration // 0: half the schedule's shortest gap, at least a minute
	MandateFor  time.Duration // 0 and at most: 400 days
	Policy      *trustv1.PasswordPolicy
	Paused      bool
}

// Rotation is an account's schedule as the server keeps it, beside what the
// statement allows.
type Rotation struct {
	Account  Ref
	Resource Ref
	Schedule Schedule
	Missed   string
	Jitter   time.Duration
	Paused   bool
	Next     time.Time // zero: none
	Last     time.Time
	State    string // scheduled, paused, running, retrying, alert, done
	Failures int
	Reason   string
	Mandate  *trustv1.Mandate // from the verified statement; nil in lists
	Changed  time.Time        // when an agent gave the account the secret that it has; zero in lists
}

// Firing is a time at which a schedule fires.
type Firing struct {
	At      time.Time
	Refused trust.Reason // why agents would refuse it by the mandate; empty: they would not
}

// ---- runs ----

// RunOptions are common to Rotate and Verify.
type RunOptions struct {
	// Progress is called with unsigned hints, from one goroutine at a time.
	Progress func(Progress)
	// Agent names the agent to use; zero: a live one of the resource's pool.
	Agent seal.ID
	// Wait bounds the whole call; 0: until ctx ends.
	Wait time.Duration
	// NoWait returns each Outcome (StillOpen, with its RunID) as soon as the server holds
	// the run and its command; the caller may Wait for it later.
	NoWait bool
	// Parallel runs of one call, 0: 16.
	Parallel int
	// Unproven lets Abandon clear a candidate that no agent can probe or judge: the caller
	// has said so after reading what that means.
	Unproven bool
	// Judged says that an agent has just been asked to judge the candidate, in vain: it is
	// not asked again, which costs failed logins.
	Judged bool
}

// Progress is a hint on a run's way.
type Progress struct {
	Account Ref
	RunID   seal.ID
	State   string // queued, leased, …
	Phase   string // resolved, prepared, staged, applied, …
}

// Outcome is how a run, test or probe ended, by verified results only.
type Outcome struct {
	Account    Ref
	RunID      seal.ID
	Action     string // rotate, verify, script
	Agent      seal.ID
	AgentName  string
	State      OutcomeState
	Credential trustv1.Outcome
	Dependents trustv1.Outcome
	Scripts    trustv1.Outcome
	Class      string
	Reason     string
	Detail     string // the agent's text for the record's readers
	ValueSeq   uint64
	Finished   time.Time
	Err        error // why there is no verified result, nil with one
}

// OutcomeState is an Outcome in one word.
type OutcomeState string

// The outcome states.
const (
	Done        OutcomeState = "done"         // changed and proven (verify: the value opens the target; script: all have run)
	DoneBlind   OutcomeState = "unverifiable" // changed, and nobody can log in to prove it
	DonePartly  OutcomeState = "partly"       // the credential is changed, dependents or scripts failed
	NotDone     OutcomeState = "failed"       // the old value is in use
	StillOpen   OutcomeState = "pending"      // both values are kept; Rotunda finds out later
	NotStarted  OutcomeState = "not started"  // no agent took it
	OutcomeLost OutcomeState = "unknown"      // no verified word yet
)

// Run is a run as the server tells it, with the verified results beside it.
type Run struct {
	ID          seal.ID
	Account     Ref
	Resource    Ref
	Agent       seal.ID
	AgentName   string
	Action      string
	Cause       string
	State       string
	Phase       string
	Attempt     int
	Created     time.Time
	Started     time.Time
	Finished    time.Time
	NextAttempt time.Time // zero: none, or its agent's to choose
	Until       time.Time // when a person's run ends that its agent has not taken up by then; zero: never
	Credential  trustv1.Outcome
	Dependents  trustv1.Outcome
	Scripts     trustv1.Outcome
	Class       string
	Reason      string
	Results     []RunResult // GetRun only
}

// RunResult is one signed result of a run.
type RunResult struct {
	Result *trustv1.Result
	By     string // "pool / agent"
	Detail string // empty when there is none or it does not open
	Reason string // code of the check that failed; empty: its word counts
}

// RunFilter narrows ListRuns.
type RunFilter struct {
	Account seal.ID
	State   string // "", failed, overdue, unverifiable, unfinished; unmended, unmended_dependents, unmended_scripts: what no later run has done well
	Limit   int    // 0: 100
	Token   string // where to go on
}

// TestReply is an agent's verified answer to Test.
type TestReply struct {
	Agent     seal.ID
	AgentName string
	OK        bool
	Class     string
	Reason    string
	Detail    string
}

// ProbeReply is an agent's verified answer to Probe: the target's keys as it sees them.
type ProbeReply struct {
	Agent       seal.ID
	AgentName   string
	Address     string
	TLSKeys     []seal.Digest // SHA-256 of the public key info, leaf first
	TLSSubject  string
	TLSChain    [][]byte // DER
	SSHKeys     []seal.Digest
	SSHKeyTypes []string
	// FirstSSHKey is the host key that the agent saw first and goes by, where the
	// statement says trust on first use; zero: none yet.
	FirstSSHKey seal.Digest
	Class       string // of a probe that failed
	Reason      string
	Detail      string
}

// DiscoverReply is an agent's verified answer to Discover: the target's accounts, in the words
// of the script that found them.
type DiscoverReply struct {
	Agent     seal.ID
	AgentName string
	OK        bool
	Accounts  []sdk.Finding
	More      bool   // the target has others, which did not fit in
	Class     string // of a discovery that failed
	Reason    string
	Detail    string
}

// InfoReply is an agent's verified answer to Info.
type InfoReply struct {
	Agent         seal.ID
	AgentName     string
	Version       string
	OS, Arch      string
	Started       time.Time
	Clock         time.Time
	LogEpoch      uint64
	LogValidUntil time.Time
	ActiveRuns    int
	Plugins       []*trustv1.PluginReply
}

// ---- applications ----

// App is a machine application of the secrets-manager protocol.
type App struct {
	ID      seal.ID
	Name    string
	Folders []AppFolder
	Clients []AppClient // where it is held
	Held    bool        // this device may hold its key
}

// AppFolder is a folder that an application may use.
type AppFolder struct {
	UID   seal.ID
	Name  string
	Roles Roles
}

// AppClient is one bound (or waiting) client of an application.
type AppClient struct {
	ID       []byte // 64 bytes
	Name     string
	State    string // waiting, bound, expired, revoked
	Created  time.Time
	LastSeen time.Time
}

// AppClientSpec is a new client of an application.
type AppClientSpec struct {
	App          seal.ID
	Name         string
	TokenFor     time.Duration // one-time tokens; 0: 24 h
	AccessUntil  time.Time     // zero: for ever
	LockAddress  bool
	ServerKeyID  string // of the secrets-manager endpoint, for pre-bound configurations
	ServerKey    []byte // P-256 point of the endpoint, 65 bytes
	PublicServer string // host[:port] that machine clients use; empty: the profile's server
}

// ---- events, log ----

// Event is one line of the audit record.
type Event struct {
	Seq       int64
	Time      time.Time
	Name      string
	Actor     seal.ID
	ActorName string // from the verified log; empty: unknown
	Record    Ref
	RunID     seal.ID
	Reason    string
	Fields    map[string]string
}

// EventFilter narrows Events.
type EventFilter struct {
	After       int64    // sequence number
	Names       []string // prefixes, e.g. run.
	NewestFirst bool
	Limit       int // 0: 100
	Token       string
}

// Change is one change of the log, verified.
type Change struct {
	Epoch      uint64
	Digest     seal.Digest
	Issued     time.Time
	ValidUntil time.Time
	By         []string // names of the signers, "root"
	Ops        []*trustv1.Op
	Summary    []string // one line an op
}

// LogStatus is the log's state.
type LogStatus struct {
	OrgID       seal.Digest
	Fingerprint string // org id in groups of four
	Epoch       uint64
	Head        seal.Digest
	ValidUntil  time.Time
	Changes     uint64
	Warn        bool // half of the log's time is gone: an administrator should sign in
	// Behind are agents whose newest results carry a head from before the newest
	// removal (or that gave none): treat them as not having heard of it.
	Behind []Agent
}

// Plugin is an approved plugin file.
type Plugin struct {
	Name, Version, OS, Arch string
	SHA256                  seal.Digest
}
