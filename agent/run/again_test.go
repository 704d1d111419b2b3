package run

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// deafVault does everything but hear how a run ended.
type deafVault struct {
	*memoryVault
	answer func() error
}

func (v deafVault) Report(context.Context, ksm.ReportRequest) error { return v.answer() }

// unfinished is a run of the agent's that staged its candidate and broke off. Since then
// the target takes neither secret: each look at the account is a failed login.
func (w *world) unfinished(job Job) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.vault.crash, w.vault.stop = "stage", cancel
	if _, err := w.engine.Do(ctx, job); !errors.Is(err, context.Canceled) {
		w.t.Fatalf("the run was not interrupted: %v", err)
	}
	w.target.secrets["app"] = "set by hand"
	w.later(trust.StartGap + time.Second)
}

// deaf has the vault refuse what it is told of a run's end: so the run has none.
func (w *world) deaf() {
	w.engine.Vault = deafVault{w.vault, func() error { return ksm.Refuse(ksm.CodeEpochOld, "the lease has moved on") }}
}

// That a run has not ended is the server's word, and each time that an agent takes one up
// again may cost the account a failed login: the server gets one in a while, by however
// many runs it tries.
func TestRunsAreNotTakenUpAtWill(t *testing.T) {
	for name, hostile := range map[string]func(w *world) (again func() error){
		"the report is refused": func(w *world) func() error {
			job := Job{ID: seal.NewID(), Account: w.account}
			w.unfinished(job)
			w.deaf()
			job.Again = true
			return func() error { return w.do(t.Context(), job) }
		},
		"the report is refused, and the run announced": func(w *world) func() error {
			job := Job{ID: seal.NewID(), Account: w.account}
			w.unfinished(job)
			w.deaf()
			return func() error { return w.do(t.Context(), job) }
		},
		"the report is not answered": func(w *world) func() error {
			job := Job{ID: seal.NewID(), Account: w.account}
			w.unfinished(job)
			return func() error {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				w.engine.Vault = deafVault{w.vault, func() error { cancel(ErrLeaseLost); return errors.New("no answer") }}
				return w.do(ctx, job)
			}
		},
		"the report on a person's run is refused": func(w *world) func() error {
			id := seal.NewID()
			job := Job{ID: id, Account: w.account, Command: w.command(trustv1.Action_ACTION_ROTATE, id)}
			w.unfinished(job)
			w.deaf()
			job.Again = true
			return func() error { return w.do(t.Context(), job) }
		},
		"the report on what a person wanted given up is refused": func(w *world) func() error {
			job := Job{ID: seal.NewID(), Account: w.account}
			w.unfinished(job)
			w.deaf()
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{Reason: "locked"}, nil }
			job.Command = w.command(trustv1.Action_ACTION_CANCEL, job.ID)
			if err := w.do(t.Context(), job); !errors.Is(err, ErrLeaseLost) {
				t.Fatal(err)
			}
			job.Again = true
			return func() error { return w.do(t.Context(), job) }
		},
		"a run is said to have ended": func(w *world) func() error {
			job := Job{ID: seal.NewID(), Account: w.account}
			w.unfinished(job)
			w.deaf()
			w.vault.state[job.ID] = "finished"
			return func() error { return w.do(t.Context(), job) }
		},
		"a person's run is announced, and said to have ended": func(w *world) func() error {
			id := seal.NewID()
			w.unfinished(Job{ID: id, Account: w.account, Command: w.command(trustv1.Action_ACTION_ROTATE, id)})
			w.deaf()
			w.vault.state[id] = "finished"
			return func() error { return w.do(t.Context(), Job{ID: id, Account: w.account}) }
		},
		"one of many runs": func(w *world) func() error {
			w.deaf()
			var jobs []Job
			for range 12 {
				jobs = append(jobs, Job{ID: seal.NewID(), Account: w.account})
				if len(jobs) == 1 {
					w.engine.Vault = w.vault
					w.unfinished(jobs[0])
					w.deaf()
				} else if err := w.do(t.Context(), jobs[len(jobs)-1]); !errors.Is(err, ErrLeaseLost) {
					t.Fatal(err)
				}
				w.later(trust.StartGap + time.Second)
			}
			next := 0
			return func() error {
				next++
				return w.do(t.Context(), jobs[next%len(jobs)])
			}
		},
		"what is left of the last commit's": func(w *world) func() error {
			w.target.manifest.Overlap = []sdk.Kind{sdk.Password}
			id := seal.NewID()
			if out, err := w.run(id); err != nil || out.Credential != done {
				t.Fatalf("%+v, %v", out, err)
			}
			return func() error {
				w.vault.state[id] = "queued"
				return w.do(t.Context(), Job{ID: id, Account: w.account})
			}
		},
		"the last commit's, to be verified": func(w *world) func() error {
			id := seal.NewID()
			if out, err := w.run(id); err != nil || out.Credential != done {
				t.Fatalf("%+v, %v", out, err)
			}
			w.target.secrets["app"], w.vault.action = "set by hand", "verify"
			return func() error {
				w.vault.state[id] = "queued"
				return w.do(t.Context(), Job{ID: id, Account: w.account})
			}
		},
		"it was restored, and has lost a candidate that nobody can judge": func(w *world) func() error {
			w.keepsAnothers()
			w.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{Reason: "not_judged"}, nil }
			return func() error {
				return w.do(t.Context(), Job{ID: seal.NewID(), Account: w.account, Recover: true})
			}
		},
	} {
		w := newWorld(t, true)
		again := hostile(w)
		tries := func(do func()) int {
			before := w.target.opens + w.target.logins
			do()
			return w.target.opens + w.target.logins - before
		}
		for i := range 3 {
			if n := tries(func() { _ = again() }); n == 0 || n > 2 {
				t.Fatalf("%s, time %d: %d logins", name, i, n)
			}
			if n := tries(func() {
				for range 10 {
					_ = again()
				}
			}); n > 0 {
				t.Errorf("%s, time %d: %d more logins without any time passing", name, i, n)
			}
			w.later(trust.StartGap + time.Second)
		}
	}
}

// do is Engine.Do, of which only the error is asked for.
func (w *world) do(ctx context.Context, job Job) error {
	_, err := w.engine.Do(ctx, job)
	return err
}

// An id is the server's to choose: the run that has it says nothing of another account.
func TestAnotherAccountsRunIsNotGoneOnWith(t *testing.T) {
	w := newWorld(t, true)
	id := seal.NewID()
	w.unfinished(Job{ID: id, Account: w.account})
	w.vault.state[id] = "finished"
	w.vault.leases = nil
	if err := w.do(t.Context(), Job{ID: id, Account: w.admin}); err != nil || len(w.vault.leases) != 1 || w.target.opens+w.target.logins > 1 {
		t.Errorf("%v: leases %v, %d sessions, %d logins", err, w.vault.leases, w.target.opens, w.target.logins)
	}
}
