package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"

	lua "github.com/yuin/gopher-lua"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// state is one Lua state: that of one call or, for a rotator, of one session.
type state struct {
	L    *lua.LState
	p    *program
	host sdk.Host

	ctx       context.Context // of the call under way; nil outside calls
	places    []sdk.Resource  // whose identity a statement says
	values    map[string]any  // parameters, checked
	hidden    *scrub.Set      // secrets of the job, and what was made of them
	questions int             // about secrets, in this call
	acted     bool            // something may have been changed outside, in this call
	printed   int             // bytes of the log, in this call
	output    strings.Builder
	cut       bool                   // there was more than fits into output
	made      map[string]*lua.LTable // modules that were asked for
	closers   []func()               // what modules leave open, ended with the call or the session
}

// Bounds of a state. The registry does not grow: each step would copy it.
const (
	registrySize = 16 << 10
	callDepth    = 200
	maxString    = 16 << 20 // that a function of ours makes
	maxPrinted   = 1 << 20  // bytes of the log in one call
	maxOutput    = 7 << 10  // of them kept for the run's readers; the rest is for how it ended
	maxQuestions = 32       // about secrets in one call
)

// state makes a fresh state and runs the script's top level in it.
func (p *program) state(ctx context.Context, host sdk.Host, places []sdk.Resource) (*state, error) {
	s := &state{
		L: lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: registrySize, CallStackSize: callDepth}),
		p: p, host: host, places: places, made: map[string]*lua.LTable{},
	}
	s.begin()
	s.L.SetContext(ctx)
	s.L.Push(s.L.NewFunctionFromProto(p.code))
	if err := s.L.PCall(0, 0, nil); err != nil {
		s.close()
		return nil, s.raised(err)
	}
	return s, nil
}

// begin fills in what every state has.
func (s *state) begin() {
	s.hidden = new(scrub.Set)
	if s.host.Log == nil {
		s.host.Log = slog.New(slog.DiscardHandler)
	}
	s.globals()
}

func (s *state) close() {
	s.ctx = nil
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
	s.L.Close()
}

// later has something closed with the state.
func (s *state) later(f func()) { s.closers = append(s.closers, f) }

func (s *state) has(name string) bool {
	return s.L.GetGlobal(name).Type() == lua.LTFunction
}

