package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

const (
	done    = trustv1.Outcome_OUTCOME_DONE
	failed  = trustv1.Outcome_OUTCOME_FAILED
	pending = trustv1.Outcome_OUTCOME_PENDING
)

// opens says whether the vault's current secret opens the target.
func (w *world) opens() bool {
	current, _ := w.secret(w.account)
	return w.target.secrets["app"] == current
}

// kept says whether the secret that opens the target is in the vault, or staged
// beside the record: the promise.
func (w *world) kept() bool {
	current, staged := w.secret(w.account)
	now := w.target.secrets["app"]
	return now == current || now == staged
}

func TestARotation(t *testing.T) {
	for _, self := range []bool{false, true} {
		w := newWorld(t, self)
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != done {
			t.Fatalf("self %v: %+v, %v", self, out, err)
		}
		if w.target.secrets["app"] == "old" || !w.opens() {
			t.Fatal("the vault's secret does not open the target")
		}
		if w.vault.writes != 3 {
			t.Errorf("%d durable writes at the vault, want 3: lease, stage, commit", w.vault.writes)
		}
		if runs, _ := w.engine.Journal.OpenRuns(); len(runs) != 0 {
			t.Errorf("the journal still has %d runs", len(runs))
		}
	}
}

// What ends a run before anything is staged leaves nothing behind.
func TestNothingIsLeftBehind(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(*world)
		class  sdk.Class
		reason string
	}{
		"target down": {func(w *world) {
			w.target.openErr = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
		}, sdk.ClassUnreachable, "dial"},
		"administrator refused": {func(w *world) { w.target.secrets["admin"] = "changed" }, sdk.ClassAuth, "admin.refused"},
		"record edited during the run": {func(w *world) {
			w.vault.fail = map[string]error{"stage": ksm.Refuse(ksm.CodeOutOfSync, "moved")}
		}, sdk.ClassConflict, "record.changed"},
		"a kind of secret that the plugin does not rotate": {func(w *world) {
			w.target.manifest.Kinds = []sdk.Kind{sdk.SSHKey}
		}, sdk.ClassUnsupported, "secret_kind"},
		"a policy that needs what the target forbids": {func(w *world) {
			w.target.manifest.Forbid = "0123456789"
		}, sdk.ClassInvalid, "policy.impossible"},
	} {
		w := newWorld(t, false)
		c.set(w)
		before := len(w.target.applied)
		out, err := w.run(seal.NewID())
		if err != nil || out.Credential != failed || out.Class != c.class || out.Reason != c.reason || out.Later {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if len(w.target.applied) != before || w.vault.records[w.account.Record].Staged != nil {
			t.Errorf("%s: the target was touched, or a candidate was left", name)
		}
		if k, _, err := w.engine.Journal.Kept(w.account); err != nil || k != nil {
			t.Errorf("%s: the journal keeps a candidate that nobody has: %v, %v", name, k != nil, err)
		}
	}
}

// What a manifest declares is what the plugin gets: kinds that overlap are retired,
// others are not.
func TestOverlapIsRetired(t *testing.T) {
	for _, overlap := range [][]sdk.Kind{nil, {sdk.Password}} {
		w := newWorld(t, false)
		w.target.manifest.Overlap = overlap
		if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
			t.Fatal(out, err)
		}
		var want []string
		if overlap != nil {
			want = []string{"old"}
		}
		if !slices.Equal(w.target.retired, want) || !w.opens() {
			t.Errorf("overlap %v: %d secrets were retired", overlap, len(w.target.retired))
		}
	}
}

// The further secrets that a resource names reach the plugin by their names.
func TestExtras(t *testing.T) {
	w := newWorld(t, false)
	extra := w.ref()
	w.put(extra, "pamUser", []byte("unlocks"), w.accountStatement("totp", nil))
	r := w.resource()
	r.AdminAccount = w.admin.Proto()
	r.Extras = []*trustv1.Extra{{Name: "second", Account: extra.Proto()}}
	w.putResource(r)
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
		t.Fatal(out, err)
	}
	if len(w.target.extras) != 1 || w.target.extras["second"] != "unlocks" {
		t.Errorf("the plugin got %d extras", len(w.target.extras))
	}
}

