package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// module is what require gives: functions, told in a table from which the manual and the
// editors' annotations are made, too. Each module is in a file of its own, mod_NAME.go. It
// keeps nothing: what its functions leave open is in the state, so that nothing passes from
// one call to another.
type module struct {
	about     string // one sentence
	functions []function
	objects   []object // kinds of values that they give
}

// function is one function of a module.
type function struct {
	name    string
	takes   string // as LuaLS writes parameters: "body: string|secret, options?: table"
	gives   string // likewise, "string|secret"; where it may fail "…|nil, sdk.error?"
	about   string // what it does, its bounds, what is an error
	example string // Lua that a test runs: what it asserts must hold; empty only where a target is needed
	acts    bool   // it may change something outside
	do      func(*args) int
}

// call does it, or, in a dry run, tells it.
func (f function) call(a *args) int {
	if a.p.dry != nil {
		return a.p.dry.call(f, a)
	}
	if f.acts {
		defer func() {
			if !a.asks && !(a.failed != nil && a.failed.NotSent) {
				a.acted = true
			}
		}()
	}
	return f.do(a)
}

// modules are all that a script's manifest can name.
func modules() map[string]module {
	return map[string]module{
		"base64":   base64Module,
		"exec":     execModule,
		"file":     fileModule,
		"hash":     hashModule,
		"hex":      hexModule,
		"http":     httpModule,
		"json":     jsonModule,
		"jwt":      jwtModule,
		"kube":     kubeModule,
		"ldap":     ldapModule,
		"log":      logModule,
		"regex":    regexModule,
		"retry":    retryModule,
		"secret":   secretModule,
		"sql":      sqlModule,
		"ssh":      sshModule,
		"state":    stateModule,
		"telnet":   telnetModule,
		"template": templateModule,
		"text":     textModule,
		"time":     timeModule,
		"totp":     totpModule,
		"winrm":    winrmModule,
		"xml":      xmlModule,
		"yaml":     yamlModule,
	}
}

// table makes a module's table in one state.
func (m module) table(s *state, name string) *lua.LTable {
	t := s.L.NewTable()
	for _, f := range m.functions {
		called := name + "." + f.name
		t.RawSetString(f.name, s.L.NewFunction(func(L *lua.LState) int {
			return f.call(&args{state: s, L: L, name: called})
		}))
	}
	return s.strict(t, "the module "+name)
}

// args are the arguments of one call of a module's function. L is the coroutine's that
// calls. What is wrong with them is raised as an error of the script's, with its line.
type args struct {
	*state
	L    *lua.LState
	name string
	self any // of an object's function: the value

	failed *sdk.Error // what it came to
	asks   bool       // it changes nothing, though its function may
}

// bad raises an error about argument n.
func (a *args) bad(n int, format string, v ...any) {
	a.L.RaiseError("%s: argument %d: %s", a.name, n, fmt.Sprintf(format, v...))
}

// wrong raises an error.
func (a *args) wrong(format string, v ...any) {
	a.L.RaiseError("%s: %s", a.name, fmt.Sprintf(format, v...))
}

func (a *args) has(n int) bool { return a.L.Get(n) != lua.LNil }

// text is a plain text: neither a secret nor something that a secret was glued into.
func (a *args) text(n int) string {
	text, why := plainText(a.L.Get(n))
	if why != "" {
		a.bad(n, "%s", why)
	}
	return text
}

func (a *args) optText(n int, otherwise string) string {
	if !a.has(n) {
		return otherwise
	}
	return a.text(n)
}

// bytes is a text or a secret. What is made of a secret is to be one.
func (a *args) bytes(n int) (b []byte, isSecret bool) {
	b, isSecret, why := eitherText(a.L.Get(n))
	if why != "" {
		a.bad(n, "%s", why)
	}
	return b, isSecret
}

// integer is a whole number between two bounds, both within.
func (a *args) integer(n, least, most int) int {
	v, ok := a.L.Get(n).(lua.LNumber)
	if !ok || float64(v) != float64(int64(v)) || int64(v) < int64(least) || int64(v) > int64(most) {
		a.bad(n, "want a whole number from %d to %d", least, most)
	}
	return int(v)
}

