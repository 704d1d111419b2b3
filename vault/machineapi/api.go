// Package machineapi serves machines: the secrets-manager API to the public
// SDKs, and the agents' own operations in the same envelope. It holds no key of
// a record, folder or file and sees ciphertext only; who may read and change
// what comes from the organisation's log.
package machineapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/atonce"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// Config is what the API needs. Store, Directory, Work, Bus, Keys, Host,
// BaseURL and Files have to be given.
type Config struct {
	Store     store.Store
	Directory *directory.Directory
	Work      *work.Work
	Bus       bus.Bus
	Keys      ksm.ServerKeys
	Host      string // the name that the server knows itself by, without port
	// BaseURL begins the addresses of file contents, e.g. "https://vault.example:8443".
	BaseURL string
	// Files is the folder that holds file contents. It is made if it is not there.
	Files   string
	Version string
	Now     func() time.Time // nil: store.Now
	Log     *slog.Logger     // nil: none

	// Each machine client may do Rate requests a second, and Burst at once; an
	// agent AgentRate and AgentBurst. Zero: 20, 200, 2000, 4000: a run is three
	// requests, and an agent does hundreds in a second where its targets bear it.
	Rate, Burst           int
	AgentRate, AgentBurst int
}

// API is the HTTP handler of ksm.PathMachine, ksm.PathAgent, ksm.PathServer and
// ksm.PathFiles.
type API struct {
	Config
	log     *slog.Logger
	apps    *throttle
	agents  *throttle
	told    *throttle // of refusals' events
	reports *throttle // of what agents report as refused
	seen    *recent
	uploads chan struct{}
	blobs   blobs

	appAnswers, agentAnswers *atonce.Gate
}

// An agent's refusals become events, which stay: it may report so many a second, and so
// many at once.
const (
	refusalRate  = 20
	refusalBurst = 5000
)

// How many answers that may have many megabytes a client has at once; others wait.
const (
	appAnswersAtOnce   = 2
	agentAnswersAtOnce = 4
)

// maxUploads bounds the uploads that are received at once.
const maxUploads = 32

// New makes the handler.
func New(c Config) (*API, error) {
	switch {
	case c.Store == nil || c.Directory == nil || c.Work == nil || c.Bus == nil:
		return nil, errors.New("machineapi: store, directory, work or bus is missing")
	case len(c.Keys) == 0:
		return nil, errors.New("machineapi: the server has no key")
	case !strings.HasPrefix(c.BaseURL, "https://"):
		return nil, errors.New("machineapi: the base of file addresses is not https")
	}
	a := &API{
		Config: c, log: c.Log,
		apps:    newThrottle(or(c.Rate, 20), or(c.Burst, 200)),
		agents:  newThrottle(or(c.AgentRate, 2000), or(c.AgentBurst, 4000)),
		told:    newThrottle(0, 1),
		reports: newThrottle(refusalRate, refusalBurst),
		seen:    newRecent(),
		uploads: make(chan struct{}, maxUploads),

		appAnswers: atonce.New(appAnswersAtOnce), agentAnswers: atonce.New(agentAnswersAtOnce),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.Now == nil {
		a.Now = store.Now
	}
	a.BaseURL = strings.TrimSuffix(a.BaseURL, "/")
	var err error
	a.blobs, err = openBlobs(c.Files)
	return a, err
}

func or(n, fallback int) int {
	if n == 0 {
		return fallback
	}
	return n
}

// Paths are the prefixes and the path that the handler serves, as patterns of
// http.ServeMux.
func (a *API) Paths() []string {
	return []string{ksm.PathMachine, ksm.PathAgent, ksm.PathServer, ksm.PathFiles}
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == ksm.PathServer:
		a.serveServer(w, r)
	case strings.HasPrefix(path, ksm.PathFiles):
		a.serveFiles(w, r, strings.TrimPrefix(path, ksm.PathFiles))
	case strings.HasPrefix(path, ksm.PathMachine):
		a.serveOp(w, r, strings.TrimPrefix(path, ksm.PathMachine), machineOps)
	case strings.HasPrefix(path, ksm.PathAgent):
		a.serveOp(w, r, strings.TrimPrefix(path, ksm.PathAgent), agentOps)
	default:
		http.NotFound(w, r)
	}
}

// serveServer tells which key requests are sealed to. Whoever asks trusts the
// TLS certificate.
func (a *API) serveServer(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	key := a.Keys[0]
	point, err := seal.DevicePub(key.Private)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(ksm.ServerInfo{Host: a.Host, KeyID: key.ID, PublicKey: point, Version: a.Version}) //nolint:errcheck // the client is gone
}

