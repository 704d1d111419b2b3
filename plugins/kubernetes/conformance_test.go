package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/conformance"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// cluster is a real API server, asked by its administrator. No controller runs in it.
type cluster struct{ *targets.KubeServer }

const namespace = "default"

// do asks for what must succeed.
func (k cluster) do(t *testing.T, method, path string, body any) []byte {
	t.Helper()
	status, answer, err := k.Do(t.Context(), method, path, body)
	if err != nil || status > 299 {
		t.Fatalf("%s %s: status %d, %v: %s", method, path, status, err, answer)
	}
	return answer
}

// account makes a service account; false where the API has no such names.
func (k cluster) account(t *testing.T, name string) bool {
	t.Helper()
	status, answer, err := k.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts", map[string]any{
		"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]string{"name": name},
	})
	switch {
	case err != nil:
		t.Fatal(err)
	case status == http.StatusUnprocessableEntity, status == http.StatusBadRequest:
		return false
	case status != http.StatusCreated:
		t.Fatalf("make the account %q: status %d: %s", name, status, answer)
	}
	return true
}

// token makes a token that is bound to a Secret, as the plugin does.
func (k cluster) token(t *testing.T, name string) sdk.Credential {
	t.Helper()
	var account, secret struct {
		Metadata struct{ Name, UID string }
	}
	at := "/api/v1/namespaces/" + namespace
	k.read(t, k.do(t, http.MethodGet, at+"/serviceaccounts/"+name, nil), &account)
	k.read(t, k.do(t, http.MethodPost, at+"/secrets", map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata": map[string]any{"generateName": "first-", "labels": map[string]string{"rotunda.dev/token-of": account.Metadata.UID}},
	}), &secret)
	var made struct{ Status struct{ Token string } }
	k.read(t, k.do(t, http.MethodPost, at+"/serviceaccounts/"+name+"/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"boundObjectRef": map[string]string{"apiVersion": "v1", "kind": "Secret", "name": secret.Metadata.Name, "uid": secret.Metadata.UID}},
	}), &made)
	return sdk.Credential{Kind: sdk.Token, ID: secret.Metadata.Name, Secret: sdk.NewSecret([]byte(made.Status.Token))}
}

func (cluster) read(t *testing.T, answer []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(answer, into); err != nil {
		t.Fatal(err)
	}
}

// ids are the Secrets that are the account's, by their label.
func (k cluster) ids(t *testing.T, name string) (ids []string) {
	t.Helper()
	var account struct{ Metadata struct{ UID string } }
	at := "/api/v1/namespaces/" + namespace
	k.read(t, k.do(t, http.MethodGet, at+"/serviceaccounts/"+name, nil), &account)
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
		}
	}
	k.read(t, k.do(t, http.MethodGet, at+"/secrets", nil), &list)
	for _, i := range list.Items {
		if i.Metadata.Labels["rotunda.dev/token-of"] == account.Metadata.UID {
			ids = append(ids, i.Metadata.Name)
		}
	}
	return ids
}

func (k cluster) resource(config string) sdk.Resource {
	return sdk.Resource{Address: k.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(config)}
}

// has reports whether a Secret has that value, and no other one was lost.
func (k cluster) has(t *testing.T, name string, c sdk.Credential) bool {
	t.Helper()
	var secret struct{ Data map[string]string }
	k.read(t, k.do(t, http.MethodGet, "/api/v1/namespaces/"+namespace+"/secrets/"+name, nil), &secret)
	value, err := base64.StdEncoding.DecodeString(secret.Data["token"])
	if err != nil {
		t.Fatal(err)
	}
	other, _ := base64.StdEncoding.DecodeString(secret.Data["other"])
	return string(value) == c.Secret.ExposeString() && string(other) == "stays"
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	return cluster{targets.Kube(t)}
}

func TestConformance(t *testing.T) {
	k := newCluster(t)
	var names sync.Mutex
	made := 0
	conformance.Run(t, conformance.Harness{
		Binary: conformance.Build(t, "."), Name: "kubernetes", Kind: sdk.Token,
		Resource: k.resource(""), Pins: [][32]byte{k.SPKI},
		Admin: sdk.Credential{Kind: sdk.Token, Secret: k.Admin}, AdminAs: sdk.Account{Name: "admin"},
		Powerless: func(t *testing.T) (sdk.Account, sdk.Credential) {
			k.account(t, "clerk")
			return sdk.Account{Name: "clerk", Scope: namespace}, k.token(t, "clerk")
		},
		Account: func(t *testing.T, name string) (sdk.Account, sdk.Credential) {
			if name != strings.ToLower(name) || !k.account(t, name) {
				t.Skip("left out: Kubernetes has no such names")
			}
			return sdk.Account{Name: name, Scope: namespace}, k.token(t, name)
		},
		Accepts: func(t *testing.T, _ sdk.Account, c sdk.Credential) bool {
			t.Helper()
			ok, err := k.Accepts(t.Context(), c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		},
		IDs: func(t *testing.T, a sdk.Account) []string { return k.ids(t, a.Name) },
		Dependent: func(t *testing.T, _ sdk.Account, first sdk.Credential) conformance.Dependent {
			names.Lock()
			made++
			name := fmt.Sprintf("app-%d", made)
			names.Unlock()
			k.secret(t, name, map[string][]byte{"token": first.Secret.Expose(), "other": []byte("stays")})
			return conformance.Dependent{
				Config: []byte(`{"namespace":"` + namespace + `","secret":"` + name + `","key":"token"}`),
				Cannot: []byte(`{"namespace":"` + namespace + `","secret":"` + name + `-gone","key":"token"}`),
				Uses:   func(t *testing.T, c sdk.Credential) bool { return k.has(t, name, c) },
			}
		},
	})
}
