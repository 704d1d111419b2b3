package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// withDependents gives the account two dependents, a and b, on a resource of their own.
func withDependents(t *testing.T, edit func(*trustv1.Account)) *world {
	w := newWorld(t, false)
	w.dependents(edit)
	return w
}

func (w *world) dependents(edit func(*trustv1.Account)) {
	host := w.ref()
	r := w.resource()
	r.AdminAccount = w.admin.Proto()
	w.put(host, "pamMachine", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: r}})
	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
	for _, name := range []string{"a", "b"} {
		s.GetAccount().Dependents = append(s.GetAccount().Dependents, &trustv1.Dependent{Resource: host.Proto(), Plugin: "fake", Config: []byte(name)})
	}
	if edit != nil {
		edit(s.GetAccount())
	}
	w.pinned = []trust.Ref{host}
	w.put(w.account, "pamUser", []byte("old"), s)
}

// have says whether a dependent was given the record's secret.
func (w *world) have(name string) bool {
	current, _ := w.secret(w.account)
	return w.target.users[name] == current
}

var everything = []string{"do one for a", "do two for a", "do one for b", "do two for b"}

func TestDependents(t *testing.T) {
	w := withDependents(t, nil)
	command := w.command(trustv1.Action_ACTION_ROTATE, seal.NewID())
	out, err := w.engine.Do(t.Context(), Job{ID: seal.ID(command.RunId), Account: w.account, Command: command})
	if err != nil || out.Credential != done || out.Dependents != done || !w.opens() || !w.have("a") || !w.have("b") {
		t.Fatalf("%+v, %v: %v", out, err, w.target.steps)
	}
	if !slices.Equal(w.target.steps, everything) {
		t.Errorf("steps %v", w.target.steps)
	}
	if _, known, err := w.engine.Journal.Plan(seal.ID(command.RunId)); err != nil || known {
		t.Errorf("the plan is kept after its run: %v, %v", known, err)
	}
}

// What cannot follow a change keeps it from being made.
func TestDependentsThatCannotFollow(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(w *world)
		class  sdk.Class
		reason string
	}{
		"a plan fails": {func(w *world) {
			w.target.plan = func(pluginhost.Job) ([]sdk.Step, error) {
				return nil, &sdk.Error{Class: sdk.ClassNotFound, Reason: "file.missing", NotSent: true}
			}
		}, sdk.ClassNotFound, "file.missing"},
		"the resource's record is gone": {func(w *world) {
			delete(w.vault.records, w.pinned[0].Record)
		}, sdk.ClassInvalid, string(trust.RecordMissing)},
		"a plan that is too long": {func(w *world) {
			w.target.plan = func(pluginhost.Job) ([]sdk.Step, error) {
				return []sdk.Step{{ID: "x", Data: json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)}}, nil
			}
		}, sdk.ClassInvalid, "plan.too_long"},
	} {
		w := withDependents(t, nil)
		c.set(w)
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != failed || out.Class != c.class || out.Reason != c.reason {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if len(w.target.applied) > 0 || w.row().Staged != nil || len(w.target.steps) > 0 {
			t.Errorf("%s: something was changed", name)
		}
	}
}

