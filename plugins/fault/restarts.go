package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rotunda-pam/rotunda/sdk"
)

// restarts are what is done after a rotation: an app that is called as the account is, and
// -restarted, begins to use the account's password.
type restarts struct{ rotator }

func (p *restarts) Run(ctx context.Context, r sdk.OpenRequest, a sdk.AfterRequest) (sdk.AfterResponse, error) {
	s, err := newService(r.Host, r.Resource)
	if err != nil {
		return sdk.AfterResponse{}, err
	}
	again := p.remember(a.Account.Name, a.RunID)
	switch {
	case s.fault == runsNothing:
		return sdk.AfterResponse{Outcome: sdk.Changed}, nil
	case again && s.fault == runsOnce:
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "run.again"}, nil
	}
	status, err := s.call(ctx, http.MethodPut, "/apps/"+url.PathEscape(a.Account.Name+"-restarted"), r.AdminAs.Name, r.Admin.Secret, map[string]any{"password": a.Secret.Secret.ExposeString()})
	switch {
	case err != nil:
		return sdk.AfterResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status == http.StatusNoContent:
		return sdk.AfterResponse{Outcome: sdk.Changed}, nil
	case status == http.StatusNotFound:
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "app.missing"}, nil
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return sdk.AfterResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "admin.rights"}, nil
	}
	return sdk.AfterResponse{}, nil
}
