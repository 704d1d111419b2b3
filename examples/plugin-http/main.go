// Command plugin-http is the plugin of the manual's page "Your first plugin"
// (docs/plugins/write.md): it rotates the passwords of the small user service in target.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
)

func main() {
	sdk.Serve(sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "http-users", Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password},
			Concurrency: 4, MaxLen: 128, Config: &config{},
		},
		Rotator: rotator{},
	})
}

// config are the settings of a resource.
type config struct {
	Users string `json:"users" default:"/users/" doc:"path below which the service has its users"`
}

type rotator struct{}

// session is what Open leaves for Apply: where the service is, and its administrator.
type session struct {
	host     sdk.Host
	resource sdk.Resource
	admin    sdk.Account
	secret   sdk.Secret
	users    string
}

// Open logs the administrator in, so that a wrong one is found before anything is
// changed.
func (rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	var c config
	if err := sdk.DecodeConfig(r.Resource, &c); err != nil {
		return nil, err
	}
	status, err := call(ctx, r.Host, r.Resource, "GET", "/me", r.AdminAs, r.Admin.Secret, nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusUnauthorized:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	case status != http.StatusOK:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.status", NotSent: true}
	}
	return &session{r.Host, r.Resource, r.AdminAs, r.Admin.Secret, c.Users}, nil
}

func (s *session) Close() error { return nil }

// Apply sets a user's password. What the service did not clearly say stays Unknown.
func (s *session) Apply(ctx context.Context, r sdk.ApplyRequest) (out sdk.ApplyResponse, err error) {
	if !utf8.ValidString(r.Candidate.Secret.ExposeString()) { // JSON would carry another password
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.charset"}, nil
	}
	body, err := json.Marshal(map[string]string{"password": r.Candidate.Secret.ExposeString()})
	if err != nil {
		return out, &sdk.Error{Class: sdk.ClassInternal, Reason: "json", NotSent: true, Err: err}
	}
	defer clear(body)
	status, err := call(ctx, s.host, s.resource, "PUT", s.users+url.PathEscape(r.Account.Name), s.admin, s.secret, body)
	if err != nil {
		return out, err
	}
	refused := func(c sdk.Class, reason string) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: c, Reason: reason}, nil
	}
	switch status {
	case http.StatusNoContent:
		out.Outcome = sdk.Changed
	case http.StatusUnprocessableEntity:
		return refused(sdk.ClassPolicy, "policy.refused")
	case http.StatusNotFound:
		return refused(sdk.ClassNotFound, "account.missing")
	case http.StatusUnauthorized, http.StatusForbidden:
		return refused(sdk.ClassPermission, "admin.refused")
	}
	return out, nil
}

// Verify logs in afresh. Only 401 is the service's word about this password.
func (rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (out sdk.VerifyResponse, err error) {
	status, err := call(ctx, v.Host, v.Resource, "GET", "/me", v.Account, v.Credential.Secret, nil)
	switch {
	case err != nil:
		return out, err
	case status == http.StatusOK:
		out.Verdict = sdk.Accepted
	case status == http.StatusUnauthorized:
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	default:
		out.Reason = "service.status"
	}
	return out, nil
}

// call makes one request, on a connection of its own that the agent dials.
func call(ctx context.Context, h sdk.Host, r sdk.Resource, method, path string, as sdk.Account, secret sdk.Secret, body []byte) (int, error) {
	if strings.Contains(as.Name, ":") { // HTTP Basic would read the rest as the password
		return 0, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true}
	}
	secure, err := sdk.TLSConfig(h, r)
	if err != nil {
		return 0, err
	}
	scheme := "https://"
	if secure == nil { // the resource says --tls off
		scheme = "http://"
	}
	sent := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }} // after the handshake
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, scheme+r.Address+path, bytes.NewReader(body))
	if err != nil {
		return 0, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: err}
	}
	req.SetBasicAuth(as.Name, secret.ExposeString())
	// A transport of its own follows no redirect, repeats nothing and keeps no connection.
	transport := &http.Transport{DialContext: h.Dialer.DialContext, TLSClientConfig: secure, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		known := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
		errors.As(err, &known) // the dialer's word, or that of the TLS proof
		return 0, &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: !sent, Err: err}
	}
	return resp.StatusCode, resp.Body.Close()
}
