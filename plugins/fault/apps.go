package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/rotunda-pam/rotunda/sdk"
)

// apps are the dependents: apps of the service that use a password.
type apps struct{ rotator }

// administrator is the service, with the login that may change apps.
type administrator struct {
	service
	as     string
	secret sdk.Secret
	apps   []string
}

func newAdministrator(r sdk.OpenRequest) (administrator, error) {
	var c Dependent
	err := sdk.DecodeConfig(r.Resource, &c)
	return administrator{service{r.Host, r.Resource, fault(c.Fault)}, r.AdminAs.Name, r.Admin.Secret, c.Apps}, err
}

func (p *apps) Plan(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) ([]sdk.Step, error) {
	s, err := newAdministrator(r)
	if err != nil {
		return nil, err
	}
	switch status, err := s.login(ctx, s.as, s.secret); {
	case err != nil:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
	case status != http.StatusOK:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	}
	var steps []sdk.Step
	for _, app := range s.apps {
		if status, err := s.call(ctx, http.MethodGet, "/apps/"+url.PathEscape(app), s.as, s.secret, nil); s.fault != plansAnything {
			switch {
			case err != nil:
				return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
			case status == http.StatusNotFound:
				return nil, &sdk.Error{Class: sdk.ClassNotFound, Reason: "app.missing", NotSent: true}
			case status != http.StatusOK:
				return nil, &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.rights", NotSent: true}
			}
		}
		if s.fault == planChanges {
			if _, err := s.give(ctx, app, a.Candidate.Secret); err != nil {
				return nil, err
			}
		}
		step := sdk.Step{ID: app, Title: "give it to " + app}
		data := map[string]string{"app": app}
		switch s.fault {
		case planHoldsSecrets:
			data["password"] = a.Candidate.Secret.ExposeString()
		case planNamesSecrets:
			step.Title += " as " + a.Candidate.Secret.ExposeString()
		}
		if step.Data, err = json.Marshal(data); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

func (p *apps) Do(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return p.step(ctx, r, step, c, doesNothing)
}

func (p *apps) Undo(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	return p.step(ctx, r, step, c, undoesNothing)
}

// step gives an app a password, but for the fault that leaves that out.
func (p *apps) step(ctx context.Context, r sdk.OpenRequest, step sdk.Step, c sdk.Credential, nothing fault) (sdk.StepResponse, error) {
	s, err := newAdministrator(r)
	if err != nil {
		return sdk.StepResponse{}, err
	}
	switch {
	case s.fault == nothing:
		return sdk.StepResponse{Outcome: sdk.Changed}, nil
	case p.remember(step.ID, c.Secret.ExposeString()) && s.fault == doesOnce:
		return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "step.again"}, nil
	}
	var data struct{ App string }
	if err := json.Unmarshal(step.Data, &data); err != nil {
		return sdk.StepResponse{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "step.data", NotSent: true, Err: err}
	}
	last := step.ID == s.apps[len(s.apps)-1]
	switch {
	case last && s.fault == lastIsIdle:
		return sdk.StepResponse{Outcome: sdk.Changed}, nil
	case s.fault == lastIsIdle:
		if _, err := s.give(ctx, s.apps[len(s.apps)-1], c.Secret); err != nil {
			return sdk.StepResponse{}, err
		}
	case last && s.fault == lostLastIsNot:
		if _, err := s.login(ctx, s.as, s.secret); err != nil {
			return sdk.StepResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
		}
	}
	status, err := s.give(ctx, data.App, c.Secret)
	switch {
	case err != nil && s.fault == lostStepIsDone:
		return sdk.StepResponse{Outcome: sdk.Changed}, nil
	case err != nil && (s.fault == lostStepIsNot || last && s.fault == lostLastIsNot):
		return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassUnreachable, Reason: "http"}, nil
	case err != nil:
		return sdk.StepResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status == http.StatusNoContent:
		return sdk.StepResponse{Outcome: sdk.Changed}, nil
	case status == http.StatusNotFound:
		return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "app.missing"}, nil
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "admin.rights"}, nil
	}
	return sdk.StepResponse{}, nil
}

func (s administrator) give(ctx context.Context, app string, password sdk.Secret) (int, error) {
	return s.call(ctx, http.MethodPut, "/apps/"+url.PathEscape(app), s.as, s.secret, map[string]any{"password": password.ExposeString()})
}
