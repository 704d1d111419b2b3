package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func (k cluster) open(config string) sdk.OpenRequest {
	return sdk.OpenRequest{
		Host:     sdk.Host{Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {}, Pins: map[string][]byte{k.Address: k.SPKI[:]}},
		Resource: k.resource(config), Admin: sdk.Credential{Kind: sdk.Token, Secret: k.Admin}, AdminAs: sdk.Account{Name: "admin"},
	}
}

// Somebody's objects, which the API takes.
func (k cluster) secret(t *testing.T, name string, data map[string][]byte) {
	t.Helper()
	k.do(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/secrets", map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": name}, "data": data,
	})
}

const deployments = "/apis/apps/v1/namespaces/" + namespace + "/deployments"

func (k cluster) deployment(t *testing.T, name string) {
	t.Helper()
	labels := map[string]string{"app": name}
	k.do(t, http.MethodPost, deployments, map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]string{"name": name},
		"spec": map[string]any{
			"replicas": 2, "selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []map[string]string{{"name": "app", "image": "app.test/app:1"}}},
			},
		},
	})
}

// seen is what a controller has seen of a deployment last, and for what its pods were rolled.
func (k cluster) seen(t *testing.T, name string) (generation int64, version string) {
	t.Helper()
	var d struct {
		Metadata struct{ Generation int64 }
		Spec     struct {
			Template struct {
				Metadata struct{ Annotations map[string]string }
			}
		}
	}
	k.read(t, k.do(t, http.MethodGet, deployments+"/"+name, nil), &d)
	for name, word := range d.Spec.Template.Metadata.Annotations {
		if strings.HasPrefix(name, "rotunda.dev/rolled-for-") {
			version += word
		}
	}
	return d.Metadata.Generation, version
}

// controls writes what the controller of deployments would, which does not run here.
func (k cluster) controls(t *testing.T, name string, status map[string]any) {
	t.Helper()
	var d map[string]any
	k.read(t, k.do(t, http.MethodGet, deployments+"/"+name, nil), &d)
	status["observedGeneration"] = d["metadata"].(map[string]any)["generation"]
	d["status"] = status
	k.do(t, http.MethodPut, deployments+"/"+name+"/status", d)
}

func rolledOut() map[string]any {
	return map[string]any{"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
}

func stuck() map[string]any {
	return map[string]any{
		"replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2, "unavailableReplicas": 1,
		"conditions": []map[string]any{{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}},
	}
}

func credential(secret string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(secret))}
}

