package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Two who work on one account at a time. Each test shows the honest case first: either
// of them alone.

// contested is an account that both agents of a pool have rotated.
func contested(t *testing.T, w *matrix, title string) cell {
	t.Helper()
	c := cell{kindOfTarget: w.kinds[0], title: title}
	must(t, c.add(title))
	for _, a := range []*installation.Agent{w.agent, w.second} {
		w.rotatesBy(t, c, a)
	}
	return c
}

func (w *matrix) rotatesBy(t *testing.T, c cell, a *installation.Agent) {
	t.Helper()
	must(t, a.WaitConnected(t.Context())) // it may have been away
	if o, err := w.Rotate(t.Context(), c.title, "--agent", a.Name); err != nil {
		t.Fatalf("rotate by %s: %v: %+v: %s", a.Name, err, o, a.Tail())
	}
	must(t, w.opens(t.Context(), c.kindOfTarget, c.title))
}

// comesToRest asserts that nothing is left of a race: it has settled, the vault's secret
// opens the target, and both agents can rotate the account.
func (w *matrix) comesToRest(t *testing.T, c cell) {
	t.Helper()
	ctx := t.Context()
	if left := w.unsettled(ctx, []cell{c}, time.Now().Add(patienceToSettle)); len(left) > 0 {
		t.Fatalf("%v\n%s", left, w.tells(ctx, c))
	}
	if err := w.opens(ctx, c.kindOfTarget, c.title); err != nil {
		t.Fatalf("%v\n%s", err, w.tells(ctx, c))
	}
	w.rotatesBy(t, c, w.agent)
	w.rotatesBy(t, c, w.second)
}

// atOnce runs functions at the same time.
func atOnce(all ...func()) {
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(f)
	}
	wg.Wait()
}

func TestRaces(t *testing.T) {
	t.Parallel()
	w := newContested(t, "fault")
	for _, race := range []struct {
		name string
		run  func(*testing.T, *matrix)
	}{
		{"two agents", twoAgents},
		{"by hand against the schedule", handAgainstSchedule},
		{"an agent that was stopped applies late", appliesLate},
		{"the lease ends during apply", leaseEndsDuringApply},
		{"what would be told of it", storyIsTold},
	} {
		t.Run(race.name, func(t *testing.T) { race.run(t, w) })
	}
}

// Two persons' commands for one account reach two agents at the same time: one agent has
// the lease, the other waits for it, and both changes are made, one after the other.
func twoAgents(t *testing.T, w *matrix) {
	c := contested(t, w, "two")
	for range 5 {
		var errs [2]error
		by := func(n int, a *installation.Agent) func() {
			return func() {
				o, err := w.Rotate(t.Context(), c.title, "--agent", a.Name)
				if err != nil {
					errs[n] = fmt.Errorf("by %s: %w: %+v", a.Name, err, o)
				}
			}
		}
		atOnce(by(0, w.agent), by(1, w.second))
		if err := errors.Join(errs[:]...); err != nil {
			t.Error(err)
		}
		if err := w.opens(t.Context(), c.kindOfTarget, c.title); err != nil {
			t.Fatalf("%v\n%s", err, w.tells(t.Context(), c))
		}
	}
	w.comesToRest(t, c)
}

// A schedule fires while a person rotates, at different distances from each other. Whoever
// comes second waits, or finds that there is nothing to do any more.
func handAgainstSchedule(t *testing.T, w *matrix) {
	ctx := t.Context()
	for i, earlier := range []time.Duration{-300, -100, 0, 100, 300} {
		// One that was not rotated yet: agents refuse a schedule soon after a change.
		c := cell{kindOfTarget: w.kinds[0], title: fmt.Sprint("scheduled", i)}
		must(t, c.add(c.title))
		must(t, w.opens(ctx, c.kindOfTarget, c.title))
		fires := time.Now().Add(2 * time.Second)
		if _, err := w.CLI(ctx, nil, "rotation", "set", c.title, "--at", fires.Format(time.RFC3339Nano), "--min-interval", "1m"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(fires.Add(-earlier * time.Millisecond)))
		if o, err := w.Rotate(ctx, c.title, "--agent", w.agent.Name); err != nil {
			t.Errorf("by hand: %v: %+v", err, o)
		}
		var rotation struct{ State, Reason string }
		for end := time.Now().Add(time.Minute); rotation.State != "done"; time.Sleep(100 * time.Millisecond) {
			must(t, w.JSON(ctx, &rotation, nil, "rotation", "show", c.title))
			if time.Now().After(end) {
				t.Fatalf("the schedule did not fire: %+v\n%s", rotation, w.tells(ctx, c))
			}
		}
		t.Logf("by hand %d ms before the schedule: %q", earlier, rotation.Reason)
		w.comesToRest(t, c)
	}
}

