package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// site is a web server that tells what it was asked for.
type site struct {
	*httptest.Server
	at   sdk.Resource
	pins []byte

	mu   sync.Mutex
	seen []string // method, path and query, some headers and the body, of each request
}

// asked is what was asked for until now.
func (s *site) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func newSite(t *testing.T, secure bool, handle http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.seen = append(s.seen, fmt.Sprintf("%s %s auth=%q token=%q type=%q body=%q", r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("X-Token"), r.Header.Get("Content-Type"), body))
		s.mu.Unlock()
		handle(w, r)
	})
	if secure {
		s.Server = httptest.NewTLSServer(h)
		sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
		s.pins = sum[:]
		s.at = sdk.Resource{Address: s.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSPin}}
	} else {
		s.Server = httptest.NewServer(h)
		s.at = sdk.Resource{Address: s.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}}
	}
	t.Cleanup(s.Close)
	return s
}

// ask runs code against sites: the first is the resource, all of them are places.
func ask(t *testing.T, manifest, code string, fill func(*state, *lua.LTable), sites ...*site) (lua.LValue, error) {
	t.Helper()
	b := newBench(t, []string{"http", "secret", "text"}, manifest, code)
	var places []sdk.Resource
	for _, s := range sites {
		b.allow, b.host.Pins[s.at.Address] = append(b.allow, s.at.Address), s.pins
		places = append(places, s.at)
	}
	return b.run(fill, places...)
}

// What a request holds arrives, and the answer is what was answered.
func TestHTTPRequest(t *testing.T) {
	for name, c := range map[string]struct{ code, want string }{
		"GET with a query":          {`http.get("/a?x=1", {query = {y = {"2", "3"}, z = "a b&c"}})`, `GET /a?x=1&y=2&y=3&z=a+b%26c auth="" token="" type="" body=""`},
		"secrets as JSON":           {`http.put("/a", {json = {password = secret.of("p\"1"), n = 3, list = {"<"}}})`, `PUT /a auth="" token="" type="application/json" body="{\"list\":[\"<\"],\"n\":3,\"password\":\"p\\\"1\"}"`},
		"a secret in a form":        {`http.post("/a", {form = {password = secret.of("p&1"), user = "u"}})`, `POST /a auth="" token="" type="application/x-www-form-urlencoded" body="password=p%261&user=u"`},
		"a body that is a secret":   {`http.patch("/a", {body = secret.of("p1"), headers = {["content-type"] = "text/plain"}})`, `PATCH /a auth="" token="" type="text/plain" body="p1"`},
		"basic":                     {`http.delete("/a", {basic = {user = "u", secret = secret.of("p1")}})`, `DELETE /a auth="Basic dTpwMQ==" token="" type="" body=""`},
		"bearer":                    {`http.request{path = "/a", bearer = secret.of("p1")}`, `GET /a auth="Bearer p1" token="" type="" body=""`},
		"a header that is a secret": {`http.request{method = "LIST", path = "/a", headers = {["X-Token"] = text.concat("t ", secret.of("p1"))}}`, `LIST /a auth="" token="t p1" type="" body=""`},
		"a path of parts":           {`http.get(http.path("users", "../../admin?x#y"))`, `GET /users/..%2F..%2Fadmin%3Fx%23y auth="" token="" type="" body=""`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, true, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Answer", "yes")
				w.Header().Add("Set-Cookie", "a=1")
				w.Header().Add("Set-Cookie", "b=2")
				w.WriteHeader(418)
				_, _ = io.WriteString(w, `{"name": "x", "list": [1, true], "none": null}`)
			})
			_, err := ask(t, "", "local r = assert("+c.code+`)
				assert(r.status == 418 and r.headers["x-answer"] == "yes" and r.headers["set-cookie"] == "a=1\nb=2")
				local v = assert(r.json())
				assert(v.name == "x" and v.list[1] == 1 and v.list[2] == true and v.none == nil and r.body:sub(1, 1) == "{")`, nil, s)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.asked()) != 1 || s.asked()[0] != c.want {
				t.Errorf("the server saw\n%v\nwant\n%s", s.asked(), c.want)
			}
		})
	}
}

