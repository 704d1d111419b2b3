package main

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// exchange is one request, as the script must make it, and the answer to it as the vendor
// documents it.
type exchange struct {
	method, uri string
	header      string // NAME: VALUE, among those of the request
	body        string // the whole
	status      int
	answer      string
}

// recorded is a server that knows these exchanges, in this order, and no others.
type recorded struct {
	at   sdk.Resource
	pins map[string][]byte
	url  string
}

func newRecorded(t *testing.T, secure bool, all ...exchange) *recorded {
	t.Helper()
	var mu sync.Mutex
	n := 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if n == len(all) {
			t.Errorf("%s %s: a request too many", r.Method, r.RequestURI)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		want := all[n]
		n++
		if r.Method != want.method || r.RequestURI != want.uri {
			t.Errorf("request %d is %s %s; want %s %s", n, r.Method, r.RequestURI, want.method, want.uri)
		}
		if name, value, _ := strings.Cut(want.header, ": "); r.Header.Get(name) != value {
			t.Errorf("request %d has another header %s than it should", n, name)
		}
		if string(body) != want.body {
			t.Errorf("request %d has another body than it should, of %d bytes", n, len(body))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(want.status)
		_, _ = io.WriteString(w, want.answer)
	})
	s := httptest.NewUnstartedServer(h)
	r := &recorded{pins: map[string][]byte{}}
	if secure {
		s.StartTLS()
		pin := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
		r.pins[s.Listener.Addr().String()] = pin[:]
		r.at.TLS.Mode = sdk.TLSPin
	} else {
		s.Start()
		r.at.TLS.Mode = sdk.TLSOff
	}
	r.at.Address, r.url = s.Listener.Addr().String(), s.URL
	t.Cleanup(func() {
		s.Close()
		if n != len(all) {
			t.Errorf("%d requests were made; want %d", n, len(all))
		}
	})
	return r
}

