package proof

import (
	"context"
	"encoding/json"
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
	beside(t)
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

// Two persons' commands for one account reach two agents: the second comes while the first
// agent's run stands at a step of its work. One agent has the lease, the other waits for it,
// and both changes are made, one after the other.
func twoAgents(t *testing.T, w *matrix) {
	ctx := t.Context()
	c := contested(t, w, "two")
	w.comes(t, "Grace", "read,operate")
	for _, c.point = range []string{"before-lease", "before-stage", "before-apply", "before-verify", "before-commit"} {
		had := w.runs(t, c)
		w.stands(t, c)
		var hers error
		atOnce(func() {
			var o installation.Outcome
			if o, hers = w.Rotate(ctx, c.title, "--agent", w.second.Name, "--profile", "grace"); hers != nil {
				hers = fmt.Errorf("Grace's: %w: %+v", hers, o)
			}
		}, func() {
			w.haveCome(t, c, had+2)
			w.release(t)
		})
		if left := w.unsettled(ctx, []cell{c}, time.Now().Add(patienceToSettle)); len(left) > 0 || hers != nil {
			t.Fatalf("%v, %v\n%s", hers, left, w.tells(ctx, c))
		}
		if met, ended := w.newestMeet(t, c); !met || ended != [2]string{"done", "done"} {
			t.Errorf("%s: the runs met: %t; they ended as %s", c.point, met, ended)
		}
		if err := w.opens(ctx, c.kindOfTarget, c.title); err != nil {
			t.Fatalf("%v\n%s", err, w.tells(ctx, c))
		}
	}
	w.comesToRest(t, c)
}

// runs is how many runs an account has had.
func (w *matrix) runs(t *testing.T, c cell) int {
	t.Helper()
	var list struct{ Runs []json.RawMessage }
	must(t, w.JSON(t.Context(), &list, nil, "run", "list", "--account", c.title, "--all"))
	return len(list.Runs)
}

// haveCome waits until an account has had so many runs. One may have ended before anybody
// looks: where the first one has no lease yet, the second need not wait.
func (w *matrix) haveCome(t *testing.T, c cell, runs int) {
	t.Helper()
	p := pauses{}
	for end := time.Now().Add(time.Minute); w.runs(t, c) < runs; p.sleep() {
		if time.Now().After(end) {
			t.Errorf("%s has no second run", c.title)
			return
		}
	}
}

// newestMeet says whether one of an account's two newest runs was asked for while the other
// was under way, and how both ended.
func (w *matrix) newestMeet(t *testing.T, c cell) (met bool, ended [2]string) {
	t.Helper()
	var list struct {
		Runs []struct {
			Created, Finished time.Time
			Credential        string
		}
	}
	must(t, w.JSON(t.Context(), &list, nil, "run", "list", "--account", c.title, "--limit", "2"))
	if len(list.Runs) != 2 {
		t.Fatalf("%s has %d runs", c.title, len(list.Runs))
	}
	a, b := list.Runs[0], list.Runs[1]
	return a.Created.Before(b.Finished) && b.Created.Before(a.Finished), [2]string{a.Credential, b.Credential}
}

// A schedule fires while a person's run stands before apply, and at different distances from
// one that nobody holds. Whoever comes second waits, or finds that there is nothing to do any
// more.
func handAgainstSchedule(t *testing.T, w *matrix) {
	ctx := t.Context()
	for i, earlier := range []time.Duration{standing, -300, -100, 0, 100, 300} {
		// One that was not rotated yet: agents refuse a schedule soon after a change.
		c := cell{kindOfTarget: w.kinds[0], title: fmt.Sprint("scheduled", i), point: "before-apply"}
		must(t, c.add(c.title))
		must(t, w.opens(ctx, c.kindOfTarget, c.title))
		fires := time.Now().Add(6 * time.Second) // a program has to say so before
		if _, err := w.CLI(ctx, nil, "rotation", "set", c.title, "--at", fires.Format(time.RFC3339Nano), "--min-interval", "1m"); err != nil {
			t.Fatal(err)
		}
		if earlier == standing {
			w.stands(t, c)
			w.haveCome(t, c, 2)
			w.release(t)
		} else {
			time.Sleep(time.Until(fires.Add(-earlier * time.Millisecond)))
			if o, err := w.Rotate(ctx, c.title, "--agent", w.agent.Name); err != nil {
				t.Errorf("by hand: %v: %+v", err, o)
			}
		}
		var rotation struct{ State, Reason string }
		p := pauses{}
		for end := time.Now().Add(time.Minute); rotation.State != "done"; p.sleep() {
			must(t, w.JSON(ctx, &rotation, nil, "rotation", "show", c.title))
			if time.Now().After(end) {
				t.Fatalf("the schedule did not fire: %+v\n%s", rotation, w.tells(ctx, c))
			}
		}
		if left := w.unsettled(ctx, []cell{c}, time.Now().Add(patienceToSettle)); len(left) > 0 {
			t.Fatalf("%v\n%s", left, w.tells(ctx, c))
		}
		if w.runs(t, c) == 1 && earlier != standing {
			// By hand it ended at the moment of the schedule, before that had begun a run of its own.
			t.Logf("by hand %d ms before the schedule: that had nothing to do", earlier)
			w.comesToRest(t, c)
			continue
		}
		met, ended := w.newestMeet(t, c)
		if earlier == standing && !met {
			t.Error("the runs did not meet")
		}
		t.Logf("by hand %d ms before the schedule: %q; the runs met: %t, and ended as %s", earlier, rotation.Reason, met, ended)
		w.comesToRest(t, c)
	}
}

// standing is in place of a distance: the person's run stands until the schedule has fired.
const standing = time.Duration(2000)

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
	p := pauses{}
	for end := time.Now().Add(patienceToSettle); ; p.sleep() {
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
// is cut: its lease ends while it applies, the other agent takes the account over and stands
// before the same network, and then the first one's change arrives, with what the other sent.
func leaseEndsDuringApply(t *testing.T, w *matrix) {
	c := contested(t, w, "during")
	c.point = "before-apply"
	w.stands(t, c)
	each(w.targets, (*gate).stall)
	w.link.close()
	mark, first, taken := w.second.Mark(), w.agent.Mark(), w.takenOver(t)
	w.release(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.agent.WaitLog(ctx, first, `"msg":"run interrupted"`, "the lease can no longer be relied on"); err != nil {
		t.Fatal(err)
	}
	held := func() (n int64) {
		each(w.targets, func(g *gate) { n += g.holds() })
		return n
	}
	sent := held()
	if sent == 0 {
		t.Error("nothing was on its way")
	}
	for held() == sent || w.takenOver(t) == taken {
		if ctx.Err() != nil {
			t.Fatalf("the other does not come to the target: %s", w.second.Tail())
		}
		time.Sleep(20 * time.Millisecond) // a gate gives no signal
	}
	each(w.targets, func(g *gate) { g.flow() })
	if _, err := w.second.WaitLog(ctx, mark, `"msg":"run ended"`, `"credential":"done"`); err != nil {
		t.Fatal(err)
	}
	w.link.reopen()
	must(t, w.agent.WaitConnected(t.Context()))
	w.comesToRest(t, c)
}

// takenOver is how often an agent has taken an account over whose lease had run out.
func (w *matrix) takenOver(t *testing.T) int {
	t.Helper()
	var list struct{ Events []json.RawMessage }
	must(t, w.JSON(t.Context(), &list, nil, "events", "--name", "lease.taken_over", "--limit", "1000"))
	return len(list.Events)
}
