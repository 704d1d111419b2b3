package policy_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

func TestReaches(t *testing.T) {
	for _, c := range []struct {
		name, text, addr string
		want             bool
	}{
		{"no file reaches a private network", "", "10.1.2.3", true},
		{"no file does not reach cloud metadata", "", "169.254.169.254", false},
		{"nor in its mapped form", "", "::ffff:169.254.169.254", false},
		{"nor link-local with a zone", "", "fe80::1%eth0", false},
		{"a named allow may", `networks.allow = ["169.254.169.254"]`, "169.254.169.254", true},
		{"an allow list admits only what it names", `networks.allow = ["10.0.0.0/8"]`, "192.168.0.1", false},
		{"deny wins", "[networks]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]", "10.1.0.1", false},
		{"host bits in a network do not matter", `networks.allow = ["10.9.9.9/8"]`, "10.1.2.3", true},
	} {
		p, err := policy.Parse(c.text)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := p.Reaches(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s: reaches %s: %v", c.name, c.addr, got)
		}
	}
}

func TestPermits(t *testing.T) {
	p, err := policy.Parse(`actions.allow = ["verify"]`)
	if err != nil {
		t.Fatal(err)
	}
	if p.Permits("rotate") || !p.Permits("verify") {
		t.Error("the action list is not kept")
	}
	if none, err := policy.Parse(`actions.allow = []`); err != nil || none.Permits("verify") {
		t.Error("an empty action list allows something")
	}
	if !policy.Default().Permits("rotate") {
		t.Error("no file forbids an action")
	}
}

func TestBrokenFilesAreErrors(t *testing.T) {
	for _, text := range []string{
		`networks.alow = ["10.0.0.0/8"]`,                 // a misspelt rule must not be skipped
		"[networks]\ndeny = [\"10.0.0.0/8\"]\nDeny = []", // nor one of two that differ by their case
		`networks.deny = ["10.0.0.0/33"]`,
		`networks.deny = ["db.example"]`,
		`actions.allow = ["rotat"]`,
		`networks = `,
	} {
		if _, err := policy.Parse(text); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
	if _, err := policy.Load(filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Errorf("an absent file: %v", err)
	}
}
