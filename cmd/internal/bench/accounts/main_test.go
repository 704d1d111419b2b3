package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// Every part runs with small numbers, so that it cannot rot, and every figure is one.
func TestEveryPart(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts servers and agents")
	}
	targets.Longer(t)
	o := options{bin: os.Getenv("ROTUNDA_BIN"), accounts: 100, due: 20, overdue: 200, changes: 100, resources: 6, idle: 200 * time.Millisecond, seconds: 1}
	if o.bin == "" {
		o.bin = t.TempDir()
		if err := installation.Build(o.bin); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			o := o
			o.parts = []string{p.name}
			r, err := measure(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Tables) == 0 {
				t.Fatal("nothing was measured")
			}
			var out bytes.Buffer
			if err := r.print(&out); err != nil {
				t.Fatal(err)
			}
			if text := out.String(); strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
				t.Error(text)
			}
			for _, table := range r.Tables {
				if len(table.Rows) == 0 {
					t.Errorf("%s: an empty table", table.Title)
				}
				for _, row := range table.Rows {
					if len(row) != len(table.Columns) {
						t.Errorf("%s: %q has %d cells, the table %d columns", table.Title, row, len(row), len(table.Columns))
					}
				}
			}
		})
	}
}

// What grows and shrinks again has grown.
func TestGrowthOfTheMiddle(t *testing.T) {
	var steps []growth
	for i, p50 := range []time.Duration{408, 654, 474} {
		steps = append(steps, growth{accounts: 1000 * (i + 1), p50: p50 * time.Millisecond, p99: time.Second})
	}
	verdicts := map[string]string{}
	for _, row := range growthTable(steps, 0).Rows {
		verdicts[row[0]] = strings.Join(row[len(row)-2:], ", ")
	}
	for metric, want := range map[string]string{"due to verified, p50": "1.60, at most 1.25: missed", "due to verified, p99": "1.00, at most 1.25"} {
		if verdicts[metric] != want {
			t.Errorf("%s: %q, want %q", metric, verdicts[metric], want)
		}
	}
}

// A log costs a few times what its signatures cost, at either size.
func TestAimOfTheLog(t *testing.T) {
	step := logStep{bare: time.Second, agent: 2 * time.Second, enrol: 2 * time.Second, first: 7 * time.Second}
	worse := step
	worse.enrol = 6 * time.Second
	verdicts := map[string]string{}
	for _, row := range logTable([]logStep{worse, step}).Rows {
		verdicts[row[0]] = row[len(row)-1]
	}
	for metric, want := range map[string]string{
		"agent, start to taking commands": "a few (at most 5)", "new agent, enrolment": "a few (at most 5): missed",
		"the first command to it, by the command line": "–", // of which nothing is asked
	} {
		if verdicts[metric] != want {
			t.Errorf("%s: %q, want %q", metric, verdicts[metric], want)
		}
	}
}

func TestUnknownPart(t *testing.T) {
	if _, err := measure(t.Context(), options{parts: []string{"everything"}}); err == nil || !strings.Contains(err.Error(), "scheduled, due") {
		t.Errorf("%v", err)
	}
}
