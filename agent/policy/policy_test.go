package policy_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

func TestReach(t *testing.T) {
	const deny10 = `networks.deny = ["10.0.0.0/8"]`
	for _, c := range []struct {
		name, text, addr string
		refused          string // "": it is reached
	}{
		{"no file reaches a private network", "", "10.1.2.3", ""},
		{"no file does not reach cloud metadata", "", "169.254.169.254", "networks.allow"},
		{"nor in its mapped form", "", "::ffff:169.254.169.254", "networks.allow"},
		{"nor link-local with a zone", "", "fe80::1%eth0", "networks.allow"},
		{"nor that of pods", "", "fd00:ec2::23", "networks.allow"},
		{"nor that outside the link-local ranges", "", "192.0.0.192", "networks.allow"},
		{"nor that of Azure's host", "", "168.63.129.16", "networks.allow"},
		{"nor that of IPv6 alone", "", "fd00:c1::a9fe:a9fe", "networks.allow"},
		{"a named allow may", `networks.allow = ["169.254.169.254"]`, "169.254.169.254", ""},
		{"an allow list admits only what it names", `networks.allow = ["10.0.0.0/8"]`, "192.168.0.1", "not in networks.allow"},
		{"an empty one admits nothing", `networks.allow = []`, "10.1.2.3", "not in networks.allow"},
		{"nor cloud metadata", `networks.allow = []`, "169.254.169.254", "not in networks.allow"},
		{"deny wins", "[networks]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]", "10.1.0.1", "networks.deny"},
		{"host bits in a network do not matter", `networks.allow = ["10.9.9.9/8"]`, "10.1.2.3", ""},
		{"a rule in the mapped form is one for IPv4", `networks.deny = ["::ffff:10.1.0.0/112"]`, "10.1.2.3", "networks.deny"},
		{"an address in it, too", `networks.allow = ["::ffff:10.1.2.3"]`, "10.1.2.3", ""},
		{"not a wider one", `networks.deny = ["::/0"]`, "10.1.2.3", ""},

		{"NAT64 to cloud metadata", "", "64:ff9b::169.254.169.254", "it leads to 169.254.169.254, which is an address"},
		{"NAT64 to what is denied", deny10, "64:ff9b::10.1.2.3", "it leads to 10.1.2.3, which is in networks.deny"},
		{"NAT64 to what is not", deny10, "64:ff9b::192.0.2.1", ""},
		{"NAT64 by its own name", `networks.allow = ["64:ff9b::/96"]`, "64:ff9b::10.1.2.3", ""},
		{"NAT64 by its own name, to what is denied", "[networks]\nallow = [\"64:ff9b::/96\"]\ndeny = [\"10.0.0.0/8\"]", "64:ff9b::10.1.2.3", "networks.deny"},
		{"an IPv4 network admits no NAT64", `networks.allow = ["10.0.0.0/8"]`, "64:ff9b::10.1.2.3", "not in networks.allow"},
		{"local NAT64 of 48 bits", deny10, "64:ff9b:1:0a01:2:300::", "leads to 10.1.2.3"},
		{"local NAT64 of 56 bits", deny10, "64:ff9b:1:770a:1:203::", "leads to 10.1.2.3"},
		{"local NAT64 of 64 bits", deny10, "64:ff9b:1:7777:a:102:300:0", "leads to 10.1.2.3"},
		{"local NAT64 of 96 bits", deny10, "64:ff9b:1::10.1.2.3", "leads to 10.1.2.3"},
		{"local NAT64 to what is not denied", `networks.deny = ["10.0.0.0/8", "0.0.0.0/8"]`, "64:ff9b:1::192.0.2.1", ""},
		{"a stateless translator", deny10, "::ffff:0:10.1.2.3", "leads to 10.1.2.3"},
		{"IPv4-compatible", deny10, "::10.1.2.3", "leads to 10.1.2.3"},
		{"6to4", deny10, "2002:a01:203::1", "leads to 10.1.2.3"},
		{"another address with those bytes", deny10, "2001:db8::10.1.2.3", ""},
		{"the loopback of IPv6 is no IPv4 address", `networks.deny = ["0.0.0.0/0"]`, "::1", ""},
		{"the unspecified address is the loopback", `networks.deny = ["127.0.0.0/8"]`, "0.0.0.0", "it leads to 127.0.0.1, which is in networks.deny"},
		{"that of IPv6, too", `networks.deny = ["::1"]`, "::", "it leads to ::1, which is in networks.deny"},
	} {
		p, err := policy.Parse(c.text)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		err = p.Reach(netip.MustParseAddr(c.addr))
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %s: %v", c.name, c.addr, err)
		}
	}
}

func TestPermit(t *testing.T) {
	p, err := policy.Parse(`actions.allow = ["verify"]`)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Permit("rotate"); err == nil || !strings.Contains(err.Error(), "rotate: it is not in actions.allow") || p.Permit("verify") != nil {
		t.Errorf("the action list is not kept: %v", err)
	}
	if none, err := policy.Parse(`actions.allow = []`); err != nil || none.Permit("verify") == nil {
		t.Error("an empty action list allows something")
	}
	if new(policy.Policy).Permit("rotate") != nil {
		t.Error("no file forbids an action")
	}
}

// A refusal names the file in which it is changed, also where there is none yet.
func TestRefusalsNameTheFile(t *testing.T) {
	absent, present := filepath.Join(t.TempDir(), "absent.toml"), filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(present, []byte("actions.allow = []\nnetworks.deny = [\"10.0.0.0/8\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	metadata := netip.MustParseAddr("169.254.169.254")
	for file, ask := range map[string][]func(*policy.Policy) error{
		absent: {func(p *policy.Policy) error { return p.Reach(metadata) }},
		present: {
			func(p *policy.Policy) error { return p.Reach(metadata) },
			func(p *policy.Policy) error { return p.Reach(netip.MustParseAddr("10.1.1.1")) },
			func(p *policy.Policy) error { return p.Permit("rotate") },
		},
	} {
		p, err := policy.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		for n, refusal := range ask {
			if err := refusal(p); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s, refusal %d: %v", file, n, err)
			}
		}
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
