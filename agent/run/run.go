// Package run drives one account's rotation from lease to report: the agent's
// state machine. steps.go is the whole of it on one screen, decide.go the table
// of what happens to a candidate that may or may not have reached the target.
//
// The truth about secrets is at the vault: a run that is taken up again, by this
// agent or another, finds there whether a candidate is staged or committed, and
// asks the target about the rest. The journal holds only that the run exists.
package run

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/jump"
	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/policy"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// Vault is what a run needs of the vault (ksm.Client).
type Vault interface {
	Fetch(ctx context.Context, records ...seal.ID) (ksm.FetchAnswer, error)
	Lease(ctx context.Context, r ksm.LeaseRequest) (ksm.LeaseAnswer, error)
	Stage(ctx context.Context, r ksm.StageRequest) error
	Commit(ctx context.Context, r ksm.SettleRequest) error
	Abandon(ctx context.Context, r ksm.SettleRequest) error
	Report(ctx context.Context, r ksm.ReportRequest) error
	Restate(ctx context.Context, r ksm.RestateRequest) error
}

// Plugins is what a run needs of the plugin host.
type Plugins interface {
	Describe(ctx context.Context, p pluginhost.Plugin) (pluginhost.Description, error)
	Open(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job) (Session, error)
	Verify(ctx context.Context, p pluginhost.Plugin, j pluginhost.VerifyJob) (sdk.VerifyResponse, error)
	Plan(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job, r sdk.ApplyRequest) ([]sdk.Step, error)
	Do(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error)
	Undo(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error)
	Run(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job, r sdk.AfterRequest) (sdk.AfterResponse, error)
	Generate(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job, a sdk.Account) (sdk.Secret, error)
	Discover(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job) ([]sdk.Finding, bool, error)
	Find(name string) (pluginhost.Plugin, error)
	ExpectScript()
	Forget(resource string)
}

// Session is an administrative session on a resource.
type Session interface {
	Apply(context.Context, sdk.ApplyRequest) (sdk.ApplyResponse, error)
	Retire(context.Context, sdk.RetireRequest) (sdk.RetireResponse, error)
	Readback(context.Context, sdk.ApplyRequest) (sdk.VerifyResponse, error)
	sdk.Minter
	Cut()
	Close()
}

// Directory is the organisation's log as this agent knows it.
type Directory interface {
	// Fresh brings the log up to date where that is due, and fails when it is
	// stale or forked.
	Fresh(ctx context.Context) (*trust.Log, error)
	// Fetch brings the log up to date now.
	Fetch(ctx context.Context) error
	// Known is the log as it is, however old: refusals are signed with it too.
	Known() *trust.Log
}

// Limits are the deadlines of single calls.
type Limits struct {
	Open, Apply, Verify time.Duration
	Script              time.Duration // of one that runs after a rotation
	Applies             int           // of one candidate within one run
}

// DefaultLimits suit targets that answer within seconds.
var DefaultLimits = Limits{Open: 30 * time.Second, Apply: 60 * time.Second, Verify: 60 * time.Second, Script: 5 * time.Minute, Applies: 2}

// Identity is this agent in the organisation.
type Identity struct {
	ID   seal.ID
	Sign ed25519.PrivateKey
	Seal *seal.SealKey
}

// Engine does runs. Its fields are set once.
type Engine struct {
	Me        Identity
	Vault     Vault
	Plugins   Plugins
	Directory Directory
	Journal   *journal.Journal
	Policy    *policy.Policy
	Dial      pluginhost.DialFunc // checks the local policy
	Ways      *jump.Ways          // to what is behind jump hosts
	Leases    *Leases
	Slots     *Slots
	Limits    Limits
	Hint      func(run seal.ID, account trust.Ref, phase string) // never blocks
	Took      func(step string, d time.Duration)                 // never blocks; nil: nobody counts
	Tell      func(ksm.Refusal)                                  // an event; never blocks
	Log       *slog.Logger
	Now       func() time.Time
	// Open ends when the agent drains: what waits for its turn, and holds nothing yet, is
	// not begun any more.
	Open context.Context
	// Local serves what a script asks of the agent's own host, by its manifest and parameters,
	// and of what it has put away there, and tells of what it may not have; nil: nothing.
	Local func(m *script.Manifest, values map[string]any, put local.State, told func(reason string)) func(context.Context, net.Conn)

	told       told // of edited records
	folderKeys folderKeys
	states     states
}

