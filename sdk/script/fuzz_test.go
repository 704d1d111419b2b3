package script_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk/script"
)

// Whatever the text: an error names a line that it has, and what is understood keeps to
// the bounds and can be shown to people as it is.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "--[[ rotunda\n]]", "--[==[ rotunda\r\nname=\"a\"\r\n]==]", with(), with(`needs = ["admin"]`, `hosts = ["resource", "a:1"]`),
		with(`[parameters.a]`, `type = "enum"`, `about = "A."`, `values = ["x"]`, `default = "x"`), with(`a = {`, `b = [`, `]}`), with(`a.b.c.d = "\" # \\"`),
		with(`parameters.a.type = 'integer' # "`, `parameters.a.about = "A."`, `parameters.a.required = true`),
		manifest(`name = "r"`, `version = "1"`, `kind = "rotator"`, `about = "R."`, `rotator = {kinds = ["password"], settle = "1s"}`),
		manifest(`name = "r"`, `version = "1"`, `kind = "dependents"`, `about = "R."`, `modules = ["exec"]`, `programs = ['C:\a']`),
		"--[[ rotunda\n\"a\nb\" = 1\n]]", "--[[ rotunda\n\"\"\"a\"\"\" = 1\n]]", with() + "\u202e",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := script.Parse(text)
		if err != nil {
			e := (*script.Error)(nil)
			if !errors.As(err, &e) || e.Line < 1 || e.Line > bytes.Count(text, []byte("\n"))+1 || e.Text == "" {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if !bytes.HasPrefix(text, m.Comment) || len(m.Comment) > script.MaxManifest || len(m.Records) > 16 || len(m.Parameters) > 64 {
			t.Errorf("%q: out of its bounds", text)
		}
		if !slices.Contains(script.Kinds, m.Kind) || (m.Kind == script.Rotator) != (m.Rotates != nil) || m.SDK().Name != script.Plugin {
			t.Errorf("%q: kind %q", text, m.Kind)
		}
		for _, a := range m.Asks() {
			if a.What == "" || strings.ContainsAny(a.What+a.Why, "\n\r\x00\x1b\u202e") {
				t.Errorf("%q asks for %q", text, a)
			}
		}
		values, err := m.Values(nil)
		for _, p := range m.Parameters {
			if p.Required && err == nil {
				t.Errorf("%q: %s is required, and may be left out", text, p.Name)
			}
			if err == nil && values[p.Name] == nil {
				t.Errorf("%q: %s has no value", text, p.Name)
			}
		}
		_, _ = m.Places("r:1", values, nil)
		_, _ = m.Paths(values)
		_, _ = m.Commands(values)
	})
}

// A use's parameters: what is understood names every parameter and nothing else.
func FuzzValues(f *testing.F) {
	m, err := script.Parse([]byte(with(`[parameters]`, `a = {type = "address", about = "A.", required = true}`,
		`b = {type = "strings", about = "B.", default = []}`, `c = {type = "integer", about = "C.", default = 1}`, `d = {type = "url", about = "D.", default = "http://x"}`)))
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{"", "{}", `{"a":"x:1"}`, `{"a":"x:1","b":["y"],"c":-1,"d":"ldaps://y:1/z"}`, `{"a":"[::1]:1","a":1}`, `{"a":null}`, `[`, `{"a":"x:1"}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		values, err := m.Values(json.RawMessage(config))
		if err == nil && (len(values) != 4 || values["a"] == "") {
			t.Errorf("%q: %v", config, values)
		}
	})
}
