package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// The modules of this host are those that a manifest can name.
func TestModulesAreThose(t *testing.T) {
	have := slices.Sorted(maps.Keys(modules()))
	want := slices.Sorted(slices.Values(script.Modules))
	if !slices.Equal(have, want) {
		t.Errorf("modules are\n%v\nand package script names\n%v", have, want)
	}
}

// Every function is described, and does what its example says.
func TestExamples(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(modules())) {
		m := modules()[name]
		if m.about == "" {
			t.Errorf("%s says nothing of itself", name)
		}
		for _, f := range m.functions {
			t.Run(name+"."+f.name, func(t *testing.T) {
				if f.about == "" || !strings.HasSuffix(f.about, ".") {
					t.Errorf("it says of itself %q: want sentences", f.about)
				}
				if f.example == "" {
					t.Skip("left out: it needs a target")
				}
				using := []string{name}
				for _, other := range script.Modules {
					if other != name && strings.Contains(f.example, other+".") {
						using = append(using, other)
					}
				}
				if _, err := runLua(t, using, f.example); err != nil {
					t.Errorf("%s\n%v", f.example, err)
				}
			})
		}
	}
}
