package pluginhost

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// A list that is not whole, and a credential that cannot be found again, are no answers.
func TestList(t *testing.T) {
	f, s := newFixture(t, nil), newServer(t)
	session := f.open(t.Context(), s.job("r"))
	list := func(account string) ([]sdk.Item, error) {
		return session.List(t.Context(), sdk.ListRequest{Account: sdk.Account{Name: account}, Kind: sdk.APIKey})
	}
	items, err := list("app")
	want := []sdk.Item{{ID: "one", Created: time.Unix(1_700_000_000, 0).UTC(), Active: true}, {ID: "two", Created: time.Unix(1_700_000_000, 0).UTC(), Active: true}}
	if err != nil || !slices.Equal(items, want) {
		t.Errorf("%+v, %v", items, err)
	}
	if items, err := list("timeless"); err != nil || len(items) != 1 || !items[0].Created.IsZero() {
		t.Errorf("a target that tells no time: %+v, %v", items, err)
	}
	for account, reason := range map[string]string{
		"many": "keys.too_many", "twice": string(PluginProtocol), "nameless": string(PluginProtocol), "line": string(PluginProtocol), "fails": unclassed,
	} {
		if items, err := list(account); items != nil || ReasonOf(err) != reason {
			t.Errorf("%s: %d items, %v; want %s", account, len(items), err, reason)
		}
	}
}

func TestMint(t *testing.T) {
	f, s := newFixture(t, nil), newServer(t)
	session := f.open(t.Context(), s.job("r"))
	mint := func(session *Session, account string, kind sdk.Kind) (sdk.Credential, error) {
		return session.Mint(t.Context(), sdk.MintRequest{Account: sdk.Account{Name: account}, Kind: kind})
	}
	const secret = "m1nted-s3cret"
	c, err := mint(session, "app", sdk.APIKey)
	if err != nil || c.Kind != sdk.APIKey || c.ID != "three" || string(c.Public) != "public" || c.Secret.ExposeString() != secret {
		t.Errorf("%+v, %v", c, err)
	}
	for account, reason := range map[string]string{
		"nameless": string(PluginProtocol), "long": string(PluginProtocol), "empty": string(PluginProtocol), "large": string(PluginProtocol),
		"kind": string(PluginProtocol), "full": "keys.full", "tells": "tells",
	} {
		c, err := mint(session, account, sdk.APIKey)
		if c.ID != "" || ReasonOf(err) != reason || NotSent(err) {
			t.Errorf("%s: %+v, %v; want %s, which may have been sent", account, c, err, reason)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the secret", account)
		}
	}
	if err := session.Sweep(t.Context(), sdk.SweepRequest{Account: sdk.Account{Name: "app"}, Kind: sdk.APIKey, IDs: []string{"one", "two"}}); err != nil {
		t.Errorf("sweep: %v", err)
	}
	f.logs.has(t, "one+two")
	if strings.Contains(f.logs.String(), secret) {
		t.Error("the log tells the secret")
	}
	// What the manifest does not say is not asked.
	for _, kind := range []sdk.Kind{sdk.Password, sdk.Token} {
		_, err := mint(session, "app", kind)
		_, listed := session.List(t.Context(), sdk.ListRequest{Kind: kind})
		swept := session.Sweep(t.Context(), sdk.SweepRequest{Kind: kind})
		for _, err := range []error{err, listed, swept} {
			if ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
				t.Errorf("%s, which the target does not make: %v", kind, err)
			}
		}
	}
	// No answer: it may have made one.
	_, err = mint(session, "crash", sdk.APIKey)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != PluginCrashed || NotSent(err) {
		t.Errorf("a plugin that ends in the middle: %v", err)
	}
}
