package script

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"
)

// table reads one table of a manifest. The first error of any is kept, and what is read
// after it is of no use.
type table struct {
	r    *reading
	path string // with its dot, empty for the top
	m    map[string]any
}

type reading struct {
	lines map[string]int
	order []string // all keys, as they stand in the text
	err   *Error
}

// decode reads TOML into plain maps: a struct would take "Name" for "name".
func decode(text []byte) (*table, error) {
	lines, bad := layout(string(text))
	if bad != nil {
		return nil, bad
	}
	m := map[string]any{}
	meta, err := toml.Decode(string(text), &m)
	if err != nil {
		e := &Error{Line: 1, Text: err.Error(), Hint: "the manifest is TOML: https://toml.io"}
		if p := (toml.ParseError{}); errors.As(err, &p) {
			e.Line, e.Text = max(p.Position.Line, 1), strings.TrimSuffix(p.Message, ".")
		}
		if e.Line > bytes.Count(text, []byte("\n")) {
			e.Hint = endsHere
		}
		return nil, e
	}
	r := &reading{lines: lines}
	for _, k := range meta.Keys() {
		r.order = append(r.order, strings.Join(k, "."))
	}
	return &table{r: r, m: m}, nil
}

// fail keeps the first error.
func (t *table) fail(key, text, hint string) {
	if t.r.err == nil {
		t.r.err = &Error{Line: t.line(key), Key: t.path + key, Text: text, Hint: hint}
	}
}

// must fails with a key's error where ok is false.
func (t *table) must(ok bool, key, text, hint string) {
	if !ok {
		t.fail(key, text, hint)
	}
}

// line of a key, or of the table in which it is missing.
func (t *table) line(key string) int {
	for path := t.path + key; path != ""; {
		if n := t.r.lines[path]; n > 0 {
			return n
		}
		i := strings.LastIndexByte(path, '.')
		path = path[:max(i, 0)]
	}
	return 1
}

// only fails where the table has other keys than these.
func (t *table) only(keys ...string) {
	unknown := slices.DeleteFunc(slices.Sorted(maps.Keys(t.m)), func(k string) bool { return slices.Contains(keys, k) })
	slices.SortStableFunc(unknown, func(a, b string) int { return t.line(a) - t.line(b) })
	for _, k := range unknown {
		if t.r.err == nil {
			t.r.err = &Error{Line: t.line(k), Text: fmt.Sprintf("unknown key %q", t.path+k), Hint: or(k, keys)}
		}
	}
}

func (t *table) has(key string) bool { _, ok := t.m[key]; return ok }

// name is the table's own.
func (t *table) name() string {
	path := strings.TrimSuffix(t.path, ".")
	return path[strings.LastIndexByte(path, '.')+1:]
}

// value is a key's, of one type; the zero value where there is none.
func value[T any](t *table, key, kind string) (v T) {
	raw, ok := t.m[key]
	if !ok {
		return v
	}
	v, ok = raw.(T)
	t.must(ok, key, "is not "+kind, "")
	return v
}

func (t *table) text(key string, required bool, limit int) string {
	s := value[string](t, key, "a string")
	t.must(!required || t.has(key), key, "is missing", "")
	t.must(!required || s != "", key, "is empty", "")
	t.must(len(s) <= limit, key, fmt.Sprintf("has %d bytes", len(s)), fmt.Sprintf("at most %d are taken", limit))
	t.must(printable(s), key, "has a character that is not to be seen", "remove it")
	return s
}

// sentence is for people's eyes.
func (t *table) sentence(key string, required bool) string { return t.text(key, required, maxSentence) }

func (t *table) oneOf(key string, list []string) string {
	t.must(t.has(key), key, "is missing", "one of "+strings.Join(list, ", "))
	s := t.text(key, true, maxValue)
	t.must(slices.Contains(list, s), key, fmt.Sprintf("is %q", s), or(s, list))
	return s
}

func (t *table) boolean(key string) bool { return value[bool](t, key, "true or false") }

func (t *table) integer(key string, limit int) int {
	n := value[int64](t, key, "an integer")
	t.must(n >= 0 && n <= int64(limit), key, fmt.Sprintf("is %d", n), fmt.Sprintf("from 0 to %d", limit))
	return int(n)
}

func (t *table) duration(key string, limit time.Duration) time.Duration {
	s := t.text(key, false, 32)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	t.must(err == nil && d >= 0 && d <= limit, key, fmt.Sprintf("is %q", s), fmt.Sprintf(`a time such as "30s", at most %s`, limit))
	return d
}

// list of different strings.
func (t *table) list(key string) (out []string) {
	raw := value[[]any](t, key, "a list")
	t.must(len(raw) <= maxList, key, fmt.Sprintf("has %d entries", len(raw)), fmt.Sprintf("at most %d are taken", maxList))
	for _, v := range raw {
		s, ok := v.(string)
		t.must(ok, key, "has an entry that is not a string", "")
		t.must(s != "" && len(s) <= maxValue && printable(s), key, "has an entry that is empty, too long, or not to be seen", "")
		t.must(!slices.Contains(out, s), key, fmt.Sprintf("has %q twice", s), "remove one")
		if t.r.err != nil {
			return nil
		}
		out = append(out, s)
	}
	return out
}

// listOf takes words of a list.
func (t *table) listOf(key string, words []string) []string {
	out := t.list(key)
	for _, s := range out {
		t.must(slices.Contains(words, s), key, fmt.Sprintf("has %q", s), or(s, words))
	}
	return out
}

func (t *table) table(key string) *table {
	return &table{r: t.r, path: t.path + key + ".", m: value[map[string]any](t, key, "a table")}
}

// tables are those of a table, by names that Lua takes, in the order of the text.
func (t *table) tables(key string, limit int) (out []*table) {
	in := t.table(key)
	t.must(len(in.m) <= limit, key, fmt.Sprintf("has %d entries", len(in.m)), fmt.Sprintf("at most %d are taken", limit))
	for _, k := range slices.Sorted(maps.Keys(in.m)) {
		in.must(fieldRE.MatchString(k), k, "is not a name", "a-z, 0-9 and _, a letter first, at most 63")
	}
	if t.r.err != nil {
		return nil
	}
	for _, path := range t.r.order {
		name, ok := strings.CutPrefix(path, in.path)
		if !ok || strings.Contains(name, ".") || slices.ContainsFunc(out, func(o *table) bool { return o.name() == name }) {
			continue
		}
		out = append(out, in.table(name))
	}
	// Dotted keys make tables that are not named on their own.
	for _, k := range slices.Sorted(maps.Keys(in.m)) {
		if !slices.ContainsFunc(out, func(o *table) bool { return o.name() == k }) {
			out = append(out, in.table(k))
		}
	}
	return out
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
