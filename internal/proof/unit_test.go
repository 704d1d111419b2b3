package proof

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
)

// The agent needs no more of root's power than the unit that we advise leaves it: with
// the unit's capabilities alone, and nothing to write to but the unit's folders, it
// rotates, and its plugins are shut in.
func TestRightsOfTheUnit(t *testing.T) {
	beside(t)
	if os.Geteuid() != 0 {
		t.Skip("left out: capabilities are root's to give up")
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	unit, err := os.ReadFile("../../examples/systemd/rotunda-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	list, _, _ := strings.Cut(rest, "\n")
	if !ok || len(strings.Fields(list)) < 2 {
		t.Fatal("the unit bounds no capabilities")
	}
	set := "-all"
	for _, c := range strings.Fields(list) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	w := newWorld(t)
	kinds := w.kindsOfTarget(t)
	w.agent.Stop()
	w.agent.Under = append(writableOnly(t, string(unit), w.agent.Dir), setpriv, "--inh-caps=-all", "--bounding-set="+set)
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Whatever root can have here.
	dir, err := os.MkdirTemp("", "rotunda-unit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // plugins' users must pass through
		t.Fatal(err)
	}
	catalogue, err := pluginhost.NewCatalogue(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := pluginhost.New(pluginhost.Config{Dir: filepath.Join(dir, "run"), Catalogue: catalogue})
	if err != nil {
		t.Fatal(err)
	}
	whole := host.Isolation().Note
	if err := host.Close(t.Context()); err != nil || whole != "" {
		t.Errorf("isolation with every capability: %q, %v", whole, err)
	}
	var h struct{ Isolation string }
	if _, body, err := w.agent.Health(t.Context()); err != nil || json.Unmarshal(body, &h) != nil || h.Isolation != whole {
		t.Errorf("isolation under the unit's capabilities: %q, with every one %q, %v", h.Isolation, whole, err)
	}
	for _, k := range kinds {
		title := strings.ReplaceAll(k.name, " ", "-")
		if err := k.add(title); err != nil {
			t.Fatal(err)
		}
		if o, err := w.Rotate(t.Context(), title); err != nil {
			t.Fatalf("%s: %v: %+v: %s", k.name, err, o, w.agent.Tail())
		}
		if err := w.opens(t.Context(), k, title); err != nil {
			t.Error(err)
		}
	}
}

// writableOnly runs a program as ProtectSystem=strict does: everything is read-only but
// state, which stands for the unit's StateDirectory, and its RuntimeDirectory.
func writableOnly(t *testing.T, unit, state string) []string {
	t.Helper()
	if !strings.Contains(unit, "\nProtectSystem=strict\n") {
		t.Fatal("the unit does not protect the system")
	}
	dirs := []string{state}
	for line := range strings.Lines(unit) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "RuntimeDirectory="); ok {
			dir := filepath.Join("/run", name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, dir)
		}
	}
	const script = `set -e
until [ "$1" = -- ]; do mount --bind "$1" "$1"; shift; done; shift
mount -o remount,bind,ro /
if findmnt -n /run >/dev/null; then mount -o remount,bind,ro /run; fi
if touch /run/rotunda-writable 2>/dev/null; then echo "/run can be written to" >&2; exit 1; fi
exec "$@"`
	under := append([]string{"unshare", "--mount", "sh", "-c", script, "sh"}, dirs...)
	return append(under, "--")
}
