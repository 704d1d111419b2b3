package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// Every plugin and every figure, with small numbers, so that none can rot.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds plugins and starts servers")
	}
	targets.Longer(t)
	if os.Getuid() != 0 {
		t.Skip("accounts of an sshd, and a domain controller, need root")
	}
	t.Chdir("../../../..")
	o := options{bin: os.Getenv("ROTUNDA_BIN"), plugins: []string{"ad", "ldap", "mysql", "postgres", "redis", "ssh"}, rounds: 1, span: 200 * time.Millisecond, accounts: most, starts: 1}
	if o.bin == "" {
		o.bin = filepath.Join(t.TempDir(), "bin")
		if err := installation.Build(o.bin); err != nil {
			t.Fatal(err)
		}
	}
	r, err := measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(o.plugins)*len(inFlight) || len(r.Cold) != len(o.plugins) || len(r.Process.calls) != calls || len(r.Process.bareCalls) != calls {
		t.Errorf("%d rows, %d cold, %d calls", len(r.Rows), len(r.Cold), len(r.Process.calls))
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil || strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Errorf("%v: %s", err, &out)
	}
}
