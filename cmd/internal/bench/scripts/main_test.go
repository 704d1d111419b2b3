package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// Every figure, with small numbers, so that none can rot.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	targets.Longer(t)
	o := options{bin: os.Getenv("ROTUNDA_BIN"), calls: 10, flight: 4, long: 100}
	if o.bin == "" {
		o.bin = filepath.Join(t.TempDir(), "bin")
		t.Chdir("../../../..")
		if err := installation.Build(o.bin); err != nil {
			t.Fatal(err)
		}
	}
	r, err := measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.FirstP50 <= 0 || r.AgainP50 <= 0 || r.BareP50 <= 0 || r.SmallP50 <= 0 || r.FlightPerSecond <= 0 || r.LastKB <= 0 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil || strings.Contains(out.String(), "NaN") {
		t.Errorf("%v: %s", err, &out)
	}
}
