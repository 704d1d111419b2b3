package main

import (
	"bytes"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/sdk"
)

// putAway is an agent's memory of a script.
type putAway map[string]putValue

type putValue struct {
	b      []byte
	secret bool
}

func (p putAway) Get(name string) ([]byte, bool, bool, error) {
	v, known := p[name]
	return bytes.Clone(v.b), v.secret, known, nil
}

func (p putAway) Set(name string, value []byte, isSecret bool) error {
	if value == nil {
		delete(p, name)
		return nil
	}
	p[name] = putValue{bytes.Clone(value), isSecret}
	return nil
}

// What is put away comes back as what it was, in another state.
func TestState(t *testing.T) {
	kept := putAway{}
	run := func(modules []string, code string) error {
		b := newBench(t, modules, "needs = [\"secret\"]\nreveals = \"to lose it\"", code)
		b.host.Dialer = agentsHost{b, local.Handler(nil, nil)(b.p.manifest, nil, kept, nil)}
		_, err := b.run(func(s *state, job *lua.LTable) {
			job.RawSetString("secret", s.secret(secret{Secret: sdk.NewSecret([]byte("hunter2hunter2"))}))
		})
		return err
	}
	mods := []string{"state", "secret"}
	for _, step := range []struct{ code, fails string }{
		{`assert(state.get("n") == nil) assert(state.set("n", "7")) assert(state.set("token", job.secret)) assert(state.set("empty", ""))`, ""},
		{`assert(state.get("n") == "7" and state.get("empty") == "") local s = state.get("token") assert(tostring(s) == "[secret]" and secret.equal(s, job.secret))`, ""},
		{`assert(state.set("seen", job.secret:reveal()))`, ""},
		{`assert(tostring(state.get("seen")) == "[secret]")`, ""}, // in a state that does not know it
		{`assert(state.forget("n")) assert(state.forget("n") and state.get("n") == nil)`, ""},
		{`state.set("a/b", "x")`, "want a name"},
		{`state.set("n", {})`, "want a text, got a table"},
		{`state.set("n", "x" .. tostring(job.secret))`, "[secret]"},
	} {
		if err := run(mods, step.code); step.fails == "" && err != nil || step.fails != "" && (err == nil || !strings.Contains(err.Error(), step.fails)) {
			t.Errorf("%s\n%v; want %q", step.code, err, step.fails)
		}
	}
}
