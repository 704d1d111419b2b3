package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

const (
	// maxVia bounds how many jump hosts lead to a target.
	maxVia = 8
	// replyTime is how long Test, Probe and Info wait where nobody says otherwise.
	replyTime = 3 * time.Minute
	// replyAtOnce is how many milliseconds one call waits for a reply, at the server;
	// askAgain is how soon the next one goes out at the earliest.
	replyAtOnce = 5000
	askAgain    = time.Second
)

// pinsOf are the statements that the person's client saw: of the account where
// there is one, its resource, the resources of its dependents, the jump hosts that lead to
// them, and the scripts.
func (c *Client) pinsOf(ctx context.Context, op string, action trustv1.Action, account, resource *opened) ([]*trustv1.Pin, error) {
	var pins []*trustv1.Pin
	seen := map[Ref]bool{}
	pin := func(o *opened) {
		if o != nil && !seen[o.Ref] {
			seen[o.Ref] = true
			pins = append(pins, &trustv1.Pin{Record: o.Ref.Proto(), Digest: o.StatementDigest.Bytes()})
		}
	}
	pin(account)
	// The way to a resource: the jump hosts that lead there.
	way := func(resource *opened) error {
		pin(resource)
		passed := map[Ref]bool{resource.Ref: true}
		for via := resource.Statement.GetResource().GetVia(); via != nil; {
			ref, err := refFrom(via)
			if err != nil {
				return fail(op, err)
			}
			if passed[ref] || len(passed) > maxVia {
				return invalid(op, "the jump hosts of %s go in a circle, or are more than %d", resource.Title, maxVia)
			}
			passed[ref] = true
			jump, err := c.resource(ctx, op, ref)
			if err != nil {
				return err
			}
			pin(jump)
			via = jump.Statement.GetResource().GetVia()
		}
		return nil
	}
	if err := way(resource); err != nil {
		return nil, err
	}
	if account != nil {
		for _, d := range account.Statement.GetAccount().GetDependents() {
			ref, err := refFrom(d.Resource)
			if err != nil {
				return nil, fail(op, err)
			}
			at, err := c.resource(ctx, op, ref)
			if err != nil {
				return nil, err
			}
			if err := way(at); err != nil {
				return nil, err
			}
		}
	}
	scripts, err := c.scriptsIn(ctx, op, action, account, resource)
	for _, s := range scripts {
		pin(s)
	}
	return pins, err
}

// goesBy says whether an action goes by a resource's script of a kind.
func goesBy(action trustv1.Action, kind script.Kind) bool {
	switch action {
	case trustv1.Action_ACTION_TEST, trustv1.Action_ACTION_PROBE:
		return kind == script.Rotator
	case trustv1.Action_ACTION_DISCOVER:
		return kind == script.Discoverer
	default:
		return kind != script.Discoverer
	}
}

