package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// A script's test is a Lua file beside it. It runs in a state with the script, and has
// these globals besides the script's own functions:
//
//	mock(module, table)   what require gives the script in place of a module; at the top level
//	test(name, function)  a test; each runs in a state of its own
//	job(table)            a job as the agent would hand it in: parameters get their defaults
//	secret(text, public)  a secret; of a key pair with its public half
//	reveal(secret)        its text
//	outcome(answer)       "changed", "unchanged", "unknown", "accepted", "rejected" or "undecided"
//	reason(answer)        its reason
//	dialogue(list)        a recorded conversation with a device (recording.go)
//
// Nothing is reached: a module that is not mocked refuses to dial.

// outcomeOfTest is what became of one test.
type outcomeOfTest struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Line  int    `json:"line,omitempty"`
}

const testTime = 10 * time.Second

// testScript runs a test file against its script.
func testScript(text []byte, name string, tests []byte) ([]outcomeOfTest, error) {
	p, err := load(text)
	if err != nil {
		return nil, err
	}
	code, err := compile(name, tests)
	if err != nil {
		return nil, err
	}
	first, err := newTests(p, code)
	if err != nil {
		return nil, err
	}
	first.s.close()
	if len(first.names) == 0 {
		return nil, fmt.Errorf("%s: it has no test: test(\"name\", function() … end)", name)
	}
	var out []outcomeOfTest
	for n, name := range first.names {
		out = append(out, runTest(p, code, n, name))
	}
	return out, nil
}

func runTest(p *program, code *lua.FunctionProto, n int, name string) outcomeOfTest {
	fail := func(err error) outcomeOfTest {
		found := located(nil, err)
		return outcomeOfTest{Name: name, Error: err.Error(), Line: found.Line}
	}
	t, err := newTests(p, code)
	if err != nil {
		return fail(err)
	}
	defer t.s.close()
	if n >= len(t.tests) {
		return fail(fmt.Errorf("the file's tests are others when it is read again"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	t.s.ctx = ctx
	t.s.L.SetContext(ctx)
	t.s.L.Push(t.tests[n])
	err = t.s.L.PCall(0, 0, nil)
	if err != nil {
		err = t.s.raised(err)
	}
	// What a script does beside its recording comes first: what follows from it is not the fault.
	if played := t.played(err == nil); played != nil {
		err = played
	}
	if err != nil {
		return fail(err)
	}
	return outcomeOfTest{Name: name, OK: true}
}

// tests is a test file in a state with its script.
type tests struct {
	s     *state
	names []string
	tests []*lua.LFunction

	recordings []*recording // of the test that runs
}

// newTests runs a test file's top level, which mocks modules, and then the script's.
func newTests(p *program, code *lua.FunctionProto) (*tests, error) {
	t := &tests{s: &state{
		L: lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: registrySize, CallStackSize: callDepth}),
		p: p, host: sdk.Host{Dialer: noDialer{}, Log: slog.New(slog.DiscardHandler)}, made: map[string]*lua.LTable{},
	}}
	t.s.begin()
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	t.s.L.SetContext(ctx)
	t.globals()
	for _, one := range []*lua.FunctionProto{code, p.code} {
		t.s.L.Push(t.s.L.NewFunctionFromProto(one))
		if err := t.s.L.PCall(0, 0, nil); err != nil {
			t.s.close()
			return nil, t.s.raised(err)
		}
	}
	return t, nil
}

func (t *tests) globals() {
	s := t.s
	set := func(name string, f func(*args) int) {
		s.L.SetGlobal(name, s.L.NewFunction(func(L *lua.LState) int { return f(&args{state: s, L: L, name: name}) }))
	}
	set("mock", func(a *args) int {
		a.made[a.text(1)] = a.table(2)
		return 0
	})
	set("test", func(a *args) int {
		t.names, t.tests = append(t.names, a.text(1)), append(t.tests, a.function(2))
		return 0
	})
	set("secret", func(a *args) int {
		return a.push(s.secret(secret{Secret: sdk.NewSecret([]byte(a.text(1))), public: []byte(a.optText(2, ""))}))
	})
	set("reveal", func(a *args) int {
		b, _ := a.bytes(1)
		return a.push(lua.LString(b))
	})
	set("outcome", func(a *args) int { return a.push(lua.LString(outcomeWord(a.L.Get(1)))) })
	set("reason", func(a *args) int {
		got, _ := answerOf(a.L.Get(1))
		return a.push(lua.LString(got.reason))
	})
	set("dialogue", func(a *args) int {
		d, r := a.recorded(1)
		t.recordings = append(t.recordings, r)
		return a.push(dialogueObject.of(s, d))
	})
	set("job", func(a *args) int {
		given := a.table(1)
		values, _, err := goValue(orTable(a.L, given.RawGetString("parameters")), 0)
		if err != nil {
			a.bad(1, "parameters: %v", err)
		}
		object, _ := values.(map[string]any)
		filled, err := s.p.manifest.Values(asJSON(object))
		if err != nil {
			a.bad(1, "%v", err)
		}
		given.RawSetString("parameters", s.parameters(filled))
		if why := s.p.ungiven(given); why != "" {
			a.bad(1, "%s", why)
		}
		return a.push(given)
	})
}

// ungiven says what of a job the agent would not hand in, or would.
func (p *program) ungiven(job *lua.LTable) string {
	if p.manifest.Kind == script.Rotator {
		return ""
	}
	for _, need := range []string{script.NeedAdmin, script.NeedSecret, script.NeedFormer} {
		always := need == script.NeedSecret && p.manifest.Kind == script.Dependents || need == script.NeedAdmin && p.manifest.Kind == script.Discoverer
		if job.RawGetString(need) != lua.LNil && !always && !slices.Contains(p.manifest.Needs, need) {
			return fmt.Sprintf("the manifest does not ask for %s, so the agent gives none: needs = [%q]", need, need)
		}
	}
	records, _ := job.RawGetString("records").(*lua.LTable)
	for _, r := range p.manifest.Records {
		if records == nil || records.RawGetString(r.Name) == lua.LNil {
			return fmt.Sprintf("the manifest asks for the record %s: records = {%s = {address = …, login = …, secret = …}}", r.Name, r.Name)
		}
	}
	if records != nil {
		names, _ := sortedKeys(records)
		for _, name := range names {
			if !slices.ContainsFunc(p.manifest.Records, func(r script.Record) bool { return r.Name == name }) {
				return fmt.Sprintf("the manifest asks for no record %s", name)
			}
		}
	}
	return ""
}

func orTable(L *lua.LState, v lua.LValue) lua.LValue {
	if v == lua.LNil {
		return L.NewTable()
	}
	return v
}

func outcomeWord(v lua.LValue) string {
	a, ok := answerOf(v)
	switch {
	case !ok:
		return outcomeWords[sdk.Unknown]
	case a.change:
		return outcomeWords[a.outcome]
	}
	return verdictWord(a.verdict)
}

var outcomeWords = map[sdk.Outcome]string{sdk.Changed: "changed", sdk.Unchanged: "unchanged", sdk.Unknown: "unknown"}

func verdictWord(v sdk.Verdict) string {
	switch v {
	case sdk.Accepted:
		return "accepted"
	case sdk.Rejected:
		return "rejected"
	}
	return "undecided"
}