// Where the account itself is one of those, or the administrator of a dependent's resource,
// its new secret is what logs in there after the change, and its former one before.
func TestExtraThatIsTheAccount(t *testing.T) {
	w := newWorld(t, false)
	w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
	itself := func(r *trustv1.Resource) {
		r.Extras = []*trustv1.Extra{{Name: "second", Account: w.account.Proto()}}
	}
	w.useOnResource(itself)
	other := w.other(func(r *trustv1.Resource) {
		itself(r)
		r.AdminAccount = w.account.Proto()
	})
	w.use(func(a *trustv1.Account) {
		a.Dependents = []*trustv1.Dependent{{Resource: other.Proto(), Plugin: "fake"}}
	},
		w.script("a", script.AfterRotation, `needs = ["admin"]`))
	var before, after string
	w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		before = w.target.extras["second"]
		w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
		return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
	}
	w.target.script = func(r scriptRan) (sdk.AfterResponse, error) {
		after = r.job.Extra["second"].Secret.ExposeString()
		return sdk.AfterResponse{Outcome: sdk.Changed}, nil
	}
	if out, err := w.run(seal.NewID()); err != nil || out.Credential != done || out.Dependents != done || out.Scripts != done {
		t.Fatalf("%+v, %v", out, err)
	}
	current, _ := w.secret(w.account)
	for where, got := range map[string]string{
		"the session that ends the former secret": w.target.extras["second"], "a dependent's administrator": w.target.with[0],
		"a dependent's extra": w.target.with[1], "a script's extra": after,
	} {
		if got != current {
			t.Errorf("%s logs in with another secret than the new one", where)
		}
	}
	if before != "old" {
		t.Error("before the change the former secret is the one")
	}
}

