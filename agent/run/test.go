package run

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/probe"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// Test logs in as the resource's administrator and changes nothing.
func (e *Engine) Test(ctx context.Context, c *trust.Command) error {
	found, err := e.resource(ctx, c)
	if err != nil {
		return err
	}
	h := found.script
	if h != nil && h.err != nil {
		return h.err
	}
	plugin, _, err := e.rotates(ctx, found.resource.Statement, h)
	if err != nil {
		return err
	}
	j, release, err := e.administer(ctx, found)
	if err != nil {
		return err
	}
	defer release()
	call, cancel := context.WithTimeout(ctx, e.Limits.Open)
	defer cancel()
	session, err := e.Plugins.Open(call, plugin, j)
	h.failed(err)
	if err != nil && h != nil {
		return withoutOwnWords(err)
	}
	if err != nil {
		return err
	}
	session.Close()
	return nil
}

// administer is a job on a resource by its administrator's login, with a turn on it; where a
// script does it, the job leads to the script's places. What it gives has to be released.
func (e *Engine) administer(ctx context.Context, f found) (j pluginhost.Job, release func(), err error) {
	var undo []func()
	done := func() {
		for _, one := range slices.Backward(undo) {
			one()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	s := f.resource.Statement.GetResource()
	at, err := e.targetOf(ctx, f.resource.Statement, f.way)
	if err != nil {
		return j, nil, err
	}
	ref := mustRef(s.AdminAccount)
	if ref.IsZero() {
		return j, nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "administrator.none", Err: errors.New("the resource names no administrator: there is nobody to log in as")}
	}
	pool, err := seal.IDFrom(s.PoolId)
	if err != nil {
		return j, nil, err
	}
	h := f.script
	if h != nil {
		undo = append(undo, func() { e.tellStopped(h, seal.ID{}) })
		if err := e.aim(ctx, f.served, h, &at, f.way, pool); err != nil {
			return j, nil, err
		}
	}
	admin, login, err := f.served.login(ctx, "administrator", ref, pool)
	if err != nil {
		return j, nil, err
	}
	undo = append(undo, admin.Secret.Wipe)
	extras, err := e.extras(ctx, f.served.log, s, pool)
	if err != nil {
		return j, nil, err
	}
	undo = append(undo, func() { wipeAll(extras) })
	turn, err := e.Slots.Acquire(ctx, at.Key, true)
	if err != nil {
		return j, nil, err
	}
	undo = append(undo, turn)
	if h != nil && h.manifest.Reveals != "" {
		e.Tell(h.revealed(f.resource.Ref, e.Now()))
	}
	return pluginhost.Job{Target: at, Admin: admin, AdminAs: login, Extra: extras, Fresh: true}, done, nil
}

// Probe reports the target's keys as this agent sees them. No credential is sent,
// and none is needed.
func (e *Engine) Probe(ctx context.Context, c *trust.Command) (*trustv1.ProbeReply, error) {
	found, err := e.resource(ctx, c)
	if err != nil {
		return nil, err
	}
	resource, w := found.resource, found.way
	s := resource.Statement.GetResource()
	reply, err := probe.Target(ctx, probe.Dial(w.dial), probe.KindOf(s.Plugin, s.Config), addressOf(s), s.Tls.GetServerName())
	if own := (*sdk.Error)(nil); errors.As(err, &own) {
		return nil, own // the local policy's word, or a jump host's
	}
	if err != nil {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "probe", NotSent: true, Err: err}
	}
	if s.Tofu {
		first, err := e.Journal.HostKey(resource.Ref)
		if err != nil {
			return nil, err
		}
		if !first.IsZero() {
			reply.FirstSshHostKeySha256 = first.Bytes()
		}
	}
	return reply, nil
}

// found is a resource that a command pins, checked, with the way there.
type found struct {
	resource *servedRecord
	served   *servedRecords
	way      way
	script   *hosted // that is its plugin, or, of a discovery, finds its accounts; nil: there is none
}

// resource fetches and checks the resource that a command pins, and opens the way there.
// The log is fetched once if the record knows a newer one.
func (e *Engine) resource(ctx context.Context, c *trust.Command) (found, error) {
	f, err := e.lookAtResource(ctx, c)
	if trust.ReasonOf(err) != trust.LogGap {
		return f, err
	}
	if err := e.Directory.Fetch(ctx); err != nil {
		return f, err
	}
	return e.lookAtResource(ctx, c)
}

func (e *Engine) lookAtResource(ctx context.Context, c *trust.Command) (f found, err error) {
	log, err := e.Directory.Fresh(ctx)
	if err != nil {
		return f, err
	}
	if len(c.Pins) == 0 {
		return f, &trust.Error{Reason: trust.PinMismatch, What: "the command pins no resource"}
	}
	ref := c.Target()
	got, err := e.Vault.Fetch(ctx, ref.Record)
	if err != nil {
		return f, fmt.Errorf("fetch: %w", err)
	}
	if f.served, err = e.open(log, got); err != nil {
		return f, err
	}
	if f.resource, err = f.served.record(ref, trustv1.RecordKind_RECORD_KIND_RESOURCE); err != nil {
		return f, err
	}
	s := f.resource.Statement
	pool, err := seal.IDFrom(s.GetResource().GetPoolId())
	if err != nil {
		return f, &trust.Error{Reason: trust.Malformed, What: "pool of the resource", Err: err}
	}
	if me, _ := log.Entry(e.Me.ID); me.Owner != pool {
		return f, &trust.Error{Reason: trust.WrongPool, What: fmt.Sprintf("resource %s is of another pool", ref)}
	}
	if err := trust.CheckLinks(log, s, pool); err != nil {
		return f, err
	}
	if f.way, err = e.findWay(ctx, f.served, s, pool); err != nil {
		return f, err
	}
	used := append([]*trust.Statement{s}, f.way.statements...)
	use, kind, parameters := s.GetResource().Rotator, script.Rotator, s.GetResource().Config
	if c.Action == trustv1.Action_ACTION_DISCOVER {
		use, kind = s.GetResource().Discoverer, script.Discoverer
		parameters = use.GetParameters()
	}
	if use != nil {
		f.script, err = e.findScript(ctx, f.served, s, use, kind, parameters, pool)
		f.script.err = err // a probe does without it
		if f.script.statement != nil {
			used = append(used, f.script.statement)
		}
	}
	if err := trust.CheckPins(c, used...); err != nil {
		return f, err
	}
	return f, e.openWay(ctx, f.served, &f.way, pool)
}

// Classify is the class and the stable reason of an error, for a reply.
func Classify(err error) (class, reason string) {
	if stop := (*Stop)(nil); errors.As(refusal(err), &stop) {
		return string(stop.Class), stop.Reason
	}
	if refused := (*ksm.Error)(nil); errors.As(err, &refused) {
		return string(sdk.ClassInternal), refused.Code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return string(sdk.ClassUnreachable), "deadline"
	}
	return string(sdk.ClassInternal), "internal"
}
