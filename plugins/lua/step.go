package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

var errNoPlan = errors.New("plan gives a list of steps, each {id = …, title = …, data = …}")

// step reads a step of a plan. It is kept in the agent's journal, so a secret has no
// place in it.
func (s *state) step(v lua.LValue) (sdk.Step, error) {
	bad := func(why string) (sdk.Step, error) {
		return sdk.Step{}, &sdk.Error{Class: sdk.ClassInternal, Reason: "script.plan", NotSent: true, Err: fmt.Errorf("%w: %s", errNoPlan, why)}
	}
	t, ok := v.(*lua.LTable)
	if !ok {
		return bad("a step is no table")
	}
	id, why := plainText(t.RawGetString("id"))
	if why != "" {
		return bad("id: " + why)
	}
	title, why := plainText(t.RawGetString("title"))
	if why != "" {
		return bad("title: " + why)
	}
	out := sdk.Step{ID: id, Title: title}
	if data := t.RawGetString("data"); data != lua.LNil {
		v, secrets, err := goValue(data, 0)
		if err != nil {
			return bad("data: " + err.Error())
		}
		if secrets {
			return bad("data holds a secret, which would be written into the agent's journal")
		}
		if out.Data, err = json.Marshal(v); err != nil {
			return bad("data: " + err.Error())
		}
	}
	if s.hidden.Text(id) != id || s.hidden.Text(title) != title || s.hidden.Text(string(out.Data)) != string(out.Data) {
		return bad("it holds a secret, which would be written into the agent's journal")
	}
	return out, nil
}

// Bounds of a value that goes from Lua to a format or back.
const (
	maxDepth  = 64
	maxValues = 200_000
)

// goValue makes of Lua's value what JSON can say: a table with a first item is a list, any
// other an object. Secrets are in it as their texts: the caller makes a secret of the whole.
func goValue(v lua.LValue, depth int) (out any, secrets bool, err error) {
	r := reading{values: maxValues, bytes: maxString}
	out, err = r.value(v, depth)
	return out, r.secrets, err
}

// reading counts what is read of a Lua value: tables may be shared, so that a small value
// stands for a huge one.
type reading struct {
	values, bytes int // that are left
	secrets       bool
}

func (r *reading) value(v lua.LValue, depth int) (any, error) {
	if r.values--; r.values < 0 {
		return nil, fmt.Errorf("it has more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep, or holds itself", maxDepth)
	}
	switch v := v.(type) {
	case *lua.LNilType:
		return nil, nil
	case lua.LBool:
		return bool(v), nil
	case lua.LNumber:
		switch f := float64(v); {
		case math.IsNaN(f) || math.IsInf(f, 0):
			return nil, errors.New("it is no number that can be written")
		case f == math.Trunc(f) && math.Abs(f) < 1<<53:
			return int64(f), nil
		default:
			return f, nil
		}
	case *lua.LTable:
		return r.table(v, depth)
	case *lua.LUserData:
		if v.Value == (null{}) {
			return nil, nil
		}
	}
	b, isSecret, why := eitherText(v)
	switch r.bytes -= len(b); {
	case why != "":
		return nil, errors.New(why)
	case r.bytes < 0:
		return nil, fmt.Errorf("it has more than %d bytes", maxString)
	case !utf8.Valid(b):
		return nil, errors.New("it is no UTF-8: write it by base64.encode")
	}
	r.secrets = r.secrets || isSecret
	return string(b), nil
}

func (r *reading) table(t *lua.LTable, depth int) (any, error) {
	n := t.Len()
	if n == 0 && !isList(t) {
		return r.object(t, depth)
	}
	if fieldsOf(t) != n {
		return nil, errors.New("it is half a list and half an object, or a list with holes")
	}
	list := make([]any, 0, min(n, r.values))
	for i := 1; i <= n; i++ {
		one, err := r.value(t.RawGetInt(i), depth+1)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		list = append(list, one)
	}
	return list, nil
}

func (r *reading) object(t *lua.LTable, depth int) (any, error) {
	names, ok := sortedKeys(t)
	if !ok {
		return nil, errors.New("the names in a table are texts, or it is a list from 1 on")
	}
	object := map[string]any{}
	for _, name := range names {
		// A name is seen by whoever reads the log of an error; it is checked as any text.
		if _, err := r.value(lua.LString(name), depth); err != nil {
			return nil, fmt.Errorf("a name: %w", err)
		}
		one, err := r.value(t.RawGetString(name), depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		object[name] = one
	}
	return object, nil
}
