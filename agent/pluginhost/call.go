package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// deafFor is how long a plugin may go on after its call was cancelled.
const deafFor = 2 * time.Second

// Reasons that the SDK gives an error without a class. At a deadline they add
// nothing: a driver complains about the connection that was cut.
const (
	unclassed = "unclassed"
	deadline  = "deadline"
)

// secretsLinger keeps the secrets of a call in the log filter when it is over: what
// it printed may still be in the pipe.
const secretsLinger = 5 * time.Second

// call makes one call, with g as the connections that its deadline cuts. The secrets
// are hidden in logs and error texts, and cleared at the end.
//
//	waiting for a turn --ctx ends--> plugin_busy, not sent
//	in flight --answer--> the answer
//	          --process ends--> plugin_crashed
//	          --ctx ends--> connections cut, Meta.Cancel --answer--> the answer after all
//	                                                     --2 s--> killed, plugin_deaf
func (p *process) call(ctx context.Context, g *grant, secrets []*pluginv1.Credential, invoke func(context.Context, *pluginv1.Call) error) error {
	defer wipe(secrets...)
	var tired <-chan time.Time // of waiting
	if g.limit > 0 {
		tired = time.After(g.limit)
	}
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return p.fail(PluginBusy, ctx.Err())
	case <-tired:
		return p.fail(PluginBusy, context.DeadlineExceeded)
	case <-p.child.exited:
		return p.fail(PluginCrashed, errors.New("the process has ended"))
	}
	if g.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.limit)
		defer cancel()
	}
	switch {
	case ctx.Err() != nil:
		return p.fail(PluginBusy, ctx.Err())
	case p.dead():
		return p.fail(PluginCrashed, errors.New("the process has ended"))
	case g.ctx.Err() != nil:
		return p.fail(SessionClosed, nil)
	}
	for _, c := range secrets {
		if len(c.GetSecret()) > sdk.MaxSecret {
			return p.fail(BadRequest, fmt.Errorf("secret of %d bytes, at most %d can be sent", len(c.GetSecret()), sdk.MaxSecret))
		}
	}
	defer p.h.inCall(p)()
	defer p.hide(secrets)()

	g.note(nil)
	c := &pluginv1.Call{Id: p.lastCall.Add(1)}
	if t, ok := ctx.Deadline(); ok {
		c.Left = durationpb.New(time.Until(t))
	}
	rpc, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- invoke(rpc, c) }()
	select {
	case err := <-done:
		return g.explain(p.classify(err))
	case <-p.child.exited:
	case <-ctx.Done():
		g.cut()
		return g.explain(p.late(ctx, c.Id, cancel, done))
	}
	cancel()
	if err := <-done; err == nil || detail(status.Convert(err)) != nil {
		return p.classify(err) // it answered, then ended
	}
	return p.failed(PluginCrashed, errors.New("the process ended during the call"))
}

// late gives a call whose context has ended its last chance to answer.
func (p *process) late(ctx context.Context, id uint64, cancel func(), done chan error) error {
	grace, stop := context.WithTimeout(context.WithoutCancel(ctx), deafFor)
	defer stop()
	told := make(chan struct{})
	go func() {
		defer close(told)
		_, _ = p.meta.Cancel(grace, &pluginv1.CancelRequest{Call: id})
	}()
	reason := PluginDeadline
	var err error
	select {
	case err = <-done:
	case <-p.child.exited:
		reason = PluginCrashed
	case <-grace.Done():
		reason = PluginDeaf
		p.child.kill()
	}
	cancel()
	if reason != PluginDeadline {
		err = <-done
	}
	stop()
	<-told
	if err == nil {
		return nil
	}
	// Both are true: the caller's context has ended, and the plugin may say why or that
	// nothing was sent.
	cause := context.Cause(ctx)
	if e := (*sdk.Error)(nil); errors.As(p.classify(err), &e) && (e.NotSent || e.Reason != unclassed && e.Reason != deadline) {
		return p.failed(reason, fmt.Errorf("%w: %w", cause, e))
	}
	return p.failed(reason, cause)
}

// failed makes an error of a call that may have had an effect.
func (p *process) failed(r Reason, err error) *Error {
	return &Error{Reason: r, Plugin: p.plugin.Name, Err: err}
}

// classify makes *sdk.Error of what the plugin reports, *Error of the rest.
func (p *process) classify(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return p.failed(PluginProtocol, scrubbed(p, err))
	}
	text := errors.New(cut(p.out.secrets.Text(s.Message()), maxText))
	if d := detail(s); d != nil {
		e := &sdk.Error{Class: class(d.Class), Reason: p.code(d.Reason), NotSent: d.NotSent}
		if s.Message() != "" {
			e.Err = text
		}
		return e
	}
	switch s.Code() {
	case codes.Unimplemented:
		return p.failed(PluginManifest, text)
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		if p.ending() {
			return p.failed(PluginCrashed, text)
		}
		return p.failed(PluginProtocol, text)
	case codes.Internal, codes.ResourceExhausted, codes.InvalidArgument, codes.DataLoss:
		return p.failed(PluginProtocol, text)
	default:
		return &sdk.Error{Class: sdk.ClassInternal, Reason: unclassed, Err: text}
	}
}

// ending tells a connection that broke because the process ended from one that the
// plugin broke: the end may be seen a moment later than the broken connection.
func (p *process) ending() bool {
	t := time.NewTimer(exitGrace)
	defer t.Stop()
	select {
	case <-p.child.exited:
		return true
	case <-t.C:
		return false
	}
}

// scrubbed is the text of err without secrets. The error itself is not kept: it may
// come from anywhere.
func scrubbed(p *process, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errors.New(cut(p.out.secrets.Text(err.Error()), maxText))
}

// hide keeps secrets out of logs and errors until a while after the call.
func (p *process) hide(secrets []*pluginv1.Credential) (show func()) {
	var removes []func()
	for _, c := range secrets {
		removes = append(removes, p.out.secrets.Add(c.GetSecret()))
	}
	return func() {
		p.h.mu.Lock()
		defer p.h.mu.Unlock()
		for _, r := range removes {
			p.expiring = append(p.expiring, expiry{time.Now().Add(secretsLinger), r})
		}
	}
}
