package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

var httpModule = module{
	about: "Makes HTTP requests: each once and on a connection of its own, over TLS as the statement of the place says, with no proxy.",
	functions: []function{
		{
			name: "request", acts: true, takes: "options: table", gives: "table|nil, sdk.error?",
			about: "Makes a request. The options: method (GET); url, or path with address (the resource's); query; headers; one of body, json and form; " +
				"basic = {user, secret}, bearer; timeout in seconds (30); follow, how many redirects (0, at most 5); max, bytes of the answer's body (1 MiB, at most 16 MiB); secret = true makes a secret of the answer's body, which has at most 256 KiB then. " +
				"Secrets stand in headers, body, json, form, basic and bearer, never in a URL, which ends in logs. " +
				"http:// is spoken only where the statement of the place says TLS off, or a parameter of type url says http://. " +
				"The answer has status, headers (names in lower case), body and json(). An error has not_sent where no connection was made.",
			example: `local r, err = http.request{
  method = "PUT", path = http.path("api", "users", job.account.login),
  basic = {user = job.admin.login, secret = job.admin.secret}, json = {password = job.secret},
}
if not r then
  return err.not_sent and sdk.unchanged(err.class, err.reason) or sdk.unknown
end
if r.status == 404 then
  return sdk.unchanged("not_found", "account.missing")
end
return r.status < 300 and sdk.changed or sdk.unknown`,
			do: func(a *args) int { return a.request(a.options(1, httpOptions...), "", "") },
		},
		httpVerb("get", http.MethodGet), httpVerb("head", http.MethodHead), httpVerb("post", http.MethodPost),
		httpVerb("put", http.MethodPut), httpVerb("patch", http.MethodPatch), httpVerb("delete", http.MethodDelete),
		{
			name: "path", takes: "...: string|number", gives: "string",
			about:   "Makes a path of its parts, each escaped, so that a name cannot lead elsewhere. An empty part, . and .. are errors.",
			example: `assert(http.path("users", "a/b c", 7) == "/users/a%2Fb%20c/7")`,
			do: func(a *args) int {
				var out strings.Builder
				for n := 1; n <= a.L.GetTop(); n++ {
					part := a.text(n)
					if part == "" || part == "." || part == ".." {
						a.bad(n, "%q is no part of a path", part)
					}
					out.WriteString("/" + url.PathEscape(part))
				}
				return a.give([]byte(out.String()), false)
			},
		},
	},
}

var httpOptions = []string{"method", "url", "path", "address", "query", "headers", "body", "json", "form", "basic", "bearer", "timeout", "follow", "max", "secret"}

func httpVerb(name, method string) function {
	return function{
		name: name, acts: true, takes: "where: string, options?: table", gives: "table|nil, sdk.error?",
		about:   "Makes a request of method " + method + " to a URL, or to a path that begins with a slash; otherwise as request.",
		example: `local r = assert(http.` + name + `(http.path("api", "users", job.account.login), {bearer = job.admin.secret}))`,
		do: func(a *args) int {
			return a.request(a.options(2, httpOptions...), method, a.text(1))
		},
	}
}

// request reads what is asked for, sends it and gives the answer.
func (a *args) request(o options, method, where string) int {
	if method == "" && o.t == nil {
		a.bad(1, "want a table of options")
	}
	r := httpCall{method: o.text("method", http.MethodGet), header: http.Header{}}
	hide := false
	r.max, hide = o.answer()
	if method != "" {
		if o.has("method") || o.has("url") || o.has("path") {
			a.bad(o.n, "method, url and path are said by the function and its first argument")
		}
		r.method = method
	}
	if !methodRE.MatchString(r.method) || r.method == "CONNECT" || r.method == "TRACE" {
		a.bad(o.n, "method: %q is none that can be asked for", r.method)
	}
	for name, part := range map[string]string{"url": o.text("url", ""), "path": o.text("path", "")} {
		if part != "" && where != "" {
			a.bad(o.n, "want one of url and path")
		}
		if part != "" {
			where = part
		}
		if part != "" && strings.HasPrefix(part, "/") != (name == "path") {
			a.bad(o.n, "%s: a URL begins with https://, a path with a slash", name)
		}
	}
	a.asks = r.method == http.MethodGet || r.method == http.MethodHead
	at, failed := r.aim(a, o, where)
	if failed != nil {
		return a.fail(failed)
	}
	r.query(o)
	r.headers(o)
	r.content(o)
	follow := o.integer("follow", 0, 0, 5)
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	answer, err := r.follow(ctx, a.state, at, follow)
	if err != nil {
		return a.fail(asError(err, sdk.ClassUnreachable, "http"))
	}
	return a.push(a.httpAnswer(answer, hide))
}

var methodRE = regexp.MustCompile(`^[A-Z]{1,16}$`)

// query adds the options of that name to the URL.
func (r *httpCall) query(o options) {
	t := o.table("query")
	if t == nil {
		return
	}
	values, secrets := o.pairs("query", t)
	if secrets {
		o.a.bad(o.n, "query: a secret in a URL ends in logs: send it in a header or in the body")
	}
	if r.url.RawQuery != "" {
		r.url.RawQuery += "&"
	}
	r.url.RawQuery += values.Encode()
}

