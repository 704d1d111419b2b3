package main

import (
	"strings"
	"testing"
)

// luaCase is Lua that runs through, or that ends with an error which says something.
type luaCase struct {
	name  string
	code  string
	fails string // empty: it does not
}

func luaCases(t *testing.T, modules []string, cases []luaCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := runLua(t, modules, c.code)
			switch {
			case c.fails == "" && err != nil:
				t.Errorf("%s\n%v", c.code, err)
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("%s\ngave the error %v; want one that says %q", c.code, err, c.fails)
			}
		})
	}
}

// shownSecret runs code that answers a secret, and shows it to the test.
func shownSecret(t *testing.T, modules []string, code string) string {
	t.Helper()
	v, err := runLua(t, modules, code)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := secretOf(v)
	if !ok {
		t.Fatalf("%s\ngave %v, which is no secret", code, v)
	}
	return s.ExposeString()
}