// A run whose steps were interrupted, or got no answer, goes on with those that are not
// done, with the secret that is in use.
func TestDependentsAreGoneOnWith(t *testing.T) {
	for n := range everything {
		for name, breaks := range map[string]func(stop func()) (sdk.StepResponse, error){
			"killed":    func(stop func()) (sdk.StepResponse, error) { stop(); return sdk.StepResponse{}, errCrash },
			"no answer": func(func()) (sdk.StepResponse, error) { return sdk.StepResponse{}, errors.New("lost") },
			"unknown":   func(func()) (sdk.StepResponse, error) { return sdk.StepResponse{}, nil },
		} {
			w := withDependents(t, nil)
			id := seal.NewID()
			ctx, cancel := context.WithCancel(t.Context())
			w.target.step = func(what string) (sdk.StepResponse, error) {
				if len(w.target.steps) == n+1 {
					return breaks(cancel)
				}
				return sdk.StepResponse{Outcome: sdk.Changed}, nil
			}
			out, err := w.engine.Do(ctx, Job{ID: id, Account: w.account})
			killed := name == "killed"
			if killed != errors.Is(err, context.Canceled) || !killed && (!out.Later || out.Reason != "dependents.pending" || out.Credential != done || out.Dependents != pending) {
				t.Fatalf("%s at %d: %+v, %v", name, n, out, err)
			}
			w.target.step = nil
			w.later(2 * time.Minute)
			if out, err := w.run(id); err != nil || out.Credential != done || out.Dependents != done || out.Later {
				t.Fatalf("%s at %d, again: %+v, %v", name, n, out, err)
			}
			want := slices.Concat(everything[:n+1], everything[n:]) // the one that broke is repeated
			if !slices.Equal(w.target.steps, want) || !w.have("a") || !w.have("b") || len(w.target.applied) != 1 || len(w.target.plans) != 2 {
				t.Errorf("%s at %d: steps %v, %d applies, %d plans", name, n, w.target.steps, len(w.target.applied), len(w.target.plans))
			}
			cancel()
		}
	}
}

