// Package ksm is the secrets-manager wire format, used alike by the vault's handlers
// and by the agent's client.
//
// The agents' own operations travel in the secrets-manager envelope
// (POST /api/rotunda/v1/agent/OP), whose signature does not cover the path:
// therefore op stands inside the signed payload as well, and the server refuses
// a payload whose op is not the path's.
package ksm

// Operations of agents: the path's last element, and op inside the payload.
const (
	OpFetch   = "get_secret" // below PathMachine, with ext
	OpLog     = "log"
	OpAppend  = "append"
	OpKeys    = "keys"
	OpLease   = "lease"
	OpStage   = "stage"
	OpCommit  = "commit"
	OpAbandon = "abandon"
	OpReport  = "report"
	OpRestate = "restate"
)

// Ref names a record in JSON: raw 16-byte uids (base64 on the wire).
type Ref struct {
	Folder []byte `json:"folder"`
	Record []byte `json:"record"`
}

// AgentHead begins every agent operation's payload.
type AgentHead struct {
	ClientVersion string `json:"clientVersion"`
	ClientID      string `json:"clientId"`
	Op            string `json:"op"`
}

// FetchRequest is get_secret with ext: it names records by uid and brings, for
// each, statement, results and candidate, and the records that the vault's clear
// links lead to (resource, administrator), so that a run needs one round trip.
type FetchRequest struct {
	AgentHead
	RequestedRecords []string `json:"requestedRecords"` // base64url uids
	Ext              bool     `json:"ext"`
}

// FetchAnswer holds only what the agent's pool may read.
type FetchAnswer struct {
	Folders []ExtFolder `json:"folders"`
	Records []ExtRecord `json:"records"`
}

// ExtFolder is a folder key sealed to this agent (HPKE, purpose "folder").
type ExtFolder struct {
	FolderUID  []byte `json:"folder"`
	KeyVersion uint32 `json:"version"`
	Sealed     []byte `json:"sealed"`
}

type ExtRecord struct {
	Ref         Ref        `json:"ref"`
	Kind        string     `json:"kind"`
	RecordKey   []byte     `json:"recordKey"` // wrapped under the folder key
	KeyVersion  uint32     `json:"keyVersion"`
	Data        []byte     `json:"data"`
	Revision    int64      `json:"revision"`
	Statement   []byte     `json:"statement"`   // blob under the extension key; empty: none
	Attestation []byte     `json:"attestation"` // Signed{Result}: newest committed or edited
	Recent      [][]byte   `json:"recent"`      // Signed{Result}s of this account, newest first, at most 16
	Staged      *ExtStaged `json:"staged"`
	HistoryKey  []byte     `json:"historyKey"` // the former value's, for retire
	HistoryData []byte     `json:"historyData"`
}

type ExtStaged struct {
	Owner     string `json:"owner"` // agent, client
	RunID     []byte `json:"runId"`
	Time      int64  `json:"time"`
	Data      []byte `json:"data"`
	Result    []byte `json:"result"`    // Signed{Result} staged
	Authority []byte `json:"authority"` // blob under the extension key
	// Held: it is from before a restore, and what came after it may be lost. Until the
	// recovery ends an agent asks the target for it, and does not apply it.
	Held bool `json:"held,omitempty"`
}

// LeaseRequest takes or retakes the account's lease, durably. With cause
// "recover" a run that the vault does not know is made first (action verify), and
// stays queued where the answer is Busy, unless another waits already: so an agent
// that lost its lease while it was applying has the account looked at.
type LeaseRequest struct {
	AgentHead
	Account Ref    `json:"account"`
	RunID   []byte `json:"runId"`
	Cause   string `json:"cause"` // command, mandate, recover
	Fetch   bool   `json:"fetch"` // with the lease, answer what get_secret of the account would
}

// LeaseAnswer: Busy names the holder; the epoch only grows.
type LeaseAnswer struct {
	Epoch  uint64 `json:"epoch"`
	TermMS int64  `json:"termMs"`
	Busy   bool   `json:"busy"`
	Holder []byte `json:"holder"` // run that holds it, when busy
	Action string `json:"action"` // rotate, verify: what the run is, by the vault's table
	Cause  string `json:"cause"`  // person, schedule, recover
	Closed bool   `json:"closed"` // the run is finished already
	// Fetched is what was asked for with the lease, read after it was taken. Nil: ask
	// for it.
	Fetched *FetchAnswer `json:"fetched,omitempty"`
}

