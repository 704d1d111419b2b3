package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// AbandonUnproven is the reason of an Abandon that no agent can prove right: nothing
// was done, and RunOptions.Unproven would do it.
const AbandonUnproven = "abandon_unproven"

// AbandonMeans says what Unproven does.
const AbandonMeans = "the candidate may be the secret that the target has now. It stays in the record's history; where an agent of the pool is connected, it then logs in with the account's secret and, should the target refuse that, with the candidate: at most two failed logins, beside those by which one has tried to judge it. A key that it may have put into a target's authorized_keys stays there"

// reasonAbandoned is the outcome of a candidate that was given up.
const reasonAbandoned = "abandoned"

// ownerAgent marks a candidate that an agent staged.
const ownerAgent = "agent"

// Abandon asks for a run to be given up: the agent probes, and abandons the
// candidate only when the target rejects it. A run that no agent took is dropped. A
// candidate that no agent would probe, or that one could not judge, is signed away here,
// if the caller says so (Unproven), and then settled as far as an agent can be asked.
func (c *Client) Abandon(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	op := "abandon the run " + run.String()
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	j, view, err := c.followed(ctx, op, run)
	if err != nil {
		return Outcome{}, err
	}
	if k := j.account.Candidate; k != nil && k.RunID == run {
		why, err := c.unprobed(ctx, op, j, o)
		switch {
		case err != nil:
			return Outcome{}, err
		case why != "" && !o.Unproven:
			return Outcome{}, &Error{
				Class: Conflict, Reason: AbandonUnproven, Op: op, Err: fmt.Errorf("no agent can probe the candidate (%s)", why),
				Hint: "connect an agent of the pool if that is all that it lacks; else give --unproven: " + AbandonMeans,
			}
		case why != "" || o.Unproven && o.Judged:
			return c.abandonSelf(ctx, op, j, o)
		}
	} else if closedStates[view.Run.State] {
		return Outcome{}, &Error{
			Class: Conflict, Reason: "run_over", Op: op, Err: fmt.Errorf("there is nothing to give up: the run is over (%s)", overAs(view)),
			Hint: "`rotunda run show " + run.String() + "` tells how it ended",
		}
	}
	j.untilDone = !o.Unproven // else the agent's first word is enough
	out, err := c.abandonByAgent(ctx, op, j, view, o)
	if !o.Unproven || out.Reason == "" { // the agent has settled it, or may be at it still
		return out, err
	}
	// The agent could not tell whether the target has it, or knows a reason not to touch it
	// that this device could not see.
	j, _, again := c.followed(ctx, op, run)
	if again != nil {
		return Outcome{}, again
	}
	if k := j.account.Candidate; k == nil || k.RunID != run {
		return out, err
	}
	return c.abandonSelf(ctx, op, j, o)
}

// Unsettled reports whether an Abandon has left a candidate that RunOptions.Unproven would
// give up: no agent can probe it, or one has, and could not tell what it is.
func Unsettled(out Outcome, err error) bool {
	return ReasonOf(err) == AbandonUnproven || err == nil && out.State == StillOpen
}

// overAs says how a run ended, as the server tells it.
func overAs(view *clientv1.GetRunResponse) string {
	if why := view.Run.GetReason(); why != "" {
		return view.Run.GetState() + ", " + why
	}
	return view.Run.GetState()
}

// unprobed says why no agent would probe the candidate, "" where one can.
func (c *Client) unprobed(ctx context.Context, op string, j *job, o RunOptions) (string, error) {
	switch {
	case j.account.Candidate.Reason != "":
		return j.account.Candidate.Reason, nil
	case j.account.State != InUse:
		return orElse(j.account.Reason, string(trust.ValueUnattested)), nil
	case j.resource == nil:
		return string(trust.RecordUnsigned), nil
	}
	_, err := c.liveAgent(ctx, op, j.pool, o.Agent, nil)
	if ReasonOf(err) == "no_agent" {
		return "no_agent", nil
	}
	return "", err
}