// call calls one of the script's functions. Its answers are one value and, where that is
// nil, an error value.
func (s *state) call(ctx context.Context, name string, args ...lua.LValue) (lua.LValue, error) {
	if err := ctx.Err(); err != nil {
		return lua.LNil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	s.ctx, s.questions, s.printed, s.acted = ctx, 0, 0, false
	if s.p.dry != nil {
		s.p.dry.in = name
	}
	defer func() { s.ctx = nil }()
	s.L.SetContext(ctx)
	top := s.L.GetTop()
	defer func() { s.L.SetTop(top) }()
	s.L.Push(s.L.GetGlobal(name))
	for _, a := range args {
		s.L.Push(a)
	}
	if err := s.L.PCall(len(args), 2, nil); err != nil {
		if ctx.Err() != nil {
			return lua.LNil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", Err: fmt.Errorf("%s did not end in time", name)}
		}
		return lua.LNil, s.raised(err)
	}
	answer, failed := s.L.Get(-2), s.L.Get(-1)
	if answer == lua.LNil {
		if e, ok := errorOf(failed); ok {
			return lua.LNil, s.scrubbed(e)
		}
	}
	return answer, nil
}

// raised is an error of Lua's as one of the SDK: what sdk.fail raised as it is, any
// other as a fault of the script.
func (s *state) raised(err error) error {
	var api *lua.ApiError
	if errors.As(err, &api) {
		if e, ok := errorOf(api.Object); ok {
			return s.scrubbed(e)
		}
		return s.scrubbed(&sdk.Error{Class: sdk.ClassInternal, Reason: "script.error", Err: errors.New(api.Object.String())})
	}
	return s.scrubbed(&sdk.Error{Class: sdk.ClassInternal, Reason: "script.error", Err: err})
}

// scrubbed takes secrets out of an error's text, also those that the script derived: the
// host knows only those that it gave.
func (s *state) scrubbed(e *sdk.Error) error {
	out := *e
	if out.Err != nil {
		out.Err = errors.New(s.hidden.Text(out.Err.Error()))
	}
	out.Reason = s.code(out.Reason)
	return &out
}

// code is a reason that leaves the script: a secret is none.
func (s *state) code(reason string) string {
	if s.hidden.Text(reason) != reason {
		return "malformed"
	}
	return reason
}

// globals fills the table of globals: an allow-list.
func (s *state) globals() {
	L := s.L
	for _, lib := range []struct {
		name string
		open lua.LGFunction
	}{{lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString}, {lua.MathLibName, lua.OpenMath}, {lua.CoroutineLibName, lua.OpenCoroutine}} {
		L.Push(L.NewFunction(lib.open))
		L.Push(lua.LString(lib.name))
		L.Call(1, 0)
	}
	all := L.G.Global
	keep := L.NewTable()
	for _, name := range []string{"error", "ipairs", "next", "pairs", "pcall", "select", "tonumber", "type", "unpack", "rawequal", "rawget", "table", "math", "coroutine"} {
		keep.RawSetString(name, all.RawGetString(name))
	}
	str := all.RawGetString("string").(*lua.LTable)
	str.RawSetString("dump", lua.LNil)
	str.RawSetString("rep", L.NewFunction(s.rep))
	format := str.RawGetString("format").(*lua.LFunction).GFunction
	str.RawSetString("format", L.NewFunction(func(L *lua.LState) int { return s.format(L, format) }))
	keep.RawSetString("string", str)
	m := keep.RawGetString("math").(*lua.LTable)
	m.RawSetString("random", L.NewFunction(random))
	m.RawSetString("randomseed", lua.LNil)
	keep.RawSetString("tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(L.ToStringMeta(L.CheckAny(1)))
		return 1
	}))
	keep.RawSetString("assert", L.NewFunction(assert))
	keep.RawSetString("print", L.NewFunction(s.print))
	keep.RawSetString("setmetatable", L.NewFunction(setMetatable))
	keep.RawSetString("getmetatable", L.NewFunction(getMetatable))
	keep.RawSetString("require", L.NewFunction(s.require))
	keep.RawSetString("sdk", s.answers())
	keep.RawSetString("_G", keep)

	// The base library's functions and the type metatables still know the first table:
	// nothing may be left in it.
	var names []lua.LValue
	all.ForEach(func(k, _ lua.LValue) { names = append(names, k) })
	for _, k := range names {
		all.RawSet(k, lua.LNil)
	}
	keep.ForEach(func(k, v lua.LValue) { all.RawSet(k, v) })
	all.RawSetString("_G", all)
	L.Env = all
	// The library of strings is shared by every string: it stays as it is.
	if mt, ok := L.GetMetatable(lua.LString("")).(*lua.LTable); ok {
		mt.RawSetString("__metatable", lua.LFalse)
		mt.RawSetString("__index", str)
	}
	s.secretType()
}

// assert raises what it is given beside a nil as it is: an error value that a module gave
// keeps its class, as sdk.fail's does. The library's own takes texts only.
func assert(L *lua.LState) int {
	if L.ToBool(1) {
		return L.GetTop()
	}
	if v := L.Get(2); v.Type() == lua.LTTable {
		L.Error(v, 1)
	}
	L.RaiseError("%s", L.OptString(2, "assertion failed!"))
	return 0
}

// rep is string.rep with a bound: it asks for no deadline on its way.
func (s *state) rep(L *lua.LState) int {
	text, n := L.CheckString(1), L.CheckInt(2)
	if n > 0 && len(text) > maxString/n {
		L.RaiseError("string.rep: %d times %d bytes are more than %d", n, len(text), maxString)
	}
	L.Push(lua.LString(strings.Repeat(text, max(n, 0))))
	return 1
}

// format is string.format with bounded widths, and without secrets: each prints as its
// placeholder.
func (s *state) format(L *lua.LState, next lua.LGFunction) int {
	digits := 0
	for _, c := range L.CheckString(1) {
		if c >= '0' && c <= '9' {
			digits++
		} else {
			digits = 0
		}
		if digits > 3 {
			L.RaiseError("string.format: a width of more than 999")
		}
	}
	for n := 2; n <= L.GetTop(); n++ {
		if _, ok := secretOf(L.Get(n)); ok {
			L.Replace(n, lua.LString(placeholder))
		}
	}
	return next(L)
}

