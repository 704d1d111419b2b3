package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/rotunda-pam/rotunda/sdk"
)

type rotator struct{}

// Open has the cluster prove the administrator's own token.
func (rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if r.Admin.Kind != sdk.Token {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "administrator.kind", NotSent: true, Err: errors.New("the administrator needs a token")}
	}
	s := &session{api: api{r.Host, r.Resource, r.Admin.Secret}}
	if err := sdk.DecodeConfig(r.Resource, &s.config); err != nil {
		return nil, err
	}
	if s.config.Hours < 1 || s.config.Hours > maxHours {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "config", NotSent: true, Err: errors.New("token_hours is 1 to 87600")}
	}
	_, err := s.whose(ctx)
	return s, err
}

// maxHours are ten years: the API's numbers end at 2^32 seconds.
const maxHours = 87600

// Verify has the cluster say whose the token is.
func (rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (out sdk.VerifyResponse, err error) {
	who := api{v.Host, v.Resource, v.Credential.Secret}
	name, err := who.whose(ctx)
	switch {
	case isReason(err, "admin.refused"):
		out.Reason = "target.busy"
		if who.answers(ctx) {
			out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
		}
	case err != nil:
		return out, err
	case name != userOf(v.Account):
		out.Reason = "key.other_account"
	default:
		out.Verdict = sdk.Accepted
	}
	return out, nil
}

// answers reports whether the server is whole: one that cannot read what a token is bound to
// refuses that token, too. Servers that tell nothing to whom they do not know are believed.
func (a api) answers(ctx context.Context) bool {
	a.token = sdk.Secret{}
	s, err := a.send(ctx, request{http.MethodGet, "/readyz", whole, "", nil}, nil)
	return err == nil && (s == status{} || s.code == http.StatusUnauthorized || s.code == http.StatusForbidden)
}

// userOf is the name by which the API knows a service account.
func userOf(a sdk.Account) string { return "system:serviceaccount:" + namespaceOf(a) + ":" + a.Name }

// whose asks the API who the token's owner is, which every owner may: a SelfSubjectReview,
// which Kubernetes has from 1.28 on.
func (a api) whose(ctx context.Context) (string, error) {
	type review struct {
		Version string `json:"apiVersion"`
		Kind    string `json:"kind"`
		Status  struct {
			User struct {
				Name string `json:"username"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	var answer review
	if a.token.Len() == 0 { // it would be asked who nobody is
		return "", &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	}
	err := a.ask(ctx, request{
		http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", whole, object,
		review{Version: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"},
	}, &answer)
	switch {
	case isReason(err, "account.missing"):
		err = &sdk.Error{Class: sdk.ClassUnsupported, Reason: "target.unsupported", Err: errors.New("the API has no SelfSubjectReview: Kubernetes 1.28 or later is needed")}
	case err == nil && answer.Status.User.Name == "":
		err = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: errors.New("the API does not say whose the token is")}
	}
	return answer.Status.User.Name, err
}
