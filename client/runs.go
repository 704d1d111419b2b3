package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	actionRotate = "rotate"
	actionVerify = "verify"
	actionScript = "script"

	defaultParallel = 16
	maxParallel     = 256
	// followBefore is how long before a command's end the next one is signed: at
	// its end the server closes the run.
	followBefore = 10 * time.Second
)

// Rotate gives accounts new secrets, now. The outcomes are in the order of the accounts.
// The error is of the call as a whole; each Outcome has its own.
func (c *Client) Rotate(ctx context.Context, accounts []Ref, o RunOptions) ([]Outcome, error) {
	return c.run(ctx, actionRotate, accounts, o)
}

// Verify has an agent log in with the current values.
func (c *Client) Verify(ctx context.Context, accounts []Ref, o RunOptions) ([]Outcome, error) {
	return c.run(ctx, actionVerify, accounts, o)
}

// job is one run that this call started or follows.
type job struct {
	out       *Outcome
	account   *opened
	resource  *opened
	pins      []*trustv1.Pin
	pool      seal.ID
	commands  []sent // newest last; none: somebody else's run
	untilDone bool   // also past an outcome that is pending

	// A run that had stopped goes on by a further command: its results of before tell
	// nothing of it, and no answer comes after the command's time.
	asked  time.Time
	before int
}

func (c *Client) run(ctx context.Context, action string, accounts []Ref, o RunOptions) ([]Outcome, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, fail(action, err)
	}
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	out := make([]Outcome, len(accounts))
	jobs, err := c.prepare(ctx, action, accounts, out)
	if err != nil {
		return nil, err
	}
	var w *watcher
	if !o.NoWait {
		w = c.watch(ctx, o.Progress, "runs")
		defer w.close()
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	slots := make(chan struct{}, min(o.Parallel, maxParallel))
	for _, batch := range administratorsLast(jobs) {
		var all sync.WaitGroup
		for _, j := range batch {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				c.runOne(ctx, w, j, o)
			})
		}
		all.Wait()
	}
	return out, nil
}

// administratorsLast puts the accounts by which others are changed after those: each of
// the others is changed by a secret that works.
func administratorsLast(jobs []*job) [2][]*job {
	administrators := map[Ref]bool{}
	for _, j := range jobs {
		if ref, err := refFrom(j.resource.Statement.GetResource().GetAdminAccount()); err == nil {
			administrators[ref] = true
		}
	}
	var batches [2][]*job
	for _, j := range jobs {
		n := 0
		if administrators[j.account.Ref] {
			n = 1
		}
		batches[n] = append(batches[n], j)
	}
	return batches
}

// prepare fetches accounts and resources, each once, and what has to be pinned.
func (c *Client) prepare(ctx context.Context, action string, accounts []Ref, out []Outcome) ([]*job, error) {
	found := map[Ref]*opened{}
	list, err := c.get(ctx, accounts)
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		found[o.Ref] = o
	}
	var jobs []*job
	type target struct {
		resource *opened
		err      error
	}
	resources := map[Ref]target{}
	twice := map[Ref]bool{}
	for i, ref := range accounts {
		out[i] = Outcome{Account: ref, Action: action, State: NotStarted}
		op := action + " " + ref.String()
		o := found[ref]
		if o == nil {
			out[i].Err = notFound(op, "there is no such record that you may read")
			continue
		}
		if twice[ref] {
			out[i].Err = invalid(op, "the account is named twice")
			continue
		}
		twice[ref] = true
		if err := o.signed(op, "account", o.Statement.GetAccount() != nil); err != nil {
			out[i].Err = err
			continue
		}
		if s, ok := o.Secret(); action == actionVerify && (!ok || s.Len() == 0) {
			out[i].Err = &Error{
				Class: Failed, Reason: "no_secret", Op: "verify " + o.Title, Err: errors.New("the account has no secret yet: there is nothing to verify"),
				Hint: "`rotunda rotate` gives it its first one",
			}
			continue
		}
		name, err := refFrom(o.Statement.GetAccount().Resource)
		if err != nil {
			out[i].Err = fail(op, err)
			continue
		}
		t, ok := resources[name]
		if !ok {
			t.resource, t.err = c.resource(ctx, op, name)
			resources[name] = t
		}
		if t.err == nil {
			if action == actionScript && len(o.Statement.GetAccount().Scripts)+len(t.resource.Statement.GetResource().Scripts) == 0 {
				out[i].Err = &Error{
					Class: Invalid, Reason: "scripts.none", Op: "run the scripts of " + o.Title, Err: errors.New("neither the account nor its resource has scripts that run after a rotation"),
					Hint: Hint("scripts.none"),
				}
				continue
			}
			j := &job{out: &out[i], account: o, resource: t.resource, pool: poolOf(t.resource.Statement)}
			if j.pins, t.err = c.pinsOf(ctx, op, trustv1.Action_ACTION_ROTATE, o, t.resource); t.err == nil {
				jobs = append(jobs, j)
				continue
			}
		}
		out[i].Err = t.err
	}
	return jobs, nil
}

