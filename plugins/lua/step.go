package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

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

const maxDepth = 64

// goValue makes of Lua's value what JSON can say: a table with a first item is a list, any
// other an object. Secrets are in it as their texts: the caller makes a secret of the whole.
func goValue(v lua.LValue, depth int) (out any, secrets bool, err error) {
	if depth > maxDepth {
		return nil, false, fmt.Errorf("it is nested more than %d deep, or holds itself", maxDepth)
	}
	switch v := v.(type) {
	case *lua.LNilType:
		return nil, false, nil
	case lua.LBool:
		return bool(v), false, nil
	case lua.LNumber:
		if f := float64(v); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), false, nil
		}
		return float64(v), false, nil
	case *lua.LTable:
		return goTable(v, depth)
	}
	b, isSecret, why := eitherText(v)
	if why != "" {
		return nil, false, errors.New(why)
	}
	return string(b), isSecret, nil
}

func goTable(t *lua.LTable, depth int) (out any, secrets bool, err error) {
	names, ok := sortedKeys(t)
	switch {
	case t.Len() > 0 && len(names) > 1: // the list's numbers count as one name, which is no text
		return nil, false, errors.New("it is half a list and half an object")
	case t.Len() > 0:
		list := make([]any, 0, t.Len())
		for n := 1; n <= t.Len(); n++ {
			one, s, err := goValue(t.RawGetInt(n), depth+1)
			if err != nil {
				return nil, false, fmt.Errorf("item %d: %w", n, err)
			}
			list, secrets = append(list, one), secrets || s
		}
		return list, secrets, nil
	}
	object := map[string]any{}
	if !ok {
		return nil, false, errors.New("the names in a table are texts, or it is a list from 1 on")
	}
	for _, name := range names {
		one, s, err := goValue(t.RawGetString(name), depth+1)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", name, err)
		}
		object[name], secrets = one, secrets || s
	}
	return object, secrets, nil
}
