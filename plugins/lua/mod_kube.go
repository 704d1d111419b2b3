package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

const kubeWhat = "kind, in the plural as URLs have it; api (found by the kind for those of v1, apps/v1 and batch/v1), such as \"cert-manager.io/v1\"; "

const kubeOptions = "The options: address (the resource's); token, of who may do it; " + kubeWhat +
	"namespace (default; \"\", for what is in none, where kind is namespaces); name; timeout in seconds (30). "

const kubeReasons = "An error's reason is kube.unauthorized (auth), kube.forbidden (permission), kube.missing (not_found), kube.conflict or kube.refused (conflict), " +
	"with not_sent, since nothing was changed; kube.status (unreachable), where that is not known; or as of http."

var kubeModule = module{
	about: "Reads and changes objects of a Kubernetes cluster by its API, over TLS as the statement of the place says, and never in clear.",
	functions: []function{
		{
			name: "get", takes: "options: table", gives: "table|secret|nil, sdk.error?",
			about: "Reads an object, of at most 1 MiB. " + kubeOptions + "With secret = true, and of secrets always, it is a secret, its JSON of at most 256 KiB, to be looked into by json.at: its values are in base64. " + kubeReasons,
			example: `local o = assert(kube.get{token = job.admin.secret, kind = "deployments", namespace = "apps", name = "web"})
print(o.spec and o.spec.replicas)`,
			do: kubeGet,
		},
		{
			name: "patch", acts: true, takes: "options: table", gives: "true|nil, sdk.error?",
			about: "Changes a few fields of an object that is there, and leaves the others (a JSON merge patch). " + kubeOptions + "Besides: patch, a table, in which secrets may stand. " + kubeReasons,
			example: `assert(kube.patch{
  token = job.admin.secret, kind = "configmaps", namespace = "apps", name = "web", patch = {data = {changed = "2026-01-31"}},
})`,
			do: func(a *args) int {
				o := a.options(1, "address", "token", "kind", "api", "namespace", "name", "timeout", "patch")
				v, secrets, err := goValue(o.get("patch"), 0)
				if _, is := v.(map[string]any); err != nil || !is {
					a.bad(1, "patch: want a table of fields (%v)", err)
				}
				return a.kubePatch(o, o.text("kind", ""), v, secrets || o.text("kind", "") == "secrets")
			},
		},
		{
			name: "set_secret", acts: true, takes: "options: table", gives: "true|nil, sdk.error?",
			about: "Writes values of a Secret that is there, and leaves its others. " + strings.Replace(kubeOptions, kubeWhat, "", 1) + "Besides: values, a table of texts and secrets, which are put into base64. " + kubeReasons,
			example: `local ok, err = kube.set_secret{token = job.admin.secret, namespace = "apps", name = "db", values = {password = job.secret}}
if not ok then
  return err.not_sent and sdk.unchanged(err.class, err.reason) or sdk.unknown
end`,
			do: kubeSetSecret,
		},
		{
			name: "restart", acts: true, takes: "options: table", gives: "true|nil, sdk.error?",
			about:   "Has a workload replace its pods, as kubectl rollout restart does: one that replaces them by itself, and is not paused. " + kubeOptions + "kind is deployments, statefulsets or daemonsets. Besides: time, that is noted in it (now): where it is noted already nothing is replaced. " + kubeReasons,
			example: `assert(kube.restart{token = job.admin.secret, kind = "deployments", namespace = "apps", name = "web", time = job.run.time})`,
			do:      kubeRestart,
		},
	},
}

// kubeAPIs are where the kinds are that scripts have to do with.
var kubeAPIs = map[string]string{
	"secrets": "v1", "configmaps": "v1", "pods": "v1", "serviceaccounts": "v1", "services": "v1", "namespaces": "v1",
	"deployments": "apps/v1", "statefulsets": "apps/v1", "daemonsets": "apps/v1", "replicasets": "apps/v1",
	"jobs": "batch/v1", "cronjobs": "batch/v1",
}

// Names in a URL of the API (its docs, Object Names and IDs).
var (
	kubeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.:]{0,251}[a-z0-9])?$`)
	kubeKind = regexp.MustCompile(`^[a-z][a-z0-9]{0,62}$`)
	kubeAPI  = regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?v[0-9]+((alpha|beta)[0-9]+)?$`)
)

