package script_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

func settings(t *testing.T) *script.Manifest {
	t.Helper()
	m, err := script.Parse([]byte(with(
		`modules = ["file", "exec"]`,
		`hosts = ["resource", "parameters.at", "parameters.api", "records.r", "db:5432"]`,
		`files = ["parameters.file", "/etc/b"]`, `programs = ["/bin/true", "parameters.file"]`,
		`[parameters]`,
		`unit = {type = "string", about = "U.", required = true, pattern = "a|bc"}`,
		`n = {type = "integer", about = "N.", default = 3}`,
		`b = {type = "boolean", about = "B.", default = false}`,
		`at = {type = "address", about = "A.", default = "Proxy.example.:0080"}`,
		`api = {type = "url", about = "U.", default = "https://api.example/v1"}`,
		`list = {type = "strings", about = "L.", default = ["x"], pattern = "[a-z]"}`,
		`mode = {type = "enum", about = "M.", default = "soft", values = ["soft", "hard"]}`,
		`file = {type = "string", about = "F.", default = "/etc/a"}`,
		`[records.r]`,
		`about = "R."`,
		`as = "resource"`,
	)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestValues(t *testing.T) {
	m := settings(t)
	defaults := map[string]any{
		"unit": "a", "n": int64(3), "b": false, "at": "proxy.example:80", "api": "https://api.example/v1", "list": []string{"x"}, "mode": "soft", "file": "/etc/a",
	}
	for name, c := range map[string]struct {
		in   string
		want map[string]any // beyond the defaults
		says string
	}{
		"defaults":             {in: `{"unit":"a"}`},
		"all":                  {in: `{"unit":"bc","n":-9007199254740992,"b":true,"at":"[::1]:22","api":"ldap://x","list":[],"mode":"hard","file":""}`, want: map[string]any{"unit": "bc", "n": int64(-1 << 53), "b": true, "at": "[::1]:22", "api": "ldap://x", "list": []string{}, "mode": "hard", "file": ""}},
		"missing":              {in: ``, says: "wants the parameter unit"},
		"not an object":        {in: `[]`, says: "not a JSON object"},
		"cut off":              {in: `{"unit":"a"`, says: "not JSON"},
		"more":                 {in: `{"unit":"a"} {}`, says: "after their end"},
		"twice":                {in: `{"unit":"a","unit":"bc"}`, says: "given twice"},
		"unknown":              {in: `{"unit":"a","modes":"hard"}`, says: `did you mean "mode"`},
		"case":                 {in: `{"Unit":"a"}`, says: `no parameter "Unit": did you mean "unit"`},
		"null":                 {in: `{"unit":null}`, says: "want a string"},
		"a null in a list":     {in: `{"unit":"a","list":[null]}`, says: "want a string"},
		"type":                 {in: `{"unit":1}`, says: "want a string"},
		"the pattern is whole": {in: `{"unit":"ab"}`, says: "a|bc"},
		"nor a line more":      {in: `{"unit":"a\n"}`, says: "a|bc"},
		"of each of a list":    {in: `{"unit":"a","list":["x","yy"]}`, says: "[a-z]"},
		"a fraction":           {in: `{"unit":"a","n":1.5}`, says: "integer"},
		"a gap in the numbers": {in: `{"unit":"a","n":9007199254740993}`, says: "integer"},
		"no boolean":           {in: `{"unit":"a","b":"true"}`, says: "true or false"},
		"no address":           {in: `{"unit":"a","at":"x"}`, says: "host:port"},
		"no URL":               {in: `{"unit":"a","api":"x"}`, says: "http"},
		"a scheme":             {in: `{"unit":"a","api":"file:///etc/passwd"}`, says: "http"},
		"a login in a URL":     {in: `{"unit":"a","api":"https://u:hunter2@x/"}`, says: "no login"},
		"not in the enum":      {in: `{"unit":"a","mode":"Soft"}`, says: "soft, hard"},
		"a zero byte":          {in: `{"unit":"a","file":"/etc/a\u0000b"}`, says: "want a string"},
		"not UTF-8":            {in: "{\"unit\":\"\xff\"}", says: "UTF-8"},
		"too long":             {in: `{"unit":"` + strings.Repeat("a", script.MaxParameters) + `"}`, says: "at most 65536"},
	} {
		got, err := m.Values(json.RawMessage(c.in))
		want := map[string]any{}
		for k, v := range defaults {
			want[k] = v
		}
		for k, v := range c.want {
			want[k] = v
		}
		e := (*sdk.Error)(nil)
		switch {
		case c.says == "" && (err != nil || !reflect.DeepEqual(got, want)):
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		case c.says != "" && (!errors.As(err, &e) || e.Class != sdk.ClassInvalid || e.Reason != "parameters" || !e.NotSent || !strings.Contains(e.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the error holds a value: %v", name, err)
		}
	}
	one, _ := m.Values(json.RawMessage(`{"unit":"a"}`))
	one["list"].([]string)[0] = "changed"
	if again, _ := m.Values(json.RawMessage(`{"unit":"a"}`)); !reflect.DeepEqual(again, defaults) {
		t.Errorf("who gets the values changes the defaults: %v", again)
	}
}

func TestPlaces(t *testing.T) {
	m := settings(t)
	values, err := m.Values(json.RawMessage(`{"unit":"a","api":"http://API.example/","at":"[0:0::1]:022"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Places("DB:5432", values, map[string]string{"r": "10.0.0.1:22", "other": "10.0.0.2:22"})
	if want := []string{"db:5432", "[::1]:22", "api.example:80", "10.0.0.1:22"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := m.Places("db:5432", values, nil); err == nil || !strings.Contains(err.Error(), "records.r") {
		t.Errorf("a record without an address: %v", err)
	}
	if _, err := m.Places("", values, map[string]string{"r": "r:1"}); err == nil || !strings.Contains(err.Error(), "resource") {
		t.Errorf("a resource without an address: %v", err)
	}

	files, err := m.Paths(values)
	if want := []string{"/etc/a", "/etc/b"}; err != nil || !reflect.DeepEqual(files, want) {
		t.Errorf("%v, %v; want %v", files, err, want)
	}
	programs, err := m.Commands(values)
	if want := []string{"/bin/true", "/etc/a"}; err != nil || !reflect.DeepEqual(programs, want) {
		t.Errorf("%v, %v; want %v", programs, err, want)
	}
	for _, path := range []string{"", "a", "/etc/../root/x", "/etc/", "/", "//etc/a"} {
		values["file"] = path
		if programs, err := m.Commands(values); err == nil {
			t.Errorf("%q is a program of the script: %v", path, programs)
		}
		if files, err := m.Paths(values); err == nil {
			t.Errorf("%q is a file of the script: %v", path, files)
		}
	}
}

// The further records of a use belong to their names: a file of the script in which these
// change places moves none, and one with other names has none.
func TestBind(t *testing.T) {
	records := func(names ...string) *script.Manifest {
		lines := []string{`modules = ["http"]`, `hosts = ["records.cheap"]`}
		for _, name := range names {
			lines = append(lines, "[records."+name+"]", `about = "X."`, `as = "account"`)
		}
		m, err := script.Parse([]byte(with(lines...)))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	was, is := records("cheap", "vault"), records("vault", "cheap")
	refs := []string{"the cheap one", "the vault"}
	for name, m := range map[string]*script.Manifest{"the file that was approved": was, "one with them in another order": is} {
		at, err := m.Bind([]string{"cheap", "vault"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for n, r := range m.Records {
			if got := refs[at[n]]; !strings.Contains(got, r.Name) {
				t.Errorf("%s: %s is %s", name, r.Name, got)
			}
		}
	}
	for name, names := range map[string][]string{
		"none": nil, "one too few": {"cheap"}, "another name": {"cheap", "other"}, "one too many": {"cheap", "vault", "other"}, "one twice": {"cheap", "cheap"},
	} {
		if at, err := was.Bind(names); err == nil || !strings.Contains(err.Error(), "cheap, vault") {
			t.Errorf("%s: %v, %v", name, at, err)
		}
	}
	// What an update would re-aim by another name, it asks for.
	if other := records("cheap", "safe"); reflect.DeepEqual(other.Asks(), was.Asks()) {
		t.Error("a record of another name is not asked for")
	}
}
