package main

import (
	"slices"
	"testing"
)

func TestReadUser(t *testing.T) {
	b := func(s string) any { return []byte(s) }
	for name, c := range map[string]struct {
		reply any
		want  user
		fails bool
	}{
		"missing": {nil, user{}, false},
		"version 6": {
			[]any{b("flags"), []any{b("on"), b("allkeys")}, b("passwords"), []any{b("aa"), b("bb")}, b("commands"), b("+@all"), b("keys"), []any{b("*")}},
			user{found: true, on: true, passwords: []string{"aa", "bb"}},
			false,
		},
		"version 7": {
			[]any{b("flags"), []any{b("off"), b("nopass")}, b("passwords"), []any{}, b("commands"), b("+@all"), b("keys"), b("~*"), b("selectors"), []any{[]any{b("commands")}}},
			user{found: true, anything: true},
			false,
		},
		"not an array":       {b("OK"), user{}, true},
		"without passwords":  {[]any{b("flags"), []any{b("on")}}, user{}, true},
		"a value is missing": {[]any{b("flags"), []any{b("on")}, b("passwords")}, user{}, true},
		"a name that is none": {
			[]any{[]any{}, []any{}, b("flags"), []any{}}, user{}, true,
		},
		"passwords that are no list": {[]any{b("flags"), []any{b("on")}, b("passwords"), b("aa")}, user{}, true},
	} {
		got, err := readUser(c.reply)
		if (err != nil) != c.fails || err == nil &&
			(got.found != c.want.found || got.on != c.want.on || got.anything != c.want.anything || !slices.Equal(got.passwords, c.want.passwords)) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}
