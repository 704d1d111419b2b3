package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"

	"go.yaml.in/yaml/v3"
)

// maxYAML is the longest YAML text that is read: its parser keeps much for each byte.
const maxYAML = 1 << 20

var yamlModule = module{
	about: "Reads and writes YAML.",
	functions: []function{
		{
			name: "decode", takes: "text: string", gives: "any|nil, sdk.error?",
			about: "Reads a text of one YAML document: at most 1 MiB, 200,000 values with what aliases stand for, 64 deep, no name twice in a mapping. " +
				"A null field is left out and a null item is json.null(); a time is the text that it is written as. A secret is refused: take out of it what you need with yaml.at.",
			example: `local v = yaml.decode("a: &x [1, two]\nb: *x\nc: ~\n") assert(v.b[2] == "two" and v.a[1] == 1 and v.c == nil)`,
			do: func(a *args) int {
				v, err := decodeYAML([]byte(a.text(1)))
				if err != nil {
					return a.fail(malformed("YAML", false, err))
				}
				return a.push(a.decoded(v))
			},
		},
		{
			name: "encode", takes: "value: any", gives: "string|secret",
			about:   "Writes a value as YAML, names in order, two spaces deep. Where a secret is in it, so is the whole.",
			example: `assert(yaml.encode({a = {1, "true"}}) == "a:\n  - 1\n  - \"true\"\n")`,
			do: func(a *args) int {
				v, secrets := a.value(1)
				b, err := encodeYAML(v, 2)
				if err != nil {
					a.bad(1, "it cannot be written")
				}
				return a.give(b, secrets)
			},
		},
		{
			name: "at", takes: "text: string|secret, path: string|(string|integer)[]", gives: "any|nil, sdk.error?",
			about:   "Takes one value out of a YAML text by its path, as json.at does: out of a secret comes a secret, where it is a text, a number or a boolean.",
			example: `assert(yaml.at("a:\n  - b: 7\n", "a.1.b") == 7) assert(secret.equal(yaml.at(secret.of("password: p1\n"), "password"), "p1"))`,
			do:      yamlAt,
		},
	},
}

func yamlAt(a *args) int {
	b, isSecret := a.bytes(1)
	path := a.path(2)
	if isSecret {
		a.ask()
	}
	doc, err := parseYAML(b)
	if err != nil {
		return a.fail(malformed("YAML", isSecret, err))
	}
	n := doc
	if len(doc.Content) > 0 {
		n = doc.Content[0]
	}
	for _, p := range path {
		if n = stepYAML(n, p); n == nil {
			return a.fail(noSuch(path))
		}
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	v, err := (&yamlReading{left: maxValues}).value(n, 0)
	switch {
	case err != nil:
		return a.fail(malformed("YAML", isSecret, err))
	case v == nil || isSecret && n.Kind != yaml.ScalarNode:
		return a.fail(noSuch(path))
	case isSecret:
		return a.give([]byte(n.Value), true) // as it is written: 0123 is no number that anybody means
	}
	return a.push(a.decoded(v))
}

// stepYAML is the value in n that p names; nil where there is none.
func stepYAML(n *yaml.Node, p part) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.SequenceNode && p.index >= 1 && p.index <= len(n.Content):
		return n.Content[p.index-1]
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == p.name {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

// parseYAML reads one document as its nodes, with their comments; aliases stay aliases.
func parseYAML(text []byte) (doc *yaml.Node, err error) {
	if len(text) > maxYAML {
		return nil, fmt.Errorf("it has more than %d bytes", maxYAML)
	}
	// The library raises some of its errors as panics of its own and lets others through.
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, errors.New("its parser gave up")
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(text))
	doc = new(yaml.Node)
	switch err := d.Decode(doc); {
	case err == io.EOF:
		return &yaml.Node{Kind: yaml.DocumentNode}, nil
	case err != nil:
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("more than one document")
	}
	return doc, nil
}

func decodeYAML(text []byte) (any, error) {
	doc, err := parseYAML(text)
	if err != nil {
		return nil, err
	}
	return (&yamlReading{left: maxValues}).value(doc, 0)
}

// yamlReading makes of nodes what goValue makes of Lua's values. It counts also what
// aliases stand for: a short text can name a huge value.
type yamlReading struct{ left int }

func (r *yamlReading) value(n *yaml.Node, depth int) (any, error) {
	if r.left--; r.left < 0 {
		return nil, fmt.Errorf("more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return nil, nil
		}
		return r.value(n.Content[0], depth)
	case yaml.AliasNode:
		return r.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		out := []any{}
		for _, c := range n.Content {
			v, err := r.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case yaml.MappingNode:
		return r.mapping(n, depth)
	}
	return scalar(n)
}

func (r *yamlReading) mapping(n *yaml.Node, depth int) (any, error) {
	out, merged, seen := map[string]any{}, map[string]any{}, map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		v, err := r.value(c, depth+1)
		if err != nil {
			return nil, err
		}
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			if err := merge(merged, v); err != nil {
				return nil, fmt.Errorf("line %d: %w", k.Line, err)
			}
			continue
		}
		switch {
		case k.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("line %d: a name that is no text", k.Line)
		case seen[k.Value]:
			return nil, fmt.Errorf("line %d: a name comes twice in one mapping", k.Line)
		}
		seen[k.Value] = true
		out[k.Value] = v
	}
	for name, v := range merged {
		if !seen[name] {
			if r.left--; r.left < 0 {
				return nil, fmt.Errorf("more than %d values", maxValues)
			}
			out[name] = v
		}
	}
	return out, nil
}

// merge puts the fields that << names under those that are there: the first that has a
// name wins.
func merge(into map[string]any, v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, one := range list {
		m, ok := one.(map[string]any)
		if !ok {
			return errors.New("what << names is no mapping")
		}
		for name, v := range m {
			if _, ok := into[name]; !ok {
				into[name] = v
			}
		}
	}
	return nil
}

func scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, fmt.Errorf("line %d: it is no %s", n.Line, n.ShortTag())
		}
		switch v := v.(type) {
		case bool, float64:
			return v, nil
		case int:
			if math.Abs(float64(v)) < 1<<53 {
				return float64(v), nil
			}
		}
	}
	return n.Value, nil
}

func encodeYAML(v any, indent int) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, errors.New("its writer gave up")
		}
	}()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(indent)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	err = e.Close()
	return b.Bytes(), err
}
