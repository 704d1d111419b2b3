package pluginhost

import (
	"encoding/json"
	"strings"
	"testing"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A script that finds accounts has the resource's administrator and goes to its places alone;
// of what it finds nothing is believed that could not be shown, or that has a secret in it.
func TestDiscover(t *testing.T) {
	f, srv := newFixture(t, nil, "scripts"), newServer(t)
	ctx, users := t.Context(), script("discoverer users")
	if d, err := f.Describe(ctx, users); err != nil || !d.Discoverer || d.After || len(d.Kinds) != 0 {
		t.Fatalf("manifest: %+v, %v", d, err)
	}
	j := func(config string) Job {
		return Job{
			Target: Target{Key: "r", Resource: sdk.Resource{Address: srv.addr(), Config: json.RawMessage(config)}, Allow: []string{srv.addr()}},
			Admin:  sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("adm1n-s3cr3t"))}, AdminAs: sdk.Account{Name: "root"},
		}
	}
	found, more, err := f.Discover(ctx, users, j(""))
	if err != nil || more || len(found) != 2 || found[0].Login != "root" || found[0].Scope != "%" || found[0].Facts["at"] != srv.addr() || found[1].Login != "app" {
		t.Errorf("%+v, more %t, %v", found, more, err)
	}
	if found, more, err := f.Discover(ctx, users, j("many")); err != nil || !more || len(found) != pluginv1.MaxFound {
		t.Errorf("of many %d, more %t, %v", len(found), more, err)
	}
	for config, reason := range map[string]string{
		"login": string(PluginProtocol), "fact": string(PluginProtocol), "malformed": "discover.malformed", "dial 127.0.0.1:1": "dial.refused",
	} {
		found, _, err := f.Discover(ctx, users, j(config))
		if ReasonOf(err) != reason || len(found) != 0 || strings.Contains(err.Error(), "adm1n-s3cr3t") {
			t.Errorf("%s: %+v, %v", config, found, err)
		}
	}
	if _, _, err := f.Discover(ctx, script("after restart"), j("")); ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
		t.Errorf("a script of another kind: %v", err)
	}
}
