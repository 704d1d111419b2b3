package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// chosen says which accounts a command is about.
type chosen struct {
	recordFilter
	resource string
	state    string // of the rotation
	exposed  bool
	failed   bool      // the last that was heard of its scripts
	unseen   []seal.ID // folders into which --exposed could not look
	rotates  bool      // then --exposed leaves out whose record waits for a key of its own:
	kept     []string  // a new secret would be written under the one that is known
}

func (s *chosen) flags(cmd *cobra.Command) {
	s.recordFilter.flags(cmd)
	cmd.Flags().StringVar(&s.resource, "resource", "", "only accounts of this resource")
	cmd.Flags().BoolVar(&s.exposed, "exposed", false, "only accounts whose secret somebody may know who may not read it any more")
	choiceVar(cmd, &s.state, "rotation-state", "", rotationStates, "only accounts whose rotation is in this `STATE`, e.g. retrying or alert")
}

func (s *chosen) given() bool {
	return s.folder != "" || s.match != "" || s.resource != "" || s.state != "" || s.exposed || s.failed
}

// accounts finds them by name, or by the filter.
func (s *chosen) accounts(ctx context.Context, cl *client.Client, names []string) ([]*client.Record, error) {
	if len(names) > 0 {
		var out []*client.Record
		for _, name := range names {
			r, err := findAccount(ctx, cl, name)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
		return out, nil
	}
	folder, err := s.folderOf(ctx, cl)
	if err != nil {
		return nil, err
	}
	resource := ""
	if s.resource != "" {
		ref, err := findResource(ctx, cl, s.resource)
		if err != nil {
			return nil, err
		}
		resource = ref.String()
	}
	var inState map[client.Ref]bool
	if s.state != "" {
		inState = map[client.Ref]bool{}
		for r, err := range cl.Rotations(ctx, folder) {
			if err != nil {
				return nil, err
			}
			if r.State == s.state {
				inState[r.Account] = true
			}
		}
	}
	var known map[client.Ref]bool
	if s.exposed {
		if known, err = s.lookForExposed(ctx, cl); err != nil {
			return nil, err
		}
	}
	var failed map[client.Ref]bool
	if s.failed {
		if failed, err = lastFailed(ctx, cl, "unmended_scripts"); err != nil {
			return nil, err
		}
	}
	var out []*client.Record
	for r, err := range cl.Records(ctx, folder, client.TypeAccount) {
		if err != nil {
			return nil, err
		}
		a := r.Statement.GetAccount()
		kept, exposed := known[r.Ref]
		switch {
		case a == nil, !s.fits(r):
		case resource != "" && refText(a.Resource) != resource:
		case inState != nil && !inState[r.Ref]:
		case known != nil && !exposed:
		case failed != nil && !failed[r.Ref]:
		case kept && s.rotates:
			s.kept = append(s.kept, r.Title)
		default:
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		none := failf(exitNotFound, "not_found", "no account fits")
		if err := s.notRotated(); err != nil {
			return nil, err
		}
		if n := len(s.unseen); n > 0 {
			none = none.withHint("%d folder%s you cannot read: not looked at; %s", n, plural(n), lookedAtBy)
		}
		return nil, none
	}
	return out, nil
}

// lastFailed are the accounts with runs that a filter of the server finds: what failed,
// and that no later run has done well.
func lastFailed(ctx context.Context, cl *client.Client, filter string) (map[client.Ref]bool, error) {
	failed := map[client.Ref]bool{}
	for token := ""; ; {
		runs, next, err := cl.Runs(ctx, client.RunFilter{State: filter, Limit: maxPage, Token: token})
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			failed[r.Account] = true
		}
		if next == "" || next == token {
			return failed, nil
		}
		token = next
	}
}

// lookForExposed finds the accounts whose secret somebody may know who may not read it any
// more, and whether its record has a key that he knows, too.
func (s *chosen) lookForExposed(ctx context.Context, cl *client.Client) (map[client.Ref]bool, error) {
	outsiders, err := cl.Outsiders(ctx)
	if err != nil {
		return nil, err
	}
	list, unseen, err := cl.Exposed(ctx, outsiders)
	s.unseen = unseen
	kept := map[client.Ref]bool{}
	for _, x := range list {
		kept[x.Ref] = x.Kept
	}
	return kept, err
}

// notRotated is the failure of accounts that were left since their records wait for keys.
func (s *chosen) notRotated() error {
	if len(s.kept) == 0 {
		return nil
	}
	return failf(exitFindings, "key_known", "not rotated: %s: the record waits for a key of its own", few(s.kept)).withHint(keptHint)
}

// keptHint is the advice about accounts that are not rotated before their records have new keys.
const keptHint = "`rotunda folder rekey FOLDER` first (`rotunda doctor` names the folder): a new secret would be written under a key that is known"

func (c *cli) rotateCmd() *cobra.Command {
	return c.runningCmd(&chosen{}, "rotate", "rotate", "give accounts new secrets now", `Signs a command for each account, sends it to an agent of its resource's pool, and
follows the run to its end. What the server says on the way is a hint; the last line
and the exit code come from the agent's signed result alone.

Name accounts, or choose them with flags: these are listed, and asked about if there
are several. The exit code is that of the worst outcome: 0 when all are done, 8 when
one failed, 7 when one is not decided yet, 6 when no agent took one, 11 when a secret
was changed but something that depends on it was not.

An interrupt ends the waiting and not the runs: "rotunda run watch" goes on.`,
		`rotunda rotate app
rotunda rotate --folder Databases --match 'prod-*' --yes
rotunda rotate --rotation-state alert --no-wait
rotunda rotate --exposed --yes`,
		func(ctx context.Context, cl *client.Client, refs []client.Ref, o client.RunOptions) ([]client.Outcome, error) {
			return cl.Rotate(ctx, refs, o)
		})
}

func (c *cli) verifyCmd() *cobra.Command {
	return c.runningCmd(&chosen{}, "verify", "verify", "have agents log in with the current secrets", `Signs a command for each account: an agent of its resource's pool logs in with the
value that the vault holds, and changes nothing. Exit codes are those of rotate.`,
		`rotunda verify app
rotunda verify --folder Databases --yes`,
		func(ctx context.Context, cl *client.Client, refs []client.Ref, o client.RunOptions) ([]client.Outcome, error) {
			return cl.Verify(ctx, refs, o)
		})
}

type startRuns func(context.Context, *client.Client, []client.Ref, client.RunOptions) ([]client.Outcome, error)

// runningCmd is a command that starts a run for each account and follows them; does is
// what a question says it does. Flags of its own that choose accounts are the caller's.
func (c *cli) runningCmd(s *chosen, verb, does, short, long, example string, start startRuns) *cobra.Command {
	var agent string
	var wait time.Duration
	var parallel int
	var noWait bool
	s.rotates = verb == "rotate"
	var cmd *cobra.Command
	cmd = c.leaf(verb+" [RECORD...]", short, func(ctx context.Context, args []string) error {
		if (len(args) > 0) == s.given() {
			return usagef("name accounts, or choose them with flags").withHint("`%s --help` lists the flags", cmd.CommandPath())
		}
		if wait < 0 {
			return usagef("--wait is %s: it is 0 or more", wait)
		}
		if parallel < 1 || parallel > 256 {
			return usagef("--parallel is %d: it is 1 to 256", parallel)
		}
		return c.with(ctx, func(cl *client.Client) error {
			accounts, err := s.accounts(ctx, cl, args)
			if err != nil {
				return err
			}
			if n := len(s.unseen); n > 0 {
				c.warn("%d folder%s you cannot read: not looked at; %s", n, plural(n), lookedAtBy)
			}
			if len(accounts) > 1 && len(args) == 0 {
				for _, r := range accounts[:min(len(accounts), 20)] {
					c.about("  %s", r.Title)
				}
				if err := c.confirm(fmt.Sprintf("%s %d accounts", does, len(accounts))); err != nil {
					return err
				}
			}
			seen := map[client.Ref]bool{}
			for _, r := range accounts {
				if seen[r.Ref] {
					return usagef("%s is named twice", r.Title)
				}
				seen[r.Ref] = true
			}
			id, err := c.agentOption(ctx, cl, agent)
			if err != nil {
				return err
			}
			f := c.follow(accounts)
			refs := make([]client.Ref, len(accounts))
			for i, r := range accounts {
				refs[i] = r.Ref
			}
			outcomes, err := start(ctx, cl, refs, client.RunOptions{
				Progress: f.progress, Agent: id, Wait: wait, Parallel: parallel, NoWait: noWait,
			})
			return errors.Join(f.end(outcomes, noWait), err, s.notRotated())
		})
	})
	s.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&noWait, "no-wait", false, "start the runs and do not follow them")
	f.StringVar(&agent, "agent", "", "agent to use (default: a live one of the resource's pool)")
	f.DurationVar(&wait, "wait", 0, "follow for at most this long (0: to the end)")
	f.IntVar(&parallel, "parallel", 16, "runs of this command at a time")
	return help(cmd, long, example)
}

