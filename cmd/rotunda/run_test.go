package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/client"
)

// A run that a person started and nobody has taken up says how long it waits for its
// agent; what it says of lateness is what the server's filter says.
func TestQueuedRuns(t *testing.T) {
	now := time.Now()
	c := &cli{p: &process{now: func() time.Time { return now }}}
	for name, test := range map[string]struct {
		run  client.Run
		look string
		line string
	}{
		"a person's":    {client.Run{Created: now, State: "queued", Until: now.Add(time.Minute)}, "", "waits until"},
		"a schedule's":  {client.Run{Created: now.Add(-14 * time.Minute), State: "queued", NextAttempt: now}, "", "next attempt"},
		"late, to come": {client.Run{Created: now.Add(-16 * time.Minute), State: "queued", NextAttempt: now.Add(time.Minute)}, "overdue", "next attempt"},
		"over":          {client.Run{Created: now.Add(-time.Hour), State: "finished", Finished: now}, "", "finished"},
	} {
		v := c.viewRun(test.run, "app")
		var out strings.Builder
		showRun(&out, v)
		if v.Look != test.look || !strings.Contains(out.String(), test.line) {
			t.Errorf("%s: look %q:\n%s", name, v.Look, out.String())
		}
		if waits := strings.Contains(out.String(), "waits until"); waits != (name == "a person's") {
			t.Errorf("%s:\n%s", name, out.String())
		}
	}
}

// A candidate that no agent could judge is cleared where a person says so, and nowhere else.
func TestAbandonAsks(t *testing.T) {
	unprobed := &client.Error{Class: client.Conflict, Reason: client.AbandonUnproven}
	unjudged := client.Outcome{State: client.StillOpen, Class: "conflict", Reason: "not_judged"}
	for name, row := range map[string]struct {
		out      client.Outcome
		err      error
		terminal bool
		answer   string
		unproven bool // by the flag
		asks     bool
		cleared  bool
	}{
		"no agent can probe it":          {err: unprobed, terminal: true, answer: "y\n", asks: true, cleared: true},
		"no agent could judge it":        {out: unjudged, terminal: true, answer: "y\n", asks: true, cleared: true},
		"and the person says no":         {out: unjudged, terminal: true, answer: "\n", asks: true},
		"and there is no person":         {out: unjudged},
		"and it was said beforehand":     {out: unjudged, terminal: true, answer: "y\n", unproven: true, cleared: true},
		"it was given up":                {out: client.Outcome{State: client.NotDone, Reason: "abandoned"}, terminal: true, answer: "y\n"},
		"the agent has not answered yet": {out: client.Outcome{State: client.OutcomeLost}, err: &client.Error{Class: client.Unknown, Reason: "no_result_yet"}, terminal: true, answer: "y\n"},
	} {
		p, _, stderr := fakeProcess(t)
		p.stdinTerminal, p.stdin = row.terminal, strings.NewReader(row.answer)
		cleared := false
		out, err := (&cli{p: p}).abandon(row.unproven, func(unproven, judged bool) (client.Outcome, error) {
			cleared = unproven
			if want := row.asks && row.err == nil && unproven; judged != want {
				t.Errorf("%s: judged: %v, want %v", name, judged, want)
			}
			return row.out, row.err
		})
		if cleared != row.cleared || out.State != row.out.State || !errors.Is(err, row.err) {
			t.Errorf("%s: cleared: %v, %+v, %v", name, cleared, out, err)
		}
		if asks := strings.Contains(stderr.String(), "clear it all the same") && strings.Contains(stderr.String(), client.AbandonMeans); asks != row.asks {
			t.Errorf("%s: %q", name, stderr)
		}
	}
}