// scriptsIn are the records of the scripts that an action goes by: of the account, where there
// is one, and of the resource. One that is gone is left out: the agent sees that itself, and
// what needs no script goes on without it.
func (c *Client) scriptsIn(ctx context.Context, op string, action trustv1.Action, account, resource *opened) ([]*opened, error) {
	var uses []use
	for _, u := range usesOf(resource.Statement) {
		if goesBy(action, u.kind) {
			uses = append(uses, u)
		}
	}
	if account != nil {
		uses = append(uses, usesOf(account.Statement)...)
	}
	var refs []Ref
	for _, u := range uses {
		ref, err := refFrom(u.use.Script)
		if err != nil {
			return nil, fail(op, err)
		}
		if !c.log.Roles(c.facts.Entry, ref.Folder).Has(Read) {
			return nil, &Error{
				Class: Denied, Reason: string(trust.NotAllowed), Op: op, Err: fmt.Errorf("it uses the script %s, which you may not read", ref),
				Hint: "whoever signs a command has seen all that it runs: have somebody share the script's folder with you",
			}
		}
		if !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil, nil
	}
	list, err := c.get(ctx, refs)
	if err != nil {
		return nil, fail(op, err)
	}
	for _, s := range list {
		if err := s.signed(op, "script", s.Statement.GetScript() != nil); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// liveAgent chooses a live agent of a pool: the one named, or any that is
// connected and was not tried.
func (c *Client) liveAgent(ctx context.Context, op string, pool, named seal.ID, tried map[seal.ID]bool) (trust.Entry, error) {
	if !named.IsZero() {
		e, err := c.agentOf(op, pool, named)
		if err != nil {
			return trust.Entry{}, err
		}
		live, err := c.connected(ctx, e)
		if err == nil && !live {
			err = noAgent(op, "the agent %s is not connected", e.Name)
		}
		return e, err
	}
	list, err := call(ctx, c, op, c.conn.ListAgents, &clientv1.ListAgentsRequest{PoolId: pool.Bytes()})
	if err != nil {
		return trust.Entry{}, err
	}
	var live []trust.Entry
	for _, a := range list.Agents {
		id := idOr(a.AgentId)
		// Presence is the server's word; that it is an agent of the pool is the log's.
		if e, ok := c.log.Entry(id); ok && a.Connected && !tried[id] && e.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT && e.Owner == pool {
			live = append(live, e)
		}
	}
	if len(live) == 0 {
		return trust.Entry{}, noAgent(op, "no agent of the pool %s is connected", c.nameOf(pool))
	}
	return live[rand.IntN(len(live))], nil
}

// agentOf is the agent of a pool that a person named, connected or not; pool zero is any.
func (c *Client) agentOf(op string, pool, named seal.ID) (trust.Entry, error) {
	e, ok := c.log.Entry(named)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT || !pool.IsZero() && e.Owner != pool {
		return trust.Entry{}, notFound(op, "there is no such agent in the pool %s", c.nameOf(pool))
	}
	return e, nil
}

func noAgent(op, format string, args ...any) error {
	return &Error{
		Class: Unreachable, Reason: "no_agent", Op: op, Err: fmt.Errorf(format, args...),
		Hint: "`rotunda agent list` shows them; on an agent's host `rotunda-agent status` and `rotunda-agent doctor` tell more",
	}
}

// chosenAgent is the agent for a command. Who names one and says how long to wait, waits
// for it also while it is away.
func (c *Client) chosenAgent(ctx context.Context, op string, pool seal.ID, o RunOptions, tried map[seal.ID]bool) (trust.Entry, error) {
	if !o.Agent.IsZero() && o.Wait > 0 {
		return c.agentOf(op, pool, o.Agent)
	}
	return c.liveAgent(ctx, op, pool, o.Agent, tried)
}

// sent is a command that this device has signed.
type sent struct {
	id      seal.ID
	agent   trust.Entry
	digest  seal.Digest // the cause that its results carry
	expires time.Time
	frame   *trustv1.CommandFrame
}

// command signs and seals a command to one agent. What is fixed before: action,
// account, pins, run, follows.
func (c *Client) command(ctx context.Context, agent trust.Entry, cmd *trustv1.Command) (sent, error) {
	keys, err := c.publicKeys(ctx, []seal.ID{agent.ID})
	if err != nil {
		return sent{}, err
	}
	now := c.now()
	id := seal.NewID()
	cmd.Id, cmd.AgentId, cmd.Issued = id.Bytes(), agent.ID.Bytes(), now.UnixMilli()
	if cmd.Expires == 0 {
		cmd.Expires = now.Add(trust.DefaultLifetime).UnixMilli()
	}
	frame, digest, err := trust.SealCommand(c.log, c.facts.Entry, c.keys.Sign, keys[agent.ID], cmd, now)
	if reason := trust.ReasonOf(err); reason == trust.RecipientUnverified {
		c.tellRefusal(ctx, eventClientRefused, reason)
	}
	if err != nil {
		return sent{}, err
	}
	return sent{id: id, agent: agent, digest: digest, expires: time.UnixMilli(cmd.Expires), frame: frame}, nil
}

// reply is a verified reply.
type reply struct {
	sent
	result *trust.Result
	detail *trustv1.Detail
}

// ask sends a command that is no run and waits for its verified reply.
func (c *Client) ask(ctx context.Context, op string, pool seal.ID, cmd *trustv1.Command, o RunOptions) (reply, error) {
	wait := o.Wait
	if wait == 0 {
		wait = replyTime
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	agent, err := c.chosenAgent(ctx, op, pool, o, nil)
	if err != nil {
		return reply{}, err
	}
	return c.askAgent(ctx, op, agent, cmd)
}

func (c *Client) askAgent(ctx context.Context, op string, agent trust.Entry, cmd *trustv1.Command) (reply, error) {
	s, err := c.command(ctx, agent, cmd)
	if err != nil {
		return reply{}, fail(op, err)
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: []*clientv1.WriteOp{
		{Op: &clientv1.WriteOp_SendCommand{SendCommand: &clientv1.SendCommand{Command: s.frame}}},
	}})
	if err != nil {
		return reply{}, err
	}
	for {
		asked := time.Now()
		answer, err := call(ctx, c, op, c.conn.GetReply, &clientv1.GetReplyRequest{CommandId: s.id.Bytes(), WaitMs: replyAtOnce})
		switch {
		case err == nil && len(answer.Signed) > 0:
			r, err := c.openReply(ctx, op, s, answer)
			if reason := trust.Reason(ReasonOf(err)); reason == trust.ResultForged {
				c.tellRefusal(ctx, eventResultRefused, reason)
			}
			return r, err
		case err == nil && answer.Refused != "":
			return reply{}, &Error{
				Class: Failed, Reason: answer.Refused, Op: op, Err: fmt.Errorf("the agent %s refused the command, as the server says", agent.Name),
				Hint: Hint(answer.Refused),
			}
		case err != nil && ctx.Err() == nil && ClassOf(err) != Unreachable:
			return reply{}, err
		}
		// The server waits for it, unless it may not, or is away for a moment.
		select {
		case <-time.After(askAgain - time.Since(asked)):
		case <-ctx.Done():
			return reply{}, &Error{
				Class: Unreachable, Reason: "no_answer", Op: op, Err: fmt.Errorf("the agent %s has not answered", agent.Name),
				Hint: "look at its host, or name another agent",
			}
		}
	}
}

func (c *Client) openReply(ctx context.Context, op string, s sent, a *clientv1.GetReplyResponse) (reply, error) {
	want := trust.Expect{Agent: s.agent.ID, Cause: s.digest}
	result, err := trust.CheckResult(c.log, a.Signed, want)
	if trust.ReasonOf(err) == trust.LogGap {
		if err := c.fetchLog(ctx); err != nil {
			return reply{}, fail(op, err)
		}
		result, err = trust.CheckResult(c.log, a.Signed, want)
	}
	if err != nil {
		return reply{}, fail(op, err)
	}
	if result.Phase != trustv1.Phase_PHASE_REPLIED {
		return reply{}, fail(op, &trust.Error{Reason: trust.ResultForged, What: "the answer is no reply"})
	}
	detail, err := trust.OpenReply(c.log, result, c.facts.Entry, c.keys.Seal, s.id, a.SealedDetail)
	if err != nil {
		return reply{}, fail(op, err)
	}
	return reply{s, result, detail}, nil
}

// Test has an agent log in to a resource as its administrator and change nothing.
func (c *Client) Test(ctx context.Context, resource Ref, o RunOptions) (TestReply, error) {
	op := "test " + resource.String()
	r, err := c.askResource(ctx, op, trustv1.Action_ACTION_TEST, resource, o)
	if err != nil {
		return TestReply{}, err
	}
	return TestReply{
		Agent: r.agent.ID, AgentName: r.agent.Name, OK: r.result.Credential == trustv1.Outcome_OUTCOME_DONE,
		Class: r.result.Class, Reason: r.result.Reason, Detail: r.detail.GetText(),
	}, nil
}

// Probe asks an agent for the target's TLS and host keys as it sees them.
func (c *Client) Probe(ctx context.Context, resource Ref, o RunOptions) (ProbeReply, error) {
	op := "probe " + resource.String()
	r, err := c.askResource(ctx, op, trustv1.Action_ACTION_PROBE, resource, o)
	if err != nil {
		return ProbeReply{}, err
	}
	p := r.detail.GetProbe()
	out := ProbeReply{
		Agent: r.agent.ID, AgentName: r.agent.Name, Address: p.GetAddress(), TLSSubject: p.GetTlsSubject(), TLSChain: p.GetTlsChain(),
		SSHKeyTypes: p.GetSshHostKeyType(), Class: r.result.Class, Reason: r.result.Reason, Detail: r.detail.GetText(),
	}
	var bad error
	out.TLSKeys, bad = digests(p.GetTlsSpkiSha256())
	if bad == nil {
		out.SSHKeys, bad = digests(p.GetSshHostKeySha256())
	}
	if first := p.GetFirstSshHostKeySha256(); bad == nil && len(first) > 0 {
		out.FirstSSHKey, bad = seal.DigestFrom(first)
	}
	if bad != nil {
		return ProbeReply{}, fail(op, &trust.Error{Reason: trust.Malformed, What: "the keys that the agent saw", Err: bad})
	}
	return out, nil
}

// Discover has an agent find out what accounts a target has, by the script that the resource
// names for it, and change nothing.
func (c *Client) Discover(ctx context.Context, resource Ref, o RunOptions) (DiscoverReply, error) {
	op := "discover the accounts of " + resource.String()
	r, err := c.askResource(ctx, op, trustv1.Action_ACTION_DISCOVER, resource, o)
	if err != nil {
		return DiscoverReply{}, err
	}
	d := r.detail.GetDiscover()
	out := DiscoverReply{
		Agent: r.agent.ID, AgentName: r.agent.Name, OK: r.result.Credential == trustv1.Outcome_OUTCOME_DONE, More: d.GetMore(),
		Class: r.result.Class, Reason: r.result.Reason, Detail: r.detail.GetText(),
	}
	for _, a := range d.GetAccounts() {
		out.Accounts = append(out.Accounts, sdk.Finding{Login: a.Login, Scope: a.Scope, Facts: a.Facts})
	}
	return out, nil
}

func digests(list [][]byte) ([]seal.Digest, error) {
	var out []seal.Digest
	for _, b := range list {
		d, err := seal.DigestFrom(b)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (c *Client) askResource(ctx context.Context, op string, action trustv1.Action, ref Ref, o RunOptions) (reply, error) {
	resource, err := c.resource(ctx, op, ref)
	if err != nil {
		return reply{}, err
	}
	pins, err := c.pinsOf(ctx, op, action, nil, resource)
	if err != nil {
		return reply{}, err
	}
	return c.ask(ctx, op, poolOf(resource.Statement), &trustv1.Command{Action: action, Pins: pins}, o)
}

// Info asks an agent about itself.
func (c *Client) Info(ctx context.Context, agent seal.ID, o RunOptions) (InfoReply, error) {
	if err := c.fresh(ctx); err != nil {
		return InfoReply{}, err
	}
	op := "ask the agent " + c.nameOf(agent)
	if agent.IsZero() {
		return InfoReply{}, invalid(op, "name the agent")
	}
	o.Agent = agent
	r, err := c.ask(ctx, op, seal.ID{}, &trustv1.Command{Action: trustv1.Action_ACTION_INFO}, o)
	if err != nil {
		return InfoReply{}, err
	}
	i := r.detail.GetInfo()
	if i == nil {
		return InfoReply{}, &Error{Class: Failed, Reason: r.result.Reason, Op: op, Err: errors.New("the agent could not tell")}
	}
	return InfoReply{
		Agent: r.agent.ID, AgentName: r.agent.Name, Version: i.Version, OS: i.Os, Arch: i.Arch,
		Started: when(i.Started), Clock: when(i.Clock), LogEpoch: i.LogEpoch, LogValidUntil: when(i.LogValidUntil),
		ActiveRuns: int(i.ActiveRuns), Plugins: r.detail.GetPlugins(),
	}, nil
}
