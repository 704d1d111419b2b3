package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// policyFlags say how new passwords are made.
type policyFlags struct {
	set func(string) bool
	p   trustv1.PasswordPolicy
}

func (p *policyFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	p.set = f.Changed
	f.Uint32Var(&p.p.Length, "policy-length", 0, "characters of a new password (0: the plugin's own choice)")
	f.Uint32Var(&p.p.MinLower, "policy-lower", 0, "lower-case letters at least")
	f.Uint32Var(&p.p.MinUpper, "policy-upper", 0, "upper-case letters at least")
	f.Uint32Var(&p.p.MinDigit, "policy-digit", 0, "digits at least")
	f.Uint32Var(&p.p.MinSymbol, "policy-symbol", 0, "symbols at least")
	f.StringVar(&p.p.Symbols, "policy-symbols", "", "symbols that may be used (default: those that most targets take)")
	f.StringVar(&p.p.Exclude, "policy-exclude", "", "characters that are never used")
}

// policy gives the policy, nil when no flag of it was given. A policy is set as
// a whole: what is not named has its default.
func (p *policyFlags) policy() (*trustv1.PasswordPolicy, error) {
	for _, name := range []string{"length", "lower", "upper", "digit", "symbol", "symbols", "exclude"} {
		if !p.set("policy-" + name) {
			continue
		}
		if p.p.Length == 0 {
			return nil, usagef("a policy is set as a whole: name --policy-length too")
		}
		if least := p.p.MinLower + p.p.MinUpper + p.p.MinDigit + p.p.MinSymbol; least > p.p.Length {
			return nil, usagef("a password of %d characters cannot hold the %d that are wanted", p.p.Length, least)
		}
		return &p.p, nil
	}
	return nil, nil
}

// policyText is a policy in one line.
func policyText(p *trustv1.PasswordPolicy) string {
	if p == nil {
		return ""
	}
	parts := []string{fmt.Sprintf("%d characters", p.Length)}
	for _, m := range []struct {
		n    uint32
		what string
	}{{p.MinLower, "lower"}, {p.MinUpper, "upper"}, {p.MinDigit, "digits"}, {p.MinSymbol, "symbols"}} {
		if m.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", m.n, m.what))
		}
	}
	if p.Symbols != "" {
		parts = append(parts, "of "+p.Symbols)
	}
	if p.Exclude != "" {
		parts = append(parts, "without "+p.Exclude)
	}
	return strings.Join(parts, ", ")
}