func reasonOf(err error) string {
	var e *sdk.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// A workload is rolled once for a new secret, waited for over as many calls as it takes,
// and rolled back when its new pods do not become ready.
func TestWorkloadsAreRolled(t *testing.T) {
	k := newCluster(t)
	k.secret(t, "app", map[string][]byte{"token": []byte("first"), "user": []byte("app"), "other": []byte("stays")})
	k.deployment(t, "web")
	k.deployment(t, "jobs")
	at := k.open(`{"namespace":"default","secret":"app","key":"token","roll":["deployment/web","deployment/jobs"]}`)
	before, _ := k.seen(t, "web")
	steps, err := secrets{}.Plan(t.Context(), at, sdk.ApplyRequest{Account: sdk.Account{Name: "app"}, Candidate: sdk.Credential{Kind: sdk.Password}})
	if err != nil || len(steps) != 3 {
		t.Fatal(steps, err)
	}
	if g, version := k.seen(t, "web"); g != before || version != "" || !k.has(t, "app", credential("first")) {
		t.Fatal("a plan changed something")
	}
	do := func(n int) (sdk.StepResponse, error) {
		return answerOf(t, func(ctx context.Context) (sdk.StepResponse, error) {
			return secrets{}.Do(ctx, at, steps[n], credential("next"))
		})
	}
	for range 2 {
		if got, err := do(0); err != nil || got.Outcome != sdk.Changed || !k.has(t, "app", credential("next")) {
			t.Fatal(got, err)
		}
	}
	if got, err := do(1); reasonOf(err) != "workload.rolling" || got.Outcome == sdk.Unchanged {
		t.Fatal("a workload whose pods are old is not done:", got, err)
	}
	rolled, version := k.seen(t, "web")
	if rolled != before+1 || version == "" {
		t.Fatal("it was not rolled:", rolled, version)
	}
	k.controls(t, "web", rolledOut())
	if got, err := do(1); err != nil || got.Outcome != sdk.Changed {
		t.Fatal(got, err)
	}
	if g, _ := k.seen(t, "web"); g != rolled {
		t.Error("it was rolled twice for one secret")
	}

	// Another account's Secret, which the same workload uses, and whatever touches this one,
	// rolls it no more.
	k.secret(t, "second", map[string][]byte{"token": []byte("first"), "other": []byte("stays")})
	also, err := secrets{}.Plan(t.Context(), k.open(`{"namespace":"default","secret":"second","key":"token","roll":["deployment/web"]}`), sdk.ApplyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := answerOf(t, func(ctx context.Context) (sdk.StepResponse, error) {
		return secrets{}.Do(ctx, at, also[1], credential("next"))
	}); reasonOf(err) != "workload.rolling" {
		t.Fatal(err)
	}
	rolled, _ = k.seen(t, "web")
	for range 2 {
		k.do(t, http.MethodPut, "/api/v1/namespaces/default/secrets/app", map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "app", "annotations": map[string]string{"touched": rand.Text()}},
			"data": map[string][]byte{"token": []byte("next"), "other": []byte("stays")},
		})
		_, _ = do(1)
		_, _ = answerOf(t, func(ctx context.Context) (sdk.StepResponse, error) {
			return secrets{}.Do(ctx, at, also[1], credential("next"))
		})
	}
	if g, _ := k.seen(t, "web"); g != rolled {
		t.Errorf("it was rolled %d times more by repetitions", g-rolled)
	}
	_, version = k.seen(t, "web")

	// The second one's pods fail.
	if _, err := do(2); reasonOf(err) != "workload.rolling" {
		t.Fatal(err)
	}
	k.controls(t, "jobs", stuck())
	if got, err := do(2); err != nil || got.Outcome != sdk.Unchanged || got.Reason != "workload.failed" {
		t.Fatal(got, err)
	}
	// One is gone: the others are rolled back all the same.
	k.do(t, http.MethodDelete, deployments+"/web", nil)
	for n := range steps { // as the agent does, backwards
		if got, err := (secrets{}).Undo(t.Context(), at, steps[len(steps)-1-n], credential("first")); err != nil || got.Outcome != sdk.Changed {
			t.Fatal(got, err)
		}
	}
	if !k.has(t, "app", credential("first")) {
		t.Error("the former secret is not back")
	}
	if _, now := k.seen(t, "jobs"); now == version || now == "" {
		t.Errorf("it was not rolled back to the former secret: %q", now)
	}
}

