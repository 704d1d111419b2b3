package sdk

import (
	"context"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// dependents is where a call about a dependent goes.
func (s *server) dependents(p *pluginv1.Place, more ...*pluginv1.Credential) (Dependents, OpenRequest, *scrub.Set, error) {
	plugin, at, secrets, err := s.place(p, more...)
	if err == nil && plugin.Dependents == nil {
		err = toStatus(context.Background(), refuse(ClassUnsupported, "verb.dependents"), secrets)
	}
	return plugin.Dependents, at, secrets, err
}

// place is where a call without a session goes.
func (s *server) place(p *pluginv1.Place, more ...*pluginv1.Credential) (Plugin, OpenRequest, *scrub.Set, error) {
	secrets := new(scrub.Set)
	plugin, err := s.plugin(p.GetPlugin())
	if err != nil {
		return Plugin{}, OpenRequest{}, secrets, err
	}
	for _, c := range append(more, p.GetAdmin()) {
		secrets.Add(c.GetSecret())
	}
	extra := map[string]Credential{}
	for name, c := range p.GetExtra() {
		secrets.Add(c.GetSecret())
		extra[name] = credential(c)
	}
	return plugin, OpenRequest{
		Host: s.host(p.GetAccess(), p.GetPins(), secrets), Resource: resource(p.GetResource()),
		Admin: credential(p.GetAdmin()), AdminAs: account(p.GetAdminAs()), Extra: extra,
	}, secrets, nil
}

func (s *server) Plan(ctx context.Context, r *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
	d, at, secrets, err := s.dependents(r.Place, r.Candidate, r.Current)
	if err != nil {
		return nil, err
	}
	steps, err := d.Plan(ctx, at, ApplyRequest{Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current)})
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	out := &pluginv1.PlanResponse{}
	for _, one := range steps {
		out.Steps = append(out.Steps, &pluginv1.Step{Id: one.ID, Title: one.Title, Data: one.Data})
	}
	if err := pluginv1.CheckSteps(out.Steps); err != nil {
		return nil, toStatus(ctx, &Error{Class: ClassInternal, Reason: "plan.malformed", NotSent: true, Err: err}, secrets)
	}
	return out, nil
}

func (s *server) Do(ctx context.Context, r *pluginv1.DoRequest) (*pluginv1.DoResponse, error) {
	d, at, secrets, err := s.dependents(r.Place, r.Credential)
	if err != nil {
		return nil, err
	}
	a, err := d.Do(ctx, at, stepOf(r.Step), credential(r.Credential))
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.DoResponse{Outcome: outcome(a.Outcome), Class: a.class(), Reason: reason(a.Reason)}, nil
}

func (s *server) Undo(ctx context.Context, r *pluginv1.UndoRequest) (*pluginv1.UndoResponse, error) {
	d, at, secrets, err := s.dependents(r.Place, r.Credential)
	if err != nil {
		return nil, err
	}
	a, err := d.Undo(ctx, at, stepOf(r.Step), credential(r.Credential))
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.UndoResponse{Outcome: outcome(a.Outcome), Class: a.class(), Reason: reason(a.Reason)}, nil
}

func (r StepResponse) class() string {
	if r.Class == "" {
		return ""
	}
	return class(r.Class)
}

func stepOf(s *pluginv1.Step) Step {
	return Step{ID: s.GetId(), Title: s.GetTitle(), Data: s.GetData()}
}

// provisioner is where a call about an account that comes or goes goes.
func (s *server) provisioner(p *pluginv1.Place, more ...*pluginv1.Credential) (Provisioner, OpenRequest, *scrub.Set, error) {
	plugin, at, secrets, err := s.place(p, more...)
	if err == nil && plugin.Provision == nil {
		err = toStatus(context.Background(), refuse(ClassUnsupported, "verb.provision"), secrets)
	}
	return plugin.Provision, at, secrets, err
}

func (s *server) Provision(ctx context.Context, r *pluginv1.ProvisionRequest) (*pluginv1.ProvisionResponse, error) {
	p, at, secrets, err := s.provisioner(r.Place, r.Candidate)
	if err != nil {
		return nil, err
	}
	a, err := p.Provision(ctx, at, ApplyRequest{Account: account(r.Account), Candidate: credential(r.Candidate)})
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.ProvisionResponse{Outcome: outcome(a.Outcome), Class: StepResponse(a).class(), Reason: reason(a.Reason)}, nil
}

func (s *server) Deprovision(ctx context.Context, r *pluginv1.DeprovisionRequest) (*pluginv1.DeprovisionResponse, error) {
	p, at, secrets, err := s.provisioner(r.Place)
	if err != nil {
		return nil, err
	}
	a, err := p.Deprovision(ctx, at, account(r.Account))
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.DeprovisionResponse{Outcome: outcome(a.Outcome), Class: StepResponse(a).class(), Reason: reason(a.Reason)}, nil
}