// A body that is asked for as a secret is one.
func TestHTTPSecretAnswer(t *testing.T) {
	s := newSite(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"t0ken!"`) })
	_, err := ask(t, "", `local r = assert(http.get("/", {secret = true}))
		assert(tostring(r.body) == "[secret]" and secret.equal(r.body, '"t0ken!"') and not pcall(r.json))`, nil, s)
	if err != nil {
		t.Error(err)
	}
}

// What is wrong with a request is said before anything is dialled.
func TestHTTPMisuse(t *testing.T) {
	for code, want := range map[string]string{
		`http.get("/", {query = {p = secret.of("p1")}})`:                    "a secret in a URL ends in logs",
		`http.get(secret.of("/p1"))`:                                        "want a text, got a secret",
		`http.get("/" .. tostring(secret.of("p1")))`:                        "placeholder",
		`http.get("/", {headers = {a = "b\r\nX-Token: 1"}})`:                "control character",
		`http.get("/", {headers = {["a: b\r\nc"] = "d"}})`:                  "no name of a header",
		`http.get("/", {bearer = secret.of("a\nb")})`:                       "control character",
		`http.get("/", {bearer = secret.of("")})`:                           "it is empty",
		`http.get("/", {bearer = "a", basic = {user = "b", secret = "c"}})`: "said twice",
		`http.get("/", {headers = {Host = "other"}})`:                       "this module's own",
		`http.get("/", {headers = {["content-length"] = "0"}})`:             "this module's own",
		`http.request{method = "GET / HTTP/1.1\r\nX: y", path = "/"}`:       "none that can be asked for",
		`http.request{method = "CONNECT", path = "/"}`:                      "none that can be asked for",
		`http.get("/a b\r\nX: y")`:                                          "is no path",
		`http.get("/#a")`:                                                   "is no path",
		`http.get("https://u:p@host/")`:                                     "without a login",
		`http.get("ftp://host/")`:                                           "want a URL",
		`http.get("@other/")`:                                               "want a URL",
		`http.get("")`:                                                      "want a URL",
		`http.request{url = "https://a/", path = "/"}`:                      "one of url and path",
		`http.post("/", {body = "a", json = {}})`:                           "one of body, json and form",
		`http.get("/", {basic = {user = "a:b", secret = "c"}})`:             "no colon",
		`http.get("/", {folow = 1})`:                                        "there is no option folow",
		`http.get("/", {secret = true, max = 300000})`:                      "from 1 to 262144",
		`http.get("/", {follow = 6})`:                                       "from 0 to 5",
		`http.path("..")`:                                                   "no part of a path",
		`local t = {} t.t = t http.post("/", {json = t})`:                   "holds itself",
	} {
		s := newSite(t, true, func(http.ResponseWriter, *http.Request) {})
		_, err := ask(t, "", code, nil, s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", code, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "p1") {
			t.Errorf("%s: the error has the secret: %v", code, err)
		}
		if len(s.asked()) > 0 {
			t.Errorf("%s: the server was asked for %v", code, s.asked())
		}
	}
}

// failsWith is code that calls, and wants an error of that kind.
func failsWith(call string, class sdk.Class, reason string, notSent bool) string {
	return fmt.Sprintf(`local r, err = %s
		assert(r == nil, "it did not fail")
		assert(err.class == %q and err.reason == %q and err.not_sent == %v, tostring(err) .. " not_sent=" .. tostring(err.not_sent))`, call, class, reason, notSent)
}

// A place is spoken to as its statement says, and as a parameter's URL where it has none.
func TestHTTPScheme(t *testing.T) {
	ok := func(w http.ResponseWriter, _ *http.Request) {}
	for name, c := range map[string]struct {
		secure  bool // the server and its statement
		listed  bool // it has a statement
		param   string
		code    string // URL is the server's address
		reached bool
	}{
		"TLS off, by path":                    {false, true, "", `assert(http.get("/"))`, true},
		"TLS off, by URL":                     {false, true, "", `assert(http.get("http://URL/"))`, true},
		"TLS off, TLS asked for":              {false, true, "", failsWith(`http.get("https://URL/")`, sdk.ClassInvalid, "http.scheme", true), false},
		"TLS, in clear":                       {true, true, "", failsWith(`http.get("http://URL/")`, sdk.ClassInvalid, "http.scheme", true), false},
		"TLS, in clear by a parameter":        {true, true, "http://URL/", failsWith(`http.get("http://URL/")`, sdk.ClassInvalid, "http.scheme", true), false},
		"no statement, in clear":              {false, false, "", failsWith(`http.get("http://URL/")`, sdk.ClassInvalid, "http.scheme", true), false},
		"no statement, by a parameter":        {false, false, "http://URL/hook", `assert(http.get("http://URL/hook"))`, true},
		"no statement, TLS in the parameter":  {false, false, "https://URL/hook", failsWith(`http.get("http://URL/hook")`, sdk.ClassInvalid, "http.scheme", true), false},
		"no statement, nobody signs the cert": {true, false, "", failsWith(`http.get("https://URL/")`, sdk.ClassAuth, "target_identity", true), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, c.secure, ok)
			at := func(text string) string { return strings.ReplaceAll(text, "URL", s.at.Address) }
			b := newBench(t, []string{"http"}, "[parameters.hook]\ntype = \"url\"\nabout = \"Where.\"\ndefault = \"https://a.test\"", at(c.code))
			b.allow, b.host.Pins[s.at.Address] = []string{s.at.Address}, s.pins
			var places []sdk.Resource
			if c.listed {
				places = append(places, s.at)
			} else {
				delete(b.host.Pins, s.at.Address)
			}
			_, err := b.run(func(s *state, _ *lua.LTable) {
				if c.param != "" {
					s.values = map[string]any{"hook": at(c.param)}
				}
			}, places...)
			if err != nil {
				t.Error(err)
			}
			if (len(s.asked()) > 0) != c.reached {
				t.Errorf("the server saw %v", s.asked())
			}
		})
	}
}

// A target that shows another key is sent nothing.
func TestHTTPWrongKey(t *testing.T) {
	s := newSite(t, true, func(http.ResponseWriter, *http.Request) {})
	s.pins = make([]byte, sha256.Size)
	if _, err := ask(t, "", failsWith(`http.post("/", {body = secret.of("p1")})`, sdk.ClassAuth, "target_identity", true), nil, s); err != nil {
		t.Error(err)
	}
	if len(s.asked()) > 0 {
		t.Errorf("the server saw %v", s.asked())
	}
}

// A place that is none of the script's is not reached.
func TestHTTPElsewhere(t *testing.T) {
	s, other := newSite(t, true, func(http.ResponseWriter, *http.Request) {}), newSite(t, true, func(http.ResponseWriter, *http.Request) {})
	call := `http.get("https://` + other.at.Address + `/")`
	if _, err := ask(t, "", failsWith(call, sdk.ClassPermission, "dial.denied", true), nil, s); err != nil {
		t.Error(err)
	}
	_, err := ask(t, "", "assert("+call+")", nil, s) // which keeps the error as it is
	if e := errorFrom(t, err); e.Class != sdk.ClassPermission || e.Reason != "dial.denied" || !e.NotSent {
		t.Errorf("asserted: %v", e)
	}
}

// Redirects are followed as far as the script says, and take no secret to another place.
func TestHTTPRedirect(t *testing.T) {
	var other, elsewhere, clear *site
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }
	other, elsewhere, clear = newSite(t, true, ok), newSite(t, true, ok), newSite(t, false, ok)
	first := newSite(t, true, func(w http.ResponseWriter, r *http.Request) {
		var status int
		to := map[string]string{"same": "/end", "other": "https://" + other.at.Address + "/end", "elsewhere": "https://" + elsewhere.at.Address + "/", "clear": "http://" + clear.at.Address + "/", "loop": r.URL.Path, "login": "https://u:p@" + other.at.Address + "/"}
		parts := strings.Split(r.URL.Path, "/")
		if len(parts) == 3 {
			fmt.Sscan(parts[1], &status)
			w.Header().Set("Location", to[parts[2]])
			w.WriteHeader(status)
			return
		}
		_, _ = io.WriteString(w, "end")
	})
	with := `{follow = 5, bearer = secret.of("p1"), headers = {["X-Token"] = "t"}}`
	body := `{follow = 5, bearer = secret.of("p1"), body = secret.of("p2")}`
	for name, c := range map[string]struct{ code, first, other string }{
		"not followed": {`assert(http.get("/302/same", {}).status == 302)`, "", ""},
		"same place":   {`assert(http.get("/302/same", ` + with + `).body == "end")`, `GET /end auth="Bearer p1" token="t" type="" body=""`, ""},
		"a POST that is 303": {
			`assert(http.post("/303/same", ` + body + `).body == "end")`, `GET /end auth="Bearer p1" token="" type="" body=""`, "",
		},
		"a POST that is 307": {
			`assert(http.post("/307/same", ` + body + `).body == "end")`, `POST /end auth="Bearer p1" token="" type="application/octet-stream" body="p2"`, "",
		},
		"a PUT that is 302":           {`assert(http.put("/302/same", ` + body + `).status == 302)`, "", ""},
		"another place":               {`assert(http.get("/302/other", ` + with + `).body == "here")`, "", `GET /end auth="" token="" type="" body=""`},
		"another place, with a body":  {failsWith(`http.post("/307/other", `+body+`)`, sdk.ClassPermission, "http.redirect", false), "", ""},
		"none of the script's places": {failsWith(`http.get("/302/elsewhere", `+with+`)`, sdk.ClassPermission, "dial.denied", false), "", ""},
		"in clear":                    {failsWith(`http.get("/302/clear", `+with+`)`, sdk.ClassPermission, "http.redirect", false), "", ""},
		"a login in it":               {failsWith(`http.get("/302/login", `+with+`)`, sdk.ClassPermission, "http.redirect", false), "", ""},
		"too often":                   {`assert(http.get("/302/loop", ` + with + `).status == 302)`, "", ""},
		"nowhere":                     {`assert(http.get("/302/nowhere", ` + with + `).status == 302)`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []*site{first, other, elsewhere, clear} {
				s.seen = nil
			}
			if _, err := ask(t, "", c.code, nil, first, other, clear); err != nil {
				t.Error(err)
			}
			if len(elsewhere.asked())+len(clear.asked()) > 0 {
				t.Errorf("reached elsewhere: %v %v", elsewhere.asked(), clear.asked())
			}
			if last := first.asked()[len(first.asked())-1]; c.first != "" && last != c.first {
				t.Errorf("the first saw last\n%s\nwant\n%s", last, c.first)
			}
			if got := strings.Join(other.asked(), "\n"); got != c.other {
				t.Errorf("the other saw\n%s\nwant\n%s", got, c.other)
			}
			if name == "too often" && len(first.asked()) != 6 {
				t.Errorf("followed %d times", len(first.asked())-1)
			}
		})
	}
}

// An answer that is too large, too slow or none is an error, and the script is told that
// something was sent.
func TestHTTPBadAnswers(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	s := newSite(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("a", 101))
		case "/fits":
			_, _ = io.WriteString(w, strings.Repeat("a", 100))
		case "/headers":
			w.Header().Set("A", strings.Repeat("a", 2*maxHeaders))
		case "/late":
			<-done
		case "/slow":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			<-done
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/text":
			_, _ = io.WriteString(w, "{")
		}
	})
	s.Config.ErrorLog = nil
	for name, code := range map[string]string{
		"fits":    `assert(#http.get("/fits", {max = 100}).body == 100)`,
		"large":   failsWith(`http.get("/large", {max = 100})`, sdk.ClassUnreachable, "http.too_large", false),
		"headers": failsWith(`http.get("/headers")`, sdk.ClassUnreachable, "http", false),
		"late":    failsWith(`http.post("/late", {timeout = 2, body = ""})`, sdk.ClassUnreachable, "deadline", false),
		"slow":    failsWith(`http.get("/slow", {timeout = 2})`, sdk.ClassUnreachable, "deadline", false),
		"cut":     failsWith(`http.get("/cut")`, sdk.ClassUnreachable, "http", false),
		"no JSON": failsWith(`http.get("/text").json()`, sdk.ClassUnreachable, "http.json", false),
	} {
		if _, err := ask(t, "", code, nil, s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := strings.Count(strings.Join(s.asked(), "\n"), "/cut"); n != 1 {
		t.Errorf("a request that was cut was made %d times", n)
	}
}

// A connection that is refused says that nothing was sent.
func TestHTTPRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{at: sdk.Resource{Address: l.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}}}
	l.Close()
	if _, err := ask(t, "", failsWith(`http.post("/", {body = "a"})`, sdk.ClassUnreachable, "http", true), nil, s); err != nil {
		t.Error(err)
	}
}

// Nothing of the environment counts.
func TestHTTPNoProxy(t *testing.T) {
	proxy := newSite(t, false, func(http.ResponseWriter, *http.Request) {})
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	s := newSite(t, false, func(http.ResponseWriter, *http.Request) {})
	s.at.Address = strings.Replace(s.at.Address, "127.0.0.1", "localhost", 1)
	if _, err := ask(t, "", `assert(http.get("/"))`, nil, s); err != nil {
		t.Error(err)
	}
	if len(proxy.asked()) > 0 || len(s.asked()) != 1 {
		t.Errorf("the proxy saw %v, the server %v", proxy.asked(), s.asked())
	}
}

// A server is called by the name that its statement gives it.
func TestHTTPServerName(t *testing.T) {
	var host string
	s := newSite(t, true, func(_ http.ResponseWriter, r *http.Request) { host = r.Host })
	s.at.TLS.ServerName = "api.test"
	if _, err := ask(t, "", `assert(http.get("/"))`, nil, s); err != nil {
		t.Error(err)
	}
	_, port, _ := net.SplitHostPort(s.at.Address)
	if want := "api.test:" + port; host != want {
		t.Errorf("the server was called %q, want %q", host, want)
	}
}

// Wherever a target sends a request on, it stays in its scheme, and another place gets
// nothing but the question.
func FuzzHTTPRedirect(f *testing.F) {
	for _, to := range []string{"/a", "//other.test/", "https://other.test/", "http://first.test/", "https://u@first.test/", "https://first.test:443/", "https://FIRST.test./", "?a", "javascript:x", "https://[::1]:1/", "https:first.test"} {
		for _, status := range []int{301, 302, 303, 307, 308, 200} {
			f.Add(to, status, "POST")
			f.Add(to, status, "GET")
		}
	}
	f.Fuzz(func(t *testing.T, to string, status int, method string) {
		from, _ := url.Parse("https://first.test/path")
		r := &httpCall{method: method, url: from, body: []byte("body"), header: http.Header{"Authorization": {"p1"}, "X-Token": {"p2"}, "Accept": {"a"}}}
		if method == http.MethodGet {
			r.body = nil
		}
		next, ok, failed := r.redirected(&httpReply{status: status, header: http.Header{"Location": {to}}})
		if !ok || failed != nil {
			return
		}
		if next.url.Scheme != "https" || next.url.User != nil || status < 300 || status > 399 {
			t.Errorf("%d %q is followed to %s", status, to, next.url)
		}
		if next.method != method && next.method != http.MethodGet {
			t.Errorf("%s becomes %s", method, next.method)
		}
		if addressOf(next.url) == "first.test:443" {
			return
		}
		if next.body != nil || next.header.Get("Authorization") != "" || next.header.Get("X-Token") != "" || next.method != http.MethodGet && next.method != http.MethodHead {
			t.Errorf("%d %q: another place gets %s %v %q", status, to, next.method, next.header, next.body)
		}
	})
}
