package run

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func (f *fakeTarget) Discover(_ context.Context, _ pluginhost.Plugin, j pluginhost.Job) ([]sdk.Finding, bool, error) {
	return f.finds(j)
}

// finder is a world whose resource names a script that finds accounts.
func finder(t *testing.T, more ...string) (*world, *trustv1.ScriptUse) {
	t.Helper()
	w := newWorld(t, false)
	u := w.script("users", script.Discoverer, append([]string{`hosts = ["resource"]`, "[parameters.prefix]", `type = "string"`, `about = "x"`, "required = true"}, more...)...)
	u.Parameters = []byte(`{"prefix":"app"}`)
	w.useOnResource(func(r *trustv1.Resource) { r.Discoverer = u })
	w.target.finds = func(pluginhost.Job) ([]sdk.Finding, bool, error) { return nil, false, nil }
	return w, u
}

func (w *world) discover() (*trustv1.DiscoverReply, error) {
	w.t.Helper()
	return w.engine.Discover(w.t.Context(), w.onResource(trustv1.Action_ACTION_DISCOVER, append([]trust.Ref{w.res}, w.pinned...)...))
}

// A discovery has the script find accounts, with the administrator's login in hand and nowhere
// to go but where the statement says. It is no run, and nothing of any account is touched.
func TestDiscover(t *testing.T) {
	w, u := finder(t)
	w.useOnResource(func(r *trustv1.Resource) {
		r.Discoverer, r.Extras = u, []*trustv1.Extra{{Name: "second", Account: w.admin.Proto()}}
	})
	w.target.finds = func(j pluginhost.Job) ([]sdk.Finding, bool, error) {
		if string(j.Resource.Config) != `{"prefix":"app"}` || j.AdminAs.Name != "admin" || j.Admin.Secret.ExposeString() != w.target.secrets["admin"] || !slices.Equal(j.Allow, []string{"db.test:5432"}) || len(j.Extra) != 0 {
			t.Errorf("the script is given %s, %q, %v", j.Resource.Config, j.AdminAs.Name, j.Allow)
		}
		return []sdk.Finding{{Login: "app", Scope: "%", Facts: map[string]string{"locked": "no"}}, {Login: "robot"}}, true, nil
	}
	got, err := w.discover()
	if err != nil || len(got.Accounts) != 2 || !got.More || got.Accounts[0].Scope != "%" || got.Accounts[0].Facts["locked"] != "no" || got.Accounts[1].Login != "robot" {
		t.Fatalf("%v, %v", got, err)
	}
	if w.target.opens+w.target.logins+len(w.target.applied) != 0 || w.vault.writes != 0 || len(w.told) != 0 {
		t.Errorf("%d sessions, %d writes, events %v", w.target.opens, w.vault.writes, w.told)
	}
	// A rotation goes by what it goes by, and does not ask for the script.
	w.pinned = nil
	if out, err := w.rotate(); err != nil || out.Credential != done {
		t.Errorf("a rotation: %+v, %v", out, err)
	}
}

func TestDiscoverRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*world, *trustv1.ScriptUse)
		reason string
	}{
		"no script": {func(w *world, _ *trustv1.ScriptUse) { w.useOnResource(nil); w.pinned = nil }, "discoverer.none"},
		"another file than was approved": {func(w *world, _ *trustv1.ScriptUse) {
			w.scriptAt(w.pinned[0], scriptText("users", script.Discoverer, `hosts = ["evil.example:1"]`), nil)
		}, string(trust.ScriptChanged)},
		"a script of another kind": {func(w *world, _ *trustv1.ScriptUse) {
			u := w.scriptAt(w.pinned[0], scriptText("users", script.AfterRotation), nil)
			w.useOnResource(func(r *trustv1.Resource) { r.Discoverer = u })
		}, "script.kind"},
		"parameters that it has not": {func(w *world, u *trustv1.ScriptUse) {
			u.Parameters = []byte(`{"suffix":"x"}`)
			w.useOnResource(func(r *trustv1.Resource) { r.Discoverer = u })
		}, "parameters"},
		"no administrator": {func(w *world, u *trustv1.ScriptUse) {
			w.useOnResource(func(r *trustv1.Resource) { r.Discoverer, r.AdminAccount = u, nil })
		}, "administrator.none"},
		"a script that is not pinned": {func(w *world, _ *trustv1.ScriptUse) { w.pinned = nil }, string(trust.PinMismatch)},
		"a plugin that finds nothing": {func(w *world, _ *trustv1.ScriptUse) { w.target.findsNone = true }, "script.plugin"},
		"a known reason": {func(w *world, _ *trustv1.ScriptUse) {
			w.target.finds = func(pluginhost.Job) ([]sdk.Finding, bool, error) {
				return nil, false, &sdk.Error{Class: sdk.ClassAuth, Reason: "admin.refused"}
			}
		}, "admin.refused"},
		"the script's own word": {func(w *world, _ *trustv1.ScriptUse) {
			w.target.finds = func(pluginhost.Job) ([]sdk.Finding, bool, error) {
				return nil, false, &sdk.Error{Class: sdk.ClassPolicy, Reason: "its.own", Err: errors.New("x")}
			}
		}, ScriptRefused},
	} {
		t.Run(name, func(t *testing.T) {
			w, u := finder(t)
			w.target.finds = func(pluginhost.Job) ([]sdk.Finding, bool, error) {
				t.Error("the script was run")
				return nil, false, nil
			}
			c.edit(w, u)
			got, err := w.discover()
			if _, reason := Classify(err); reason != c.reason || got != nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// A script that may see secrets in clear is told of, and one that was stopped.
func TestDiscoverTells(t *testing.T) {
	w := newWorld(t, false)
	u := w.script("users", script.Discoverer, `reveals = "everything"`)
	w.useOnResource(func(r *trustv1.Resource) { r.Discoverer = u })
	w.target.finds = func(pluginhost.Job) ([]sdk.Finding, bool, error) {
		return nil, false, &sdk.Error{Class: sdk.ClassInternal, Reason: scriptError}
	}
	if _, err := w.discover(); err == nil {
		t.Fatal("it found something")
	}
	var names []string
	for _, event := range w.told {
		names = append(names, event.Name)
		if seal.ID(event.Record.Record) != w.res.Record {
			t.Errorf("%+v is not of the resource", event)
		}
	}
	if !slices.Equal(names, []string{"script.reveals", "script.stopped"}) {
		t.Errorf("events %v", w.told)
	}
}
