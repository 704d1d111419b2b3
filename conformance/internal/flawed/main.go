// Command flawed is a plugin for the example's user service with one flaw, which the
// resource's settings choose: the kit must find each.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/rotunda-pam/rotunda/sdk"
)

func main() {
	sdk.Serve(sdk.Plugin{
		Manifest: sdk.Manifest{Name: "flawed", Version: "1", Kinds: []sdk.Kind{sdk.Password}, Readback: true, Config: &config{}},
		Rotator:  &rotator{},
	})
}

type config struct {
	Flaw string `json:"flaw" doc:"what is wrong"`
}

type rotator struct {
	mu   sync.Mutex
	last string // the newest password, for the flaw that believes itself
}

type session struct {
	sdk.OpenRequest
	r    *rotator
	flaw string
}

func (p *rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	var c config
	if err := sdk.DecodeConfig(r.Resource, &c); err != nil {
		return nil, err
	}
	s := &session{r, p, c.Flaw}
	switch status, err := call(ctx, r.Host, r.Resource, "GET", "/me", r.AdminAs.Name, r.Admin.Secret.ExposeString(), nil); {
	case c.Flaw == "open does not look":
	case err != nil && c.Flaw == "no answer is a refusal":
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true, Err: err}
	case err != nil:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
	case status != http.StatusOK:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	}
	return s, nil
}

func (s *session) Close() error { return nil }

func (s *session) Apply(ctx context.Context, r sdk.ApplyRequest) (out sdk.ApplyResponse, err error) {
	pw, path := r.Candidate.Secret.ExposeString(), "/users/"+url.PathEscape(r.Account.Name)
	switch s.flaw {
	case "takes characters away":
		pw = strings.ReplaceAll(pw, "<", "")
	case "pastes names":
		path = "/users/" + r.Account.Name
	}
	body, err := json.Marshal(map[string]string{"password": pw})
	if err != nil {
		return out, err
	}
	status, err := call(ctx, s.Host, s.Resource, "PUT", path, s.AdminAs.Name, s.Admin.Secret.ExposeString(), body)
	s.r.mu.Lock()
	s.r.last = pw
	s.r.mu.Unlock()
	switch {
	case err != nil && s.flaw == "a lost reply is unchanged":
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassUnreachable, Reason: "http"}, nil
	case err != nil && s.flaw == "nothing was ever sent":
		return out, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", NotSent: true, Err: err}
	case err != nil && s.flaw == "a lost reply is changed":
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case err != nil:
		return out, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	case status == http.StatusNoContent:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case s.flaw == "reasons are sentences":
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "No such user!"}, nil
	case status == http.StatusNotFound && s.flaw != "a missing account is policy":
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, nil
	case s.flaw == "policy is unknown":
		return out, nil
	}
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.refused"}, nil
}

func (s *session) Readback(context.Context, sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil // the flaw that all have
}

func (p *rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (out sdk.VerifyResponse, err error) {
	var c config
	if err := sdk.DecodeConfig(v.Resource, &c); err != nil {
		return out, err
	}
	pw := v.Credential.Secret.ExposeString()
	p.mu.Lock()
	believed := c.Flaw == "believes itself" && p.last == pw
	p.mu.Unlock()
	if believed {
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	status, err := call(ctx, v.Host, v.Resource, "GET", "/me", v.Account.Name, pw, nil)
	switch {
	case err == nil && status == http.StatusOK:
		out.Verdict = sdk.Accepted
	case err == nil, c.Flaw == "everything else is rejected":
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	}
	if c.Flaw == "rejects without asking" && !strings.HasPrefix(pw, "a first") {
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	}
	return out, nil
}

func call(ctx context.Context, h sdk.Host, r sdk.Resource, method, path, name, pw string, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.Address+path, bytes.NewReader(body))
	if err != nil {
		return http.StatusBadRequest, nil
	}
	req.SetBasicAuth(name, pw)
	resp, err := (&http.Transport{DialContext: h.Dialer.DialContext, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