// Rotators of services that no test has, on what their vendors say that they answer.
func TestRecordedRotators(t *testing.T) {
	const admin = "Authorization: Basic YWRtaW46YWRtaW4tc2VjcmV0" // admin:admin-secret
	const ann = "Authorization: Basic YW5uOm4zdy1zZWNyZXQ="       // ann:n3w-secret
	for name, all := range map[string][]exchange{
		"grafana": {
			{"GET", "/api/user", admin, "", 200, `{"id":1,"login":"admin","isGrafanaAdmin":true}`},
			{"GET", "/api/users/lookup?loginOrEmail=ann", admin, "", 200, `{"id":7,"login":"ann","isExternal":false,"isDisabled":false}`},
			{"PUT", "/api/admin/users/7/password", admin, `{"password":"n3w-secret"}`, 200, `{"message":"User password updated"}`},
			{"GET", "/api/user", ann, "", 200, `{"id":7,"login":"ann","isGrafanaAdmin":false}`},
		},
		"elasticsearch": {
			{"GET", "/_security/_authenticate", admin, "", 200, `{"username":"admin","enabled":true}`},
			{"GET", "/_security/user/ann", admin, "", 200, `{"ann":{"username":"ann","roles":[],"enabled":true}}`},
			{"POST", "/_security/user/ann/_password", admin, `{"password":"n3w-secret"}`, 200, `{}`},
			{"GET", "/_security/_authenticate", ann, "", 200, `{"username":"ann","enabled":true}`},
		},
		"okta": {
			{"GET", "/api/v1/users/me", "Authorization: SSWS admin-secret", "", 200, `{"id":"00u0"}`},
			{"GET", "/api/v1/users/ann", "Authorization: SSWS admin-secret", "", 200, `{"id":"00u1","status":"ACTIVE","profile":{"login":"ann"},"credentials":{"provider":{"type":"OKTA","name":"OKTA"}}}`},
			{"POST", "/api/v1/users/00u1", "Authorization: SSWS admin-secret", `{"credentials":{"password":{"value":"n3w-secret"}}}`, 200, `{"id":"00u1"}`},
			{"POST", "/api/v1/authn", "Content-Type: application/json", `{"password":"n3w-secret","username":"ann"}`, 200, `{"status":"SUCCESS","sessionToken":"20111"}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorded(t, true, all...)
			b := fromLibrary(t, "rotators/"+name)
			b.allow, b.host.Pins = []string{r.at.Address}, r.pins
			out, got := b.rotate(
				sdk.OpenRequest{Resource: r.at, Admin: password("admin-secret"), AdminAs: sdk.Account{Name: "admin"}},
				sdk.ApplyRequest{Account: sdk.Account{Name: "ann"}, Candidate: password("n3w-secret")})
			if out.Outcome != sdk.Changed || got.Verdict != sdk.Accepted {
				t.Errorf("%+v, %+v", out, got)
			}
			for _, s := range []string{"n3w-secret", "admin-secret", "bjN3LXNlY3JldA"} {
				if strings.Contains(b.logged.String(), s) {
					t.Error("the log holds a secret")
				}
			}
		})
	}
}

// What runs after a rotation and speaks with services that no test has, likewise. Their
// addresses are parameters, with the identity of a record at the same place where there is
// one; without one the test speaks in clear, since the system's roots vouch for no test.
func TestRecordedAfter(t *testing.T) {
	for name, row := range map[string]struct {
		parameters func(url string) map[string]any
		record     bool
		all        []exchange
	}{
		"webhook": {
			func(url string) map[string]any {
				return map[string]any{"url": url + "/services/T1/x", "format": "slack"}
			}, false,
			[]exchange{{"POST", "/services/T1/x", "Content-Type: application/json", `{"text":"The secret of app on db.example.com:5432 was changed."}`, 200, "ok"}},
		},
		"pagerduty": {
			func(url string) map[string]any { return map[string]any{"endpoint": url + "/v2/change/enqueue"} }, true,
			[]exchange{{
				"POST", "/v2/change/enqueue", "Content-Type: application/json",
				`{"payload":{"custom_details":{"login":"app","resource":"db.example.com:5432","run":"run-1"},"source":"rotunda","summary":"The secret of app on db.example.com:5432 was changed","timestamp":"2026-01-31T12:00:00Z"},"routing_key":"t0ken-secret"}`,
				202, `{"message":"Change event processed","status":"success"}`,
			}},
		},
		"servicenow": {
			func(url string) map[string]any { return map[string]any{"instance": url} }, true,
			[]exchange{
				{"GET", "/api/now/table/change_request?sysparm_fields=sys_id&sysparm_limit=1&sysparm_query=correlation_id%3Drotunda-run-1", "Authorization: Basic Ym90OnQwa2VuLXNlY3JldA==", "", 200, `{"result":[]}`},
				{
					"POST", "/api/now/table/change_request", "Authorization: Basic Ym90OnQwa2VuLXNlY3JldA==",
					`{"correlation_display":"rotunda","correlation_id":"rotunda-run-1","description":"Changed by Rotunda in the run run-1, which began at 2026-01-31T12:00:00Z.","short_description":"The secret of app on db.example.com:5432 was changed"}`,
					201, `{"result":{"sys_id":"1"}}`,
				},
			},
		},
		"openbao-kv": {
			func(url string) map[string]any { return map[string]any{"address": url, "path": "apps/one"} }, true,
			[]exchange{
				{"PATCH", "/v1/secret/data/apps/one", "X-Vault-Token: t0ken-secret", `{"data":{"password":"n3w-secret"}}`, 404, `{"errors":[]}`},
				{"POST", "/v1/secret/data/apps/one", "X-Vault-Token: t0ken-secret", `{"data":{"password":"n3w-secret"}}`, 200, `{"data":{"version":1}}`},
			},
		},
		"gitlab-variable": {
			func(url string) map[string]any {
				return map[string]any{"gitlab": url, "id": "team/app", "key": "DB_PASSWORD"}
			}, true,
			[]exchange{{"PUT", "/api/v4/projects/team%2Fapp/variables/DB_PASSWORD?filter%5Benvironment_scope%5D=%2A", "Private-Token: t0ken-secret", "value=n3w-secret", 200, `{"key":"DB_PASSWORD","value":"n3w-secret"}`}},
		},
		"kubernetes-secret": {
			func(string) map[string]any {
				return map[string]any{"name": "app", "restart": []string{"deployment/web"}}
			}, true,
			[]exchange{
				{"PATCH", "/api/v1/namespaces/default/secrets/app", "Authorization: Bearer t0ken-secret", `{"data":{"password":"bjN3LXNlY3JldA=="}}`, 200, `{"kind":"PartialObjectMetadata"}`},
				{"PATCH", "/apis/apps/v1/namespaces/default/deployments/web", "Content-Type: application/merge-patch+json", `{"spec":{"template":{"metadata":{"annotations":{"rotunda.dev/changed":"2026-01-31T12:00:00Z"}}}}}`, 200, `{}`},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorded(t, row.record, row.all...)
			b := fromLibrary(t, "after/"+name)
			b.allow = []string{r.at.Address}
			config, err := json.Marshal(row.parameters(r.url))
			if err != nil {
				t.Fatal(err)
			}
			q := sdk.AfterRequest{Account: sdk.Account{Name: "app"}, Secret: password("n3w-secret"), RunID: "run-1", Time: timeOf(t, "2026-01-31T12:00:00Z")}
			if row.record {
				q.Records = []sdk.Record{{Resource: r.at, Account: sdk.Account{Name: "bot"}, Secret: password("t0ken-secret"), Pins: r.pins}}
			}
			got, err := b.runAfter(sdk.OpenRequest{Resource: sdk.Resource{Address: "db.example.com:5432", Config: config}}, q)
			if err != nil || got.Outcome != sdk.Changed {
				t.Errorf("%+v, %v", got, err)
			}
			for _, s := range []string{"n3w-secret", "t0ken-secret", "bjN3LXNlY3JldA"} {
				if strings.Contains(b.logged.String()+got.Output, s) {
					t.Error("the log holds a secret")
				}
			}
		})
	}
}
