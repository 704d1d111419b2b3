package policy_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/agent/policy"
)

// A policy file is understood wholly or not at all; what is understood denies what it
// names, and never more is allowed with a rule than without one.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "[networks]\nallow = [\"10.0.0.0/8\", \"192.168.1.1\"]\ndeny = [\"10.1.0.0/16\"]\n[actions]\nallow = [\"rotate\", \"verify\"]\n",
		`networks.deny = ["::/0"]`, `networks.allow = ["::ffff:10.0.0.1"]`, `networks.allow = ["fe80::1%eth0"]`, `actions.allow = []`, "networks = 1", "\x00",
		`networks.deny = ["10.0.0.0/8"]` + "\n" + `networks.deny = []`,
		"[scripts]\nprograms = [\"/usr/bin/systemctl\"]\nfiles = [\"/etc/app/*.conf\"]\n", `scripts.files = ["/etc/[a-b]/../x"]`,
	} {
		f.Add(text)
	}
	addresses := []netip.Addr{}
	for _, a := range []string{"10.1.2.3", "192.168.1.1", "169.254.169.254", "::1", "fe80::1", "::ffff:10.1.2.3", "100.100.100.200", "0.0.0.0", "2001:db8::1"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	none := new(policy.Policy)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.Parse(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		for _, a := range addresses {
			// Only an allow list can open what is shut without a file: by name.
			if p.Reach(a) == nil && none.Reach(a) != nil && !strings.Contains(text, "allow") {
				t.Errorf("%q lets the agent reach %s", text, a)
			}
			if (p.Reach(a) == nil) != (p.Reach(netip.AddrFrom16(a.As16())) == nil) {
				t.Errorf("%q judges %s by its form", text, a)
			}
			// Nor is there a way through a translator to what is shut, but one that is named.
			if through := translated(a); a.Is4() && !a.IsUnspecified() && p.Reach(a) != nil && p.Reach(through) == nil && !strings.Contains(text, "allow") {
				t.Errorf("%q shuts %s and lets the agent reach it as %s", text, a, through)
			}
		}
		for _, path := range []string{"/usr/bin/systemctl", "/etc/app/a.conf", "/etc/app/../shadow", "etc/app/a.conf", "/", ""} {
			if p.Program(path) == nil && !strings.Contains(text, "programs") || p.File(path) == nil && !strings.Contains(text, "files") {
				t.Errorf("%q opens %s to scripts", text, path)
			}
			if filepath.Clean(path) != path || !filepath.IsAbs(path) {
				if p.Program(path) == nil || p.File(path) == nil {
					t.Errorf("%q opens %q to scripts, which is no clean path", text, path)
				}
			}
		}
		for _, action := range policy.Actions {
			if p.Permit(action) != nil && !strings.Contains(text, "actions") {
				t.Errorf("%q forbids %s", text, action)
			}
		}
		if p.Permit("no action") == nil && slices.ContainsFunc(policy.Actions, func(a string) bool { return p.Permit(a) != nil }) {
			t.Errorf("%q permits what is none", text)
		}
	})
}

// translated is an IPv4 address as NAT64 has it.
func translated(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("64:ff9b::").As16()
	v4 := a.As16()
	copy(b[12:], v4[12:])
	return netip.AddrFrom16(b)
}