// kubePath is the URL's path of an object.
func (a *args) kubePath(o options, kind string) string {
	within := "default"
	if kind == "namespaces" {
		within = ""
	}
	api, namespace, name := o.text("api", kubeAPIs[kind]), o.text("namespace", within), o.text("name", "")
	switch {
	case !kubeKind.MatchString(kind), kind == "watch", kind == "proxy": // words of the API's own
		a.bad(1, "kind: want one in the plural, such as secrets or deployments")
	case api == "":
		a.bad(1, "api: want that of %s, such as \"cert-manager.io/v1\"", kind)
	case !kubeAPI.MatchString(api):
		a.bad(1, "api: %q is none", api)
	case namespace != "" && !kubeName.MatchString(namespace):
		a.bad(1, "namespace: %q is none", namespace)
	case !kubeName.MatchString(name):
		a.bad(1, "name: want that of an object, got %q", name)
	}
	path := "/apis/" + api
	if !strings.Contains(api, "/") {
		path = "/api/" + api
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + kind + "/" + name
}

func kubeGet(a *args) int {
	o := a.options(1, "address", "token", "kind", "api", "namespace", "name", "timeout", "secret")
	hide := o.bool("secret") || o.text("kind", "") == "secrets"
	r := httpCall{method: http.MethodGet, header: http.Header{"Accept": {"application/json"}}, max: 1 << 20}
	if hide {
		r.max = maxHidden
	}
	answer, failed := a.kube(o, o.text("kind", ""), r, hide)
	if failed != nil {
		return a.fail(failed)
	}
	if hide {
		return a.give(answer, true)
	}
	v, err := decodeJSON(answer)
	if err != nil {
		return a.fail(malformed("JSON", false, err))
	}
	return a.push(a.decoded(v))
}

// kubePatch sends a merge patch. Of the answer only the object's metadata is asked for: the
// whole may have secrets in it.
func (a *args) kubePatch(o options, kind string, patch any, secrets bool) int {
	body, err := encodeJSON(patch, false)
	if err != nil {
		a.bad(1, "patch: it cannot be said in JSON")
	}
	r := httpCall{method: http.MethodPatch, body: body, max: 1 << 20, header: http.Header{
		"Content-Type": {"application/merge-patch+json"}, "Accept": {"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"},
	}}
	if _, failed := a.kube(o, kind, r, secrets); failed != nil {
		return a.fail(failed)
	}
	return a.push(lua.LTrue)
}

func kubeSetSecret(a *args) int {
	o := a.options(1, "address", "token", "namespace", "name", "timeout", "values")
	t := o.table("values")
	if t == nil {
		a.bad(1, "values: want a table of names with their values")
	}
	names, ok := sortedKeys(t)
	if !ok || len(names) == 0 {
		a.bad(1, "values: want a table of names with their values")
	}
	data, secrets := map[string]any{}, false
	for _, name := range names {
		b, isSecret, why := eitherText(t.RawGetString(name))
		if why != "" {
			a.bad(1, "values: %s: %s", name, why)
		}
		data[name] = base64.StdEncoding.EncodeToString(b)
		if secrets = secrets || isSecret; isSecret {
			clear(b)
		}
	}
	return a.kubePatch(o, "secrets", map[string]any{"data": data}, secrets)
}

func kubeRestart(a *args) int {
	o := a.options(1, "address", "token", "kind", "namespace", "name", "timeout", "time")
	kind := o.text("kind", "")
	if kinds := []string{"deployments", "statefulsets", "daemonsets"}; !slices.Contains(kinds, kind) {
		a.bad(1, "kind: want one of %s", strings.Join(kinds, ", "))
	}
	at := time.Now()
	if o.has("time") {
		v, ok := o.get("time").(lua.LNumber)
		if !ok || !(v > -1e11 && v < 1e11) {
			a.bad(1, "time: want seconds since 1970")
		}
		at = time.UnixMicro(int64(float64(v) * 1e6))
	}
	note := map[string]any{"rotunda.dev/changed": at.UTC().Format(time.RFC3339)}
	return a.kubePatch(o, kind, map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": note}}}}, false)
}

// kube asks the API once. hide: what it says of a failure is not told, since it quotes what it
// does not take.
func (a *args) kube(o options, kind string, r httpCall, hide bool) ([]byte, *sdk.Error) {
	at, path := o.address(), a.kubePath(o, kind)
	token, _ := o.bytes("token")
	if len(token) == 0 || bytes.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		a.bad(1, "token: want one, without blanks and line ends")
	}
	if at.TLS.Mode == sdk.TLSOff {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "kube.clear", NotSent: true, Err: fmt.Errorf("the statement of %s says TLS off, and a token is not sent in clear", at.Address)}
	}
	r.header = maps.Clone(r.header)
	r.header.Set("Authorization", "Bearer "+string(token))
	r.header.Set("User-Agent", "rotunda")
	r.url = &url.URL{Scheme: "https", Host: at.Address, Path: path}
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	answer, failed := r.send(ctx, a.host, at)
	if failed != nil {
		if failed.Reason == "http.too_large" {
			failed.Err = fmt.Errorf("the object has more than %d bytes", r.max)
		}
		return nil, failed
	}
	if answer.status == http.StatusOK {
		return answer.body, nil
	}
	return nil, kubeRefused(answer, hide)
}

// kubeRefused is what the API says in place of doing it.
func kubeRefused(answer *httpReply, hide bool) *sdk.Error {
	said := struct {
		Message string `json:"message"`
	}{}
	_ = json.Unmarshal(answer.body, &said) // else it says nothing
	text := fmt.Sprintf("the API answers with status %d", answer.status)
	if said.Message != "" && !hide {
		text += ": " + said.Message
	}
	e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "kube.status", Err: errors.New(text)}
	refused := func(class sdk.Class, reason string) { e.Class, e.Reason, e.NotSent = class, reason, true }
	switch answer.status {
	case http.StatusUnauthorized:
		refused(sdk.ClassAuth, "kube.unauthorized")
	case http.StatusForbidden:
		refused(sdk.ClassPermission, "kube.forbidden")
	case http.StatusNotFound:
		refused(sdk.ClassNotFound, "kube.missing")
	case http.StatusConflict:
		refused(sdk.ClassConflict, "kube.conflict")
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		refused(sdk.ClassConflict, "kube.refused") // an immutable Secret, for one
	}
	return e
}
