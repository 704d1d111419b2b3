package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

// dependent is something that uses an account's secret, with a plan of the plugin's for
// the next one.
type dependent struct {
	Dependent
	job         pluginhost.Job
	account     sdk.Account
	first, next sdk.Credential
	plan        []sdk.Step
}

// dependent makes one and has the plugin plan, on a line that is whole.
func (k *kit) dependent(t *testing.T) *dependent {
	t.Helper()
	if k.Dependent == nil {
		if k.manifest.Dependents {
			t.Fatal("the manifest declares dependents, and the harness has none: set Harness.Dependent")
		}
		t.Skip("the plugin serves no dependents")
	}
	if !k.manifest.Dependents {
		t.Fatal("the harness has dependents, and the manifest declares none")
	}
	d := &dependent{}
	d.account, d.first = k.account(t)
	d.next = k.candidate(t)
	d.Dependent = k.Harness.Dependent(t, d.account, d.first)
	if !d.Uses(t, d.first) || d.Uses(t, d.next) {
		t.Fatal("the harness's dependent does not use the account's first secret, or says so of any")
	}
	d.job = pluginhost.Job{Target: k.target(), Admin: k.Admin, AdminAs: k.AdminAs}
	d.job.Resource.Config = d.Config
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	var err error
	d.plan, err = k.host.Plan(ctx, k.plugin, d.job, sdk.ApplyRequest{Account: d.account, Candidate: d.next, Current: d.first})
	k.note(err)
	if err != nil || len(d.plan) == 0 {
		t.Fatalf("plan: %d steps, %v; want some", len(d.plan), err)
	}
	return d
}

func (k *kit) planIsReadOnly(t *testing.T) {
	d := k.dependent(t)
	if !d.Uses(t, d.first) {
		t.Error("after the plan the dependent uses another secret")
	}
}

func (k *kit) planHoldsNoSecret(t *testing.T) {
	d := k.dependent(t)
	for _, s := range d.plan {
		for _, c := range []sdk.Credential{d.first, d.next, k.Admin} {
			for _, form := range forms(c.Secret) {
				if strings.Contains(s.ID+"\n"+s.Title+"\n"+string(s.Data), form) {
					t.Error("a secret is in a step: the agent writes them to its journal")
				}
			}
		}
	}
}

func (k *kit) planFails(t *testing.T) {
	d := k.dependent(t)
	if d.Cannot == nil {
		t.Skip("the harness names no dependent that cannot be given a secret")
	}
	d.job.Resource.Config = d.Cannot
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	plan, err := k.host.Plan(ctx, k.plugin, d.job, sdk.ApplyRequest{Account: d.account, Candidate: d.next, Current: d.first})
	k.note(err)
	if err == nil {
		t.Fatalf("plan: %d steps, and one of them cannot succeed; want an error", len(plan))
	}
	k.isCode(t, pluginhost.ReasonOf(err))
}

// all does, or undoes, every step.
func (k *kit) all(t *testing.T, d *dependent, what string, c sdk.Credential) {
	t.Helper()
	for _, s := range d.plan {
		out, err := k.stepOf(t, d, what, s, c)
		if err != nil || out.Outcome != sdk.Changed {
			t.Fatalf("%s %q: %s; want changed", what, s.Title, said(sdk.ApplyResponse(out), err))
		}
	}
	if !d.Uses(t, c) {
		t.Fatalf("%s of all steps is changed, and the dependent does not use the secret", what)
	}
}

func (k *kit) stepOf(t *testing.T, d *dependent, what string, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	call := k.host.Do
	if what == "undo" {
		call = k.host.Undo
	}
	out, err := call(ctx, k.plugin, d.job, s, c)
	k.note(err)
	k.isCode(t, out.Reason)
	return out, err
}

func (k *kit) stepTwice(t *testing.T) {
	d := k.dependent(t)
	k.all(t, d, "do", d.next)
	k.all(t, d, "do", d.next)
	k.all(t, d, "undo", d.first)
	k.all(t, d, "undo", d.first)
	k.all(t, d, "do", d.next)
}

// lostStepIsUnknown cuts the line in the last step, whose success means that all of it is
// done.
func (k *kit) lostStepIsUnknown(t *testing.T) {
	defer k.line.set(damage{})
	d := k.dependent(t)
	last := d.plan[len(d.plan)-1]
	toTheLast := func() {
		t.Helper()
		for _, s := range d.plan[:len(d.plan)-1] {
			if out, err := k.stepOf(t, d, "do", s, d.next); err != nil || out.Outcome != sdk.Changed {
				t.Fatalf("do %q: %s", s.Title, said(sdk.ApplyResponse(out), err))
			}
		}
	}
	toTheLast()
	k.line.set(damage{})
	if out, err := k.stepOf(t, d, "do", last, d.next); err != nil || out.Outcome != sdk.Changed || !d.Uses(t, d.next) {
		t.Fatalf("do %q: %s; want changed, and the dependent to use the secret", last.Title, said(sdk.ApplyResponse(out), err))
	}
	_, writes := k.line.counts()
	if writes == 0 {
		t.Fatal("the last step went by without a write on the line")
	}
	// The last of many: a step logs in before it changes something.
	for n := max(1, writes-maxCuts+1); n <= writes; n++ {
		for _, cut := range []damage{{cutBefore: n}, {cutAfter: n}} {
			k.line.set(damage{})
			k.all(t, d, "undo", d.first)
			toTheLast()
			k.line.set(cut)
			out, err := k.stepOf(t, d, "do", last, d.next)
			k.line.set(damage{})
			has := d.Uses(t, d.next)
			switch {
			case err == nil && out.Outcome == sdk.Changed && !has:
				t.Fatalf("the line was cut at write %d: changed, and the dependent does not have the secret", n)
			case err == nil && out.Outcome == sdk.Unchanged && has:
				t.Fatalf("the line was cut at write %d: unchanged, and the dependent has the secret", n)
			}
			k.all(t, d, "do", d.next)
		}
	}
	t.Logf("cut before and after each of the last %d writes of %d", min(writes, maxCuts), writes)
}

