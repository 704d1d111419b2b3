package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// An agent dies for good in the middle of a run, with its new secret staged, and is
// removed. By documented commands alone the account comes home: the vault's secret opens
// the target, the other one is in the record's history, and the next rotation is clean.
func TestCandidateOfRemovedAgent(t *testing.T) {
	beside(t)
	w := newWorld(t, "fault")
	next := 2
	for _, k := range w.kindsOfTarget(t) {
		for _, point := range []string{"before-apply", "after-apply"} {
			title := strings.ReplaceAll(k.name, " ", "-") + "-" + point
			t.Run(title, func(t *testing.T) {
				if err := k.add(title); err != nil {
					t.Fatal(err)
				}
				if o, err := w.Rotate(t.Context(), title); err != nil {
					t.Fatalf("the honest case: %v: %+v", err, o)
				}
				run, candidate := w.dies(t, title, point)
				w.removeDead(t, title, run)
				heir, err := w.AddAgent(t.Context(), fmt.Sprintf("gw%d", next), installation.Pool)
				next++
				if err != nil {
					t.Fatal(err)
				}
				w.agent = heir
				w.comesHome(t, k, title, run, candidate, point == "after-apply" && k.kind == sdk.Password)
			})
		}
	}
}

// dies rotates an account, and the agent is killed on the way and does not come back.
func (w *world) dies(t *testing.T, title, point string) (run, candidate string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.agent.Fault, point), []byte("kill"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := w.Rotate(t.Context(), title, "--no-wait")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.agent.Done():
	case <-time.After(time.Minute):
		t.Fatalf("the agent did not come to %s: %s", point, w.agent.Tail())
	}
	w.away(t)
	return o.RunID, w.candidate(t, title, o.RunID)
}

// away waits until the server has noticed that the agent is gone.
func (w *world) away(t *testing.T) {
	t.Helper()
	p := pauses{}
	for end := time.Now().Add(time.Minute); ; p.sleep() {
		list, err := w.reader.Agents(t.Context(), seal.ID{})
		must(t, err)
		for _, a := range list {
			if a.Name == w.agent.Name && !a.Connected {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not notice that the agent is gone: %+v", list)
		}
	}
}

// candidate is the secret that a run made, as `record get --candidate` shows it.
func (w *world) candidate(t *testing.T, title, run string) string {
	t.Helper()
	var shown struct{ Why, Secret string }
	if err := w.JSON(t.Context(), &shown, nil, "record", "get", title, "--candidate", run, "--reveal"); err != nil || shown.Secret == "" {
		t.Fatalf("the candidate is not shown: %v", err)
	}
	return shown.Secret
}

// removeDead removes the agent that is gone: its plan names the account, and --yes is
// not enough.
func (w *world) removeDead(t *testing.T, title, run string) {
	t.Helper()
	ctx := t.Context()
	var plan struct {
		Candidates []struct {
			Title string
			RunID string `json:"run_id"`
		}
	}
	if err := w.JSON(ctx, &plan, nil, "agent", "remove", w.agent.Name, "--plan"); err != nil {
		t.Fatal(err)
	}
	if len(plan.Candidates) != 1 || plan.Candidates[0].Title != title || plan.Candidates[0].RunID != run {
		t.Errorf("the plan lists the candidates %+v, want that of %s", plan.Candidates, title)
	}
	if _, err := w.CLI(ctx, nil, "run", "abandon", run, "--json"); reasonOf(err) != "abandon_unproven" {
		t.Errorf("without an agent, run abandon ends by %q: %v", reasonOf(err), err)
	}
	if _, err := w.CLI(ctx, nil, "agent", "remove", w.agent.Name, "--yes", "--json"); reasonOf(err) != "not_confirmed" {
		t.Errorf("agent remove --yes ends by %q: %v", reasonOf(err), err)
	}
	if _, err := w.CLI(ctx, nil, "agent", "remove", w.agent.Name, "--yes", "--leave-candidates", "--no-rekey", "--no-rotate"); err != nil {
		t.Fatal(err)
	}
}

// comesHome has another agent of the pool settle it.
func (w *world) comesHome(t *testing.T, k kindOfTarget, title, run, candidate string, live bool) {
	t.Helper()
	ctx := t.Context()
	if _, err := w.CLI(ctx, nil, "run", "abandon", run, "--yes", "--json", "--wait", "60s"); reasonOf(err) != "abandon_unproven" {
		t.Errorf("--yes clears it by itself: %q, %v", reasonOf(err), err)
	}
	out, err := w.CLI(ctx, nil, "run", "abandon", run, "--unproven", "--json", "--wait", "60s")
	want := map[bool]string{true: "candidate_kept", false: "abandoned"}[live]
	if !strings.Contains(string(out), `"reason":"`+want+`"`) {
		t.Errorf("run abandon --unproven ends otherwise than by %s: %s %v: %s", want, out, err, w.agent.Tail())
	}
	if err := w.opens(ctx, k, title); err != nil {
		t.Fatal(err)
	}
	if got := w.candidate(t, title, run); got != candidate {
		t.Error("the candidate is not in the record's history")
	}
	if r, err := w.Record(ctx, title); err != nil || r.Candidate != nil || r.State != "in_use" {
		t.Errorf("the record is %+v, %v", r, err)
	}
	if o, err := w.Rotate(ctx, title); err != nil {
		t.Fatalf("the next rotation: %v: %+v", err, o)
	}
	if err := w.opens(ctx, k, title); err != nil {
		t.Fatal(err)
	}
	if got := w.candidate(t, title, run); got != candidate {
		t.Error("after a rotation, the candidate is not in the record's history")
	}
}
