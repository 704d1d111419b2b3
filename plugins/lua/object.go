package main

import (
	lua "github.com/yuin/gopher-lua"
)

// object is a kind of value that a module's functions give: a connection, a dialogue. Its
// functions are called as value:name(…).
type object struct {
	name      string // as LuaLS writes it: "ssh.connection"
	about     string // one sentence
	functions []function
}

// of makes a value of this kind for Lua, which has nothing of it but its functions. They
// find v as self of their arguments.
func (o object) of(s *state, v any) *lua.LUserData {
	mt := s.L.NewTypeMetatable("rotunda." + o.name)
	if mt.RawGetString("__metatable") == lua.LNil {
		methods := s.L.NewTable()
		for _, f := range o.functions {
			methods.RawSetString(f.name, s.L.NewFunction(func(L *lua.LState) int { return o.call(s, L, f) }))
		}
		mt.RawSetString("__index", s.strict(methods, o.name))
		mt.RawSetString("__metatable", lua.LFalse)
		mt.RawSetString("__tostring", s.L.NewFunction(func(L *lua.LState) int {
			L.Push(lua.LString(o.name))
			return 1
		}))
	}
	ud := s.L.NewUserData()
	ud.Value = held{o.name, v}
	ud.Metatable = mt
	return ud
}

// held is a value with its kind, which the functions of another kind do not take.
type held struct {
	kind string
	v    any
}

func (o object) call(s *state, L *lua.LState, f function) int {
	a := &args{state: s, L: L, name: o.name + ":" + f.name}
	ud, ok := L.Get(1).(*lua.LUserData)
	if ok {
		var h held
		h, ok = ud.Value.(held)
		ok = ok && h.kind == o.name
		a.self = h.v
	}
	if !ok {
		a.wrong("call it as value:%s(…)", f.name)
	}
	L.Remove(1)
	return f.call(a)
}