func (a *args) table(n int) *lua.LTable {
	t, ok := a.L.Get(n).(*lua.LTable)
	if !ok {
		a.bad(n, "want a table, got a %s", kindOf(a.L.Get(n)))
	}
	return t
}

func (a *args) function(n int) *lua.LFunction {
	f, ok := a.L.Get(n).(*lua.LFunction)
	if !ok {
		a.bad(n, "want a function, got a %s", kindOf(a.L.Get(n)))
	}
	return f
}

// list is a table as a list of texts or secrets.
func (a *args) list(n int) (items [][]byte, secrets bool) {
	items, secrets, why := textList(a.table(n))
	if why != "" {
		a.bad(n, "%s", why)
	}
	return items, secrets
}

// within is the context of what the call does outside: the caller's deadline, or an
// earlier one. Outside calls, at the script's top level, nothing is done.
func (a *args) within(limit time.Duration) (context.Context, context.CancelFunc) {
	if a.ctx == nil {
		a.wrong("nothing is reached before a function of the script is called: move it into one")
	}
	if limit <= 0 { // nothing is reached
		return context.WithCancel(a.ctx)
	}
	if a.p.dry != nil {
		panic(wouldReach{})
	}
	return context.WithTimeout(a.ctx, limit)
}

// give pushes a text or a secret.
func (a *args) give(b []byte, isSecret bool) int {
	if len(b) > maxString {
		a.wrong("the result has more than %d bytes", maxString)
	}
	if isSecret {
		a.L.Push(a.secretBytes(b))
	} else {
		a.L.Push(lua.LString(b))
	}
	return 1
}

func (a *args) push(v ...lua.LValue) int {
	for _, one := range v {
		a.L.Push(one)
	}
	return len(v)
}

// fail answers nil and the error as a value.
//
// What not_sent says is of this call alone. Where an earlier one of the verb may have changed
// something it does not hold for the verb: unless the script itself says so, it goes no further.
func (a *args) fail(e *sdk.Error) int {
	a.failed = e
	t := a.errorValue(e)
	if e.NotSent && a.acted {
		given := a.L.NewTable()
		given.RawSetString("not_sent", lua.LTrue)
		mt := a.L.NewTable()
		t.Metatable.(*lua.LTable).ForEach(mt.RawSet)
		mt.RawSetString("__index", given)
		t.RawSetString("not_sent", lua.LNil)
		t.Metatable = mt
	}
	return a.push(lua.LNil, t)
}

// options reads a table of named options. A name that is not among those known is an error:
// a misspelt one must not be passed by.
func (a *args) options(n int, known ...string) options {
	o := options{a: a, n: n}
	if !a.has(n) {
		return o
	}
	o.t = a.table(n)
	o.t.ForEach(func(k, _ lua.LValue) {
		if name, ok := k.(lua.LString); !ok || !slices.Contains(known, string(name)) {
			a.bad(n, "there is no option %s; there are %s", k.String(), strings.Join(known, ", "))
		}
	})
	return o
}

// options are named arguments; none where t is nil.
type options struct {
	a *args
	n int
	t *lua.LTable
}

func (o options) get(name string) lua.LValue {
	if o.t == nil {
		return lua.LNil
	}
	return o.t.RawGetString(name)
}

func (o options) has(name string) bool { return o.get(name) != lua.LNil }

func (o options) text(name, otherwise string) string {
	if !o.has(name) {
		return otherwise
	}
	text, why := plainText(o.get(name))
	if why != "" {
		o.a.bad(o.n, "%s: %s", name, why)
	}
	return text
}

func (o options) bytes(name string) (b []byte, isSecret bool) {
	if !o.has(name) {
		return nil, false
	}
	b, isSecret, why := eitherText(o.get(name))
	if why != "" {
		o.a.bad(o.n, "%s: %s", name, why)
	}
	return b, isSecret
}

func (o options) bool(name string) bool {
	switch v := o.get(name).(type) {
	case *lua.LNilType:
		return false
	case lua.LBool:
		return bool(v)
	}
	o.a.bad(o.n, "%s: want true or false", name)
	return false
}

