package main

import (
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