// Job is a run to be done.
type Job struct {
	ID      seal.ID
	Account trust.Ref
	Command *trust.Command // nil: the vault announced it (by schedule, or to be taken over)
	Again   bool           // it was begun here before and broke off: nobody announces it here again
	Recover bool           // this agent's own: a restored vault has lost something of the account
	// Resource is whose queue the run waits in before it begins; zero for not known. It
	// is a guess, and nothing else comes from it: the statements decide.
	Resource trust.Ref
}

func (j Job) command() seal.ID {
	if j.Command == nil {
		return seal.ID{}
	}
	return j.Command.ID
}

// Run is one attempt to give one account a new secret.
type Run struct {
	e     *Engine
	job   Job
	hold  *Hold
	state State
	epoch uint64

	again  bool         // it goes on with what was begun before
	noted  bool         // and the journal knows that it does
	begun  bool         // the start of a command's run was given to the journal
	writes []chan error // of the journal, under way or done

	fetched *ksm.FetchAnswer // that came with the lease
	as      string           // rotate, verify, abandon or script: by the command, else by the vault's table

	recovering bool // job is a verify that this agent asked for: in place of an interrupted run, or after a restore

	target
	candidate *candidate

	session Session
	slot    slot
	applies int // of the candidate, in this run
	failed  int // logins that failed, in this run
	// the target refused the current secret of an account that rotates itself
	currentRefused bool
	applied        time.Time
	changed        bool              // the newest apply answered "changed"
	refused        sdk.ApplyResponse // the newest apply answered "unchanged"
	unclear        bool              // an apply of this run got no clear answer: it may still arrive
	unseen         bool              // changed, and nobody can check it
	lost           int               // candidates that the vault lost between stage and commit
	took           bool              // some apply of this run answered "changed"

	endsUnknown error // why the secret that this run is to end is not known

	planned  journal.Plan // for the dependents, and of the scripts
	followed time.Time    // when the dependents were done
	revealed []string     // hashes of scripts that see secrets in clear, of which was told

	events  uint32
	outcome Outcome
	settled *journal.Settled // what became of the candidate, for the journal
}

// Outcome is how a run ended, in its three parts.
type Outcome struct {
	Credential, Dependents, Scripts trustv1.Outcome
	Class                           sdk.Class
	Reason                          string
	Text                            string        // for the record's readers only
	Said                            string        // by scripts; likewise
	Later                           bool          // not an end: the same run goes on later
	After                           time.Duration // with Later: no sooner than that; 0: the vault decides
}

// Stop ends a run at a step.
type Stop struct {
	Outcome trustv1.Outcome // of the credential
	Class   sdk.Class
	Reason  string
	Later   bool
	After   time.Duration // with Later
	Err     error
}

func (s *Stop) Error() string {
	if s.Err == nil {
		return fmt.Sprintf("%s: %s", s.Class, s.Reason)
	}
	return fmt.Sprintf("%s: %s: %v", s.Class, s.Reason, s.Err)
}

func (s *Stop) Unwrap() error { return s.Err }

// ErrBehind says that a run of this agent has the account's lease and comes first.
var ErrBehind = errors.New("another run of this agent has the account's lease")

// ErrTooSoon says that a run of the account was taken up again a moment ago: this one rests,
// and nobody was asked anything.
var ErrTooSoon = errors.New("the run rests for a while")

// ErrNotBegun says that the agent drained while the run waited for its turn.
var ErrNotBegun = errors.New("the agent drains: the run was not begun")

// errNotMine says that the run is another agent's, or over: there is nothing to report.
var errNotMine = errors.New("the run is not this agent's to do")