// runOne starts one run and follows it by w; w is nil where nobody waits.
func (c *Client) runOne(ctx context.Context, w *watcher, j *job, o RunOptions) {
	out := j.out
	out.RunID = seal.NewID()
	op := out.Action + " " + j.account.Title
	var woken <-chan struct{}
	if w != nil {
		woken = w.waker(out.RunID)
		defer w.forget(out.RunID)
	}
	if err := c.start(ctx, op, j, o); err != nil {
		out.Err = err
		return
	}
	if w == nil {
		out.State = StillOpen
		return
	}
	c.follow(ctx, op, woken, j, o)
}

var actions = map[string]trustv1.Action{
	actionRotate: trustv1.Action_ACTION_ROTATE, actionVerify: trustv1.Action_ACTION_VERIFY, actionScript: trustv1.Action_ACTION_RUN_SCRIPT,
}

// start signs the run's command and sends it; after a command that nobody took,
// the next one goes to another agent and counts only when the former cannot.
func (c *Client) start(ctx context.Context, op string, j *job, o RunOptions) error {
	if err := ctx.Err(); err != nil { // nothing was sent
		return fail(op, err)
	}
	tried := map[seal.ID]bool{}
	for _, s := range j.commands {
		tried[s.agent.ID] = true
	}
	agent, err := c.chosenAgent(ctx, op, j.pool, o, tried)
	if err != nil {
		return err
	}
	cmd := &trustv1.Command{
		Action: actions[j.out.Action], Account: j.account.Ref.Proto(), Pins: j.pins, RunId: j.out.RunID.Bytes(),
	}
	if n := len(j.commands); n > 0 {
		former := j.commands[n-1]
		begin := former.expires.Add(trust.FollowDelay)
		cmd.Follows, cmd.NotBefore = former.id.Bytes(), begin.UnixMilli()
		cmd.Expires = min(begin.Add(trust.DefaultLifetime).UnixMilli(), c.now().Add(trust.MaxLifetime).UnixMilli())
	}
	s, err := c.command(ctx, agent, cmd)
	if err != nil {
		return fail(op, err)
	}
	j.out.Agent, j.out.AgentName = agent.ID, agent.Name
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_StartRun{StartRun: &clientv1.StartRun{
			RunId: j.out.RunID.Bytes(), Account: j.account.Ref.Proto(), Resource: j.resource.Ref.Proto(), PoolId: j.pool.Bytes(),
			Action: j.out.Action, Command: s.frame,
		}}},
	}})
	if err != nil {
		if ClassOf(err) == Unreachable {
			// The server may have it: then the run's results tell.
			j.commands = append(j.commands, s)
			return &Error{
				Class: Unknown, Reason: "no_answer", Op: op, Err: err,
				Hint: "the run may have begun: look at the account's runs",
			}
		}
		return err
	}
	j.commands = append(j.commands, s)
	return nil
}

