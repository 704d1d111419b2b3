package main

import (
	"slices"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// strict has a table that knows all its names: to ask it for another one is an error, since
// a misspelt name would be nothing, without a word. may are names that it need not have.
func (s *state) strict(t *lua.LTable, what string, may ...string) *lua.LTable {
	mt := s.L.NewTable()
	mt.RawSetString("__index", s.L.NewFunction(func(L *lua.LState) int {
		name := L.Get(2).String()
		if !slices.Contains(may, name) {
			var names []string
			t.ForEach(func(k, _ lua.LValue) { names = append(names, k.String()) })
			slices.Sort(names)
			L.RaiseError("there is no %s in %s, which has %s", name, what, strings.Join(names, ", "))
		}
		L.Push(lua.LNil)
		return 1
	}))
	mt.RawSetString("__metatable", lua.LFalse)
	t.Metatable = mt
	return t
}

// parameters are those of the manifest, whether they were given or not.
func (s *state) parameters(values map[string]any) *lua.LTable {
	t, _ := s.plain(values).(*lua.LTable)
	var may []string
	for _, p := range s.p.manifest.Parameters {
		may = append(may, p.Name)
	}
	return s.strict(t, "the manifest's parameters", may...)
}
