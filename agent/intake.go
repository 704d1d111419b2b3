package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/agent/channel"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// actions are the names of what a command may ask for, as the local policy
// spells them.
var actions = map[trustv1.Action]string{
	trustv1.Action_ACTION_ROTATE:     "rotate",
	trustv1.Action_ACTION_VERIFY:     "verify",
	trustv1.Action_ACTION_RUN_SCRIPT: "script",
	trustv1.Action_ACTION_CANCEL:     "cancel",
	trustv1.Action_ACTION_TEST:       "test",
	trustv1.Action_ACTION_PROBE:      "probe",
	trustv1.Action_ACTION_DISCOVER:   "discover",
	trustv1.Action_ACTION_INFO:       "info",
}

// deliver takes commands from the channel: they are checked (keys.md 4.3), written to
// the journal, and only then acted on and acknowledged.
func (a *Agent) deliver(ctx context.Context, frames []*trustv1.CommandFrame) []error {
	answers := make([]error, len(frames))
	var commands []*trust.Command
	var entries []journal.Command
	var at []int // their places among the frames
	for i, frame := range frames {
		c, err := a.check(ctx, frame)
		if c == nil {
			answers[i] = err
			continue
		}
		runID := runOf(c)
		commands, at = append(commands, c), append(at, i)
		entries = append(entries, journal.Command{ID: c.ID, Signed: c.Signed, Taken: a.now(), RunID: runID})
	}
	taken, err := a.journal.TakeCommands(entries)
	for k, c := range commands {
		switch {
		case err != nil:
			answers[at[k]] = err // not acknowledged: it comes again
		case taken[k]:
			a.begin(c, entries[k].RunID, false)
		default: // twice at once
			a.refuseCommand(frames[at[k]], &trust.Error{Reason: trust.Replayed, What: "command " + c.ID.String()})
		}
	}
	return answers
}

// runOf is the run that a command begins, or is about.
func runOf(c *trust.Command) seal.ID {
	id := c.RunId
	if c.Action == trustv1.Action_ACTION_CANCEL {
		id = c.GetCancel().GetRunId()
	}
	run, _ := seal.IDFrom(id)
	return run
}