// An agent is stopped just before it applies a candidate. The other takes the same
// candidate up and commits it, and rotates the account once more. Then the first goes on:
// what it has in hand may not reach the target any more.
func appliesLate(t *testing.T, w *matrix) {
	c := contested(t, w, "late")
	c.point = "before-apply"
	w.stands(t, c)
	must(t, w.agent.Pause())
	if left := w.unsettled(t.Context(), []cell{c}, time.Now().Add(patienceToSettle)); len(left) > 0 {
		t.Fatalf("the other does not take over: %v\n%s", left, w.tells(t.Context(), c))
	}
	w.rotatesBy(t, c, w.second)
	mark := w.agent.Mark()
	w.release(t)
	must(t, w.agent.Resume())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.agent.WaitLog(ctx, mark, `"msg":"run interrupted"`, "the lease can no longer be relied on"); err != nil {
		t.Fatal(err)
	}
	must(t, w.opens(t.Context(), c.kindOfTarget, c.title))
	// It does not know that it sent nothing, and has the account looked at.
	w.verifiedAfterwards(t, c)
	w.comesToRest(t, c)
}

// The story of an account tells how it stands at vault, agents and target, and no secret.
func storyIsTold(t *testing.T, w *matrix) {
	for n, k := range w.kinds {
		c := cell{kindOfTarget: k, title: fmt.Sprint("told", n), point: "before-verify"}
		must(t, c.add(c.title))
		for _, a := range []*installation.Agent{w.agent, w.second} {
			w.rotatesBy(t, c, a)
		}
		w.stands(t, c)
		story := w.tells(t.Context(), c)
		w.release(t)
		w.comesToRest(t, c)
		t.Log(story)
		current := "REFUSED"
		if k.kind == sdk.SSHKey { // which is ended by a later step
			current = "accepted"
		}
		for _, words := range []string{
			"the vault's current value: " + current, "the candidate of run ", ": accepted", "(replaced): REFUSED", // asked of the target
			"table staged", "owner_kind=agent", "state:         staged", // of the vault
			"journal of gw1", "staged and no end known: value 4", "log of gw1", "run.staged",
		} {
			if !strings.Contains(story, words) {
				t.Errorf("the story of the %s does not tell %q", k.name, words)
			}
		}
		var all struct{ History []struct{ Secret string } }
		must(t, w.JSON(t.Context(), &all, nil, "record", "history", c.title, "--reveal"))
		if len(all.History) < 3 {
			t.Errorf("the history of the %s has %d values", k.name, len(all.History))
		}
		for _, h := range all.History {
			lines := strings.Split(strings.TrimSpace(h.Secret), "\n")
			if line := lines[len(lines)/2]; len(line) < 8 || strings.Contains(story, line) {
				t.Errorf("the story of the %s holds a secret", k.name)
			}
		}
	}
}

// verifiedAfterwards waits for the verify that an agent asks for which finds its lease
// taken, and holds that it found all well.
func (w *matrix) verifiedAfterwards(t *testing.T, c cell) {
	t.Helper()
	var list struct{ Runs []json.RawMessage }
	for end := time.Now().Add(patienceToSettle); ; time.Sleep(100 * time.Millisecond) {
		must(t, w.JSON(t.Context(), &list, nil, "run", "list", "--account", c.title))
		for _, raw := range list.Runs {
			var r struct{ Action, Cause, State, Credential string }
			must(t, json.Unmarshal(raw, &r))
			if r.Cause == "recover" && r.State == "finished" && r.Credential == "done" {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no verify was asked for: %s", list.Runs)
		}
	}
}

// The target's network holds what an agent sends it, and the agent's link to the server
// is cut: its lease ends while it applies, the other agent takes the candidate up, and
// the first one's change arrives in the middle of that.
func leaseEndsDuringApply(t *testing.T, w *matrix) {
	c := contested(t, w, "during")
	c.point = "before-apply"
	w.stands(t, c)
	each(w.targets, (*gate).stall)
	w.link.close()
	mark, first := w.second.Mark(), w.agent.Mark()
	w.release(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.agent.WaitLog(ctx, first, `"msg":"run interrupted"`, "the lease can no longer be relied on"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // the other has been told, and stands before the same network
	var held int64
	each(w.targets, func(g *gate) { held += g.flow() })
	if held == 0 {
		t.Error("nothing was on its way")
	}
	if _, err := w.second.WaitLog(ctx, mark, `"msg":"run ended"`, `"credential":"done"`); err != nil {
		t.Fatal(err)
	}
	w.link.reopen()
	must(t, w.agent.WaitConnected(t.Context()))
	w.comesToRest(t, c)
}
