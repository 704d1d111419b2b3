package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// api is a cluster's API, asked as the owner of a token. Of its hundreds of objects few are
// needed, of which few fields: Kubernetes' own client would bring them all, and repeat
// requests by its rules; here each is made once.
type api struct {
	host     sdk.Host
	resource sdk.Resource
	token    sdk.Secret
}

// maxReply bounds what is read of an answer.
const maxReply = 16 << 20

// Of objects that may hold secrets only their metadata is asked for.
const (
	whole    = "application/json"
	oneMeta  = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	listMeta = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// Of bodies.
const (
	object = "application/json"
	merge  = "application/merge-patch+json" // RFC 7386
)

// request is one of the API's verbs.
type request struct {
	method, path string
	accept       string
	content      string // type of the body
	body         any    // nil: none
}

// meta is what objects have in common.
type meta struct {
	Name         string            `json:"name,omitempty"`
	GenerateName string            `json:"generateName,omitempty"`
	UID          string            `json:"uid,omitempty"`
	Generation   int64             `json:"generation,omitempty"`
	Created      string            `json:"creationTimestamp,omitempty"`
	Deleted      string            `json:"deletionTimestamp,omitempty"` // it waits for a finalizer
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// namespaceOf is where a service account is; the API's own default where its scope says
// nothing.
func namespaceOf(a sdk.Account) string { return cmp.Or(a.Scope, "default") }

// path is that of an object of a namespace; its parts are escaped, and never empty.
func path(group, namespace, kind string, more ...string) (string, error) {
	parts := append([]string{"namespaces", namespace, kind}, more...)
	for n, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/%") { // as Kubernetes has it: else it names what is below another
			return "", &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: fmt.Errorf("%q is no name of an object", p)}
		}
		parts[n] = url.PathEscape(p)
	}
	return group + "/" + strings.Join(parts, "/"), nil
}

const (
	core = "/api/v1"
	apps = "/apis/apps/v1"
)

// status is the server's answer where it did not do what it was asked for. Its message is
// not kept: it may quote what was sent.
type status struct {
	code   int
	reason string
}

// ask makes one request on a connection of its own, follows no redirect, and reads the
// answer into out (nil: it is not read). An answer that is no success is an error of the
// class that it has here.
func (a api) ask(ctx context.Context, r request, out any) error {
	s, err := a.send(ctx, r, out)
	if err != nil || s == (status{}) {
		return err
	}
	return s.err(r)
}

func (a api) send(ctx context.Context, r request, out any) (s status, err error) {
	if err := notCancelled(ctx); err != nil {
		return s, err
	}
	secure, err := sdk.TLSConfig(a.host, a.resource)
	if err != nil {
		return s, err
	}
	scheme := "https://"
	if secure == nil { // the resource says --tls off
		scheme = "http://"
	}
	var body []byte
	if r.body != nil {
		if body, err = json.Marshal(r.body); err != nil {
			return s, &sdk.Error{Class: sdk.ClassInternal, Reason: "request", NotSent: true, Err: err}
		}
	}
	defer clear(body)
	sent := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }} // after the handshake
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), r.method, scheme+a.resource.Address+r.path, bytes.NewReader(body))
	if err != nil {
		return s, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: err}
	}
	req.GetBody = nil // nobody can send it again
	req.Header.Set("Accept", r.accept)
	if r.body != nil {
		req.Header.Set("Content-Type", r.content)
	}
	token := a.token.ExposeString()
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return status{http.StatusUnauthorized, "Unauthorized"}, nil // it cannot stand in a header, so it is nobody's
	}
	transport := &http.Transport{DialContext: a.host.Dialer.DialContext, TLSClientConfig: secure, DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		known := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
		errors.As(err, &known) // the dialer's word, or that of the TLS proof
		return s, &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: !sent, Err: err}
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	defer clear(answer)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return s, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		s.code = resp.StatusCode
		var said struct {
			Kind   string `json:"kind"`
			Reason string `json:"reason"`
		}
		if json.Unmarshal(answer, &said) == nil && said.Kind == "Status" {
			s.reason = said.Reason
		}
		return s, nil
	}
	if out == nil {
		return s, nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		// The decoder quotes what it does not understand, which may be a new secret.
		return s, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: fmt.Errorf("%s: the answer is not what Kubernetes gives", r)}
	}
	return s, nil
}

func (r request) String() string { return r.method + " " + r.path }

// refusals are the reasons that say for certain that nothing was done. All others leave it
// open. (k8s.io/apimachinery/pkg/apis/meta/v1, StatusReason)
var refusals = map[string]struct {
	code   int
	class  sdk.Class
	reason string
}{
	"Unauthorized":     {401, sdk.ClassAuth, "admin.refused"},
	"Forbidden":        {403, sdk.ClassPermission, "admin.rights"},
	"NotFound":         {404, sdk.ClassNotFound, "account.missing"},
	"MethodNotAllowed": {405, sdk.ClassUnsupported, "target.unsupported"},
	"NotAcceptable":    {406, sdk.ClassUnsupported, "target.unsupported"},
	"AlreadyExists":    {409, sdk.ClassConflict, "object.changed"},
	"Conflict":         {409, sdk.ClassConflict, "object.changed"},
	"Invalid":          {422, sdk.ClassInvalid, "account.name"},
	"BadRequest":       {400, sdk.ClassInvalid, "account.name"},
}

func (s status) err(r request) error {
	said := fmt.Errorf("%s: status %d, %s", r, s.code, s.reason)
	if known, ok := refusals[s.reason]; ok && known.code == s.code {
		return &sdk.Error{Class: known.class, Reason: known.reason, Err: said}
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.status", Err: said}
}

// isReason says whether an error has that reason.
func isReason(err error, reason string) bool {
	var e *sdk.Error
	return errors.As(err, &e) && e.Reason == reason
}

func notCancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