// Another agent, which has no journal of the run, does every step again; one that finds
// the word that they are done does none.
func TestDependentsByAnotherAgent(t *testing.T) {
	for name, retires := range map[string]bool{"dependents": false, "retire": true} {
		w := withDependents(t, nil)
		id := seal.NewID()
		if retires {
			w.target.manifest.Overlap, w.target.retire = []sdk.Kind{sdk.Password}, sdk.Unchanged
		} else {
			w.target.step = func(what string) (sdk.StepResponse, error) {
				if what == everything[2] {
					return sdk.StepResponse{}, errors.New("lost")
				}
				return sdk.StepResponse{Outcome: sdk.Changed}, nil
			}
		}
		if out, err := w.run(id); err != nil || !out.Later {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		w.target.steps, w.target.step, w.target.retire = nil, nil, 0
		w.another()
		w.later(2 * time.Minute)
		if out, err := w.run(id); err != nil || out.Dependents != done || out.Later {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		want := everything
		if retires {
			want = nil
		}
		if !slices.Equal(w.target.steps, want) {
			t.Errorf("%s: steps %v", name, w.target.steps)
		}
	}
}

// The words on a run that has ended are of no use for another under its id.
func TestDependentsUnderAnIDThatWasUsed(t *testing.T) {
	w := withDependents(t, nil)
	id := seal.NewID()
	for _, run := range []seal.ID{id, seal.NewID()} { // the second one has set another secret since
		if out, err := w.run(run); err != nil || out.Dependents != done {
			t.Fatalf("%+v, %v", out, err)
		}
		w.later(10 * time.Minute)
	}
	w.target.steps = nil
	w.vault.state[id] = "queued"
	if out, err := w.run(id); err != nil || out.Credential != done || out.Dependents != done || !slices.Equal(w.target.steps, everything) || !w.have("a") {
		t.Errorf("%+v, %v: steps %v", out, err, w.target.steps)
	}
}

// A dependent that refuses the new secret for certain does not keep others from having it.
// It gets the former one back where that works, which is then not ended before the next
// rotation has given it another.
func TestDependentRefuses(t *testing.T) {
	for _, overlaps := range []bool{false, true} {
		w := withDependents(t, nil)
		if overlaps {
			w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
		}
		w.target.users = map[string]string{"a": "old", "b": "old"}
		w.target.step = func(what string) (sdk.StepResponse, error) {
			if what == "do two for a" {
				return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "file.unwritable"}, nil
			}
			return sdk.StepResponse{Outcome: sdk.Changed}, nil
		}
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != done || out.Dependents != failed || out.Reason != "dependents.failed" || out.Later || !w.opens() || !w.have("b") {
			t.Fatalf("overlap %v: %+v, %v", overlaps, out, err)
		}
		if !strings.Contains(out.Text, "the second") || !strings.Contains(out.Text, "file.unwritable") {
			t.Errorf("overlap %v: the text does not say which step was refused, and why: %s", overlaps, out.Text)
		}
		undone := slices.Contains(w.target.steps, "undo one for a")
		if undone != overlaps || overlaps && w.target.users["a"] != "old" || len(w.target.retired) > 0 {
			t.Errorf("overlap %v: steps %v, %d ended", overlaps, w.target.steps, len(w.target.retired))
		}
		first, _ := w.secret(w.account)
		w.target.step = nil
		w.later(2 * time.Minute)
		if out, err := w.run(seal.NewID()); err != nil || out.Dependents != done || !w.have("a") || !w.have("b") {
			t.Fatalf("overlap %v, the next one: %+v, %v", overlaps, out, err)
		}
		if want := []string{first, "old"}; overlaps && !slices.Equal(w.target.retired, want) {
			t.Errorf("%d secrets were ended, want the one before and the one before that", len(w.target.retired))
		}
	}
}

// The former secret works for as long as the account's statement says, counted from when
// everybody had the new one.
func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		span     uint32
		overlaps bool
		later    bool
	}{
		"none":                {0, true, false},
		"one that is over":    {1, true, false},
		"a long one":          {3600, true, true},
		"nothing to wait for": {3600, false, false},
	} {
		w := withDependents(t, func(a *trustv1.Account) { a.DrainS = c.span })
		if c.overlaps {
			w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
		}
		id := seal.NewID()
		out, err := w.run(id)
		if err != nil || out.Credential != done || out.Dependents != done || out.Later != c.later {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		if !c.later {
			if c.overlaps != slices.Equal(w.target.retired, []string{"old"}) {
				t.Errorf("%s: %d ended", name, len(w.target.retired))
			}
			continue
		}
		if out.Reason != "draining" || len(w.target.retired) > 0 || w.vault.last.After < 3500_000 || w.vault.last.After > 3600_000 {
			t.Errorf("%s: %+v, %d ended, again after %d ms", name, out, len(w.target.retired), w.vault.last.After)
		}
		steps := len(w.target.steps)
		w.later(40 * time.Minute)
		w.another()
		if out, err := w.run(id); err != nil || !out.Later || len(w.target.retired) > 0 {
			t.Errorf("%s, too soon: %+v, %v", name, out, err)
		}
		w.later(20 * time.Minute)
		if out, err := w.run(id); err != nil || out.Later || !slices.Equal(w.target.retired, []string{"old"}) || len(w.target.steps) != steps {
			t.Errorf("%s, when it is over: %+v, %v, %d ended, %d more steps", name, out, err, len(w.target.retired), len(w.target.steps)-steps)
		}
	}
}

