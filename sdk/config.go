package sdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// DecodeConfig reads the resource's settings into a pointer to a struct. It is
// strict: a field that the struct does not have, a required one that is missing and
// a value that is not in the enum are errors of class invalid, reason config.
//
// These tags count:
//
//	json:"name"       the field's name
//	doc:"sentence"    what it means, for the documentation; required of every field
//	default:"value"   of strings, numbers and booleans: taken when the field is absent
//	enum:"a,b"        of strings: what is allowed
//	required:"true"   must be there
//
// There is no place for secrets in it: those come as OpenRequest.Extra, by the names
// that the resource's statement gives them.
func DecodeConfig(r Resource, into any) error {
	fail := func(err error) error {
		return &Error{Class: ClassInvalid, Reason: "config", NotSent: true, Err: err}
	}
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fail(fmt.Errorf("config is a %T, want a pointer to a struct", into))
	}
	raw := r.Config
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = json.RawMessage("{}")
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fail(err)
	}
	fields, err := configFields(v.Elem().Type())
	if err != nil {
		return fail(err)
	}
	// The decoder below takes "Method" for "method": by such a spelling an enum and a
	// default would be passed by.
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(fields, func(f configField) bool { return f.name == name }) {
			return fail(fmt.Errorf("config has an unknown field %q", name))
		}
	}
	for _, f := range fields {
		_, ok := given[f.name]
		if !ok && f.required {
			return fail(fmt.Errorf("config field %q is missing", f.name))
		}
		if !ok && f.fallback != nil {
			if err := json.Unmarshal(f.fallback, v.Elem().FieldByIndex(f.index).Addr().Interface()); err != nil {
				return fail(err)
			}
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fail(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fail(errors.New("config goes on after its end"))
	}
	for _, f := range fields {
		if len(f.enum) == 0 {
			continue
		}
		s := v.Elem().FieldByIndex(f.index).String()
		if _, ok := given[f.name]; ok && !slices.Contains(f.enum, s) {
			return fail(fmt.Errorf("config field %q must be one of %s", f.name, strings.Join(f.enum, ", ")))
		}
	}
	return nil
}

// ConfigSchema is the JSON Schema (2020-12) of a manifest's Config, nil for nil. The
// same tags feed it as DecodeConfig.
func ConfigSchema(config any) (json.RawMessage, error) {
	if config == nil {
		return nil, nil
	}
	t := reflect.TypeOf(config)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config is a %s, want a pointer to a struct", t)
	}
	fields, err := configFields(t.Elem())
	if err != nil {
		return nil, err
	}
	props, required := map[string]any{}, []string{}
	for _, f := range fields {
		p := map[string]any{"description": f.doc}
		for k, v := range f.kind {
			p[k] = v
		}
		if f.fallback != nil {
			p["default"] = f.fallback
		}
		if len(f.enum) > 0 {
			p["enum"] = f.enum
		}
		if f.required {
			required = append(required, f.name)
		}
		props[f.name] = p
	}
	return json.Marshal(map[string]any{
		"$schema":              "https://json-schema.org/draft/2020-12/schema",
		"type":                 "object",
		"properties":           props,
		"required":             required,
		"additionalProperties": false,
	})
}

// ConfigDoc is the documentation of a manifest's Config: a Markdown table, one row
// a field, in the order of the struct. It is empty for nil.
func ConfigDoc(config any) (string, error) {
	if config == nil {
		return "", nil
	}
	if _, err := ConfigSchema(config); err != nil {
		return "", err
	}
	fields, err := configFields(reflect.TypeOf(config).Elem())
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| field | type | default | meaning |\n|---|---|---|---|\n")
	for _, f := range fields {
		kind, fallback := fmt.Sprint(f.kind["type"]), string(f.fallback)
		if len(f.enum) > 0 {
			kind = strings.Join(f.enum, ", ")
		}
		if f.required {
			fallback = "required"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, kind, fallback, f.doc)
	}
	return b.String(), nil
}

// isSwitch reports whether a manifest's Config has a boolean of that name that is off where
// it is absent.
func isSwitch(config any, name string) bool {
	if config == nil {
		return false
	}
	fields, err := configFields(reflect.TypeOf(config).Elem())
	return err == nil && slices.ContainsFunc(fields, func(f configField) bool {
		return f.name == name && f.kind["type"] == "boolean" && string(f.fallback) != "true"
	})
}

type configField struct {
	name, doc string
	index     []int
	kind      map[string]any // JSON Schema of the type
	fallback  json.RawMessage
	enum      []string
	required  bool
}

func configFields(t reflect.Type) ([]configField, error) {
	var out []configField
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		c := configField{name: name, doc: f.Tag.Get("doc"), index: f.Index, required: f.Tag.Get("required") == "true"}
		if name == "" || name == "-" || c.doc == "" {
			return nil, fmt.Errorf("config field %s: needs the tags json and doc", f.Name)
		}
		var err error
		if c.kind, err = schemaType(f.Type); err != nil {
			return nil, fmt.Errorf("config field %s: %w", f.Name, err)
		}
		if e := f.Tag.Get("enum"); e != "" {
			c.enum = strings.Split(e, ",")
		}
		if d, ok := f.Tag.Lookup("default"); ok {
			c.fallback = json.RawMessage(d)
			if f.Type.Kind() == reflect.String {
				c.fallback = json.RawMessage(strconv.Quote(d))
			}
			if err := json.Unmarshal(c.fallback, reflect.New(f.Type).Interface()); err != nil {
				return nil, fmt.Errorf("config field %s: default: %w", f.Name, err)
			}
			if len(c.enum) > 0 && !slices.Contains(c.enum, d) {
				return nil, fmt.Errorf("config field %s: default is not in its enum", f.Name)
			}
		}
		if len(c.enum) > 0 && f.Type.Kind() != reflect.String {
			return nil, fmt.Errorf("config field %s: enum is for strings", f.Name)
		}
		out = append(out, c)
	}
	return out, nil
}

func schemaType(t reflect.Type) (map[string]any, error) {
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}, nil
	case reflect.Bool:
		return map[string]any{"type": "boolean"}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}, nil
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}, nil
	case reflect.Slice:
		in, err := schemaType(t.Elem())
		return map[string]any{"type": "array", "items": in}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("map with keys of type %s", t.Key())
		}
		in, err := schemaType(t.Elem())
		return map[string]any{"type": "object", "additionalProperties": in}, err
	default:
		return nil, fmt.Errorf("type %s cannot be a setting", t)
	}
}