// follower shows runs on their way and how they ended.
type follower struct {
	c      *cli
	names  map[client.Ref]string
	start  time.Time
	shown  map[client.Ref]string // the newest step that was printed
	over   map[seal.ID]bool
	single bool
}

func (c *cli) follow(accounts []*client.Record) *follower {
	f := &follower{c: c, names: map[client.Ref]string{}, start: c.p.now(), shown: map[client.Ref]string{}, over: map[seal.ID]bool{}, single: len(accounts) == 1}
	for _, r := range accounts {
		f.names[r.Ref] = r.Title
	}
	return f
}

// progress prints a step once. The library calls it from one goroutine at a time.
func (f *follower) progress(p client.Progress) {
	step := p.Phase
	if step == "" {
		step = p.State
	}
	// What is told of a run that is over was on its way before.
	if step == "" || f.shown[p.Account] == step || f.over[p.RunID] {
		return
	}
	f.shown[p.Account] = step
	f.over[p.RunID] = client.Over(p.State)
	at := f.c.p.now().Sub(f.start).Seconds()
	if f.single {
		f.c.note("%6.1f s  %s", at, step)
		return
	}
	f.c.note("%6.1f s  %s  %s", at, f.name(p.Account), step)
}

func (f *follower) name(ref client.Ref) string {
	if n := f.names[ref]; n != "" {
		return n
	}
	return ref.String()
}