// runTwice does what is to be done after a rotation, as an agent does that has crashed
// before it wrote down the answer.
func (k *kit) runTwice(t *testing.T) {
	if !k.manifest.After {
		t.Skip("the plugin does nothing after a rotation")
	}
	if k.Harness.After == nil {
		t.Fatal("the manifest declares that something is done after a rotation, and the harness has none of it: set Harness.After")
	}
	a, secret := k.account(t)
	what := k.Harness.After(t, a, secret)
	if what.Done(t) {
		t.Fatal("the harness says that it has been done, before it was")
	}
	job := pluginhost.Job{Target: k.target(), Admin: k.Admin, AdminAs: k.AdminAs}
	job.Resource.Config = what.Config
	for _, r := range what.Records {
		k.saw(r.Secret)
	}
	req := sdk.AfterRequest{Account: a, Secret: secret, Records: what.Records, RunID: "run" + k.nonce(), Time: time.Now()}
	for n := range 3 {
		if n == 2 {
			k.kill()
		}
		out, err := k.runOf(t, job, req)
		if err != nil || out.Outcome != sdk.Changed {
			t.Fatalf("run, time %d: %s; want changed", n+1, said(sdk.ApplyResponse{Outcome: out.Outcome, Class: out.Class, Reason: out.Reason}, err))
		}
		if !what.Done(t) {
			t.Fatalf("run, time %d: changed, and it has not been done", n+1)
		}
	}
}

// runOf calls as an agent does: who still had the process that is dead tries again.
func (k *kit) runOf(t *testing.T, job pluginhost.Job, req sdk.AfterRequest) (sdk.AfterResponse, error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		out, err := k.host.Run(ctx, k.plugin, job, req)
		cancel()
		if pluginhost.ReasonOf(err) == string(pluginhost.PluginCrashed) && time.Now().Before(end) {
			continue
		}
		k.note(err)
		k.isCode(t, out.Reason)
		return out, err
	}
}

// provisionTwice makes an account that is not there, and removes it.
func (k *kit) provisionTwice(t *testing.T) {
	if !k.manifest.Provision {
		t.Skip("the plugin makes no accounts")
	}
	if k.Rights == nil {
		t.Fatal("the manifest declares accounts that come and go, and the harness does not look at one: set Harness.Rights")
	}
	job := pluginhost.Job{Target: k.target(), Admin: k.Admin, AdminAs: k.AdminAs}
	do := func(what string, a sdk.Account, c sdk.Credential, want sdk.Outcome, class sdk.Class) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		var out sdk.ApplyResponse
		var err error
		if what == "provision" {
			out, err = k.host.Provision(ctx, k.plugin, job, sdk.ApplyRequest{Account: a, Candidate: c})
		} else {
			out, err = k.host.Deprovision(ctx, k.plugin, job, a)
		}
		k.note(err)
		k.isCode(t, out.Reason)
		if err != nil || out.Outcome != want || out.Class != class {
			t.Fatalf("%s: %s; want %s %s", what, said(out, err), outcomes[want], class)
		}
	}
	foreign, first := k.account(t)
	guest := sdk.Account{Name: "guest" + k.nonce(), Scope: foreign.Scope}
	if k.Accepts(t, guest, first) {
		t.Fatal("an account that is not there is let in")
	}
	one, two := k.candidate(t), k.candidate(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		defer cancel()
		_, _ = k.host.Deprovision(ctx, k.plugin, job, guest)
	})
	made := func(c sdk.Credential, groups []string, until time.Time) {
		t.Helper()
		guest.Attrs = map[string]string{sdk.GroupsAttr: strings.Join(groups, ",")}
		if !until.IsZero() {
			guest.Attrs[sdk.UntilAttr] = until.Format(time.RFC3339)
		}
		do("provision", guest, c, sdk.Changed, "")
		if !k.Accepts(t, guest, c) {
			t.Fatal("the account that was made is not let in")
		}
		if !k.Rights(t, guest, groups, until) {
			t.Fatalf("the account that was made does not have the groups %q alone, and the end %s (zero: none)", groups, until)
		}
	}
	until := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, 2)
	for range 2 {
		made(one, k.Groups, until)
	}
	made(two, k.Groups[len(k.Groups)/2:], until.AddDate(0, 0, 3))
	made(two, nil, time.Time{})
	for range 2 {
		do("deprovision", guest, sdk.Credential{}, sdk.Changed, "")
		if k.Accepts(t, guest, two) {
			t.Fatal("the account that was removed is let in")
		}
	}
	do("provision", foreign, one, sdk.Unchanged, sdk.ClassConflict)
	if !k.Accepts(t, foreign, first) {
		t.Fatal("an account that the plugin has not made was given another secret")
	}
	do("deprovision", foreign, sdk.Credential{}, sdk.Unchanged, sdk.ClassConflict)
	if !k.Accepts(t, foreign, first) {
		t.Error("an account that the plugin has not made was removed")
	}
}
