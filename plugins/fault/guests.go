package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// guests are accounts of the service that are made to be removed.
type guests struct{ rotator }

func (p *guests) Provision(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	s, err := newService(r.Host, r.Resource)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	path := "/guests/" + url.PathEscape(a.Account.Name)
	again := p.remember(a.Account.Name, "made")
	body := map[string]any{
		"password": a.Candidate.Secret.ExposeString(),
		"groups":   strings.FieldsFunc(a.Account.Attrs[sdk.GroupsAttr], func(r rune) bool { return r == ',' }),
		"until":    a.Account.Attrs[sdk.UntilAttr],
	}
	switch {
	case s.fault == takesOver:
		path = "/users/" + url.PathEscape(a.Account.Name)
		if _, err := s.call(ctx, http.MethodDelete, path, r.AdminAs.Name, r.Admin.Secret, map[string]any{}); err != nil {
			return sdk.ApplyResponse{}, err
		}
		path = "/guests/" + url.PathEscape(a.Account.Name)
	case again && s.fault == provisionsOnce:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.exists"}, nil
	case s.fault == ignoresGroups, again && s.fault == keepsGroups:
		delete(body, "groups")
	case s.fault == ignoresUntil, again && s.fault == keepsUntil:
		delete(body, "until")
	}
	return guestAnswer(s.call(ctx, http.MethodPut, path, r.AdminAs.Name, r.Admin.Secret, body))
}

func (p *guests) Deprovision(ctx context.Context, r sdk.OpenRequest, a sdk.Account) (sdk.ApplyResponse, error) {
	s, err := newService(r.Host, r.Resource)
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	path := "/guests/" + url.PathEscape(a.Name)
	switch {
	case s.fault == removesNothing:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case s.fault == removesAny:
		path = "/users/" + url.PathEscape(a.Name)
	case p.remember("removed "+a.Name, "gone") && s.fault == missesTheRemove:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, nil
	}
	return guestAnswer(s.call(ctx, http.MethodDelete, path, r.AdminAs.Name, r.Admin.Secret, map[string]any{}))
}

func guestAnswer(status int, err error) (sdk.ApplyResponse, error) {
	switch {
	case err != nil:
		return sdk.ApplyResponse{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status == http.StatusNoContent:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case status == http.StatusConflict:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "account.exists"}, nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "admin.rights"}, nil
	case status == http.StatusUnprocessableEntity:
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.refused"}, nil
	}
	return sdk.ApplyResponse{}, nil
}
