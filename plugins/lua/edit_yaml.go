package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rotunda-pam/rotunda/sdk"
)

// putYAML sets one scalar of a YAML text. Where the scalar stands in one line, only its own
// bytes change; otherwise the document is written anew, with its order and its comments.
// Either way the result is read again and must say what it said before but for that value.
func putYAML(text []byte, path []part, value any) ([]byte, error) {
	doc, err := parseYAML(text)
	if err != nil {
		return nil, unreadable("YAML", err)
	}
	want, err := (&yamlReading{left: maxValues}).value(doc, 0)
	if err != nil {
		return nil, unreadable("YAML", err)
	}
	p, err := findYAML(doc, path)
	if err != nil {
		return nil, err
	}
	if want, err = withValue(want, path, value); err != nil {
		return nil, err
	}
	proven := func(out []byte) bool {
		got, err := decodeYAML(out)
		return err == nil && reflect.DeepEqual(got, want)
	}
	for _, written := range yamlScalars(value, p.value) {
		if out, ok := p.edit(text, written); ok && proven(out) {
			return out, nil
		}
	}
	n := new(yaml.Node)
	if err := n.Encode(value); err != nil {
		return nil, unsayable("YAML")
	}
	if p.value != nil {
		n.HeadComment, n.LineComment, n.FootComment = p.value.HeadComment, p.value.LineComment, p.value.FootComment
		*p.value = *n
	} else {
		p.parent.Content = append(p.parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: path[len(path)-1].name}, n)
	}
	if out, err := encodeYAML(doc, yamlIndent(doc)); err == nil && proven(out) {
		return out, nil
	}
	return nil, unsayable("YAML")
}

// yamlPlace is a value, or the mapping that lacks it.
type yamlPlace struct {
	parent *yaml.Node
	value  *yaml.Node // nil: it is not there
	name   string
}

func findYAML(doc *yaml.Node, path []part) (yamlPlace, error) {
	if len(doc.Content) == 0 {
		return yamlPlace{}, noSuch(path)
	}
	at := yamlPlace{value: doc.Content[0]}
	for n, p := range path {
		if at.value.Kind == yaml.AliasNode || at.value.Anchor != "" {
			return at, shared(path[:n])
		}
		next := yamlPlace{parent: at.value, name: p.name, value: stepYAML(at.value, p)}
		if next.value == nil && (at.value.Kind != yaml.MappingNode || n < len(path)-1) {
			return at, noSuch(path[:n+1])
		}
		at = next
	}
	switch {
	case at.value == nil:
	case at.value.Anchor != "":
		return at, shared(path)
	case at.value.Kind == yaml.MappingNode || at.value.Kind == yaml.SequenceNode:
		return at, &sdk.Error{Class: sdk.ClassConflict, Reason: "text.not_a_value", Err: fmt.Errorf("%s is a mapping or a list: name one value in it", pathText(path))}
	}
	return at, nil
}

func shared(path []part) error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "text.shared", Err: fmt.Errorf("%q is an anchor or an alias: to change it would change other places as well", pathText(path))}
}

// edit writes a value in the place of the one that is there, or a field behind the last of
// its mapping.
func (p yamlPlace) edit(text []byte, written string) ([]byte, bool) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if p.value != nil {
		at, ok := yamlSpan(text, lines, p.value)
		if !ok {
			return nil, false
		}
		if at.from == at.to { // key: and nothing
			written = " " + written
		}
		return replaced(text, at, []byte(written)), true
	}
	if len(p.parent.Content) == 0 || p.parent.Style&yaml.FlowStyle != 0 {
		return nil, false
	}
	name, err := encodeYAML(p.name, 2)
	if err != nil {
		return nil, false
	}
	last := lastLine(p.parent)
	if last > len(lines) {
		return nil, false
	}
	field := fmt.Sprintf("%s%s: %s\n", strings.Repeat(" ", p.parent.Content[0].Column-1), bytes.TrimSuffix(name, []byte("\n")), written)
	if !bytes.HasSuffix(lines[last-1], []byte("\n")) {
		field = "\n" + strings.TrimSuffix(field, "\n")
	}
	at := len(bytes.Join(lines[:last], nil))
	return replaced(text, span{at, at}, []byte(field)), true
}