// A pair's accounts are rotated in turn: the one that nobody uses, which then takes over,
// and the former one no sooner than its users may still go on.
func TestPair(t *testing.T) {
	w := newWorld(t, false)
	other := w.ref()
	mandate := func() *trustv1.Mandate {
		return &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(48 * time.Hour).UnixMilli()}
	}
	a, b := w.accountStatement("app", mandate()), w.accountStatement("app2", mandate())
	a.GetAccount().PairAccount, b.GetAccount().PairAccount = other.Proto(), w.account.Proto()
	a.GetAccount().DrainS, b.GetAccount().DrainS = 600, 600
	host := w.ref()
	r := w.resource()
	r.AdminAccount = w.admin.Proto()
	w.put(host, "pamMachine", nil, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: r}})
	for _, s := range []*trustv1.Statement{a, b} {
		s.GetAccount().Dependents = []*trustv1.Dependent{{Resource: host.Proto(), Plugin: "fake", Config: []byte("a")}}
	}
	w.target.secrets["app2"] = "old2"
	w.put(w.account, "pamUser", []byte("old"), a)
	w.later(time.Second)
	w.put(other, "pamUser", []byte("old2"), b) // set last: in use
	on := func(ref trust.Ref) Outcome {
		t.Helper()
		id := seal.NewID()
		w.vault.state[id] = "queued"
		out, err := w.engine.Do(t.Context(), Job{ID: id, Account: ref})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	none := trustv1.Outcome_OUTCOME_NONE

	w.later(time.Hour)
	if out := on(other); out.Credential != none || out.Reason != "pair.in_use" || len(w.target.applied) > 0 {
		t.Fatalf("the one in use: %+v", out)
	}
	if out := on(w.account); out.Credential != done || out.Dependents != done || !w.have("a") || w.target.secrets["app2"] != "old2" {
		t.Fatalf("the other one: %+v", out)
	}
	if p := w.target.plans[0]; p.Name != "app" || p.Attrs[sdk.PairAttr] != "app2" {
		t.Errorf("the dependents were told of %+v", p)
	}
	w.later(2 * time.Minute)
	if out := on(other); out.Credential != none || out.Reason != "pair.draining" {
		t.Errorf("before the time is over: %+v", out)
	}
	w.later(10 * time.Minute)
	if out := on(w.account); out.Credential != none || out.Reason != "pair.in_use" {
		t.Errorf("the one that took over: %+v", out)
	}
	if out := on(other); out.Credential != done || w.target.secrets["app2"] == "old2" || w.target.users["a"] != w.target.secrets["app2"] {
		t.Errorf("the former one, in its turn: %+v", out)
	}

	// One whose dependents did not follow has not taken over.
	w.later(time.Hour)
	w.target.step = func(what string) (sdk.StepResponse, error) {
		if strings.HasPrefix(what, "do two") {
			return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPermission, Reason: "x"}, nil
		}
		return sdk.StepResponse{Outcome: sdk.Changed}, nil
	}
	if out := on(w.account); out.Credential != done || out.Dependents != failed || w.target.users["a"] != w.target.secrets["app2"] {
		t.Errorf("a switch that failed: %+v, and the dependent was not given the other's secret back", out)
	}
	w.target.step = nil
	w.later(time.Hour)
	if out := on(other); out.Reason != "pair.in_use" {
		t.Errorf("the one that stayed in use: %+v", out)
	}
	if out := on(w.account); out.Credential != done || !w.have("a") {
		t.Errorf("the switch again: %+v", out)
	}
	if fmt.Sprint(w.told) != "[]" {
		t.Errorf("events %v", w.told)
	}

	// A server that keeps back how the last run of the one in use has ended, or who set its
	// secret, has no schedule rotate it. A person may.
	w.later(time.Hour)
	x := w.vault.records[w.account.Record]
	all := x.Recent
	for name, keptBack := range map[string]func(*trustv1.Result) bool{
		"the run's last word": func(r *trustv1.Result) bool { return r.Phase == trustv1.Phase_PHASE_FINISHED },
		"everything":          func(*trustv1.Result) bool { return true },
	} {
		x.Recent = slices.DeleteFunc(slices.Clone(all), func(signed []byte) bool {
			result, err := trust.OpenResult(w.log, signed)
			must(t, err)
			return keptBack(result.Result)
		})
		w.later(time.Minute)
		before := len(w.target.applied)
		if out := on(w.account); out.Credential != failed || out.Reason != "pair.unknown" || len(w.target.applied) != before {
			t.Errorf("%s is kept back: %+v", name, out)
		}
	}
	w.pinned = []trust.Ref{host}
	if out, err := w.rotate(); err != nil || out.Credential != done || !w.have("a") {
		t.Errorf("by hand: %+v, %v", out, err)
	}
}

// A pair is one where each names the other.
func TestPairIsMutual(t *testing.T) {
	w := newWorld(t, false)
	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
	s.GetAccount().PairAccount = w.admin.Proto()
	w.put(w.account, "pamUser", []byte("old"), s)
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != failed || out.Reason != "pair.one_sided" || len(w.target.applied) > 0 {
		t.Errorf("%+v, %v", out, err)
	}
}