// Whatever cannot succeed is said before anything is changed.
func TestPlanRefuses(t *testing.T) {
	k := newCluster(t)
	k.secret(t, "app", map[string][]byte{"token": []byte("first")})
	k.do(t, http.MethodPost, "/api/v1/namespaces/default/secrets", map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": "fixed"}, "immutable": true,
	})
	k.deployment(t, "web")
	k.deployment(t, "paused")
	var paused map[string]any
	k.read(t, k.do(t, http.MethodGet, deployments+"/paused", nil), &paused)
	paused["spec"].(map[string]any)["paused"] = true
	k.do(t, http.MethodPut, deployments+"/paused", paused)
	labels := map[string]string{"app": "by-hand"}
	k.do(t, http.MethodPost, "/apis/apps/v1/namespaces/default/statefulsets", map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]string{"name": "by-hand"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": labels}, "updateStrategy": map[string]string{"type": "OnDelete"},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []map[string]string{{"name": "app", "image": "app.test/app:1"}}},
			},
		},
	})
	k.account(t, "clerk")
	clerk := k.token(t, "clerk")
	for config, want := range map[string]string{
		`{"namespace":"default","secret":"none","key":"token"}`:                                   "secret.missing",
		`{"namespace":"nowhere","secret":"app","key":"token"}`:                                    "secret.missing",
		`{"namespace":"default","secret":"fixed","key":"token"}`:                                  "secret.refused",
		`{"namespace":"default","secret":"app","key":"a/b"}`:                                      "secret.refused",
		`{"namespace":"default","secret":"app","key":"token","roll":["deployment/none"]}`:         "workload.missing",
		`{"namespace":"default","secret":"app","key":"token","roll":["pod/web"]}`:                 "config",
		`{"namespace":"default","secret":"app","key":"token","roll":["deployment"]}`:              "account.name",
		`{"namespace":"default","secret":"app","key":"token","login_key":"token"}`:                "config",
		`{"namespace":"default","secret":"app/../../../../..","key":"token"}`:                     "account.name",
		`{"namespace":"default","secret":"app%2f..","key":"token"}`:                               "account.name",
		`{"namespace":"default","secret":"app","key":"token","roll":["deployment/web/status"]}`:   "account.name",
		`{"namespace":"default","secret":"app","key":"token","roll":["deployment/paused"]}`:       "workload.never",
		`{"namespace":"default","secret":"app","key":"token","roll":["statefulset/by-hand"]}`:     "workload.never",
		`{"namespace":"default","secret":"..","key":"token"}`:                                     "account.name",
		`{"namespace":"default","secret":"app","key":"token","roll":["deployment/x/../../../y"]}`: "account.name",
	} {
		_, err := secrets{}.Plan(t.Context(), k.open(config), sdk.ApplyRequest{})
		if reasonOf(err) != want {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	at := k.open(`{"namespace":"default","secret":"app","key":"token"}`)
	at.Admin = clerk
	if _, err := (secrets{}).Plan(t.Context(), at, sdk.ApplyRequest{}); reasonOf(err) != "admin.rights" {
		t.Errorf("without rights: %v", err)
	}
}

// A person's own token, which is bound to nothing, lets its account in, and cannot be ended.
func TestTokenThatIsBoundToNothing(t *testing.T) {
	k := newCluster(t)
	k.account(t, "app")
	var made struct{ Status struct{ Token string } }
	k.read(t, k.do(t, http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/app/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{},
	}), &made)
	old := sdk.Credential{Kind: sdk.Token, Secret: sdk.NewSecret([]byte(made.Status.Token))}
	app := sdk.Account{Name: "app", Scope: namespace}
	at := k.open("")
	verify := func(a sdk.Account, c sdk.Credential) sdk.VerifyResponse {
		got, err := rotator{}.Verify(t.Context(), sdk.VerifyRequest{Host: at.Host, Resource: at.Resource, Account: a, Credential: c})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := verify(app, old); got.Verdict != sdk.Accepted {
		t.Error(got)
	}
	if got := verify(sdk.Account{Name: "other", Scope: namespace}, old); got.Verdict == sdk.Accepted || got.Reason != "key.other_account" {
		t.Error("another's token is taken for the account's:", got)
	}
	s, err := rotator{}.Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.(sdk.Retirer).Retire(t.Context(), sdk.RetireRequest{Account: app, Old: old, Keep: sdk.Credential{ID: "x"}}); reasonOf(err) != "key_id.missing" {
		t.Error(err)
	}
	next, err := s.(sdk.Minter).Mint(t.Context(), sdk.MintRequest{Account: app, Kind: sdk.Token})
	if err != nil || !strings.HasPrefix(next.ID, "rotunda-token-") || verify(app, next).Verdict != sdk.Accepted {
		t.Fatal(next.ID, err)
	}
	// An id that a person made up for it does not make it one that can be ended.
	named := old
	named.ID = "made-up"
	if _, err := s.(sdk.Retirer).Retire(t.Context(), sdk.RetireRequest{Account: app, Old: named, Keep: next}); reasonOf(err) != "key_id.missing" {
		t.Error(err)
	}
	// One that is bound to a Secret of a person's is not ended, and not said to be.
	var secret struct{ Metadata meta }
	k.secret(t, "persons", nil)
	k.read(t, k.do(t, http.MethodGet, "/api/v1/namespaces/default/secrets/persons", nil), &secret)
	k.read(t, k.do(t, http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/app/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"boundObjectRef": map[string]string{"apiVersion": "v1", "kind": "Secret", "name": "persons", "uid": secret.Metadata.UID}},
	}), &made)
	bound := sdk.Credential{Kind: sdk.Token, ID: "persons", Secret: sdk.NewSecret([]byte(made.Status.Token))}
	if _, err := s.(sdk.Retirer).Retire(t.Context(), sdk.RetireRequest{Account: app, Old: bound, Keep: next}); reasonOf(err) != "token.unlabelled" {
		t.Error(err)
	}
	k.do(t, http.MethodGet, "/api/v1/namespaces/default/secrets/persons", nil)
	// The Secret of another is not deleted, though it is named.
	k.secret(t, "others", nil)
	if err := s.(sdk.Minter).Sweep(t.Context(), sdk.SweepRequest{Account: app, Kind: sdk.Token, IDs: []string{"others"}}); err != nil {
		t.Error(err)
	}
	k.do(t, http.MethodGet, "/api/v1/namespaces/default/secrets/others", nil)
}