// Do does a run to its end, or to where it must wait. It returns what the vault
// was told, or an error when the vault could not be told: the journal then still
// has the run.
func (e *Engine) Do(ctx context.Context, job Job) (Outcome, error) {
	r := &Run{e: e, job: job, state: Queued, as: "rotate", recovering: job.Recover}
	r.outcome = Outcome{Credential: trustv1.Outcome_OUTCOME_NONE, Dependents: trustv1.Outcome_OUTCOME_NONE, Scripts: trustv1.Outcome_OUTCOME_NONE}
	defer r.leave()
	if err := r.rest(); err != nil {
		return r.outcome, err
	}
	began := time.Now()
	if err := r.queue(ctx); err != nil {
		return r.outcome, fmt.Errorf("run %s stopped in its resource's queue: %w", job.ID, err)
	}
	e.took("queue", began)
	ctx, hold := e.Leases.Guard(ctx)
	defer hold.End()
	r.hold = hold
	err := r.drive(ctx)
	if stop := (*Stop)(nil); errors.As(err, &stop) {
		err = r.stop(ctx, stop)
	}
	if err != nil && !errors.Is(err, errNotMine) {
		r.breakOff(ctx)
	}
	r.leave() // what it held is others' now
	switch {
	case errors.Is(err, errNotMine):
		return r.outcome, e.Journal.EndRun(job.ID, job.command(), e.Now(), nil)
	case context.Cause(ctx) != nil && err != nil:
		return r.outcome, fmt.Errorf("run %s stopped in state %s: %w", job.ID, r.state, context.Cause(ctx))
	case err != nil:
		return r.outcome, fmt.Errorf("run %s in state %s: %w", job.ID, r.state, err)
	}
	// A run that goes on later is announced again by the vault, to any agent of the pool.
	err = r.end()
	if r.recovering { // and the run in whose place it was
		err = errors.Join(err, e.Journal.EndRun(job.ID, job.command(), e.Now(), nil))
	}
	return r.outcome, err
}

func (e *Engine) took(step string, since time.Time) {
	if e.Took != nil {
		e.Took(step, time.Since(since))
	}
}

// end is the journal's last word on the run.
func (r *Run) end() error {
	defer r.e.took("end", time.Now())
	switch {
	case r.outcome.Later:
	case len(r.planned.Scripts) > 0:
		r.planned.Dependents, r.planned.Over = nil, true
		if err := r.e.Journal.KeepPlan(r.job.ID, r.planned); err != nil {
			return err
		}
	case len(r.planned.Dependents) > 0:
		if err := r.e.Journal.DropPlan(r.job.ID); err != nil {
			return err
		}
	}
	return r.e.Journal.EndRun(r.job.ID, r.job.command(), r.e.Now(), r.settled)
}

// breakOff is for a run that ends here without an end that the vault was told. Where
// the lease is lost, nothing more may reach the target; else the vault is told to have
// the run done again in a while, since heartbeats keep the lease of an agent that lives.
func (r *Run) breakOff(ctx context.Context) {
	if ctx.Err() != nil {
		if r.session != nil && errors.Is(context.Cause(ctx), ErrLeaseLost) {
			r.session.Cut()
		}
		return
	}
	if r.epoch == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := r.e.Vault.Report(ctx, ksm.ReportRequest{Account: wireRef(r.job.Account), RunID: r.job.ID.Bytes(), Epoch: r.epoch, Retry: true})
	if err != nil {
		r.e.Log.Warn("the lease could not be given back", "run", r.job.ID, "error", err)
	}
}

// leave gives back what the run holds. It may be called twice.
func (r *Run) leave() {
	_ = r.journalled() // the goroutine has ended; what failed is told by whoever needed it
	r.dropSession()
	r.slot.give()
	for _, h := range r.scripted() {
		r.e.tellStopped(h, r.job.ID)
	}
	r.target.wipe()
	if r.candidate != nil {
		r.candidate.credential.Secret.Wipe()
	}
}

func (r *Run) progress(phase string) {
	r.e.Hint(r.job.ID, r.job.Account, phase)
}
