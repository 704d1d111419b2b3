package main

import (
	"context"
	"errors"
	"fmt"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// discoverer is a script of that kind as the SDK's Discoverer.
type discoverer struct{ p *program }

// Discover runs discover, which answers a list of accounts.
func (d discoverer) Discover(ctx context.Context, o sdk.OpenRequest, emit func(sdk.Finding) error) error {
	host, at := places(o.Host, o.Resource, nil)
	s, err := d.p.state(ctx, host, at)
	if err != nil {
		return err
	}
	defer s.close()
	job, err := s.job(o.Resource, sdk.Account{})
	if err != nil {
		return err
	}
	job.RawSetString("account", lua.LNil)
	s.logins(job, o)
	got, err := s.call(ctx, "discover", job)
	if err != nil {
		return err
	}
	list, ok := got.(*lua.LTable)
	if !ok || fieldsOf(list) != list.Len() { // a hole would end it early
		return s.malformed("the answer is no list, or has a hole")
	}
	for n := 1; n <= list.Len(); n++ {
		f, err := s.finding(list.RawGetInt(n))
		if err != nil {
			return s.malformed(fmt.Sprintf("item %d (%.300q): %v", n, f.Login, err))
		}
		if err := emit(f); err != nil {
			return err
		}
	}
	return nil
}

var errNoFindings = errors.New(`discover answers a list of accounts, each {login = …, scope = …, facts = {…}}`)

func (s *state) malformed(why string) error {
	return &sdk.Error{Class: sdk.ClassInternal, Reason: "script.discover", NotSent: true, Err: fmt.Errorf("%w: %s", errNoFindings, s.hidden.Text(why))}
}

func fieldsOf(t *lua.LTable) (n int) {
	t.ForEach(func(lua.LValue, lua.LValue) { n++ })
	return n
}

// finding reads one account of the answer. Texts, numbers, true and false are facts; what a
// target does not say (nil, null) is none.
func (s *state) finding(v lua.LValue) (f sdk.Finding, err error) {
	t, ok := v.(*lua.LTable)
	if !ok {
		return f, errors.New("it is no table")
	}
	names, ok := sortedKeys(t)
	if !ok {
		return f, errors.New("it has something without a name")
	}
	for _, name := range names {
		switch one := t.RawGetString(name); name {
		case "login":
			f.Login, err = s.fact(one)
		case "scope":
			f.Scope, err = s.fact(one)
		case "facts":
			f.Facts, err = s.facts(one)
		default:
			err = errors.New("there is no such field: login, scope and facts are")
		}
		if err != nil {
			return f, fmt.Errorf("%s: %w", name, err)
		}
	}
	return f, f.Check()
}

func (s *state) facts(v lua.LValue) (map[string]string, error) {
	t, ok := v.(*lua.LTable)
	if !ok {
		return nil, errors.New("want a table of names and texts")
	}
	names, ok := sortedKeys(t)
	if !ok {
		return nil, errors.New("want a table of names and texts, and got a list")
	}
	out := map[string]string{}
	for _, name := range names {
		one := t.RawGetString(name)
		if u, ok := one.(*lua.LUserData); ok && u.Value == (null{}) {
			continue
		}
		text, err := s.fact(one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = text
	}
	return out, nil
}

// fact is a text that people see: a secret has no place in it.
func (s *state) fact(v lua.LValue) (string, error) {
	if b, ok := v.(lua.LBool); ok {
		return b.String(), nil
	}
	text, why := plainText(v)
	if why == "" && s.hidden.Text(text) != text {
		why = "it has a secret in it, which people would see"
	}
	if why != "" {
		return "", errors.New(why)
	}
	return text, nil
}
