package pluginhost

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Why the agent made no connection is said in the plugin's place, which could only say
// that it got none; whether something was sent is the plugin's word.
func TestWhyATargetWasNotReached(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	fails := false
	j := srv.job("r")
	j.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if fails {
			return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "jump.refused", Err: errors.New("jump host 2 (b:22): it refuses the login")}
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	named := func(what string, err error) {
		t.Helper()
		var e *sdk.Error
		if !errors.As(err, &e) || e.Class != sdk.ClassUnreachable || e.Reason != "jump.refused" || !strings.Contains(err.Error(), "jump host 2 (b:22)") {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails = true
	_, err := f.Open(t.Context(), guest(), j)
	named("open", err)
	_, err = f.Verify(t.Context(), guest(), VerifyJob{Target: j.Target, Account: sdk.Account{Name: "app"}, Credential: password("app-first")})
	named("verify", err)
	fails = false
	s := f.open(t.Context(), j)
	if got, err := f.Verify(t.Context(), guest(), VerifyJob{Target: j.Target, Account: sdk.Account{Name: "app"}, Credential: password("app-first")}); err != nil || got.Verdict != sdk.Accepted {
		t.Errorf("once it is reached: %+v, %v", got, err)
	}
	fails = true
	if out, err := apply(t.Context(), s, "refuse", "x"); err != nil || out.Reason != "policy.length" {
		t.Errorf("what needs no connection: %+v, %v", out, err)
	}
	if _, err := apply(t.Context(), s, "unclassed", "x"); ReasonOf(err) != unclassed {
		t.Errorf("an error of its own: %v", err)
	}

	// Another way to the same target is another session.
	j.Way[0] = 1
	if _, err := f.Open(t.Context(), guest(), j); err == nil {
		t.Error("a session that was opened by another way is shared")
	}
}

// A plugin that declares no dependents is not asked for any.
func TestNoDependents(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	if _, err := f.Plan(t.Context(), guest(), srv.job("r"), sdk.ApplyRequest{Candidate: password("x")}); ReasonOf(err) != string(PluginManifest) || !NotSent(err) {
		t.Errorf("plan: %v", err)
	}
	if out, err := f.Do(t.Context(), guest(), srv.job("r"), sdk.Step{ID: "x"}, password("x")); ReasonOf(err) != string(PluginManifest) || out.Outcome != sdk.Unknown {
		t.Errorf("do: %+v, %v", out, err)
	}
}
