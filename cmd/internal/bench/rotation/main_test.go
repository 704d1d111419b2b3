package main

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// Every work is measured once for a moment, so that none can rot, and every figure is
// one. None is judged.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: a whole installation is built and started")
	}
	targets.Longer(t)
	o := options{bin: os.Getenv("ROTUNDA_BIN"), rounds: 1, span: time.Second, works: slices.Clone(works)}
	if o.bin == "" {
		o.bin = t.TempDir()
		if err := installation.Build(o.bin); err != nil {
			t.Fatal(err)
		}
	}
	for i := range o.works {
		o.works[i].inFlight = []int{2}
		o.works[i].perSecond = [2]float64{4, 4}
	}
	r, err := measure(t.Context(), o)
	if errors.Is(err, targets.ErrUnavailable) {
		t.Skipf("no target here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(works) {
		t.Errorf("%d rows of %d", len(r.Rows), len(works))
	}
	for _, w := range r.Rows {
		if w.Ratio <= 0 || w.Requests <= 0 || w.ServerWrites <= 0 || w.JournalCommits <= 0 || w.Product.P50MS <= 0 || len(w.StepsMS) == 0 {
			t.Errorf("%s: nothing was measured: %+v", w.Work, w)
		}
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	columns := 0
	for line := range strings.Lines(out.String()) {
		n := strings.Count(line, "|")
		if columns == 0 || n == 0 {
			columns = n
		}
		if n != columns || strings.Contains(line, "NaN") {
			t.Errorf("no row of %d cells: %s", columns-1, line)
		}
	}
	t.Log("\n" + out.String())
}
