package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// null is what JSON and YAML call null, where Lua's nil cannot stand: in a list.
type null struct{}

func (null) String() string { return "null" }

// listMark is in the metatable of a table that is a list although it has no items.
const listMark = "__list"

func isList(t *lua.LTable) bool {
	mt, ok := t.Metatable.(*lua.LTable)
	return ok && mt.RawGetString(listMark) == lua.LTrue
}

// markList makes a table a list, whether it has items or not.
func (s *state) markList(t *lua.LTable) *lua.LTable {
	mt := s.L.NewTypeMetatable("rotunda.list")
	mt.RawSetString(listMark, lua.LTrue)
	mt.RawSetString("__metatable", lua.LFalse)
	t.Metatable = mt
	return t
}

func (s *state) null() *lua.LUserData {
	ud := s.L.NewUserData()
	ud.Value = null{}
	mt := s.L.NewTypeMetatable("rotunda.null")
	mt.RawSetString("__metatable", lua.LFalse)
	mt.RawSetString("__tostring", s.L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString("null"))
		return 1
	}))
	ud.Metatable = mt
	return ud
}

// decoded makes Lua's value of what a format said. A null field of an object is left out;
// a null item of a list is json.null(), so that the others keep their places.
func (s *state) decoded(v any) lua.LValue {
	switch v := v.(type) {
	case []any:
		t := s.L.CreateTable(len(v), 0)
		for n, one := range v {
			if one == nil {
				t.RawSetInt(n+1, s.null())
			} else {
				t.RawSetInt(n+1, s.decoded(one))
			}
		}
		if len(v) == 0 {
			s.markList(t)
		}
		return t
	case map[string]any:
		t := s.L.CreateTable(0, len(v))
		for name, one := range v {
			t.RawSetString(name, s.decoded(one))
		}
		return t
	}
	return s.plain(v)
}

// value is an argument as what JSON can say.
func (a *args) value(n int) (v any, secrets bool) {
	v, secrets, err := goValue(a.L.Get(n), 0)
	if err != nil {
		a.bad(n, "%v", err)
	}
	return v, secrets
}

// part is one step on the way into a value: a name and, where it is a whole number, the
// place in a list, from 1 on as Lua counts.
type part struct {
	name  string
	index int
}

func (p part) is(name string, place int) bool {
	if place > 0 {
		return p.index == place
	}
	return p.name == name
}

// path reads a way into a value: "a.b.1", or a list of its parts where one has a dot in it.
func (a *args) path(n int) []part {
	var names []string
	if t, ok := a.L.Get(n).(*lua.LTable); ok {
		items, secrets, why := textList(t)
		if why == "" && secrets {
			why = "want texts, got a secret"
		}
		if why != "" {
			a.bad(n, "%s", why)
		}
		for _, i := range items {
			names = append(names, string(i))
		}
	} else {
		names = strings.Split(a.text(n), ".")
	}
	parts, err := parsePath(names)
	if err != nil {
		a.bad(n, "%v", err)
	}
	return parts
}

func parsePath(names []string) ([]part, error) {
	if len(names) == 0 || len(names) > maxDepth {
		return nil, fmt.Errorf("want a path of 1 to %d parts, such as \"a.b.1\"", maxDepth)
	}
	var parts []part
	for _, name := range names {
		if name == "" || len(name) > 1024 || !utf8.ValidString(name) {
			return nil, fmt.Errorf("a part of the path is empty, no UTF-8 or longer than 1,024 bytes")
		}
		p := part{name: name}
		if n, err := strconv.Atoi(name); err == nil && n > 0 && strconv.Itoa(n) == name {
			p.index = n
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func pathText(parts []part) string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ".")
}

// malformed is about a text that is not in its format. What comes from a target is an
// answer of no use. Of a secret nothing is told but that.
func malformed(format string, isSecret bool, err error) *sdk.Error {
	if isSecret {
		err = fmt.Errorf("the secret is no %s that can be read", format)
	} else {
		err = fmt.Errorf("the text is no %s that can be read: %w", format, err)
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: strings.ToLower(format) + ".malformed", Err: err}
}

func noSuch(parts []part) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassNotFound, Reason: "path.not_found", Err: fmt.Errorf("there is nothing at %s", pathText(parts))}
}
