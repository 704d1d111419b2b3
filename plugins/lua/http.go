package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// httpCall is a request, to one of the script's places.
type httpCall struct {
	method string
	url    *url.URL
	header http.Header
	body   []byte // nil: none
	max    int    // bytes of the answer's body
}

// httpReply is what was answered.
type httpReply struct {
	status int
	header http.Header
	body   []byte
}

// aim reads where the request goes.
func (r *httpCall) aim(a *args, o options, where string) (sdk.Resource, *sdk.Error) {
	if strings.HasPrefix(where, "/") {
		at, scheme := o.address(), "https://"
		if at.TLS.Mode == sdk.TLSOff {
			scheme = "http://"
		}
		u, err := url.Parse(scheme + at.Address + where)
		if err != nil || u.Host != at.Address || u.User != nil || u.Fragment != "" {
			a.bad(o.n, "%q is no path", where)
		}
		r.url = u
		return at, nil
	}
	if o.has("address") {
		a.bad(o.n, "address: stands with a path; a URL has its own")
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.User != nil || u.Fragment != "" || addressOf(u) == "" {
		a.bad(o.n, "want a URL such as https://api.example.com/v1, without a login and without #, or a path that begins with a slash")
	}
	r.url = u
	return a.web(u)
}

// addressOf is where a URL leads; empty where it leads nowhere.
func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return spelt(net.JoinHostPort(u.Hostname(), port))
}

// web is the place of a URL. It is spoken to in clear only where somebody who signed says
// so: the statement of a place, or a parameter whose URL begins with http://.
func (s *state) web(u *url.URL) (sdk.Resource, *sdk.Error) {
	address := addressOf(u)
	at := s.place(address)
	if u.Scheme == "http" && s.saysClear(address) {
		at.TLS.Mode = sdk.TLSOff
	}
	switch off := at.TLS.Mode == sdk.TLSOff; {
	case off && u.Scheme == "https":
		return at, &sdk.Error{Class: sdk.ClassInvalid, Reason: "http.scheme", NotSent: true, Err: fmt.Errorf("the statement of %s says TLS off: ask for http://, or change the statement", address)}
	case !off && u.Scheme == "http":
		if err := s.refused(address); err != nil {
			return at, err
		}
		return at, &sdk.Error{Class: sdk.ClassInvalid, Reason: "http.scheme", NotSent: true, Err: fmt.Errorf("%s is not spoken to in clear: ask for https://, or have the statement of the place say TLS off", address)}
	}
	return at, nil
}

// refused asks the agent for a place that the script does not name, so that it tells of that
// as of every other.
func (s *state) refused(address string) *sdk.Error {
	if s.names(address) || s.ctx == nil { // nil: no function of the script's is called
		return nil
	}
	c, err := (&args{state: s}).reach(s.ctx, address)
	if err != nil {
		return asError(err, sdk.ClassUnreachable, "dial")
	}
	_ = c.Close()
	return nil
}

// names says whether an address is a place of the script's, by its manifest and what was
// given to it.
func (s *state) names(address string) bool {
	for _, p := range s.places {
		if spelt(p.Address) == address {
			return true
		}
	}
	for _, h := range s.p.manifest.Hosts {
		if name, ok := strings.CutPrefix(h, "parameters."); ok {
			h, _ = s.values[name].(string)
			if u, err := url.Parse(h); err == nil && u.Host != "" {
				h = addressOf(u)
			}
		}
		if spelt(h) == address {
			return true
		}
	}
	return false
}

// saysClear says whether a parameter's URL begins with http:// and leads to address. It
// says nothing of places that have a statement.
func (s *state) saysClear(address string) bool {
	for _, p := range s.places {
		if spelt(p.Address) == address {
			return false
		}
	}
	for _, p := range s.p.manifest.Parameters {
		v, _ := s.values[p.Name].(string)
		if u, err := url.Parse(v); p.Type == script.URL && err == nil && u.Scheme == "http" && addressOf(u) == address {
			return true
		}
	}
	return false
}

// follow sends the request and goes on to where it is sent, at most hops times.
func (r *httpCall) follow(ctx context.Context, s *state, at sdk.Resource, hops int) (*httpReply, error) {
	for hop := 0; ; hop++ {
		answer, err := r.send(ctx, s.host, at)
		if err != nil {
			if hop > 0 {
				err.NotSent = false
			}
			return nil, err
		}
		if hop == hops {
			return answer, nil
		}
		next, ok, failed := r.redirected(answer)
		if failed != nil {
			return nil, failed
		}
		if !ok {
			return answer, nil
		}
		if at, failed = s.web(next.url); failed != nil {
			failed.NotSent = false
			return nil, failed
		}
		r = next
	}
}

