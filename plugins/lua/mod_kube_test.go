package main

import (
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What is asked of the API, and what its answers mean; a real one is asked by
// TestKubernetesSecret.
func TestKubeModule(t *testing.T) {
	const token = "Authorization: Bearer t0ken-secret"
	const at = `token = job.token, namespace = "apps", name = "one"`
	for name, c := range map[string]struct {
		ask  exchange
		code string
	}{
		"an object": {
			exchange{"GET", "/apis/apps/v1/namespaces/apps/deployments/one", token, "", 200, `{"spec":{"replicas":3}}`},
			`local o = assert(kube.get{` + at + `, kind = "deployments"}) assert(o.spec.replicas == 3)`,
		},
		"a Secret, as a secret": {
			exchange{"GET", "/api/v1/namespaces/apps/secrets/one", token, "", 200, `{"data":{"password":"bjN3"}}`},
			`local o = assert(kube.get{` + at + `, kind = "secrets"}) assert(secret.equal(base64.decode(json.at(o, "data.password")), secret.of("n3w")))`,
		},
		"of another API, in no namespace": {
			exchange{"GET", "/apis/cert-manager.io/v1/clusterissuers/one", token, "", 200, `{}`},
			`assert(kube.get{token = job.token, namespace = "", name = "one", kind = "clusterissuers", api = "cert-manager.io/v1"})`,
		},
		"a patch": {
			exchange{"PATCH", "/api/v1/namespaces/apps/configmaps/one", "Content-Type: application/merge-patch+json", `{"data":{"host":"db2"}}`, 200, `{}`},
			`assert(kube.patch{` + at + `, kind = "configmaps", patch = {data = {host = "db2"}}})`,
		},
		"values of a Secret": {
			exchange{"PATCH", "/api/v1/namespaces/apps/secrets/one", token, `{"data":{"password":"dDBrZW4tc2VjcmV0","user":"YXBw"}}`, 200, `{}`},
			`assert(kube.set_secret{` + at + `, values = {password = job.token, user = "app"}})`,
		},
		"a restart": {
			exchange{"PATCH", "/apis/apps/v1/namespaces/apps/statefulsets/one", token, `{"spec":{"template":{"metadata":{"annotations":{"rotunda.dev/changed":"1970-01-01T00:00:07Z"}}}}}`, 200, `{}`},
			`assert(kube.restart{` + at + `, kind = "statefulsets", time = 7})`,
		},
		"no token of it": {
			exchange{"GET", "/api/v1/namespaces/apps/pods/one", token, "", 401, `{"message":"Unauthorized"}`},
			`local o, err = kube.get{` + at + `, kind = "pods"} assert(not o and err.class == "auth" and err.reason == "kube.unauthorized" and err.not_sent and err.text:find("Unauthorized"))`,
		},
		"no right": {
			exchange{"PATCH", "/api/v1/namespaces/apps/secrets/one", token, `{"data":{"a":""}}`, 403, `{"message":"no"}`},
			`local o, err = kube.set_secret{` + at + `, values = {a = ""}} assert(not o and err.class == "permission" and err.reason == "kube.forbidden" and err.not_sent)`,
		},
		"what it does not take is not quoted where it is secret": {
			exchange{"PATCH", "/api/v1/namespaces/apps/secrets/one", token, `{"data":{"a":"dDBrZW4tc2VjcmV0"}}`, 422, `{"message":"invalid: dDBrZW4tc2VjcmV0"}`},
			`local o, err = kube.set_secret{` + at + `, values = {a = job.token}} assert(not o and err.reason == "kube.refused" and err.not_sent and not err.text:find("invalid"))`,
		},
		"not there": {
			exchange{"GET", "/api/v1/namespaces/one", token, "", 404, `{}`},
			`local o, err = kube.get{token = job.token, kind = "namespaces", name = "one"} assert(not o and err.class == "not_found" and err.reason == "kube.missing" and err.not_sent)`,
		},
		"another was faster": {
			exchange{"PATCH", "/api/v1/namespaces/apps/configmaps/one", token, `{"a":1}`, 409, `{}`},
			`local o, err = kube.patch{` + at + `, kind = "configmaps", patch = {a = 1}} assert(not o and err.class == "conflict" and err.reason == "kube.conflict" and err.not_sent)`,
		},
		"it may have done it": {
			exchange{"PATCH", "/api/v1/namespaces/apps/configmaps/one", token, `{"a":1}`, 503, `upstream`},
			`local o, err = kube.patch{` + at + `, kind = "configmaps", patch = {a = 1}} assert(not o and err.class == "unreachable" and not err.not_sent)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorded(t, true, c.ask)
			b := newBench(t, []string{"kube", "json", "secret", "base64"}, "hosts = [\"resource\"]", c.code)
			b.allow, b.host.Pins = []string{r.at.Address}, r.pins
			if _, err := b.run(func(s *state, job *lua.LTable) {
				job.RawSetString("token", s.secret(secret{Secret: sdk.NewSecret([]byte("t0ken-secret"))}))
			}, r.at); err != nil {
				t.Error(err)
			}
		})
	}
	for _, bad := range []struct{ options, says string }{
		{`kind = "secrets", name = "../x"`, "name: want that of an object"},
		{`kind = "secrets", name = "a/b"`, "name: want that of an object"},
		{`kind = "secrets", name = "a", namespace = "A"`, "namespace"},
		{`kind = "../secrets", name = "a"`, "kind: want one in the plural"},
		{`kind = "watch", name = "secrets", api = "v1", namespace = ""`, "kind: want one in the plural"},
		{`kind = "gadgets", name = "a"`, "api: want that of gadgets"},
		{`kind = "gadgets", name = "a", api = "../v1"`, "is none"},
		{`kind = "secrets", name = "a", tokn = "x"`, "no option tokn"},
		{`kind = "secrets", name = "a", token = "a\n"`, "without blanks and line ends"},
	} {
		b := newBench(t, []string{"kube"}, "hosts = [\"resource\"]", `kube.get{token = "t", `+bad.options+`}`)
		if _, err := b.run(nil, sdk.Resource{Address: "kube.example:6443", TLS: sdk.TLS{Mode: sdk.TLSSystem}}); err == nil || !strings.Contains(err.Error(), bad.says) || len(b.reached) > 0 {
			t.Errorf("%s: %v; want %q, and nothing reached", bad.options, err, bad.says)
		}
	}
}
