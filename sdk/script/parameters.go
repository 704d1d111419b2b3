package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Type of a parameter.
type Type string

// The types, and what Values gives for each.
const (
	String  Type = "string"  // string
	Integer Type = "integer" // int64, which Lua's numbers hold exactly
	Boolean Type = "boolean" // bool
	Address Type = "address" // string, host:port
	URL     Type = "url"     // string
	Strings Type = "strings" // []string
	Enum    Type = "enum"    // string, one of the parameter's values
)

// Types are all of them.
var Types = []Type{String, Integer, Boolean, Address, URL, Strings, Enum}

// maxInteger is the largest number below which Lua's have no gaps.
const maxInteger = 1 << 53

// Parameter is a setting of the script, given where it is used.
type Parameter struct {
	Name     string
	Type     Type
	About    string
	Required bool
	Default  any      // where it is not required
	Values   []string // of type enum
	Pattern  string   // of types string and strings: what the whole value is like; empty: anything

	pattern *regexp.Regexp
}

func parameter(t *table) Parameter {
	t.only(parameterKeys...)
	p := Parameter{
		Name: t.name(), Type: Type(t.oneOf("type", names(Types))), About: t.sentence("about", true),
		Required: t.boolean("required"), Values: t.list("values"), Pattern: t.text("pattern", false, 1024),
	}
	t.must((p.Type == Enum) == (len(p.Values) > 0), "values", "lists what a parameter of type enum may be", "give it there, and nowhere else")
	t.must(p.Pattern == "" || p.Type == String || p.Type == Strings, "pattern", "is for parameters of type string or strings", "remove it")
	if p.Pattern != "" {
		// The pattern alone first: "a)|(b" would be no whole value's in the group.
		_, err := regexp.Compile(p.Pattern)
		if err == nil {
			p.pattern, err = regexp.Compile(`\A(?:` + p.Pattern + `)\z`)
		}
		t.must(err == nil, "pattern", "is no regular expression", fmt.Sprint(err))
	}
	t.must(p.Required != t.has("default"), "default", "stands with each parameter that is not required, and with no other", "write required = true, or a default")
	if t.r.err == nil && !p.Required {
		raw, err := json.Marshal(t.m["default"])
		if err == nil {
			p.Default, err = p.value(raw)
		}
		t.must(err == nil, "default", "does not fit", fmt.Sprint(err))
	}
	return p
}

// Values reads the parameters of a use. It is strict; errors are of class invalid, reason
// parameters, and hold no value.
func (m *Manifest) Values(config json.RawMessage) (map[string]any, error) {
	given, err := object(config)
	if err != nil {
		return nil, wrong(err)
	}
	var all []string
	for _, p := range m.Parameters {
		all = append(all, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if slices.Contains(all, name) {
			continue
		}
		hint := "it has none"
		if len(all) > 0 {
			hint = or(name, all)
		}
		return nil, wrong(fmt.Errorf("the script %s has no parameter %q: %s", m.Name, name, hint))
	}
	out := map[string]any{}
	for _, p := range m.Parameters {
		raw, ok := given[p.Name]
		switch {
		case !ok && p.Required:
			return nil, wrong(fmt.Errorf("the script %s wants the parameter %s: %s", m.Name, p.Name, p.About))
		case !ok:
			out[p.Name] = p.fallback()
		default:
			v, err := p.value(raw)
			if err != nil {
				return nil, wrong(fmt.Errorf("parameter %s of the script %s: %w", p.Name, m.Name, err))
			}
			out[p.Name] = v
		}
	}
	return out, nil
}

func wrong(err error) error {
	return &sdk.Error{Class: sdk.ClassInvalid, Reason: "parameters", NotSent: true, Err: err}
}

// fallback is a default of its own, so that nobody changes the manifest's.
func (p *Parameter) fallback() any {
	if list, ok := p.Default.([]string); ok {
		return slices.Clone(list)
	}
	return p.Default
}

// object reads one JSON object. A name that stands twice is an error: who shows it and who
// uses it may not take the same one.
func object(config json.RawMessage) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(config)) == 0 {
		return out, nil
	}
	if len(config) > MaxParameters {
		return nil, fmt.Errorf("%d bytes of parameters, at most %d are taken", len(config), MaxParameters)
	}
	if !utf8.Valid(config) {
		return nil, errors.New("the parameters are not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(config))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the parameters are not a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("the parameters are not JSON")
		}
		name, _ := t.(string)
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("the parameter %q is given twice", name)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, errors.New("the parameters are not JSON")
		}
		out[name] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("the parameters are not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the parameters go on after their end")
	}
	return out, nil
}

// value reads one.
func (p *Parameter) value(raw json.RawMessage) (any, error) {
	switch p.Type {
	case Integer:
		n, err := scalar[int64](raw)
		if err != nil || n < -maxInteger || n > maxInteger {
			return nil, errors.New("want an integer, up to 2^53")
		}
		return n, nil
	case Boolean:
		b, err := scalar[bool](raw)
		if err != nil {
			return nil, errors.New("want true or false")
		}
		return b, nil
	case Strings:
		list, err := scalar[[]json.RawMessage](raw)
		if err != nil || len(list) > 1024 {
			return nil, errors.New("want a list of strings, at most 1024")
		}
		out := []string{}
		for _, r := range list {
			s, err := p.string(r)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
		return out, nil
	}
	s, err := p.string(raw)
	if err != nil {
		return nil, err
	}
	switch p.Type {
	case Address:
		return address(s)
	case URL:
		_, err := urlPlace(s)
		return s, err
	case Enum:
		if !slices.Contains(p.Values, s) {
			return nil, fmt.Errorf("want one of %s", strings.Join(p.Values, ", "))
		}
	}
	return s, nil
}

func (p *Parameter) string(raw json.RawMessage) (string, error) {
	s, err := scalar[string](raw)
	if err != nil || strings.ContainsRune(s, 0) {
		return "", errors.New("want a string")
	}
	if p.pattern != nil && !p.pattern.MatchString(s) {
		return "", fmt.Errorf("want what the pattern %s matches", p.Pattern)
	}
	return s, nil
}

// scalar is what JSON says, and not the zero value for null.
func scalar[T any](raw json.RawMessage) (v T, err error) {
	if string(bytes.TrimSpace(raw)) == "null" {
		return v, errors.New("null")
	}
	return v, json.Unmarshal(raw, &v)
}
