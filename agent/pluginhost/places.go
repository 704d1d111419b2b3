package pluginhost

import (
	"context"
	"errors"
	"maps"
	"slices"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Plan as sdk.Dependents.
func (h *Host) Plan(ctx context.Context, p Plugin, j Job, r sdk.ApplyRequest) (steps []sdk.Step, err error) {
	req := &pluginv1.PlanRequest{Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current)}
	var resp *pluginv1.PlanResponse
	_, err = h.place(ctx, p, j, dependents, []*pluginv1.Credential{req.Candidate, req.Current}, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.users.Plan(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := pluginv1.CheckSteps(resp.GetSteps()); err != nil {
		return nil, &Error{Reason: PluginProtocol, Plugin: p.Name, NotSent: true, Err: err}
	}
	for _, s := range resp.GetSteps() {
		steps = append(steps, sdk.Step{ID: s.GetId(), Title: s.GetTitle(), Data: s.GetData()})
	}
	return steps, nil
}

// Do as sdk.Dependents. A missing answer is Outcome Unknown together with an error.
func (h *Host) Do(ctx context.Context, p Plugin, j Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	req := &pluginv1.DoRequest{Step: step(s), Credential: credential(c)}
	var resp *pluginv1.DoResponse
	proc, err := h.place(ctx, p, j, dependents, []*pluginv1.Credential{req.Credential}, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.users.Do(ctx, req)
		return err
	})
	if err != nil {
		return sdk.StepResponse{}, err
	}
	return sdk.StepResponse{Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: proc.code(resp.GetReason())}, nil
}

// Undo as sdk.Dependents, likewise.
func (h *Host) Undo(ctx context.Context, p Plugin, j Job, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	req := &pluginv1.UndoRequest{Step: step(s), Credential: credential(c)}
	var resp *pluginv1.UndoResponse
	proc, err := h.place(ctx, p, j, dependents, []*pluginv1.Credential{req.Credential}, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.users.Undo(ctx, req)
		return err
	})
	if err != nil {
		return sdk.StepResponse{}, err
	}
	return sdk.StepResponse{Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: proc.code(resp.GetReason())}, nil
}

func dependents(d Description) bool { return d.Manifest.Dependents }

// Provision as sdk.Provisioner. A missing answer is Outcome Unknown together with an error.
func (h *Host) Provision(ctx context.Context, p Plugin, j Job, r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	req := &pluginv1.ProvisionRequest{Account: account(r.Account), Candidate: credential(r.Candidate)}
	var resp *pluginv1.ProvisionResponse
	proc, err := h.place(ctx, p, j, provision, []*pluginv1.Credential{req.Candidate}, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.maker.Provision(ctx, req)
		return err
	})
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	return sdk.ApplyResponse{Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: proc.code(resp.GetReason())}, nil
}

// Deprovision as sdk.Provisioner, likewise.
func (h *Host) Deprovision(ctx context.Context, p Plugin, j Job, a sdk.Account) (sdk.ApplyResponse, error) {
	req := &pluginv1.DeprovisionRequest{Account: account(a)}
	var resp *pluginv1.DeprovisionResponse
	proc, err := h.place(ctx, p, j, provision, nil, func(ctx context.Context, proc *process, at *pluginv1.Place, c *pluginv1.Call) (err error) {
		req.Call, req.Place = c, at
		resp, err = proc.maker.Deprovision(ctx, req)
		return err
	})
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	return sdk.ApplyResponse{Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: proc.code(resp.GetReason())}, nil
}

func provision(d Description) bool { return d.Manifest.Provision }

// place makes one call that needs no session, in the resource's process, with a dialer of
// its own.
func (h *Host) place(ctx context.Context, p Plugin, j Job, declares func(Description) bool, secrets []*pluginv1.Credential, invoke func(context.Context, *process, *pluginv1.Place, *pluginv1.Call) error) (*process, error) {
	defer wipe(secrets...)
	wait := ctx
	if j.Limit > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, j.Limit)
		defer cancel()
	}
	proc, err := h.acquire(wait, p, j.Key)
	if err != nil {
		return nil, err
	}
	defer h.release(proc)
	if !declares(proc.manifest) {
		return nil, proc.fail(PluginManifest, errors.New("its manifest declares no such verb"))
	}
	g, access, err := proc.access(j.Target)
	if err != nil {
		return nil, err
	}
	defer g.locals.Wait() // nothing of it goes on when it is over
	defer proc.out.follow(access.Job, nil)
	defer g.cut()
	g.limit = j.Limit
	open := openRequest(proc.manifest.Name, j)
	at := &pluginv1.Place{
		Plugin: open.Plugin, Access: access, Pins: open.Pins, Resource: open.Resource, Admin: open.Admin, AdminAs: open.AdminAs, Extra: open.Extra,
	}
	secrets = append(append(secrets, at.Admin), slices.Collect(maps.Values(at.Extra))...)
	return proc, proc.call(ctx, g, secrets, func(ctx context.Context, c *pluginv1.Call) error { return invoke(ctx, proc, at, c) })
}

func step(s sdk.Step) *pluginv1.Step {
	return &pluginv1.Step{Id: s.ID, Title: s.Title, Data: s.Data}
}