// abandonByAgent has an agent probe and abandon.
func (c *Client) abandonByAgent(ctx context.Context, op string, j *job, view *clientv1.GetRunResponse, o RunOptions) (Outcome, error) {
	run := j.out.RunID
	if view.Run.State == "queued" {
		_, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
			{Op: &clientv1.WriteOp_DropRun{DropRun: &clientv1.DropRun{RunId: run.Bytes()}}},
		}})
		if err == nil {
			j.out.State, j.out.Reason = NotStarted, "dropped"
			return *j.out, nil
		}
		if ReasonOf(err) != "run_started" && ReasonOf(err) != string(trust.RunOutstanding) {
			return Outcome{}, err
		}
	}
	if j.resource == nil {
		return Outcome{}, &Error{
			Class: Refused, Reason: orElse(j.account.Reason, string(trust.RecordUnsigned)), Op: op,
			Err: errors.New("the account's statement, or its resource's, does not hold"), Hint: "sign it anew, then abandon the run",
		}
	}
	pins, err := c.pinsOf(ctx, op, trustv1.Action_ACTION_CANCEL, j.account, j.resource)
	if err != nil {
		return Outcome{}, err
	}
	cmd := &trustv1.Command{
		Action: trustv1.Action_ACTION_CANCEL, Account: j.out.Account.Proto(), Pins: pins, RunId: run.Bytes(),
		Args: &trustv1.Command_Cancel{Cancel: &trustv1.CancelArgs{RunId: run.Bytes()}},
	}
	// The agent that has the run knows it best; any of the pool can settle it.
	agent, err := c.liveAgent(ctx, op, j.pool, o.Agent, nil)
	if e, ok := c.log.Entry(idOr(view.Run.AgentId)); ok && o.Agent.IsZero() && e.Owner == j.pool {
		if live, e2 := c.connected(ctx, e); e2 == nil && live {
			agent, err = e, nil
		}
	}
	if err != nil {
		return Outcome{}, err
	}
	s, err := c.command(ctx, agent, cmd)
	if err != nil {
		return Outcome{}, fail(op, err)
	}
	w := c.watch(ctx, o.Progress, "runs")
	defer w.close()
	woken := w.waker(run)
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_SendCommand{SendCommand: &clientv1.SendCommand{Command: s.frame}}},
	}})
	if err != nil {
		return Outcome{}, err
	}
	j.asked, j.before = s.expires, len(view.Results)
	// An agent that has died meanwhile never answers.
	ctx, cancel := context.WithDeadline(ctx, s.expires.Add(trust.Skew))
	defer cancel()
	c.follow(ctx, op, woken, j, o)
	if ReasonOf(j.out.Err) == "no_result_yet" {
		j.out.Err = &Error{
			Class: Unknown, Reason: "no_result_yet", Op: op, Err: fmt.Errorf("%s has not answered", agent.Name),
			Hint: "nothing was given up: see `rotunda agent list`, then try again",
		}
	}
	return *j.out, j.out.Err
}

// abandonSelf signs a candidate away that no agent would probe, or could judge, then has
// an agent find out which secret the target has.
func (c *Client) abandonSelf(ctx context.Context, op string, j *job, o RunOptions) (Outcome, error) {
	candidate := j.account.Candidate.Value
	seq, _ := lastValue(j.account)
	signed, _, err := trust.SignResult(c.log, c.keys.Sign, &trustv1.Result{
		Phase: trustv1.Phase_PHASE_ABANDONED, RunId: j.out.RunID.Bytes(), By: c.facts.Entry.Bytes(), Account: j.out.Account.Proto(),
		ValueSeq: seq + 1, DataDigest: seal.Hash(j.account.view.Staged.Data).Bytes(), Reason: reasonAbandoned, Time: c.now().UnixMilli(),
	})
	if err != nil {
		return Outcome{}, fail(op, err)
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_PutResult{PutResult: &clientv1.PutResult{Account: j.out.Account.Proto(), Signed: signed}}},
	}})
	if err != nil {
		return Outcome{}, err
	}
	j.out.State, j.out.Reason = NotDone, reasonAbandoned
	err = c.settle(ctx, op, j, candidate, o)
	return *j.out, err
}

// settle has an agent of the pool log in with the account's secret and, where the target
// refuses that one, with the candidate that was given up, which is the account's if it
// opens. What cannot be asked leaves the account's secret as it is.
func (c *Client) settle(ctx context.Context, op string, j *job, candidate sdk.Secret, o RunOptions) error {
	account, err := c.one(ctx, op, j.out.Account)
	if err != nil {
		return err
	}
	if gone, err := c.attestedByGone(account); err != nil {
		return fail(op, err)
	} else if account.State != InUse && !gone {
		j.out.Detail = "the account's own secret is not in use: look at the record"
		return nil
	}
	if account.State != InUse {
		put, err := c.attest(c.log, account, account.content.DataDigest, sameSecret(account), true)
		if err != nil {
			return fail(op, err)
		}
		if _, err := call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{put}}); err != nil {
			return err
		}
	}
	opens, err := c.opens(ctx, j.out, "the account's secret", o)
	former, had := account.Secret()
	if opens != rejected || candidate.Len() == 0 || !had { // else there were nothing to put back
		return err
	}
	if err := c.EditRecord(ctx, j.out.Account, RecordEdit{Secret: &candidate}); err != nil {
		return err
	}
	switch opens, err := c.opens(ctx, j.out, "the candidate", o); opens {
	case accepted:
		j.out.State, j.out.Reason = Done, "candidate_kept"
		j.out.Detail = "the target has the candidate, which is the account's secret now"
		return nil
	case rejected:
		j.out.Reason, j.out.Detail = "both_rejected", "the target takes neither the account's secret nor the candidate"
		return c.EditRecord(ctx, j.out.Account, RecordEdit{Secret: &former})
	default:
		return err
	}
}

// answer is a target's word on a secret, undecided where it gave none.
type answer int

const (
	undecided answer = iota
	accepted
	rejected
)

// opens has an agent log in with the account's present secret.
func (c *Client) opens(ctx context.Context, out *Outcome, what string, o RunOptions) (answer, error) {
	o.NoWait = false
	list, err := c.Verify(ctx, []Ref{out.Account}, o)
	if err != nil {
		return undecided, err
	}
	v := list[0]
	switch {
	case v.State == Done, v.State == DoneBlind:
		out.Detail = "the target takes " + what
		return accepted, nil
	case v.State == NotDone && trust.Reason(v.Reason).Meaning() == "" && v.Class == string(sdk.ClassConflict):
		return rejected, nil
	}
	out.State = StillOpen
	out.Detail = fmt.Sprintf("whether the target takes %s could not be asked (%s): `rotunda verify` asks again; the other secret is in the record's history", what, orElse(v.Reason, ReasonOf(v.Err)))
	return undecided, nil
}
