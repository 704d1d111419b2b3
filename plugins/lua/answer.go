package main

import (
	"errors"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// answer is what a script says of a change or a login. Anything else that it returns is
// no answer: the outcome is unknown, the login undecided.
type answer struct {
	outcome sdk.Outcome
	verdict sdk.Verdict
	change  bool // outcome is meant, not verdict
	class   sdk.Class
	reason  string
}

// answers is the table sdk.
func (s *state) answers() *lua.LTable {
	L := s.L
	t := L.NewTable()
	set := func(name string, a answer) { t.RawSetString(name, s.value(a)) }
	set("changed", answer{change: true, outcome: sdk.Changed})
	set("unknown", answer{change: true, outcome: sdk.Unknown})
	set("accepted", answer{verdict: sdk.Accepted})
	t.RawSetString("unchanged", L.NewFunction(func(L *lua.LState) int {
		class := classOf(L.CheckString(1))
		if class == "" {
			L.ArgError(1, "no class of errors; there are "+classNames)
		}
		L.Push(s.value(answer{change: true, outcome: sdk.Unchanged, class: class, reason: L.CheckString(2)}))
		return 1
	}))
	verdict := func(v sdk.Verdict, standing string) *lua.LFunction {
		return L.NewFunction(func(L *lua.LState) int {
			L.Push(s.value(answer{verdict: v, reason: L.OptString(1, standing)}))
			return 1
		})
	}
	t.RawSetString("rejected", verdict(sdk.Rejected, "bad_secret"))
	t.RawSetString("undecided", verdict(sdk.Undecided, "not_judged"))
	t.RawSetString("fail", L.NewFunction(func(L *lua.LState) int {
		given := L.CheckTable(1)
		L.Error(s.errorValue(&sdk.Error{
			Class: classOr(lua.LVAsString(given.RawGetString("class"))), Reason: orElse(lua.LVAsString(given.RawGetString("reason")), "script.failed"),
			NotSent: lua.LVAsBool(given.RawGetString("not_sent")), Err: errors.New(orElse(lua.LVAsString(given.RawGetString("text")), "the script failed")),
		}), 0)
		return 0
	}))
	return s.strict(t, "sdk")
}

func (s *state) value(a answer) *lua.LUserData {
	ud := s.L.NewUserData()
	ud.Value = a
	return ud
}

// applied is a script's answer to a change.
func (s *state) applied(v lua.LValue) (out sdk.ApplyResponse) {
	if a, ok := answerOf(v); ok && a.change {
		out = sdk.ApplyResponse{Outcome: a.outcome, Class: a.class, Reason: s.code(a.reason)}
	}
	return out
}

// judged is a script's answer to a login.
func (s *state) judged(v lua.LValue) (out sdk.VerifyResponse) {
	if a, ok := answerOf(v); ok && !a.change {
		out = sdk.VerifyResponse{Verdict: a.verdict, Reason: s.code(a.reason)}
	}
	return out
}

func answerOf(v lua.LValue) (answer, bool) {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return answer{}, false
	}
	a, ok := ud.Value.(answer)
	return a, ok
}

const errorMeta = "rotunda.error"

// errorValue is an error as Lua has it: a table with class, reason, not_sent and text.
func (s *state) errorValue(e *sdk.Error) *lua.LTable {
	L := s.L
	t := L.NewTable()
	text := ""
	if e.Err != nil {
		text = e.Err.Error() // as it is: what leaves the script is scrubbed, and a scrubbed text would answer guesses
	}
	t.RawSetString("class", lua.LString(e.Class))
	t.RawSetString("reason", lua.LString(e.Reason))
	t.RawSetString("not_sent", lua.LBool(e.NotSent))
	t.RawSetString("text", lua.LString(text))
	mt := L.NewTypeMetatable(errorMeta)
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		e, _ := errorOf(L.Get(1))
		if e == nil {
			L.Push(lua.LString("error"))
			return 1
		}
		L.Push(lua.LString(e.Error()))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LFalse)
	t.Metatable = mt
	return t
}

// errorOf reads an error value; it may have been changed by the script.
func errorOf(v lua.LValue) (*sdk.Error, bool) {
	t, ok := v.(*lua.LTable)
	if !ok || t.RawGetString("class") == lua.LNil {
		return nil, false
	}
	return &sdk.Error{
		Class: classOr(lua.LVAsString(t.RawGetString("class"))), Reason: lua.LVAsString(t.RawGetString("reason")),
		NotSent: lua.LVAsBool(t.RawGetString("not_sent")), Err: errors.New(lua.LVAsString(t.RawGetString("text"))),
	}, true
}

// asError makes an error of the SDK of any error that a module met.
func asError(err error, class sdk.Class, reason string) *sdk.Error {
	var e *sdk.Error
	if errors.As(err, &e) {
		return e
	}
	return &sdk.Error{Class: class, Reason: reason, Err: err}
}

const classNames = "invalid, auth, permission, not_found, policy, conflict, unreachable, unsupported, internal"

func classOf(name string) sdk.Class {
	switch c := sdk.Class(name); c {
	case sdk.ClassInvalid, sdk.ClassAuth, sdk.ClassPermission, sdk.ClassNotFound, sdk.ClassPolicy, sdk.ClassConflict, sdk.ClassUnreachable, sdk.ClassUnsupported, sdk.ClassInternal:
		return c
	}
	return ""
}

func classOr(name string) sdk.Class {
	if c := classOf(name); c != "" {
		return c
	}
	return sdk.ClassInternal
}

func orElse(v, d string) string {
	if v == "" {
		return d
	}
	return v
}