// request is one authenticated request.
type request struct {
	op      string
	payload []byte
	now     time.Time
	address string
	client  db.MachineClient
	log     *trust.Log
	owner   seal.ID // the application's or agent's entry
	binding bool    // the answer carries the application's key
	head    ksm.Head

	whenWritten func() // called when the answer has been written
}

// large waits for the client's turn, where an answer may have many megabytes.
func (a *API) large(ctx context.Context, r *request) error {
	g := a.appAnswers
	if r.client.Kind == kindAgent {
		g = a.agentAnswers
	}
	leave, err := g.Enter(ctx, string(r.client.ClientID))
	if err == nil {
		r.whenWritten = leave
	}
	return err
}

// answer is what an operation answers: a value to encode, or nil for an empty body.
type answer any

type handler func(a *API, ctx context.Context, r *request) (answer, error)

var machineOps = map[string]handler{
	ksm.OpGetSecret:    (*API).getSecret,
	ksm.OpGetFolders:   (*API).getFolders,
	ksm.OpUpdateSecret: (*API).updateSecret,
	ksm.OpFinalize:     (*API).finalize,
	ksm.OpRollback:     (*API).rollback,
	ksm.OpCreateSecret: (*API).createSecret,
	ksm.OpDeleteSecret: (*API).deleteSecret,
	ksm.OpCreateFolder: (*API).createFolder,
	ksm.OpUpdateFolder: (*API).updateFolder,
	ksm.OpDeleteFolder: (*API).deleteFolder,
	ksm.OpAddFile:      (*API).addFile,
}

var agentOps = map[string]handler{
	ksm.OpLog:     (*API).agentLog,
	ksm.OpAppend:  (*API).agentAppend,
	ksm.OpKeys:    (*API).agentKeys,
	ksm.OpLease:   (*API).agentLease,
	ksm.OpStage:   (*API).agentStage,
	ksm.OpCommit:  settle((*work.Work).Commit),
	ksm.OpAbandon: settle((*work.Work).Abandon),
	ksm.OpReport:  (*API).agentReport,
	ksm.OpRestate: (*API).agentRestate,
}

// serveOp is the server's side of the envelope: open, authenticate, do, seal.
func (a *API) serveOp(w http.ResponseWriter, r *http.Request, op string, ops map[string]handler) {
	do, ok := ops[op]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ksm.MaxBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			err = ksm.Refuse(ksm.CodeTooLarge, "the request's body has more than %d bytes", ksm.MaxBody)
		} else if _, refused := errors.AsType[*ksm.Error](err); !refused { // by whoever bounds all bodies
			err = ksm.Refuse(ksm.CodeBadRequest, "the request's body could not be read")
		}
		a.fail(w, r, err)
		return
	}
	opened, refused := a.Keys.Open(r.Header, body)
	if refused != nil {
		ksm.WriteError(w, r.URL.Path, refused)
		return
	}
	defer opened.Wipe()
	req := &request{op: op, payload: opened.Payload, now: a.Now(), address: address(r), whenWritten: func() {}}
	defer func() { req.whenWritten() }()
	if err := a.authenticate(r.Context(), req, opened); err != nil {
		a.fail(w, r, err)
		return
	}
	ext := op == ksm.OpFetch && req.head.Ext && req.client.Kind == kindAgent
	switch agent := req.client.Kind == kindAgent; {
	case agent && ext:
		do = (*API).agentFetch
	case agent && strings.HasPrefix(r.URL.Path, ksm.PathMachine), !agent && strings.HasPrefix(r.URL.Path, ksm.PathAgent):
		a.fail(w, r, ksm.Refuse(ksm.CodeAccessDenied, "this client may not do %s", op))
		return
	}
	out, err := do(a, r.Context(), req)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var sealed []byte
	if out != nil {
		plain, err := json.Marshal(out)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		sealed = opened.Seal(plain)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(sealed) //nolint:errcheck // the client is gone, or it is not
}

// decode reads a payload.
func decode(r *request, into any) error {
	if err := json.Unmarshal(r.payload, into); err != nil {
		return ksm.Refuse(ksm.CodeBadRequest, "the payload of %s is malformed", r.op)
	}
	return nil
}

// fail answers an error: a refusal as it is, anything else as a failure of the
// server, whose text stays here.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refused, ok := errors.AsType[*ksm.Error](err); ok {
		ksm.WriteError(w, r.URL.Path, refused)
		return
	}
	a.log.Error("a machine's request failed", "path", r.URL.Path, "error", err)
	e := ksm.Refuse(ksm.CodeUnavailable, "the server failed; try again")
	if errors.Is(err, store.ErrFull) {
		e.Message = "the server's disk is full"
	}
	ksm.WriteError(w, r.URL.Path, e)
}

func (a *API) tell(ctx context.Context, q *db.Queries, e audit.Event) error {
	return audit.Tell(ctx, q, a.Bus, e)
}

// address is the client's, without port.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