// StageRequest stores a candidate beside the record.
type StageRequest struct {
	AgentHead
	Account    Ref    `json:"account"`
	RunID      []byte `json:"runId"`
	Epoch      uint64 `json:"epoch"`
	Revision   int64  `json:"revision"` // that the candidate was made from
	Data       []byte `json:"data"`
	DataDigest []byte `json:"dataDigest"`
	Result     []byte `json:"result"` // Signed{Result} staged
	Authority  []byte `json:"authority"`
	ValueSeq   uint64 `json:"valueSeq"`
	// Former is the agent's Signed{Result} committed, where the candidate is a value that
	// it committed before and that the vault has lost since; ValueSeq is one more.
	Former []byte `json:"former,omitempty"`
}

// SettleRequest is commit or abandon: it names the candidate by its
// digest. A repeat of what was done is a success. Finish makes a commit the run's
// end in the same transaction.
type SettleRequest struct {
	AgentHead
	Account    Ref    `json:"account"`
	RunID      []byte `json:"runId"`
	Epoch      uint64 `json:"epoch"`
	DataDigest []byte `json:"dataDigest"`
	Result     []byte `json:"result"`
	Detail     []byte `json:"detail"`
	Finish     bool   `json:"finish"`
}

// ReportRequest ends a run (phase finished), or answers a command (phase replied).
type ReportRequest struct {
	AgentHead
	Account   Ref    `json:"account"`
	RunID     []byte `json:"runId"`
	Epoch     uint64 `json:"epoch"`
	CommandID []byte `json:"commandId"`
	Result    []byte `json:"result"`
	Detail    []byte `json:"detail"`
	// Refusals are events: what this agent would not do, and why; at most 64.
	// Only names of audit.AgentMayReport are taken. A run.refused or
	// command.refused with a RunID that nobody has taken ends that run.
	Refusals []Refusal `json:"refusals"`
	Retry    bool      `json:"retry"` // undecided: not an end, try again later
	// After is when, in milliseconds from now, where the agent knows: then it is no failed
	// attempt. 0: the vault decides.
	After int64 `json:"after,omitempty"`
}

// Refusal becomes an event. It holds no secret and no text of a target.
type Refusal struct {
	Name   string            `json:"name"` // event name, e.g. command.refused
	Reason string            `json:"reason"`
	Record Ref               `json:"record"`
	RunID  []byte            `json:"runId"`
	Time   int64             `json:"time"`
	Fields map[string]string `json:"fields,omitempty"` // as the catalogue of events has them
}

// RestateRequest gives a restored vault back a statement that it has lost: the newest
// that the agent has seen of a record. It is taken only while the vault recovers.
type RestateRequest struct {
	AgentHead
	Record Ref    `json:"record"`
	Seq    uint64 `json:"seq"`
	Digest []byte `json:"digest"` // of the Signed{Statement}
	Blob   []byte `json:"blob"`   // that, under the record's extension key
	// The clear links that come with a statement; empty where it names none.
	Resource Ref    `json:"resource"`
	Admin    Ref    `json:"admin"`
	PoolID   []byte `json:"poolId"`
}

type LogRequest struct {
	AgentHead
	From  uint64 `json:"from"`
	Limit int    `json:"limit"`
}

type LogAnswer struct {
	Changes [][]byte `json:"changes"`
	Epoch   uint64   `json:"epoch"`
	Digest  []byte   `json:"digest"`
}

// AppendRequest sends back changes that the server lacks.
type AppendRequest struct {
	AgentHead
	Changes [][]byte `json:"changes"`
}

type KeysRequest struct {
	AgentHead
	EntryIDs [][]byte `json:"entryIds"`
}

type KeysAnswer struct {
	Keys [][]byte `json:"keys"` // in the order asked; empty: unknown
}

// Error codes of the agents' operations, in the answer's "error".
const (
	CodeEpochOld     = "epoch_old"       // the lease has moved on: stop
	CodeDigest       = "digest_mismatch" // another candidate is staged
	CodeNotStaged    = "not_staged"
	CodeOutOfSync    = "out_of_sync"     // the record's revision has moved
	CodeOutstanding  = "run_outstanding" // a candidate is outstanding already
	CodeRunUnknown   = "run_unknown"     // no such run: the vault may have forgotten it
	CodeNotLost      = "not_lost"        // the vault does not recover, or has this or a newer one
	CodeAccessDenied = "access_denied"
	CodeBadRequest   = "bad_request"
	CodeThrottled    = "throttled"
)
