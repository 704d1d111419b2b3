package script

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ask is one thing that a script asks for, in words for who approves it.
type Ask struct {
	What string `json:"what"`
	Why  string `json:"why,omitempty"` // as the manifest says
}

// Asks are all of them, always in the same order: what a change of a script adds is what
// is in the new list alone.
func (m *Manifest) Asks() (out []Ask) {
	add := func(what, why string) { out = append(out, Ask{what, why}) }
	switch m.Kind {
	case Rotator:
		add("the old and the new secret of each account that it rotates, to set and to prove them", "")
		add("the login and the secret of the resource's administrator", "")
	case Dependents:
		add("the old and the new secret of each account that is followed, to hand them on", "")
	case Generator:
		add("to make the new secret of each account that uses it", "")
	case Discoverer:
		add("the login and the secret of the resource's administrator, to find out what accounts there are", "")
	}
	for _, n := range []struct{ need, what string }{
		{NeedAdmin, "the login and the secret of the resource's administrator"},
		{NeedSecret, "the account's new secret"},
		{NeedFormer, "the account's former secret"},
	} {
		if slices.Contains(m.Needs, n.need) {
			add(n.what, "")
		}
	}
	for _, r := range m.Records {
		what := "the address, and the administrator's login and secret, of a further resource, %s"
		if r.As == AsAccount {
			what = "the login and the secret of a further account, %s"
		}
		add(fmt.Sprintf(what, r.Name), r.About)
	}
	if m.Reveals != "" {
		add("to see secrets in clear", m.Reveals)
	}
	for _, h := range m.Hosts {
		of, name, _ := strings.Cut(h, ".")
		p := m.Parameter(name)
		switch {
		case h == "resource":
			add("to connect to the resource", "")
		case of == "records" && fieldRE.MatchString(name):
			add("to connect to the record "+name, "")
		case of == "parameters" && p != nil:
			add("to connect to what the parameter "+name+" says"+p.orElse(), p.About)
		default:
			add("to connect to "+h, "")
		}
	}
	for _, l := range []struct {
		list     []string
		do, what string
	}{{m.Programs, "to run ", "the program"}, {m.Files, "to read and write ", "the file"}} {
		for _, f := range l.list {
			name, ok := strings.CutPrefix(f, "parameters.")
			if p := m.Parameter(name); ok && p != nil {
				add(l.do+l.what+" on the agent's host that the parameter "+name+" says"+p.orElse(), p.About)
			} else {
				add(l.do+f+" on the agent's host", "")
			}
		}
	}
	for _, name := range Modules {
		if slices.Contains(m.Modules, name) {
			add("the module "+name, "")
		}
	}
	return out
}

// orElse is where a place is that a use need not name: a change of it is one of what the
// script asks for.
func (p *Parameter) orElse() string {
	if p.Required {
		return ""
	}
	s, _ := p.Default.(string)
	if s == "" || !printable(s) {
		s = strconv.Quote(s)
	}
	return ", else " + s
}