// A candidate that may or may not have reached the target: the table of recovery,
// driven through the whole machine.
func TestRecovery(t *testing.T) {
	lost := func(w *world, reached bool) {
		w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
			if reached {
				w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
			}
			w.target.apply = nil
			return sdk.ApplyResponse{}, errors.New("the answer was lost")
		}
	}
	unjudged := func(w *world) {
		w.target.verify = func(_ int, secret string) (sdk.VerifyResponse, error) {
			if w.target.secrets["app"] == secret {
				return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
			}
			return sdk.VerifyResponse{Reason: "not_judged"}, nil
		}
	}
	for name, c := range map[string]struct {
		self    bool
		set     func(*world)
		want    trustv1.Outcome
		reason  string
		later   bool
		applies int
		staged  bool
	}{
		"applied, answer lost":     {false, func(w *world) { lost(w, true) }, done, "", false, 1, false},
		"not applied, answer lost": {false, func(w *world) { lost(w, false); w.target.manifest.LoginTries = 3 }, done, "", false, 2, false},
		"itself, answer lost":      {true, func(w *world) { lost(w, false) }, done, "", false, 2, false},
		"refused by the target's policy": {false, func(w *world) {
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, failed, "policy.history", false, 1, false},
		"account missing": {false, func(w *world) {
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}, nil
			}
		}, failed, "account.missing", false, 1, false},
		"busy is no refusal": {false, func(w *world) {
			w.target.manifest.LoginTries = 3
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassUnreachable, Reason: "target.busy"}, nil
			}
		}, pending, "target.busy", true, 2, true},
		"refused after an answer was lost: the lost one may still arrive": {false, func(w *world) {
			w.target.manifest.LoginTries = 3
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
					return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassConflict, Reason: "target.refused"}, nil
				}
				return sdk.ApplyResponse{}, errors.New("the answer was lost")
			}
		}, pending, "target.refused", true, 2, true},
		"verify undecided keeps both": {false, func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Reason: "locked"}, nil
			}
		}, pending, "locked", true, 1, true},
		"verify fails keeps both": {false, func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{}, errors.New("plugin died")
			}
		}, pending, "unreachable", true, 1, true},
		"the target lies about the change": {false, func(w *world) {
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
			}
		}, pending, "candidate.rejected", false, 1, true},
		"itself: both rejected stops and keeps both": {true, func(w *world) {
			lost(w, false)
			w.target.manifest.LoginTries = 4
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Verdict: sdk.Rejected}, nil
			}
		}, pending, "both_rejected", false, 1, true},
		"itself, refusals that nobody judges: applied again": {true, func(w *world) { lost(w, false); unjudged(w) }, done, "", false, 2, false},
		"refusals that nobody judges: applied again":         {false, func(w *world) { lost(w, false); unjudged(w); w.target.manifest.LoginTries = 3 }, done, "", false, 2, false},
		"refused by the target's policy, and nobody judges: kept": {false, func(w *world) {
			unjudged(w)
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, pending, "policy.history", true, 1, true},
		"itself, refused by the target's policy, and nobody judges: given up": {true, func(w *world) {
			unjudged(w)
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, failed, "policy.history", false, 1, false},
		"itself, refused, nobody judges, and the current one may live on: kept": {true, func(w *world) {
			unjudged(w)
			w.target.manifest.OldLives = time.Hour
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, pending, "policy.history", true, 2, true},
		"itself, refused, nobody judges, and the current one does not open: kept": {true, func(w *world) {
			w.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				w.target.secrets["app"] = r.Candidate.Secret.ExposeString()
				w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
					return sdk.VerifyResponse{Reason: "not_judged"}, nil
				}
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, pending, "policy.history", true, 1, true},
		"no login: a clear changed commits": {false, func(w *world) {
			w.target.manifest.NoLogin = true
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Reason: "no_login"}, nil
			}
		}, trustv1.Outcome_OUTCOME_UNVERIFIABLE, "", false, 1, false},
		"no login: a clear refusal gives it up": {false, func(w *world) {
			w.target.manifest.NoLogin = true
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Reason: "no_login"}, nil
			}
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}, failed, "policy.history", false, 1, false},
		"no login: refused after an answer was lost is kept": {false, func(w *world) {
			w.target.manifest.NoLogin = true
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Reason: "no_login"}, nil
			}
			w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
					return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
				}
				return sdk.ApplyResponse{}, errors.New("the answer was lost")
			}
		}, pending, "policy.history", true, 2, true},
		"no login that the plugin did not declare": {false, func(w *world) {
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Reason: "no_login"}, nil
			}
		}, pending, "no_login", true, 1, true},
		"rejected before the target has settled": {false, func(w *world) {
			w.target.manifest.Settle = time.Minute
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
				return sdk.VerifyResponse{Verdict: sdk.Rejected}, nil
			}
		}, pending, "replicating", true, 1, true},
	} {
		w := newWorld(t, c.self)
		c.set(w)
		out, err := w.run(seal.NewID())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if out.Credential != c.want || out.Reason != c.reason || out.Later != c.later {
			t.Errorf("%s: %+v", name, out)
		}
		if len(w.target.applied) != c.applies {
			t.Errorf("%s: applied %d times", name, len(w.target.applied))
		}
		for _, s := range w.target.applied {
			if s != w.target.applied[0] {
				t.Errorf("%s: a second candidate was applied", name)
			}
		}
		if staged := w.vault.records[w.account.Record].Staged != nil; staged != c.staged {
			t.Errorf("%s: staged %v", name, staged)
		}
		if !w.kept() {
			t.Errorf("%s: the secret that opens the target is lost", name)
		}
	}
}

// The same run is taken up after it ended at any of the vault's answers, by the
// same agent or another, and ends with one candidate.
func TestTakenUpAgain(t *testing.T) {
	for _, op := range []string{"stage", "commit"} {
		w := newWorld(t, false)
		w.target.manifest.LoginTries = 1 // the probe may fail; what was applied then must not
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = op, cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", op, err)
		}
		if !w.kept() {
			t.Fatalf("%s: lost", op)
		}
		w.later(time.Minute)
		if _, err := w.run(id); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		if !w.opens() || w.vault.records[w.account.Record].Staged != nil {
			t.Errorf("%s: the second run did not settle it", op)
		}
	}
}