// check opens one frame. Without a command the answer to it is the error.
func (a *Agent) check(ctx context.Context, frame *trustv1.CommandFrame) (*trust.Command, error) {
	if a.draining.Load() {
		return nil, channel.ErrDraining
	}
	c, err := a.open(ctx, frame)
	if trust.ReasonOf(err) == trust.Replayed {
		// Delivered twice, honestly or not: it counts once. Acknowledging it again
		// must not look like a refusal of the run that it began.
		a.refuseCommand(frame, err)
		return nil, nil
	}
	if reason := trust.ReasonOf(err); reason != "" {
		a.log.Warn("command refused", "reason", reason, "error", err, "do", reason.Hint())
		return nil, channel.Refusal(reason)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// open checks a frame. The log is fetched once when the command knows more of it
// than this agent.
func (a *Agent) open(ctx context.Context, frame *trustv1.CommandFrame) (*trust.Command, error) {
	l, err := a.dir.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	c, err := trust.OpenCommand(l, a.journal, a.id.Entry, a.id.Keys.Seal, frame, a.now())
	if trust.ReasonOf(err) == trust.LogGap {
		if fetchErr := a.dir.Fetch(ctx); fetchErr != nil {
			return nil, fetchErr
		}
		c, err = trust.OpenCommand(l, a.journal, a.id.Entry, a.id.Keys.Seal, frame, a.now())
	}
	if err != nil {
		return nil, err
	}
	action, known := actions[c.Action]
	if !known {
		return nil, &trust.Error{Reason: trust.UnknownField, What: "this agent cannot do " + c.Action.String()}
	}
	if err := a.cfg.Policy.Permit(action); err != nil {
		return nil, &trust.Error{Reason: trust.LocalPolicy, Err: err}
	}
	return c, nil
}

func (a *Agent) refuseCommand(frame *trustv1.CommandFrame, err error) {
	reason := trust.ReasonOf(err)
	a.log.Warn("command refused", "reason", reason, "error", err, "do", reason.Hint())
	a.refuse(ksm.Refusal{Name: "command.refused", Reason: string(reason), RunID: frame.RunId, Time: a.now().UnixMilli()})
}

// begin acts on a journalled command. again: an earlier start of the agent may have begun it.
func (a *Agent) begin(c *trust.Command, runID seal.ID, again bool) {
	switch c.Action {
	case trustv1.Action_ACTION_ROTATE, trustv1.Action_ACTION_VERIFY, trustv1.Action_ACTION_RUN_SCRIPT, trustv1.Action_ACTION_CANCEL:
		a.start(run.Job{ID: runID, Account: c.Account, Command: c, Again: again, Resource: resourceOf(c)})
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.draining.Load() { // else the journal has it, for the next start
			a.work.Go(func() { a.reply(a.ctx, c) })
		}
	}
}

// resourceOf guesses the resource of a command: clients pin it next to the account.
func resourceOf(c *trust.Command) trust.Ref {
	for _, p := range c.Pins {
		if p.Ref != c.Account {
			return p.Ref
		}
	}
	return trust.Ref{}
}

// runDue is the router's word that a run is due. It proves nothing: the account's
// mandate, or the authority beside a staged candidate, decides.
func (a *Agent) runDue(_ context.Context, due *channelv1.RunDue) {
	id, err := seal.IDFrom(due.RunId)
	account, refErr := trust.RefFrom(due.Account)
	if err != nil || refErr != nil || a.draining.Load() || a.cfg.Policy.Permit("rotate") != nil {
		return
	}
	resource, _ := trust.RefFrom(due.Resource) // without it the run waits later
	a.start(run.Job{ID: id, Account: account, Resource: resource})
}

// start begins a run. One account has one run here at a time: a command waits for
// the one under way, while a due run is not begun, since the vault tells of it again.
func (a *Agent) start(job run.Job) { a.startThen(job, func() {}) }

// startThen is start, for who wants to know when the account's runs are done: where it
// is true, and the job is the first of them, then is called.
func (a *Agent) startThen(job run.Job, then func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining.Load() {
		return false // the journal has it, for the next start; of a due run the vault tells again
	}
	jobs := a.active[job.Account]
	if job.Command == nil && !job.Again && (len(jobs) > 0 || len(a.active) >= maxActive) {
		return false
	}
	a.active[job.Account] = append(jobs, job)
	if len(jobs) == 0 {
		a.work.Go(func() {
			defer then()
			a.account(job.Account)
		})
	}
	return true
}

// account does the runs of one account, one after the other, until none waits.
func (a *Agent) account(ref trust.Ref) {
	for job, ok := a.next(ref, false); ok; job, ok = a.next(ref, true) {
		outcome, err := a.engine.Do(a.ctx, job)
		a.ended(job, outcome, err)
		first := !job.Again
		job.Again = job.Again || !errors.Is(err, run.ErrBehind) // which was not begun
		switch {
		case err == nil || a.ctx.Err() != nil:
		case first && errors.Is(err, run.ErrTooSoon): // announced: the one that broke off waits already; or the sweep's: it looks again
		case errors.Is(err, run.ErrLeaseLost) && (first || !refused(err)): // where it ran out, that took its time
			a.start(job) // finds out whether others went on in the meantime
		default:
			a.startAfterAWhile(job)
		}
	}
}

// refused says whether an error is the vault's word.
func refused(err error) bool { return errors.As(err, new(*ksm.Error)) }

// againAfter is how long a run waits that broke off here: the journal has it, and
// nobody else can know of it. Shorter in tests.
const againAfter = trust.StartGap

// startAfterAWhile starts a run again that broke off. Each waits once, however often the
// server has it begun in the meantime.
func (a *Agent) startAfterAWhile(job run.Job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining.Load() {
		return // the journal has it, for the next start
	}
	id := waiting{job.ID, job.Account, job.Command}
	if slices.Contains(a.waits, id) || job.Command == nil && len(a.waits) >= maxActive {
		return
	}
	a.waits = append(a.waits, id)
	a.later.Go(func() {
		t := time.NewTimer(a.againAfter)
		defer t.Stop()
		select {
		case <-a.patience.Done():
		case <-t.C:
			a.mu.Lock()
			a.waits = slices.DeleteFunc(a.waits, func(w waiting) bool { return w == id })
			a.mu.Unlock()
			a.start(job)
		}
	})
}

// waiting is a run that waits to be started again.
type waiting struct {
	id      seal.ID
	account trust.Ref
	command *trust.Command
}

// next is the account's first job, after taking away the one that is done.
func (a *Agent) next(ref trust.Ref, done bool) (run.Job, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	jobs := a.active[ref]
	if done {
		jobs = jobs[1:]
		a.active[ref] = jobs
	}
	if len(jobs) == 0 {
		delete(a.active, ref)
		return run.Job{}, false
	}
	return jobs[0], true
}

func (a *Agent) ended(job run.Job, outcome run.Outcome, err error) {
	word := trustOutcome(outcome.Credential)
	switch {
	case errors.Is(err, run.ErrBehind), errors.Is(err, run.ErrTooSoon):
		a.log.Info("run waits", "run", job.ID, "account", job.Account, "for", err)
		return
	case errors.Is(err, run.ErrNotBegun):
		a.log.Info("run not begun", "run", job.ID, "account", job.Account, "error", err)
		return
	case err != nil:
		word = "interrupted"
		a.log.Error("run interrupted", "run", job.ID, "account", job.Account, "error", err)
	default:
		a.log.Info("run ended", "run", job.ID, "account", job.Account, "credential", word, "class", outcome.Class, "reason", outcome.Reason, "later", outcome.Later)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastRun = lastRun{a.now(), word}
	a.counts[word]++
}

func (a *Agent) activeRuns() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.active)
}

// resume takes up what the journal has open: commands whose run or reply was not
// seen to its end, and scheduled runs.
func (a *Agent) resume() error {
	commands, err := a.journal.OpenCommands()
	if err != nil {
		return err
	}
	var failed error
	for _, stored := range commands {
		c, err := trust.ReadCommand(a.dir.Known(), stored.Signed)
		if err != nil {
			failed = errors.Join(failed, err, a.journal.SettleCommand(stored.ID, a.now()))
			continue
		}
		a.log.Info("taking up a command again", "command", stored.ID, "run", stored.RunID)
		a.begin(c, stored.RunID, true)
	}
	runs, err := a.journal.OpenRuns()
	for _, r := range runs {
		if r.Command.IsZero() {
			a.start(run.Job{ID: r.ID, Account: trust.Ref{Folder: r.Folder, Record: r.Account}, Again: true})
		}
	}
	return errors.Join(failed, err)
}
