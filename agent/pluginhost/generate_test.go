package pluginhost

import (
	"encoding/json"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// A script that makes secrets has its settings and an account, and goes nowhere.
func TestGenerate(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	ctx, pin := t.Context(), script("generator pin")
	if d, err := f.Describe(ctx, pin); err != nil || !d.Generator || d.After || len(d.Kinds) != 0 {
		t.Fatalf("manifest: %+v, %v", d, err)
	}
	j := Job{Target: Target{Key: "r", Resource: sdk.Resource{Config: json.RawMessage(`{"n":8}`)}}}
	made, err := f.Generate(ctx, pin, j, sdk.Account{Name: "app"})
	if got := made.ExposeString(); err != nil || got != `made for app {"n":8}0` {
		t.Errorf("%s, %v", got, err)
	}
	j.Resource.Config = json.RawMessage(srv.addr())
	for account, reason := range map[string]string{"nothing": "secret.malformed", "too much": "secret.malformed", "dial": "dial.refused"} {
		if made, err := f.Generate(ctx, pin, j, sdk.Account{Name: account}); ReasonOf(err) != reason || made.Len() != 0 {
			t.Errorf("%s: %v", account, err)
		}
	}
	if _, err := f.Generate(ctx, script("after restart"), j, sdk.Account{}); ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
		t.Errorf("a script of another kind: %v", err)
	}
	if _, err := f.run(ctx, pin, j, "tell"); ReasonOf(err) != string(PluginManifest) {
		t.Errorf("it runs after a rotation: %v", err)
	}
}
