package proof

import (
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Rows in which the server loses what it has acknowledged, and the agents' own copies
// bring it back.

// ended asserts how a run ended, by its agent's line.
func ended(t *testing.T, line, credential, reason string) {
	t.Helper()
	if !strings.Contains(line, `"credential":"`+credential+`"`) || !strings.Contains(line, `"reason":"`+reason+`"`) {
		t.Errorf("the run ended otherwise than %s, %q: %s", credential, reason, line)
	}
}

func (w *hostileWorld) loseStaged(t *testing.T, r trust.Ref) {
	t.Helper()
	w.sql(t, "DELETE FROM staged WHERE org = 1 AND record_uid = ?", r.Record.Bytes())
}

func stagedDeleted(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	t.Run("while the agent works", func(t *testing.T) {
		since := w.now(t)
		_, line := w.midway(t, w.agent, title, "after-apply", func() { w.loseStaged(t, r) })
		ended(t, line, "done", "")
		w.toldBy(t, since, "candidate_lost_by_vault", trust.CandidateLostByVault, w.agent.Name)
		w.opensTarget(t, title)
	})
	t.Run("while the agent is down", func(t *testing.T) {
		run, since := w.interrupted(t, title, "after-apply", func() { w.loseStaged(t, r) })
		line := w.logged(t, since, w.agent, `"msg":"run ended"`, `"run":"`+run+`"`, `"credential"`)
		ended(t, line, "done", "")
		w.toldBy(t, since, "candidate_lost_by_vault", trust.CandidateLostByVault, w.agent.Name)
		w.opensTarget(t, title)
	})
	w.works(t, title)
}

func commitForgotten(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	forget := w.keepRecord(t, r)
	w.works(t, title)
	since := w.now(t)
	_, line := w.midway(t, w.agent, title, "before-lease", forget)
	ended(t, line, "done", "healed")
	w.toldBy(t, since, "record.refused", trust.ValueRollback, w.agent.Name)
	w.opensTarget(t, title)
	w.works(t, title)
}

func leaseGivenTwice(t *testing.T, w *hostileWorld) {
	title := w.account(t)
	w.works(t, title)
	r := w.ref(t, title)
	second := w.newcomer(t)
	w.newcomerWorks(t, second)

	since := w.now(t, second)
	var hidden, other sdk.Secret // the first agent's candidate, and what the second made meanwhile
	run, line := w.midway(t, w.agent, title, "before-apply", func() {
		hidden = w.candidate(t, r)
		first := w.keep(t, "lease", "org = 1 AND account_uid = ?", r.Record.Bytes())
		w.loseStaged(t, r)
		w.sql(t, "DELETE FROM lease WHERE org = 1 AND account_uid = ?", r.Record.Bytes())
		w.sql(t, "UPDATE run SET state = 'failed' WHERE org = 1 AND state NOT IN ('finished', 'failed', 'dropped') AND account_uid = ?", r.Record.Bytes())
		if o, err := w.Rotate(t.Context(), title, "--agent", second.Name); err != nil {
			t.Fatalf("rotate by %s: %v: %+v", second.Name, err, o)
		}
		w.opensTarget(t, title)
		var err error
		if other, err = w.Secret(t.Context(), title); err != nil {
			t.Fatal(err)
		}
		first()
		w.sql(t, "UPDATE run SET state = 'staged' WHERE org = 1 AND run_id = (SELECT run_id FROM lease WHERE org = 1 AND account_uid = ?)", r.Record.Bytes())
	})
	if _, err := seal.ParseID(run); err != nil {
		t.Fatal(err)
	}
	ended(t, line, "done", "")
	w.toldBy(t, since, "value_fork", trust.ValueFork, w.agent.Name)
	w.opensTarget(t, title)
	if hidden.Equal(other) {
		t.Fatal("both agents made the same value")
	}
	for who, s := range map[string]sdk.Secret{"the first agent's": hidden, "the second agent's": other} {
		if !w.vaultHas(t, title, s) {
			t.Errorf("%s value is neither the record's nor in its history", who)
		}
	}
	w.works(t, title)
}

// candidate is the secret that is staged for an account.
func (w *hostileWorld) candidate(t *testing.T, r trust.Ref) sdk.Secret {
	t.Helper()
	plain, err := seal.OpenGCM(w.loot(t, r).key, w.staged(t, r).data, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := record.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	pw, _ := rec.Text("password")
	return sdk.NewSecret(pw)
}

// vaultHas says whether a secret is an account's value, or in its history.
func (w *hostileWorld) vaultHas(t *testing.T, title string, s sdk.Secret) bool {
	t.Helper()
	present, err := w.Secret(t.Context(), title)
	if err != nil {
		t.Fatal(err)
	}
	var former struct{ History []struct{ Secret string } }
	if err := w.JSON(t.Context(), &former, nil, "record", "history", title, "--reveal"); err != nil {
		t.Fatal(err)
	}
	for _, h := range former.History {
		if s.Equal(sdk.NewSecret([]byte(h.Secret))) {
			return true
		}
	}
	return s.Equal(present)
}