// random is math.random from the system's source: a script may make names of it.
func random(L *lua.LState) int {
	var b [8]byte
	_, _ = rand.Read(b[:])
	bits := binary.LittleEndian.Uint64(b[:])
	float := float64(bits>>11) / (1 << 53)
	low, high := 1.0, 0.0
	switch L.GetTop() {
	case 0:
		L.Push(lua.LNumber(float))
		return 1
	case 1:
		high = float64(L.CheckInt64(1))
	default:
		low, high = float64(L.CheckInt64(1)), float64(L.CheckInt64(2))
	}
	if high < low {
		L.RaiseError("math.random: the interval is empty")
	}
	L.Push(lua.LNumber(low + math.Floor(float*(high-low+1))))
	return 1
}

// print is log.info.
func (s *state) print(L *lua.LState) int {
	var parts []string
	for n := 1; n <= L.GetTop(); n++ {
		parts = append(parts, L.ToStringMeta(L.Get(n)).String())
	}
	s.log(slog.LevelInfo, strings.Join(parts, "\t"))
	return 0
}

// log writes a line of the agent's log, and of the output that the run's readers get.
func (s *state) log(level slog.Level, text string) {
	if s.printed += len(text); s.printed > maxPrinted {
		s.L.RaiseError("the script has logged more than %d bytes", maxPrinted)
	}
	s.note(level, text)
}

// note is log without a bound, for words that are not the script's.
func (s *state) note(level slog.Level, text string) { s.keep(level, text, maxOutput) }

// ending is note of how a call ended, for which there is room whatever was said before.
func (s *state) ending(level slog.Level, text string) {
	s.keep(level, text, pluginv1.MaxOutput)
}

const cutHere = "… (there is more in the agent's log)\n"

func (s *state) keep(level slog.Level, text string, limit int) {
	text = s.hidden.Text(text)
	if s.p.dry != nil {
		s.p.dry.log(text)
	}
	s.host.Log.Log(context.Background(), level, text)
	line := text + "\n"
	room := limit - s.output.Len() - len(cutHere)
	switch {
	case len(line) <= room && !s.cut, len(line) <= room && limit > maxOutput:
		s.output.WriteString(line)
	case !s.cut || limit > maxOutput:
		s.cut = true
		s.output.WriteString(strings.ToValidUTF8(line[:max(room, 0)], "") + cutHere)
	}
}

// setMetatable keeps to tables of the script's own.
func setMetatable(L *lua.LState) int {
	t := L.CheckTable(1)
	if mt, ok := t.Metatable.(*lua.LTable); ok && mt.RawGetString("__metatable") != lua.LNil {
		L.RaiseError("this table's metatable is locked")
	}
	switch mt := L.Get(2).(type) {
	case *lua.LTable:
		t.Metatable = mt
	case *lua.LNilType:
		t.Metatable = lua.LNil
	default:
		L.ArgError(2, "want a table or nil")
	}
	L.Push(t)
	return 1
}

func getMetatable(L *lua.LState) int {
	mt, ok := L.GetMetatable(L.CheckAny(1)).(*lua.LTable)
	switch {
	case !ok:
		L.Push(lua.LNil)
	case mt.RawGetString("__metatable") != lua.LNil:
		L.Push(lua.LFalse)
	default:
		L.Push(mt)
	}
	return 1
}

// require gives a module that the manifest names.
func (s *state) require(L *lua.LState) int {
	name := L.CheckString(1)
	if t := s.made[name]; t != nil {
		L.Push(t)
		return 1
	}
	var list []string
	for _, have := range s.p.manifest.Modules {
		list = append(list, have)
		if have != name {
			continue
		}
		m, ok := modules()[name]
		if !ok {
			L.RaiseError("there is no module %s in this version", name)
		}
		s.made[name] = m.table(s, name)
		L.Push(s.made[name])
		return 1
	}
	L.RaiseError("the module %q is not in the manifest, which has modules = [%s]", name, strings.Join(list, ", "))
	return 0
}