// An agent that finds on its return that others went on with its run may have
// written to the target after them: it has the account looked at.
func TestOvertakenAgentAsksForVerify(t *testing.T) {
	interrupted := func(t *testing.T) (*world, seal.ID) {
		w := newWorld(t, false)
		id := seal.NewID()
		ctx, cancel := context.WithCancel(t.Context())
		w.vault.crash, w.vault.stop = "commit", cancel
		if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("the run was not interrupted: %v", err)
		}
		w.vault.state[id] = "finished" // by another agent
		w.vault.leases, w.target.logins = nil, 0
		return w, id
	}

	w, id := interrupted(t)
	w.target.secrets["app"] = "what this agent sent came late"
	out, err := w.run(id)
	if err != nil || out.Reason == "" || !slices.Equal(w.vault.leases, []string{"mandate", "recover"}) || w.target.logins != 1 {
		t.Errorf("%+v, %v: leases %v, %d logins", out, err, w.vault.leases, w.target.logins)
	}

	w, id = interrupted(t)
	w.vault.busy = true // the vault queues it, and another agent does it
	if out, err := w.run(id); err != nil || !slices.Equal(w.vault.leases, []string{"mandate", "recover"}) || w.target.logins != 0 {
		t.Errorf("%+v, %v: leases %v, %d logins", out, err, w.vault.leases, w.target.logins)
	}
	if runs, err := w.engine.Journal.OpenRuns(); err != nil || len(runs) != 0 {
		t.Errorf("the journal still has %v, %v", runs, err)
	}

	w, _ = interrupted(t) // one that this agent never began is not its business
	w.vault.state[seal.ID{9}] = "finished"
	if _, err := w.run(seal.ID{9}); err != nil || !slices.Equal(w.vault.leases, []string{"mandate"}) {
		t.Errorf("%v: leases %v", err, w.vault.leases)
	}
}

// How many runs a resource takes at once is its owner's word, up to what its plugin
// can serve.
func TestConcurrency(t *testing.T) {
	for _, c := range []struct {
		owner  uint32
		plugin int
		want   int
	}{
		{0, 64, usualConcurrency}, {0, 1, 1}, {1, 64, 1}, {32, 64, 32}, {64, 8, 8},
	} {
		w := newWorld(t, false)
		w.target.manifest.Concurrency = c.plugin
		r := w.resource()
		r.AdminAccount, r.Concurrency = w.admin.Proto(), c.owner
		w.putResource(r)
		if out, err := w.run(seal.NewID()); err != nil || out.Credential != done {
			t.Fatal(out, err)
		}
		if got := w.engine.Slots.limits[w.res.String()]; got != c.want {
			t.Errorf("owner says %d, plugin %d: %d at once, want %d", c.owner, c.plugin, got, c.want)
		}
	}
}

// A run waits for its turn before it takes the account's lease, and a wrong word about
// the resource changes nothing but the queue that it waits in.
func TestWaitsWithoutALease(t *testing.T) {
	for name, said := range map[string]func(*world) trust.Ref{
		"the resource":     func(w *world) trust.Ref { return w.res },
		"another resource": func(w *world) trust.Ref { return w.ref() },
		"nothing":          func(*world) trust.Ref { return trust.Ref{} },
	} {
		w := newWorld(t, false)
		resource := said(w)
		release, err := w.engine.Slots.Acquire(t.Context(), resource.String(), false)
		must(t, err)
		ended := make(chan error, 1)
		id := seal.NewID()
		w.vault.state[id] = "queued"
		go func() {
			out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.account, Resource: resource})
			if err == nil && out.Credential != done {
				err = errors.New(out.Reason)
			}
			ended <- err
		}()
		if !resource.IsZero() {
			w.waiting(resource)
			w.vault.mu.Lock()
			if w.vault.writes != 0 {
				t.Errorf("%s: the vault was asked for a lease while the run waited", name)
			}
			w.vault.mu.Unlock()
			release()
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ids of runs are the server's to choose: that one is in the journal allows no run of
// another account, and none by schedule where a command had begun it.
func TestRunIDAllowsNothing(t *testing.T) {
	w := newWorld(t, false)
	id := seal.NewID()
	ctx, cancel := context.WithCancel(t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if _, err := w.engine.Do(ctx, Job{ID: id, Account: w.account}); !errors.Is(err, context.Canceled) {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	out, err := w.engine.Do(t.Context(), Job{ID: id, Account: w.admin})
	if err != nil || out.Reason != string(trust.MandateOff) {
		t.Errorf("an account without a mandate, under the other's run: %+v, %v", out, err)
	}

	w = newWorld(t, false)
	begun := journal.Run{ID: id, Folder: w.admin.Folder, Account: w.admin.Record, Command: seal.NewID(), Started: w.now}
	must(t, w.engine.Journal.BeginRun(begun, false))
	out, err = w.run(id)
	if err == nil {
		t.Errorf("a run that the journal has for another account: %+v", out)
	}
	out, err = w.engine.Do(t.Context(), Job{ID: id, Account: w.admin})
	if err != nil || out.Reason != string(trust.MandateOff) {
		t.Errorf("by schedule what a command had begun: %+v, %v", out, err)
	}
}