// What the API says of a workload is read as its controllers write it.
func TestDone(t *testing.T) {
	for says, want := range map[string]string{
		`{"metadata":{"generation":2},"spec":{"replicas":2},"status":{"observedGeneration":1,"replicas":2,"updatedReplicas":2,"availableReplicas":2}}`:                                 "",
		`{"metadata":{"generation":2},"spec":{"replicas":2},"status":{"observedGeneration":2,"replicas":3,"updatedReplicas":2,"availableReplicas":2}}`:                                 "",
		`{"metadata":{"generation":2},"spec":{"replicas":2},"status":{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"availableReplicas":1}}`:                                 "",
		`{"metadata":{"generation":2},"spec":{"replicas":2},"status":{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"availableReplicas":2}}`:                                 "done",
		`{"metadata":{"generation":1},"spec":{"replicas":0},"status":{"observedGeneration":1}}`:                                                                                        "done",
		`{"metadata":{"generation":1},"spec":{},"status":{"observedGeneration":1}}`:                                                                                                    "",
		`{"metadata":{"generation":1},"spec":{"replicas":1},"status":{"observedGeneration":1,"replicas":1,"conditions":[{"type":"Progressing","reason":"ProgressDeadlineExceeded"}]}}`: "failed",
	} {
		var w workload
		if err := json.Unmarshal([]byte(says), &w); err != nil {
			t.Fatal(err)
		}
		done, failed := w.done("deployment")
		if done != (want == "done") || failed != (want == "failed") {
			t.Errorf("%s: done %t, failed %t, want %q", says, done, failed, want)
		}
	}
	var d workload
	if err := json.Unmarshal([]byte(`{"metadata":{"generation":1},"status":{"observedGeneration":1,"desiredNumberScheduled":3,"updatedNumberScheduled":3,"numberAvailable":2}}`), &d); err != nil {
		t.Fatal(err)
	}
	if done, _ := d.done("daemonset"); done {
		t.Error("a daemon that is not everywhere is not done")
	}
	d.Status.DaemonUp = 3
	if done, _ := d.done("daemonset"); !done {
		t.Error("a daemon that is everywhere is done")
	}
}

// answerOf gives a call the time that it takes to look once or twice.
func answerOf(t *testing.T, call func(context.Context) (sdk.StepResponse, error)) (sdk.StepResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return call(ctx)
}
