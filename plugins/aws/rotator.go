package main

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

type rotator struct{}

// Open has the service prove the administrator's own key.
func (rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := notCancelled(ctx); err != nil {
		return nil, err
	}
	if r.Admin.Kind != sdk.APIKey || r.Admin.ID == "" {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "key_id.missing", NotSent: true, Err: errors.New("the administrator needs an access key, with its id in the record")}
	}
	s, err := newService(r.Host, r.Resource)
	if err != nil {
		return nil, err
	}
	seen, err := s.try(ctx, r.Admin, "")
	switch {
	case err != nil:
		return nil, err
	case seen.Verdict == sdk.Rejected:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused"}
	case seen.Verdict != sdk.Accepted:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: seen.Reason}
	}
	return &session{s, r.Admin}, nil
}

// Verify tries a key. A password is a person's to try, in a browser.
func (rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	if err := notCancelled(ctx); err != nil {
		return sdk.VerifyResponse{}, err
	}
	if v.Credential.Kind == sdk.Password {
		return sdk.VerifyResponse{Reason: "no_login"}, nil
	}
	if v.Credential.ID == "" {
		return sdk.VerifyResponse{Reason: "key_id.missing"}, nil
	}
	s, err := newService(v.Host, v.Resource)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	return s.try(ctx, v.Credential, v.Account.Name)
}

// try has the service prove a key by a request that is signed with it. Whether its user
// may make that request does not matter: the service proves the signature first.
func (s service) try(ctx context.Context, c sdk.Credential, user string) (out sdk.VerifyResponse, err error) {
	method, params := http.MethodPost, url.Values{}
	switch s.config.Verify {
	case "iam":
		params = url.Values{"Action": {"GetUser"}, "Version": {"2010-05-08"}}
	case "sts":
		params = url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"}}
	case "s3":
		method = http.MethodGet
	}
	r, err := s.send(ctx, c, s.config.Verify, method, params)
	if err != nil {
		return out, err
	}
	defer clear(r.body)
	switch {
	case r.status == http.StatusOK && s.config.Verify != "s3" && user != "" && userOf(r.body) != user:
		out.Reason = "key.other_account"
	case r.status == http.StatusOK, r.code == "AccessDenied":
		out.Verdict = sdk.Accepted
	case refusals[r.code].class == sdk.ClassAuth && r.late:
		out.Reason = "clock"
	case refusals[r.code].class == sdk.ClassAuth:
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	default:
		out.Reason = "unreachable"
	}
	return out, nil
}

// userOf is the name in an answer to GetUser, or in the Arn of one to GetCallerIdentity:
// arn:aws:iam::123456789012:user/PATH/NAME. A path has slashes, a name has none.
func userOf(body []byte) string {
	var u struct {
		Name string `xml:"GetUserResult>User>UserName"`
		Arn  string `xml:"GetCallerIdentityResult>Arn"`
	}
	_ = xml.Unmarshal(body, &u) // then it is no user's
	if _, path, ok := strings.Cut(u.Arn, ":user/"); ok {
		return path[strings.LastIndex(path, "/")+1:]
	}
	return u.Name
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