// follow waits for a run's verified end.
func (c *Client) follow(ctx context.Context, op string, woken <-chan struct{}, j *job, o RunOptions) {
	out := j.out
	out.State = OutcomeLost
	var next <-chan time.Time
	arm := func() {
		if n := len(j.commands); n > 0 {
			next = time.After(time.Until(j.commands[n-1].expires) - followBefore)
		}
	}
	arm()
	for {
		run, err := call(ctx, c, op, c.conn.GetRun, &clientv1.GetRunRequest{RunId: out.RunID.Bytes()})
		switch {
		case err == nil:
			done, err := c.judge(ctx, op, j, run)
			if err != nil {
				out.Err = err
				return
			}
			if done {
				return
			}
		case ctx.Err() == nil && ClassOf(err) != Unreachable:
			out.Err = err
			return
		}
		select {
		case <-woken:
		case <-time.After(lookAgain):
		case <-next:
			next = nil
			if run == nil || run.Run.GetState() != "queued" {
				continue
			}
			// Nobody took it. Where another agent lives, it gets a command of its own.
			if c.start(ctx, op, j, o) == nil {
				if o.Progress != nil {
					o.Progress(Progress{Account: out.Account, RunID: out.RunID, State: "queued", Phase: "next agent"})
				}
				arm()
			}
		case <-ctx.Done():
			out.Err = &Error{
				Class: Unknown, Reason: "no_result_yet", Op: op, Err: context.Cause(ctx),
				Hint: "the run goes on without you: `rotunda run watch " + out.RunID.String() + "` follows it",
			}
			return
		}
	}
}

// closedStates are the server's words for a run that is over.
var closedStates = map[string]bool{"finished": true, "failed": true, "alert": true, "dropped": true}

// Over reports whether a state of a run is its last.
func Over(state string) bool { return closedStates[state] }

