package client

import (
	"context"
	"errors"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Runs lists runs, newest first, and the token of the next page.
func (c *Client) Runs(ctx context.Context, f RunFilter) ([]Run, string, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, "", err
	}
	q := &clientv1.ListRunsRequest{Filter: f.State, Page: &clientv1.Page{Size: uint32(max(f.Limit, 0)), Token: f.Token}}
	if !f.Account.IsZero() {
		q.AccountUid = f.Account.Bytes()
	}
	page, err := call(ctx, c, "list runs", c.conn.ListRuns, q)
	if err != nil {
		return nil, "", err
	}
	var out []Run
	for _, v := range page.Runs {
		r, err := c.runFrom(v)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return out, page.Next, nil
}

func (c *Client) runFrom(v *clientv1.RunView) (Run, error) {
	id, err := seal.IDFrom(v.GetRunId())
	if err != nil {
		return Run{}, badServer("read a run", "run: %w", err)
	}
	account, err := refFrom(v.Account)
	if err != nil {
		return Run{}, badServer("read a run", "account: %w", err)
	}
	resource, err := refFrom(v.Resource)
	if err != nil {
		return Run{}, badServer("read a run", "resource: %w", err)
	}
	agent := idOr(v.AgentId)
	return Run{
		ID: id, Account: account, Resource: resource, Agent: agent, AgentName: c.nameOf(agent),
		Action: v.Action, Cause: v.Cause, State: v.State, Phase: v.Phase, Attempt: int(v.Attempt),
		Created: when(v.Created), Started: when(v.Started), Finished: when(v.Finished), NextAttempt: when(v.NextAttempt), Until: when(v.Until),
		Credential: v.Credential, Dependents: v.Dependents, Scripts: v.Scripts, Class: v.Class, Reason: v.Reason,
	}, nil
}

// Run is one run with its verified results.
func (c *Client) Run(ctx context.Context, id seal.ID) (Run, error) {
	op := "show the run " + id.String()
	j, view, err := c.followed(ctx, op, id)
	if err != nil {
		return Run{}, err
	}
	r, err := c.runFrom(view.Run)
	if err != nil {
		return Run{}, err
	}
	for _, v := range view.Results {
		r.Results = append(r.Results, c.runResult(ctx, j, v))
	}
	return r, nil
}

func (c *Client) runResult(ctx context.Context, j *job, v *clientv1.ResultView) RunResult {
	res, err := c.checkResult(ctx, j, v.Signed)
	if err != nil {
		// A person's word on the run (abandoned) is checked as such.
		res, err = trust.OpenResult(c.log, v.Signed)
		if err == nil {
			err = trust.CheckWord(c.log, res, j.out.Account, j.pool)
		}
	}
	if err != nil {
		return RunResult{Reason: orElse(string(trust.ReasonOf(err)), string(trust.ResultForged))}
	}
	out := RunResult{Result: res.Result, By: c.log.FullName(res.Signer)}
	if len(v.Detail) > 0 {
		out.Detail = c.detailOf(ctx, j, res, v.Detail)
	}
	return out
}

// followed is a run that somebody else may have started, ready to be judged.
func (c *Client) followed(ctx context.Context, op string, id seal.ID) (*job, *clientv1.GetRunResponse, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, nil, fail(op, err)
	}
	view, err := call(ctx, c, op, c.conn.GetRun, &clientv1.GetRunRequest{RunId: id.Bytes()})
	if err != nil {
		return nil, nil, err
	}
	r, err := c.runFrom(view.Run)
	if err != nil {
		return nil, nil, err
	}
	account, err := c.one(ctx, op, r.Account)
	if err != nil {
		return nil, nil, err
	}
	j := &job{
		out:     &Outcome{Account: r.Account, RunID: id, Action: r.Action, Agent: r.Agent, AgentName: r.AgentName},
		account: account, untilDone: true,
	}
	// The pool is the account's own resource's, as signed; the server's word counts
	// for nothing here, except where the statement does not hold.
	if a := account.Statement.GetAccount(); a != nil {
		if j.resource, err = c.resourceOf(ctx, op, account); err == nil {
			j.pool = poolOf(j.resource.Statement)
		}
	}
	if j.pool.IsZero() {
		if e, ok := c.log.Entry(r.Agent); ok && e.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT && c.log.Roles(e.ID, r.Account.Folder).Has(Read) {
			j.pool = e.Owner
		}
	}
	return j, view, nil
}

// Wait follows a run to its end.
func (c *Client) Wait(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	op := "wait for the run " + run.String()
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	j, _, err := c.followed(ctx, op, run)
	if err != nil {
		return Outcome{}, err
	}
	w := c.watch(ctx, o.Progress, "runs")
	defer w.close()
	c.follow(ctx, op, w.waker(run), j, o)
	return *j.out, j.out.Err
}

// Retry starts a run again: a new one of the same account, with the same action.
func (c *Client) Retry(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	op := "retry the run " + run.String()
	view, err := call(ctx, c, op, c.conn.GetRun, &clientv1.GetRunRequest{RunId: run.Bytes()})
	if err != nil {
		return Outcome{}, err
	}
	r, err := c.runFrom(view.Run)
	if err != nil {
		return Outcome{}, err
	}
	if !closedStates[r.State] {
		return Outcome{}, &Error{
			Class: Conflict, Reason: "run_open", Op: op, Err: errors.New("the run is not over: " + r.State),
			Hint: "wait for it, or abandon it",
		}
	}
	if actions[r.Action] == trustv1.Action_ACTION_UNSPECIFIED {
		return Outcome{}, invalid(op, "a run of the action %q cannot be started again", r.Action)
	}
	out, err := c.run(ctx, r.Action, []Ref{r.Account}, o)
	if err != nil {
		return Outcome{}, err
	}
	return out[0], out[0].Err
}

// connected is the server's word on an agent's presence.
func (c *Client) connected(ctx context.Context, e trust.Entry) (bool, error) {
	list, err := call(ctx, c, "list agents", c.conn.ListAgents, &clientv1.ListAgentsRequest{PoolId: e.Owner.Bytes()})
	if err != nil {
		return false, err
	}
	for _, a := range list.Agents {
		if idOr(a.AgentId) == e.ID {
			return a.Connected, nil
		}
	}
	return false, nil
}