func (o options) integer(name string, otherwise, least, most int) int {
	if !o.has(name) {
		return otherwise
	}
	v, ok := o.get(name).(lua.LNumber)
	if !ok || float64(v) != float64(int64(v)) || int64(v) < int64(least) || int64(v) > int64(most) {
		o.a.bad(o.n, "%s: want a whole number from %d to %d", name, least, most)
	}
	return int(v)
}

// seconds is a time, at most an hour.
func (o options) seconds(name string, otherwise time.Duration) time.Duration {
	if !o.has(name) {
		return otherwise
	}
	v, ok := o.get(name).(lua.LNumber)
	if !ok || !(v > 0 && v <= 3600) {
		o.a.bad(o.n, "%s: want seconds, at most 3600", name)
	}
	return time.Duration(float64(v) * float64(time.Second))
}

func (o options) table(name string) *lua.LTable {
	if !o.has(name) {
		return nil
	}
	t, ok := o.get(name).(*lua.LTable)
	if !ok {
		o.a.bad(o.n, "%s: want a table", name)
	}
	return t
}

func plainText(v lua.LValue) (text, why string) {
	b, isSecret, why := eitherText(v)
	if why == "" && isSecret {
		why = "want a text, got a secret: what is made of one must not be seen"
	}
	return string(b), why
}

// eitherText reads a text, a number or a secret.
func eitherText(v lua.LValue) (b []byte, isSecret bool, why string) {
	if s, ok := secretOf(v); ok {
		return s.Expose(), true, ""
	}
	switch v := v.(type) {
	case lua.LString:
		if holdsPlaceholder(string(v)) {
			return nil, false, "it holds " + placeholder + ", the placeholder of a secret: put it together with text.concat or template.render instead of .."
		}
		return []byte(v), false, ""
	case lua.LNumber:
		return []byte(v.String()), false, ""
	case *lua.LNilType:
		return nil, false, "want a text, got nothing"
	}
	return nil, false, "want a text, got a " + kindOf(v)
}

func textList(t *lua.LTable) (items [][]byte, secrets bool, why string) {
	for n := 1; n <= t.Len(); n++ {
		b, isSecret, why := eitherText(t.RawGetInt(n))
		if why != "" {
			return nil, false, fmt.Sprintf("item %d: %s", n, why)
		}
		items, secrets = append(items, b), secrets || isSecret
	}
	return items, secrets, ""
}

func kindOf(v lua.LValue) string {
	if _, ok := secretOf(v); ok {
		return "secret"
	}
	return v.Type().String()
}

// sortedKeys are the names of a table's fields, in order: what is sent must not depend on
// chance. ok is false where one is no text.
func sortedKeys(t *lua.LTable) (names []string, ok bool) {
	set := map[string]bool{}
	ok = true
	t.ForEach(func(k, _ lua.LValue) {
		name, is := k.(lua.LString)
		ok = ok && is
		set[string(name)] = true
	})
	return slices.Sorted(maps.Keys(set)), ok
}

// reach dials one of the script's places. Names are resolved by the agent, which lets
// nothing else be dialled.
func (a *args) reach(ctx context.Context, address string) (net.Conn, error) {
	conn, err := a.host.Dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		e := asError(err, sdk.ClassUnreachable, "dial")
		if e.Reason == "dial.refused" {
			return nil, &sdk.Error{Class: e.Class, Reason: e.Reason, NotSent: true, Err: fmt.Errorf("%s is no place of this script: its manifest's hosts name those, and the statement what they are", address)}
		}
		return nil, e
	}
	return conn, nil
}

// place is how the statement wants an address proven: that of the resource and of further
// records as their own statements say, any other by the system's roots.
func (s *state) place(address string) sdk.Resource {
	if dry := s.p.dry; dry != nil && !slices.ContainsFunc(dry.allow, func(a string) bool { return spelt(a) == spelt(address) }) {
		s.L.RaiseError("%s is no place of this script: its manifest's hosts name those, and the statement what they are", address)
	}
	for _, p := range s.places {
		if p.Address != "" && spelt(p.Address) == spelt(address) {
			return p
		}
	}
	return sdk.Resource{Address: address, TLS: sdk.TLS{Mode: sdk.TLSSystem}}
}
