// Package policy reads the agent's local policy file: which networks this agent
// may reach and which actions it may do at all. It is set by the administrator of
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
var Actions = []string{"rotate", "verify", "test", "probe", "info", "cancel"}

// metadata are the addresses where clouds hand out credentials to whoever asks;
// no target lives there, so they are denied unless the file allows them by name.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("100.100.100.200/32"),
}

// Policy is a policy file, read. Its zero value is that of no file: every network but
// the clouds' metadata addresses, every action.
type Policy struct {
	allow, deny []netip.Prefix
	actions     []string // nil: all
	file        string   // where it is changed, whether it exists or not
}

type file struct {
	Networks struct {
		Allow []string `toml:"allow"`
		Deny  []string `toml:"deny"`
	} `toml:"networks"`
	Actions struct {
		Allow []string `toml:"allow"`
	} `toml:"actions"`
}

// keys are all that a policy file may have.
var keys = []string{"networks", "networks.allow", "networks.deny", "actions", "actions.allow"}

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
	if p.allow, err = prefixes(f.Networks.Allow); err != nil {
		return nil, fmt.Errorf("networks.allow: %w", err)
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
	return p, nil
}

func prefixes(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", s)
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
// than the rule meant. Deny wins over allow; an allow list admits only what it names.
func (p *Policy) Reach(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	switch {
	case contains(p.deny, a):
		return fmt.Errorf("the local policy does not allow %s: it is in networks.deny of %s", a, p.where())
	case len(p.allow) > 0 && !contains(p.allow, a):
		return fmt.Errorf("the local policy does not allow %s: it is not in networks.allow of %s", a, p.where())
	case len(p.allow) == 0 && contains(metadata, a):
		return fmt.Errorf("%s is an address where clouds hand out credentials, which is reached only where networks.allow of %s names it", a, p.where())
	}
	return nil
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
