package proof

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The agent needs no more of root's power than the unit that we advise leaves it:
// with the unit's capabilities alone it rotates, and its plugins are shut in.
func TestCapabilitiesOfTheUnit(t *testing.T) {
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
	w.agent.Under = []string{setpriv, "--inh-caps=-all", "--bounding-set=" + set}
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var h struct{ Isolation string }
	if _, body, err := w.agent.Health(t.Context()); err != nil || json.Unmarshal(body, &h) != nil || h.Isolation != "" {
		t.Errorf("isolation under the unit's capabilities: %q, %v", h.Isolation, err)
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