// pairs reads a table of names with texts, secrets or lists of them.
func (o options) pairs(option string, t *lua.LTable) (out url.Values, secrets bool) {
	out = url.Values{}
	names, ok := sortedKeys(t)
	if !ok {
		o.a.bad(o.n, "%s: want names with their values", option)
	}
	for _, name := range names {
		v := t.RawGetString(name)
		if list, ok := v.(*lua.LTable); ok {
			items, s, why := textList(list)
			if why != "" {
				o.a.bad(o.n, "%s: %s: %s", option, name, why)
			}
			for _, one := range items {
				out.Add(name, string(one))
			}
			secrets = secrets || s
			continue
		}
		b, s, why := eitherText(v)
		if yes, is := v.(lua.LBool); is {
			b, why = []byte(yes.String()), ""
		}
		if why != "" {
			o.a.bad(o.n, "%s: %s: %s", option, name, why)
		}
		out.Add(name, string(b))
		secrets = secrets || s
	}
	return out, secrets
}

// headers reads the headers and the login. What would end a header is refused.
func (r *httpCall) headers(o options) {
	set := func(name string, value []byte) {
		if !headerRE.MatchString(name) {
			o.a.bad(o.n, "headers: %q is no name of a header", name)
		}
		name = http.CanonicalHeaderKey(name)
		if slices.Contains(ownHeaders, name) {
			o.a.bad(o.n, "headers: %s is this module's own", name)
		}
		if len(r.header[name]) > 0 {
			o.a.bad(o.n, "headers: %s is said twice", name)
		}
		if bytes.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			o.a.bad(o.n, "headers: %s has a control character in it", name)
		}
		r.header[name] = []string{string(value)}
	}
	if t := o.table("headers"); t != nil {
		names, ok := sortedKeys(t)
		if !ok || len(names) > 64 {
			o.a.bad(o.n, "headers: want at most 64 names with their values")
		}
		for _, name := range names {
			b, _, why := eitherText(t.RawGetString(name))
			if why != "" {
				o.a.bad(o.n, "headers: %s: %s", name, why)
			}
			set(name, b)
		}
	}
	if t := o.table("basic"); t != nil {
		in := options{a: o.a, n: o.n, t: t}
		user := in.text("user", "")
		secret, _ := in.bytes("secret")
		if strings.Contains(user, ":") {
			o.a.bad(o.n, "basic: a user's name has no colon")
		}
		pair := append([]byte(user+":"), secret...)
		o.a.hidden.Add(pair)
		set("Authorization", append([]byte("Basic "), base64.StdEncoding.EncodeToString(pair)...))
	}
	if o.has("bearer") {
		token, _ := o.bytes("bearer")
		if len(token) == 0 {
			o.a.bad(o.n, "bearer: it is empty")
		}
		set("Authorization", append([]byte("Bearer "), token...))
	}
	if r.header.Get("User-Agent") == "" {
		r.header.Set("User-Agent", "rotunda")
	}
}

var headerRE = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$")

// ownHeaders decide where a request ends and who answers it.
var ownHeaders = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "Te", "Trailer", "Expect", "Proxy-Authorization", "Proxy-Connection", "Accept-Encoding"}

// content reads the body.
func (r *httpCall) content(o options) {
	kind, given := "", 0
	for _, name := range []string{"body", "json", "form"} {
		if o.has(name) {
			given++
		}
	}
	switch {
	case given > 1:
		o.a.bad(o.n, "want one of body, json and form")
	case o.has("json"):
		v, _, err := goValue(o.get("json"), 0)
		if err != nil {
			o.a.bad(o.n, "json: %v", err)
		}
		if r.body, err = encodeJSON(v, false); err != nil {
			o.a.bad(o.n, "json: it cannot be said in JSON")
		}
		kind = "application/json"
	case o.has("form"):
		values, _ := o.pairs("form", o.table("form"))
		kind, r.body = "application/x-www-form-urlencoded", []byte(values.Encode())
	case o.has("body"):
		kind = "application/octet-stream"
		if r.body, _ = o.bytes("body"); r.body == nil {
			r.body = []byte{}
		}
	}
	if len(r.body) > maxString {
		o.a.bad(o.n, "the body has more than %d bytes", maxString)
	}
	if r.body != nil && r.header.Get("Content-Type") == "" {
		r.header.Set("Content-Type", kind)
	}
}

// httpAnswer is the answer as Lua has it.
func (a *args) httpAnswer(r *httpReply, isSecret bool) *lua.LTable {
	t, headers := a.L.NewTable(), a.L.NewTable()
	for name, values := range r.header {
		between := ", "
		if name == "Set-Cookie" {
			between = "\n"
		}
		headers.RawSetString(strings.ToLower(name), lua.LString(strings.Join(values, between)))
	}
	t.RawSetString("status", lua.LNumber(r.status))
	t.RawSetString("headers", headers)
	if isSecret {
		t.RawSetString("body", a.secretBytes(r.body))
	} else {
		t.RawSetString("body", lua.LString(r.body))
	}
	t.RawSetString("json", a.L.NewFunction(func(L *lua.LState) int {
		if isSecret {
			L.RaiseError("json(): the body is a secret: take out of it with json.at(answer.body, …)")
		}
		v, err := decodeJSON(r.body)
		if err != nil {
			L.Push(lua.LNil)
			L.Push(a.errorValue(&sdk.Error{Class: sdk.ClassUnreachable, Reason: "http.json", Err: fmt.Errorf("the answer is no JSON: %w", err)}))
			return 2
		}
		L.Push(a.decoded(v))
		return 1
	}))
	return t
}