// outcomeView is how a run ended.
type outcomeView struct {
	Account    string `json:"account"`
	Title      string `json:"title,omitempty"`
	RunID      string `json:"run_id,omitempty"`
	Action     string `json:"action"`
	Agent      string `json:"agent,omitempty"`
	State      string `json:"state"`
	Credential string `json:"credential"`
	Dependents string `json:"dependents"`
	Scripts    string `json:"scripts"`
	Class      string `json:"class,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Detail     string `json:"detail,omitempty"`
	ValueSeq   uint64 `json:"value_seq,omitempty"`
	Finished   string `json:"finished,omitempty"`
	Error      string `json:"error,omitempty"`
}

func viewOutcome(o client.Outcome, title string) outcomeView {
	v := outcomeView{
		Account: o.Account.String(), Title: title, Action: o.Action, Agent: o.AgentName, State: outcomeState(o.State),
		Credential: outcomeWord(o.Credential), Dependents: outcomeWord(o.Dependents), Scripts: outcomeWord(o.Scripts),
		Class: o.Class, Reason: o.Reason, Detail: o.Detail, ValueSeq: o.ValueSeq, Finished: stamp(o.Finished),
	}
	if !o.RunID.IsZero() && o.State != client.NotStarted { // else the server knows no such run
		v.RunID = o.RunID.String()
	}
	if o.Err != nil {
		f := classify(o.Err)
		v.Error = f.Error()
		if v.Reason == "" {
			v.Reason = f.reason
		}
	}
	return v
}

func outcomeState(s client.OutcomeState) string {
	if s == client.NotStarted {
		return "not_started"
	}
	return string(s)
}

// outcomeExit is the exit code of one outcome.
func outcomeExit(o client.Outcome) exit {
	switch o.State {
	case client.Done, client.DoneBlind:
		return exitOK
	case client.DonePartly:
		return exitPartly
	case client.NotDone:
		if scriptsFailed(o) {
			return exitPartly
		}
		return exitFailed
	case client.NotStarted:
		if o.Err != nil {
			return classify(o.Err).exit
		}
		return exitUnreachable
	default: // still open, or no verified word
		return exitPending
	}
}

// worse orders exit codes of outcomes: a failure outweighs what may yet end well.
func worse(a, b exit) exit {
	rank := func(e exit) int {
		for i, r := range []exit{exitOK, exitPartly, exitPending, exitUnreachable, exitFailed} {
			if r == e {
				return i
			}
		}
		return 10 // refusals and the like come first of all
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// end prints the outcomes and gives the error that the worst of them is.
func (f *follower) end(outcomes []client.Outcome, noWait bool) error {
	if len(outcomes) == 0 {
		return nil
	}
	views := make([]outcomeView, 0, len(outcomes))
	for _, o := range outcomes {
		views = append(views, viewOutcome(o, f.names[o.Account]))
	}
	err := f.c.emit(map[string]any{"outcomes": views}, func(w io.Writer) { showOutcomes(w, views) })
	if err != nil {
		return err
	}
	return f.worst(outcomes, noWait)
}

// worst is the failure that the worst of the outcomes is; nil: all are as asked.
func (f *follower) worst(outcomes []client.Outcome, noWait bool) error {
	worst, bad := exitOK, 0
	var first client.Outcome
	var stopped []client.Outcome
	for _, o := range outcomes {
		if interrupted(o.Err) {
			stopped = append(stopped, o)
		}
		e := outcomeExit(o)
		if noWait && e == exitPending && o.Err == nil {
			e = exitOK // started, as asked
		}
		if e == exitOK {
			continue
		}
		if bad == 0 || worse(worst, e) != worst {
			first = o
		}
		bad++
		worst = worse(worst, e)
	}
	if worst == exitOK {
		return nil
	}
	if n := len(stopped); n > 0 {
		err := failf(exitInterrupted, "interrupted", "interrupted: %d of %d accounts were not followed to the end", n, len(outcomes)).withHint("%s", errInterrupted.hint)
		if len(outcomes) == 1 {
			err = failf(exitInterrupted, "interrupted", "%s: interrupted", f.name(stopped[0].Account)).withHint("%s", errInterrupted.hint)
			if stopped[0].State != client.NotStarted {
				err.hint = "the run goes on without you: `rotunda run watch " + stopped[0].RunID.String() + "` follows it"
			}
		}
		return err
	}
	return f.failure(worst, bad, len(outcomes), first)
}

func (f *follower) failure(worst exit, bad, all int, o client.Outcome) *failure {
	reason, text := o.Reason, outcomeText(f.name(o.Account), o)
	if o.Err != nil {
		c := classify(o.Err)
		reason = orWord(reason, c.reason)
		if o.State == client.NotStarted && all == 1 {
			return &failure{exit: worst, reason: reason, hint: orWord(c.hint, outcomeHint(worst, o)), err: c}
		}
		text += ": " + c.Error()
	}
	if o.Class != "" {
		text += ": " + o.Class
	}
	reason = orWord(reason, outcomeState(o.State))
	if all == 1 {
		return failf(worst, reason, "%s", text).withHint("%s", outcomeHint(worst, o))
	}
	return failf(worst, reason, "%d of %d accounts are not done; %s", bad, all, text).
		withHint("%s", outcomeHint(worst, o))
}

// scriptsFailed says whether a run of scripts alone ended because one of them failed.
func scriptsFailed(o client.Outcome) bool {
	return o.Action == "script" && o.Scripts == trustv1.Outcome_OUTCOME_FAILED
}

// outcomeText says of an account how its run ended that did not end as asked.
func outcomeText(name string, o client.Outcome) string {
	switch o.State {
	case client.DonePartly:
		if o.Dependents == trustv1.Outcome_OUTCOME_NONE || o.Dependents == trustv1.Outcome_OUTCOME_DONE {
			return name + ": the secret is changed, but its scripts failed"
		}
		return name + ": the secret is changed, but what depends on it is not"
	case client.NotDone:
		switch {
		case o.Action == "verify":
			return name + ": the target does not take the secret"
		case scriptsFailed(o): // no secret was at stake
			return "the scripts of " + name + " failed"
		case o.Action == "script":
			return "the scripts of " + name + " were not run"
		}
		return name + ": not changed, the former secret is in use"
	case client.NotStarted:
		return name + ": no agent took it"
	case client.StillOpen:
		switch o.Action {
		case "verify":
			return name + ": the target could not be asked"
		case "script":
			return "the scripts of " + name + " have not ended yet"
		}
		return name + ": not decided yet, both secrets are kept"
	default:
		return name + ": no verified word yet"
	}
}

func outcomeHint(e exit, o client.Outcome) string {
	switch e {
	case exitPending:
		wait := "nothing is lost: Rotunda finds out by itself; `rotunda run watch " + o.RunID.String() + "` follows it"
		if hint := client.Hint(o.Reason); hint != "" {
			return hint + "\n" + wait
		}
		return wait
	case exitUnreachable:
		return "`rotunda agent list` shows which agents are connected"
	case exitPartly, exitFailed:
		if do := trust.Reason(o.Reason).Hint(); do != "" {
			return do // a check refused it: nothing happened at the target
		}
		more := "`rotunda run show " + o.RunID.String() + "` tells what happened at the target"
		if hint := client.Hint(o.Reason); hint != "" {
			return hint + "\n" + more
		}
		return more
	default:
		return ""
	}
}

func showOutcomes(w io.Writer, views []outcomeView) {
	if len(views) == 1 {
		v := views[0]
		pairs(w, slices.Concat([]string{
			"account", orWord(v.Title, v.Account), "result", v.State, "credential", v.Credential, "dependents", skipNone(v.Dependents),
			"scripts", skipNone(v.Scripts), "class", v.Class, "reason", v.Reason,
		}, lines("detail", v.Detail), []string{"agent", v.Agent, "run", v.RunID, "finished", local(v.Finished)})...)
		return
	}
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		why := v.Reason
		if v.Class != "" {
			why = v.Class + " " + why
		}
		rows = append(rows, []string{orWord(v.Title, v.Account), v.State, v.Credential, skipNone(v.Dependents), skipNone(v.Scripts), why, v.Agent, v.RunID})
	}
	table(w, []string{"account", "result", "credential", "dependents", "scripts", "why", "agent", "run"}, rows)
}

func skipNone(s string) string {
	if s == "none" || s == "unknown" {
		return ""
	}
	return s
}