// plainHeaders are those that another place may see.
var plainHeaders = []string{"Accept", "Accept-Language", "User-Agent"}

// redirected is the request that an answer asks for; ok is false where it is no redirect,
// or one that only a person may follow.
func (r *httpCall) redirected(answer *httpReply) (next *httpCall, ok bool, _ *sdk.Error) {
	u, err := r.url.Parse(answer.header.Get("Location"))
	if answer.header.Get("Location") == "" || err != nil {
		return nil, false, nil
	}
	fail := func(why string) (*httpCall, bool, *sdk.Error) {
		return nil, false, &sdk.Error{Class: sdk.ClassPermission, Reason: "http.redirect", Err: fmt.Errorf("%s sends on to %s: %s", r.url.Host, u.Host, why)}
	}
	n := *r
	n.url, n.header = u, r.header.Clone()
	u.Fragment = ""
	switch safe := r.method == http.MethodGet || r.method == http.MethodHead; {
	case answer.status == http.StatusTemporaryRedirect, answer.status == http.StatusPermanentRedirect:
	case answer.status == http.StatusSeeOther && r.method != http.MethodHead,
		(answer.status == http.StatusMovedPermanently || answer.status == http.StatusFound) && r.method == http.MethodPost:
		n.method, n.body = http.MethodGet, nil
		n.header.Del("Content-Type")
	case safe && (answer.status == http.StatusSeeOther || answer.status == http.StatusMovedPermanently || answer.status == http.StatusFound):
	default:
		return nil, false, nil
	}
	if u.Scheme != r.url.Scheme || u.User != nil || u.Opaque != "" || addressOf(u) == "" {
		return fail("only a URL of the same scheme, without a login, is followed")
	}
	if addressOf(u) == addressOf(r.url) {
		return &n, true, nil
	}
	if n.method != http.MethodGet && n.method != http.MethodHead || n.body != nil {
		return fail("another place gets no body, and nothing that changes anything")
	}
	n.header = http.Header{}
	for _, name := range plainHeaders {
		if v, ok := r.header[name]; ok {
			n.header[name] = v
		}
	}
	return &n, true, nil
}

// maxHeaders bounds the headers of an answer.
const maxHeaders = 64 << 10

// send makes the request once, on a connection of its own.
func (r *httpCall) send(ctx context.Context, h sdk.Host, at sdk.Resource) (*httpReply, *sdk.Error) {
	secure, err := sdk.TLSConfig(h, at)
	if err != nil {
		return nil, asError(err, sdk.ClassInvalid, "address")
	}
	sent := false
	fail := func(reason string, err error) (*httpReply, *sdk.Error) {
		e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: reason, NotSent: !sent, Err: err}
		var known *sdk.Error
		switch {
		case ctx.Err() != nil:
			e.Reason = "deadline"
		case errors.As(err, &known): // the dialer's word, or that of the TLS proof
			e.Class, e.Reason = known.Class, known.Reason
		}
		return nil, e
	}
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }} // after the handshake
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), r.method, r.url.String(), nil)
	if err != nil {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "http.url", NotSent: true, Err: errors.New("the URL cannot be asked for")}
	}
	if r.body != nil {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(r.body)), int64(len(r.body))
		if len(r.body) == 0 {
			req.Body = http.NoBody
		}
	}
	req.Header = r.header
	if at.TLS.ServerName != "" { // the name by which the server knows itself
		_, port, _ := net.SplitHostPort(at.Address)
		req.Host = at.TLS.ServerName
		if port != "443" && port != "80" {
			req.Host = net.JoinHostPort(req.Host, port)
		}
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return h.Dialer.DialContext(ctx, network, at.Address)
		},
		TLSClientConfig: secure, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders,
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return fail("http", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(r.max)+1))
	if err != nil {
		return fail("http", err)
	}
	if len(body) > r.max {
		return fail("http.too_large", fmt.Errorf("the answer's body has more than %d bytes: raise max, or ask for less", r.max))
	}
	return &httpReply{resp.StatusCode, resp.Header, body}, nil
}
