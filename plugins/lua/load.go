package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// program is a script: what it asks for, and its compiled text.
type program struct {
	manifest *script.Manifest
	code     *lua.FunctionProto
	dry      *dryRun // nil: it is run in earnest

	mu     sync.Mutex
	judges []*session // of a rotator that has judge: those that are open
}

// verbs are the functions that a kind of script must have.
var verbs = map[script.Kind][]string{
	script.Rotator:       {"set_secret", "verify"},
	script.AfterRotation: {"run"},
	script.Dependents:    {"plan", "apply"},
	script.Generator:     {"generate"},
	script.Discoverer:    {"discover"},
}

// loadTime bounds what a script may do before it is called.
const loadTime = 2 * time.Second

// load reads a script and runs its top level once: it has the functions of its kind, and
// nothing that it does outside them fails.
func load(text []byte) (*program, error) {
	m, err := script.Parse(text)
	if err != nil {
		return nil, err
	}
	p := &program{manifest: m}
	if p.code, err = compile(m.Name+".lua", text); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	s, err := p.state(ctx, sdk.Host{}, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for _, name := range verbs[m.Kind] {
		if !s.has(name) {
			return nil, fmt.Errorf("%s.lua: a script of kind %s has a function %s, and this one has none", m.Name, m.Kind, name)
		}
	}
	if m.Rotates != nil && len(m.Rotates.Overlap) > 0 && !s.has("retire") {
		return nil, fmt.Errorf("%s.lua: its manifest says overlap, and it has no function retire, which ends the former secret", m.Name)
	}
	return p, nil
}

// compile parses a script's text. Its errors name the line.
func compile(name string, text []byte) (*lua.FunctionProto, error) {
	chunk, err := parse.Parse(bytes.NewReader(text), name)
	if err != nil {
		return nil, syntaxError(name, text, err)
	}
	code, err := lua.Compile(chunk, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return code, nil
}

// nearRE takes the parser's words apart.
var nearRE = regexp.MustCompile(`line:(\d+)\(column:\d+\) near '([^']*)'`)

// syntaxError says where a text is no Lua, as every other error says it.
func syntaxError(name string, text []byte, err error) error {
	if found := nearRE.FindStringSubmatch(err.Error()); found != nil {
		return fmt.Errorf("%s:%s: it is no Lua near %q", name, found[1], found[2])
	}
	return fmt.Errorf("%s:%d: the text ends before it should: an end, a bracket or a quote is missing", name, bytes.Count(bytes.TrimRight(text, "\n"), []byte("\n"))+1)
}

// plugin is the script as the agent's plugin.
func (p *program) plugin() sdk.Plugin {
	out := sdk.Plugin{Manifest: p.manifest.SDK()}
	switch p.manifest.Kind {
	case script.Rotator:
		out.Rotator = rotator{p}
	case script.AfterRotation:
		out.After = after{p}
	case script.Dependents:
		out.Dependents = dependents{p}
	case script.Generator:
		out.Generator = generator{p}
	case script.Discoverer:
		out.Discoverer = discoverer{p}
	}
	return out
}
