package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A lone command is judged by the echo at the median and at the 99th percentile.
func TestAimsOfACommand(t *testing.T) {
	c := &commandRow{InFlight: 1}
	c.Floor.P50MS, c.Product.P50MS = 0.15, 0.7
	c.Floor.P99MS, c.Product.P99MS = 0.59, 15.35
	var out bytes.Buffer
	if err := (&report{Commands: []*commandRow{c}}).print(&out); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"p50 ms | 0.15 | 0.70 | 4.67 | at most 0.75: reached |", "p99 ms | 0.59 | 15.35 | 26.02 | at most 1.19: missed |"} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no row %q in\n%s", row, out.String())
		}
	}
}

// TestMeasure runs the whole of it with a few agents, so that it works when it is needed.
// No figure is judged.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: a whole installation is built and started")
	}
	bin := os.Getenv("ROTUNDA_BIN")
	if bin == "" {
		bin = t.TempDir()
		if err := installation.Build(bin); err != nil {
			t.Fatal(err)
		}
	}
	const agents = 30
	r, err := measure(t.Context(), options{bin: bin, agents: agents, rounds: 1, span: 300 * time.Millisecond}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Commands {
		if c.Floor.PerSecond <= 0 || c.Product.PerSecond <= 0 || c.Product.P50MS <= 0 {
			t.Errorf("%d in flight: nothing was measured: %+v", c.InFlight, c)
		}
	}
	if len(r.Returns) != 2 || r.Returns[0].All <= 0 || r.Returns[1].All <= 0 || r.Returns[0].Busiest < 1 || r.Returns[0].Busiest > agents {
		t.Errorf("returns: %+v", r.Returns)
	}
	if r.Idle.Before.Resident <= 0 || r.Left.Resident <= 0 || r.RealAgent.Resident <= 0 {
		t.Errorf("memory: %+v, %+v, %+v", r.Idle, r.Left, r.RealAgent)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") != 6 {
			t.Errorf("no row of five: %s", line)
		}
	}
	t.Log("\n" + out.String())
}
