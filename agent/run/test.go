package run

import (
	"context"
	"errors"
	"fmt"

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
	resource, served, w := found.resource, found.served, found.way
	s := resource.Statement.GetResource()
	if found.rotator != nil && found.rotator.err != nil {
		return found.rotator.err
	}
	plugin, _, err := e.rotates(ctx, resource.Statement, found.rotator)
	if err != nil {
		return err
	}
	at, err := e.targetOf(ctx, resource.Statement, w)
	if err != nil {
		return err
	}
	ref := mustRef(s.AdminAccount)
	if ref.IsZero() {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "administrator.none", Err: errors.New("the resource names no administrator: there is nobody to log in as")}
	}
	pool, err := seal.IDFrom(s.PoolId)
	if err != nil {
		return err
	}
	if found.rotator != nil {
		defer e.tellStopped(found.rotator, seal.ID{})
		if err := e.aim(ctx, served, found.rotator, &at, w, pool); err != nil {
			return err
		}
	}
	admin, login, err := served.login(ctx, "administrator", ref, pool)
	if err != nil {
		return err
	}
	defer admin.Secret.Wipe()
	extras, err := e.extras(ctx, served.log, s, pool)
	if err != nil {
		return err
	}
	defer wipeAll(extras)
	release, err := e.Slots.Acquire(ctx, at.Key, true)
	if err != nil {
		return err
	}
	defer release()
	if h := found.rotator; h != nil && h.manifest.Reveals != "" {
		e.Tell(h.revealed(resource.Ref, e.Now()))
	}
	call, cancel := context.WithTimeout(ctx, e.Limits.Open)
	defer cancel()
	session, err := e.Plugins.Open(call, plugin, pluginhost.Job{Target: at, Admin: admin, AdminAs: login, Extra: extras, Fresh: true})
	found.rotator.failed(err)
	if err != nil && found.rotator != nil {
		return withoutOwnWords(err)
	}
	if err != nil {
		return err
	}
	session.Close()
	return nil
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
	rotator  *hosted // the script that is its plugin; nil: it is none
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
	if use := s.GetResource().Rotator; use != nil {
		f.rotator, err = e.findScript(ctx, f.served, s, use, script.Rotator, s.GetResource().Config, pool)
		f.rotator.err = err // a probe does without it
		if f.rotator.statement != nil {
			used = append(used, f.rotator.statement)
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
