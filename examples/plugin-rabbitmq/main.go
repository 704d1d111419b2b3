// Command plugin-rabbitmq rotates the passwords of RabbitMQ users through the management
// API. It is written as a stranger would write it: a module of its own, which imports the
// SDK and, in its test, the conformance kit. README.md tells of it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
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
			Name: "rabbitmq", Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password}, Concurrency: 8, MaxLen: 256, Config: &config{},
		},
		Rotator: rotator{},
	})
}

// config are the settings of a resource: there are none.
type config struct{}

type rotator struct{}

// session is what Open leaves for Apply: where the management API is, and who calls it.
type session struct{ api api }

// Open logs the administrator in.
func (rotator) Open(ctx context.Context, r sdk.OpenRequest) (sdk.Session, error) {
	if err := sdk.DecodeConfig(r.Resource, &config{}); err != nil {
		return nil, err
	}
	a := api{r.Host, r.Resource, r.AdminAs.Name, r.Admin.Secret}
	got, err := a.call(ctx, "GET", "/api/whoami", nil)
	switch {
	case err != nil:
		return nil, err
	case got.status == http.StatusUnauthorized && got.Reason == wrongPassword:
		return nil, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused", NotSent: true}
	case got.status == http.StatusUnauthorized: // without the tag management, or not from here
		return nil, &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.rights", NotSent: true}
	case got.status != http.StatusOK:
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "api.status", NotSent: true}
	}
	return &session{a}, nil
}

func (*session) Close() error { return nil }

// user is what the API says of a user. The tags are his rights in the management API.
type user struct {
	Tags json.RawMessage `json:"tags"` // a list, or, before RabbitMQ 3.9, words
}

// Apply sets a password. The API replaces a user as a whole, and makes one that is not
// there: so it is asked first who that is, and his tags are written back.
func (s *session) Apply(ctx context.Context, r sdk.ApplyRequest) (out sdk.ApplyResponse, err error) {
	candidate := r.Candidate.Secret.Expose()
	defer clear(candidate)
	if !utf8.Valid(candidate) { // JSON would carry another password
		return unchanged(sdk.ClassPolicy, "policy.charset")
	}
	path := "/api/users/" + url.PathEscape(r.Account.Name)
	if out, ok := possible(r.Account.Name); !ok {
		return out, nil
	}
	got, err := s.api.call(ctx, "GET", path, nil)
	if err != nil {
		return out, notSent(err) // a question changes nothing
	}
	if got.status != http.StatusOK {
		return refused(got), nil
	}
	var now user
	if err := json.Unmarshal(got.body, &now); err != nil || now.Tags == nil {
		return unchanged(sdk.ClassUnsupported, "api.answer")
	}
	body, err := json.Marshal(map[string]any{"password": string(candidate), "tags": now.Tags})
	if err != nil {
		return out, &sdk.Error{Class: sdk.ClassInternal, Reason: "json", NotSent: true, Err: err}
	}
	defer clear(body)
	got, err = s.api.call(ctx, "PUT", path, body)
	switch {
	case err != nil:
		return out, err // which says whether it was sent
	case got.status == http.StatusNoContent || got.status == http.StatusCreated:
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	case got.status == http.StatusBadRequest: // the broker's credential validator
		return unchanged(sdk.ClassPolicy, "policy.refused")
	}
	return refused(got), nil
}

// possible tells whether there can be such a user in the path of a request.
func possible(name string) (sdk.ApplyResponse, bool) {
	if name == "" || name == "." || name == ".." || !utf8.ValidString(name) {
		out, _ := unchanged(sdk.ClassNotFound, "account.missing")
		return out, false
	}
	return sdk.ApplyResponse{}, true
}

func unchanged(class sdk.Class, reason string) (sdk.ApplyResponse, error) {
	return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: class, Reason: reason}, nil
}

// refused is what the API clearly said; anything else stays Unknown.
func refused(got answer) (out sdk.ApplyResponse) {
	switch {
	case got.status == http.StatusNotFound:
		out, _ = unchanged(sdk.ClassNotFound, "account.missing")
	case got.status == http.StatusUnauthorized && got.Reason == wrongPassword:
		out, _ = unchanged(sdk.ClassAuth, "admin.refused")
	case got.status == http.StatusUnauthorized, got.status == http.StatusForbidden:
		out, _ = unchanged(sdk.ClassPermission, "admin.rights")
	}
	return out
}

// The API says 401 to a wrong password, and to a right one of a user who may not use the
// management: most of those whose passwords are rotated. Only the reason tells them apart;
// one that is not known proves nothing.
const (
	wrongPassword = "Login failed"
	noManagement  = "Not management user"
)

// Verify logs in afresh. The broker judges the password before it looks at the tags.
func (rotator) Verify(ctx context.Context, v sdk.VerifyRequest) (out sdk.VerifyResponse, err error) {
	a := api{v.Host, v.Resource, v.Account.Name, v.Credential.Secret}
	got, err := a.call(ctx, "GET", "/api/whoami", nil)
	switch {
	case err != nil:
		return out, err
	case got.status == http.StatusOK, got.status == http.StatusUnauthorized && got.Reason == noManagement:
		out.Verdict = sdk.Accepted
	case got.status == http.StatusUnauthorized && got.Reason == wrongPassword:
		out.Verdict, out.Reason = sdk.Rejected, "bad_secret"
	case got.status == http.StatusUnauthorized: // from another host only, for one
		out.Reason = "no_login"
	default:
		out.Reason = "api.status"
	}
	return out, nil
}

// api is the management API, and who calls it.
type api struct {
	host     sdk.Host
	resource sdk.Resource
	user     string
	secret   sdk.Secret
}

// answer is what the API says.
type answer struct {
	status int
	body   []byte
	Reason string `json:"reason"` // beside an error
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// call makes one request, on a connection of its own that the agent dials.
func (a api) call(ctx context.Context, method, path string, body []byte) (answer, error) {
	if a.user == "" || strings.Contains(a.user, ":") { // HTTP Basic would read the rest as the password
		return answer{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true}
	}
	secure, err := sdk.TLSConfig(a.host, a.resource)
	if err != nil {
		return answer{}, err
	}
	scheme := "https://"
	if secure == nil { // the resource says --tls off
		scheme = "http://"
	}
	begun := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { begun = true }} // after the handshake
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, scheme+a.resource.Address+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: err}
	}
	req.SetBasicAuth(a.user, a.secret.ExposeString())
	// A transport of its own follows no redirect, repeats nothing and keeps no connection.
	transport := &http.Transport{DialContext: a.host.Dialer.DialContext, TLSClientConfig: secure, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		known := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
		errors.As(err, &known) // the dialer's word, or that of the TLS proof
		return answer{}, &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: !begun, Err: err}
	}
	defer resp.Body.Close()
	got := answer{status: resp.StatusCode}
	if got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return answer{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	}
	if got.status >= http.StatusBadRequest {
		_ = json.Unmarshal(got.body, &got) // without a reason it proves nothing
	}
	return got, nil
}

// notSent marks an error of a request that changes nothing.
func notSent(err error) error {
	known := &sdk.Error{Class: sdk.ClassInternal, Reason: "api"}
	errors.As(err, &known)
	return &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: true, Err: err}
}