// judge makes the outcome from a run's verified results; done: that is all.
func (c *Client) judge(ctx context.Context, op string, j *job, run *clientv1.GetRunResponse) (bool, error) {
	out := j.out
	closed := closedStates[run.Run.GetState()]
	final, detail, err := c.finalResult(ctx, j, run)
	if err != nil {
		return true, fail(op, err)
	}
	switch {
	case final == nil && !j.asked.IsZero() && c.now().Before(j.asked.Add(trust.Skew)):
		return false, nil
	case final == nil && closed:
		// Only the server's word: nothing of it is believed but that it is over.
		out.State, out.Class, out.Reason = NotStarted, run.Run.GetClass(), run.Run.GetReason()
		return true, &Error{
			Class: Failed, Reason: orElse(out.Reason, "not_started"), Op: op, Err: errors.New("no agent has begun the run"),
			Hint: Hint(out.Reason),
		}
	case final == nil, final.Phase == trustv1.Phase_PHASE_COMMITTED && !closed:
		return false, nil
	}
	out.Agent, out.AgentName = final.Signer.ID, final.Signer.Name
	out.Credential, out.Dependents, out.Scripts = final.Credential, final.Dependents, final.Scripts
	out.Class, out.Reason, out.Detail = final.Class, final.Reason, detail
	out.ValueSeq, out.Finished = final.ValueSeq, time.UnixMilli(final.Time)
	out.State = outcomeState(out.Action, final.Result)
	if out.State == StillOpen && !closed && j.untilDone {
		return false, nil
	}
	out.Err = nil
	if out.Action == actionRotate && (out.State == Done || out.State == DoneBlind || out.State == DonePartly) {
		return true, c.confirm(ctx, op, j)
	}
	return true, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func outcomeState(action string, r *trustv1.Result) OutcomeState {
	failed := slices.ContainsFunc([]trustv1.Outcome{r.Dependents, r.Scripts}, func(o trustv1.Outcome) bool {
		return o == trustv1.Outcome_OUTCOME_FAILED || o == trustv1.Outcome_OUTCOME_PENDING
	})
	if action == actionScript && r.Scripts == trustv1.Outcome_OUTCOME_DONE {
		return Done // the secret is as it was
	}
	switch r.Credential {
	case trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_UNVERIFIABLE:
		switch {
		case failed:
			return DonePartly
		case r.Credential == trustv1.Outcome_OUTCOME_UNVERIFIABLE:
			return DoneBlind
		}
		return Done
	case trustv1.Outcome_OUTCOME_PENDING, trustv1.Outcome_OUTCOME_UNSPECIFIED:
		return StillOpen
	}
	return NotDone
}

// finalResult is the newest finished result of a run whose word counts, or
// else the newest committed one.
func (c *Client) finalResult(ctx context.Context, j *job, run *clientv1.GetRunResponse) (*trust.Result, string, error) {
	var final *trust.Result
	var detail []byte
	for _, v := range run.Results[min(j.before, len(run.Results)):] {
		r, err := c.checkResult(ctx, j, v.Signed)
		if err != nil {
			if trust.ReasonOf(err) == "" {
				return nil, "", err
			}
			c.tellRefusalOf(ctx, eventResultRefused, trust.ResultForged, j.out.Account)
			if trust.ReasonOf(err) == trust.ResultForged && final == nil && len(run.Results) == 1 {
				return nil, "", err
			}
			c.alarm("result_forged", "a result of the run %s is not believed: %v", j.out.RunID, err)
			continue
		}
		switch {
		case r.Phase == trustv1.Phase_PHASE_FINISHED && (final == nil || final.Phase != r.Phase || r.Time >= final.Time),
			r.Phase == trustv1.Phase_PHASE_COMMITTED && (final == nil || final.Phase == r.Phase):
			final, detail = r, v.Detail
		}
	}
	if final == nil || len(detail) == 0 {
		return final, "", nil
	}
	return final, c.detailOf(ctx, j, final, detail), nil
}

// detailOf is a result's text. Without it, where it does not open, the result stands all
// the same.
func (c *Client) detailOf(ctx context.Context, j *job, r *trust.Result, detail []byte) (text string) {
	_ = c.keysOf(j.account).open(ctx, func(k seal.Key) error {
		d, err := trust.OpenDetail(c.facts.OrgID, k, r, detail)
		text = d.GetText()
		return err
	})
	return text
}

// checkResult is 4.6 step 5 for a result of this run. The run's id is the
// client's own: a result that names it and another cause is an agent's that
// took the run over, acts by the account's statement, or could not even read that.
func (c *Client) checkResult(ctx context.Context, j *job, signed []byte) (*trust.Result, error) {
	want := trust.Expect{Pool: j.pool, RunID: j.out.RunID, Account: j.out.Account}
	r, err := trust.CheckResult(c.log, signed, want)
	if trust.ReasonOf(err) == trust.LogGap {
		if err := c.fetchLog(ctx); err != nil {
			return nil, err
		}
		r, err = trust.CheckResult(c.log, signed, want)
	}
	if err != nil || len(j.commands) == 0 {
		return r, err
	}
	cause := seal.Digest(r.Cause)
	if cause.IsZero() || cause == j.account.StatementDigest {
		return r, nil
	}
	for _, s := range j.commands {
		if cause == s.digest {
			return r, nil
		}
	}
	return nil, &trust.Error{Reason: trust.ResultForged, What: "the result answers something else"}
}

// confirm fetches the record anew: a value counts as changed when the vault
// serves the one that the run attests, or a newer one.
func (c *Client) confirm(ctx context.Context, op string, j *job) error {
	o, err := c.one(ctx, op, j.out.Account)
	if err != nil {
		return err
	}
	if !o.inUse() || o.value == nil || o.value.Seq < j.out.ValueSeq {
		j.out.State = OutcomeLost
		return &Error{
			Class: Unknown, Reason: orElse(o.Reason, string(trust.ValueUnattested)), Op: op,
			Err:  fmt.Errorf("the agent says that it committed value %d; the server serves another", j.out.ValueSeq),
			Hint: "look at the record again in a moment; if it stays so, treat the server as hostile",
		}
	}
	return nil
}