func lastLine(n *yaml.Node) int {
	line := n.Line
	for _, c := range n.Content {
		line = max(line, lastLine(c))
	}
	return line
}

// yamlSpan is where a scalar of one line stands. It may be wrong: what is made with it is
// proven.
func yamlSpan(text []byte, lines [][]byte, n *yaml.Node) (span, bool) {
	if n.Kind != yaml.ScalarNode || n.Line < 1 || n.Line > len(lines) {
		return span{}, false
	}
	from := len(bytes.Join(lines[:n.Line-1], nil))
	for c := 1; c < n.Column && from < len(text); c++ { // columns are counted in characters
		_, size := utf8.DecodeRune(text[from:])
		from += size
	}
	rest := text[from:]
	if line := bytes.IndexByte(rest, '\n'); line >= 0 {
		rest = rest[:line]
	}
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0 && len(rest) > 0:
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case '"':
				return span{from, from + i + 1}, true
			}
		}
	case n.Style&yaml.SingleQuotedStyle != 0 && len(rest) > 0:
		for i := 1; i < len(rest); i++ {
			if rest[i] != '\'' {
				continue
			}
			if i+1 < len(rest) && rest[i+1] == '\'' {
				i++
				continue
			}
			return span{from, from + i + 1}, true
		}
	case n.Style == 0 && bytes.HasPrefix(rest, []byte(n.Value)):
		return span{from, from + len(n.Value)}, true
	}
	return span{}, false
}

var plainYAML = regexp.MustCompile(`^[A-Za-z0-9_./+][A-Za-z0-9_./+=@%-]*$`)

// yamlScalars are the ways to write a value in one line, the one that looks like what was
// there first.
func yamlScalars(value any, old *yaml.Node) (ways []string) {
	text, ok := value.(string)
	if !ok {
		return []string{fmt.Sprint(value)}
	}
	if q, err := json.Marshal(text); err == nil {
		ways = append(ways, string(q))
	}
	single := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	plain, err := encodeYAML(text, 2)
	isPlain := err == nil && plainYAML.MatchString(text) && string(plain) == text+"\n"
	switch {
	case old != nil && old.Style&yaml.SingleQuotedStyle != 0:
		ways = slices.Insert(ways, 0, single)
	case isPlain && (old == nil || old.Style == 0):
		ways = slices.Insert(ways, 0, text)
	}
	return ways
}

// yamlIndent is how deep the document's first nested mapping stands.
func yamlIndent(n *yaml.Node) int {
	if n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle == 0 {
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if d := v.Column - k.Column; v.Kind == yaml.MappingNode && v.Line > k.Line && d >= 2 && d <= 8 {
				return d
			}
		}
	}
	for _, c := range n.Content {
		if d := yamlIndent(c); d != 2 {
			return d
		}
	}
	return 2
}

// withValue is a value with one in it set. Nothing that others share is changed.
func withValue(v any, path []part, value any) (any, error) {
	if len(path) == 0 {
		if n, ok := value.(int64); ok {
			return float64(n), nil
		}
		return value, nil
	}
	switch in := v.(type) {
	case map[string]any:
		one, err := withValue(in[path[0].name], path[1:], value)
		if err != nil {
			return nil, err
		}
		out := map[string]any{path[0].name: one}
		for name, other := range in {
			if name != path[0].name {
				out[name] = other
			}
		}
		return out, nil
	case []any:
		if i := path[0].index; i >= 1 && i <= len(in) {
			one, err := withValue(in[i-1], path[1:], value)
			out := slices.Clone(in)
			out[i-1] = one
			return out, err
		}
	}
	return nil, noSuch(path)
}

// unreadable is about a file that is not in its format: a person must look at it.
func unreadable(format string, err error) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "text.unreadable", Err: fmt.Errorf("the text is no %s that can be read: %w", format, err)}
}

// unsayable is about a value that a format has no way to write.
func unsayable(format string) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassPolicy, Reason: "text.value", Err: errors.New("the value cannot be written as " + format + " in this place")}
}

// replaced is a text with other bytes in one place.
func replaced(text []byte, at span, with []byte) []byte {
	return slices.Concat(text[:at.from], with, text[at.to:])
}
