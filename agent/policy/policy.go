// Package policy reads the agent's local policy file: which networks this agent
// may reach, which actions it may do at all, and what of its host is open to scripts. It is set by the administrator of
// the agent's host and only ever narrows what signed statements and commands
// allow. A file that cannot be understood wholly denies everything: a broken rule
// must not allow.
package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Actions that a policy may name.
var Actions = []string{"rotate", "verify", "test", "probe", "discover", "info", "cancel", "script"}

// metadata are the addresses where clouds hand out credentials to whoever asks;
// no target lives there, so they are denied unless the file allows them by name.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS: metadata, of pods, and its other services
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
	netip.MustParsePrefix("fd00:100::100:200/128"),  // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),         // Oracle
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
}

// Policy is a policy file, read. Its zero value is that of no file: every network but
// the clouds' metadata addresses, every action, nothing of the host for scripts.
type Policy struct {
	allow    []netip.Prefix // nil: all but the metadata addresses
	deny     []netip.Prefix
	actions  []string // nil: all
	programs []string
	files    []string // patterns
	file     string   // where it is changed, whether it exists or not
}

type file struct {
	Networks struct {
		Allow []string `toml:"allow"`
		Deny  []string `toml:"deny"`
	} `toml:"networks"`
	Actions struct {
		Allow []string `toml:"allow"`
	} `toml:"actions"`
	Scripts struct {
		Programs []string `toml:"programs"`
		Files    []string `toml:"files"`
	} `toml:"scripts"`
}

// keys are all that a policy file may have.
var keys = []string{"networks", "networks.allow", "networks.deny", "actions", "actions.allow", "scripts", "scripts.programs", "scripts.files"}

// maxFile bounds a policy file.
const maxFile = 1 << 20

// Load reads a policy file. A file that does not exist is the default policy.
func Load(path string) (*Policy, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Policy{file: path}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("local policy: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("local policy %s: %d bytes, at most %d are read: name networks, not single addresses", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("local policy: %w", err)
	}
	p, err := Parse(string(data))
	if err != nil {
		return nil, fmt.Errorf("local policy %s: %w", path, err)
	}
	p.file = path
	return p, nil
}

// Parse reads the text of a policy file.
func Parse(text string) (*Policy, error) {
	var f file
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return nil, err
	}
	for _, k := range meta.Keys() {
		// The library takes keys in any case, and of two that differ by it only one counts.
		if !slices.Contains(keys, k.String()) {
			return nil, fmt.Errorf("unknown key %q: remove it or mend the spelling", k)
		}
	}
	p := &Policy{}
	if meta.IsDefined("networks", "allow") {
		if p.allow, err = prefixes(f.Networks.Allow); err != nil {
			return nil, fmt.Errorf("networks.allow: %w", err)
		}
	}
	if p.deny, err = prefixes(f.Networks.Deny); err != nil {
		return nil, fmt.Errorf("networks.deny: %w", err)
	}
	for _, a := range f.Actions.Allow {
		if !slices.Contains(Actions, a) {
			return nil, fmt.Errorf("actions.allow: %q is no action; there are %s", a, strings.Join(Actions, ", "))
		}
	}
	if meta.IsDefined("actions", "allow") {
		p.actions = append([]string{}, f.Actions.Allow...)
	}
	if p.programs, p.files, err = scripts(f.Scripts.Programs, f.Scripts.Files); err != nil {
		return nil, err
	}
	return p, nil
}

// prefixes reads addresses and networks. IPv4 ones in their mapped form are IPv4 ones, as
// the addresses are that they are held against.
func prefixes(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, e := netip.ParseAddr(s); e == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", s)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Permit is nil where this agent may do an action; else it says what to change.
func (p *Policy) Permit(action string) error {
	if p.actions == nil || slices.Contains(p.actions, action) {
		return nil
	}
	return fmt.Errorf("the local policy does not allow %s: it is not in actions.allow of %s", action, p.where())
}

// Reach is nil where this agent may connect to an address; else it says what to
// change. It is asked after names are resolved, so that a name cannot lead elsewhere
// than the rule meant. Deny wins over allow, and holds for every address that this one
// leads to; an allow list admits only what it names.
func (p *Policy) Reach(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, to := range append([]netip.Addr{a}, behind(a)...) {
		it := "it"
		if to != a {
			it = fmt.Sprintf("it leads to %s, which", to)
		}
		switch {
		case contains(p.deny, to):
			return fmt.Errorf("the local policy does not allow %s: %s is in networks.deny of %s", a, it, p.where())
		case p.allow == nil && contains(metadata, to):
			return fmt.Errorf("the local policy does not allow %s: %s is an address where clouds hand out credentials, which is reached only where networks.allow of %s names it", a, it, p.where())
		}
	}
	if p.allow != nil && !contains(p.allow, a) {
		return fmt.Errorf("the local policy does not allow %s: it is not in networks.allow of %s", a, p.where())
	}
	return nil
}

// embeddings are IPv6 prefixes whose addresses name an IPv4 host, by the bytes that hold
// its address: a connection to it goes there, or through there. Teredo's are left out,
// which name a router's outside, and ISATAP's, which have no prefix of their own; what a
// network translates with a prefix of its own cannot be known here, and is denied by it.
var embeddings = []struct {
	prefix netip.Prefix
	at     [4]int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), [4]int{12, 13, 14, 15}},    // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{6, 7, 9, 10}},     // NAT64 of local use (RFC 8215), in each length
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{7, 9, 10, 11}},    // that its prefix may have: which one this
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{9, 10, 11, 12}},   // network's has is not known, and one that is
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{12, 13, 14, 15}},  // denied denies the address
	{netip.MustParsePrefix("::ffff:0:0:0/96"), [4]int{12, 13, 14, 15}}, // stateless translators (RFC 2765)
	{netip.MustParsePrefix("::/96"), [4]int{12, 13, 14, 15}},           // IPv4-compatible: through a tunnel to that host
	{netip.MustParsePrefix("2002::/16"), [4]int{2, 3, 4, 5}},           // 6to4: through that host
}

// nowhere is IPv4's "this network": no host's address.
var nowhere = netip.MustParsePrefix("0.0.0.0/8")

// behind lists what a connection to an address reaches, or may reach, in its place.
func behind(a netip.Addr) (list []netip.Addr) {
	if a.IsUnspecified() { // the host itself, to its kernel
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	if a.Is4() {
		return nil
	}
	b := a.As16()
	for _, e := range embeddings {
		v4 := netip.AddrFrom4([4]byte{b[e.at[0]], b[e.at[1]], b[e.at[2]], b[e.at[3]]})
		if e.prefix.Contains(a) && !nowhere.Contains(v4) { // ::1 is IPv6's own
			list = append(list, v4)
		}
	}
	return list
}

func (p *Policy) where() string {
	if p.file == "" {
		return "the agent's policy file"
	}
	return p.file
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Contains(a) })
}
