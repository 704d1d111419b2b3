package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A Secret of a real API gets the new secret, and keeps its other values; a workload's pods
// are to be others.
func TestKubernetesSecret(t *testing.T) {
	k := targets.Kube(t)
	do := func(method, path string, body any) map[string]any {
		t.Helper()
		status, answer, err := k.Do(t.Context(), method, path, body)
		var out map[string]any
		if err == nil {
			err = json.Unmarshal(answer, &out)
		}
		if err != nil || status > 299 {
			t.Fatalf("%s %s: status %d, %v", method, path, status, err)
		}
		return out
	}
	const secrets, deployments = "/api/v1/namespaces/default/secrets", "/apis/apps/v1/namespaces/default/deployments"
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	do(http.MethodPost, secrets, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "app"},
		"data": map[string]any{"password": encoded("f1rst"), "other": encoded("stays")},
	})
	labels := map[string]any{"app": "web"}
	do(http.MethodPost, deployments, map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web"},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": "web"}}},
		}},
	})
	run := func(config string) sdk.AfterResponse {
		t.Helper()
		b := fromLibrary(t, "after/kubernetes-secret")
		b.allow = []string{k.Address}
		got, err := b.runAfter(sdk.OpenRequest{Resource: sdk.Resource{Config: []byte(config)}}, sdk.AfterRequest{
			Account: sdk.Account{Name: "app"}, Secret: password(oddPassword), Time: timeOf(t, "2026-01-31T12:00:00Z"),
			Records: []sdk.Record{{
				Resource: sdk.Resource{Address: k.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, Pins: map[string][]byte{k.Address: k.SPKI[:]},
				Secret: sdk.Credential{Kind: sdk.Token, Secret: k.Admin},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := run(`{"name":"app","login_key":"user","restart":["deployment/web"]}`); got.Outcome != sdk.Changed {
		t.Fatalf("%+v", got)
	}
	data, _ := do(http.MethodGet, secrets+"/app", nil)["data"].(map[string]any)
	if data["password"] != encoded(oddPassword) || data["other"] != encoded("stays") || data["user"] != encoded("app") {
		t.Error("the Secret has other values than it should")
	}
	spec, _ := do(http.MethodGet, deployments+"/web", nil)["metadata"].(map[string]any)
	if spec["generation"] != float64(2) {
		t.Errorf("the workload is of generation %v: its pods are not to be others", spec["generation"])
	}
	if got := run(`{"name":"missing"}`); got.Outcome != sdk.Unchanged || got.Class != sdk.ClassNotFound {
		t.Errorf("of a Secret that is missing: %+v", got)
	}
}
