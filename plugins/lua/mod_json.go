package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
)

var jsonModule = module{
	about: "Reads and writes JSON.",
	functions: []function{
		{
			name: "decode", takes: "text: string", gives: "any|nil, sdk.error?",
			about: "Reads a text of one JSON value: at most 16 MiB, 200,000 values, 64 deep, no name twice in an object. " +
				"A null field is left out and a null item is json.null(); a whole number that Lua cannot hold comes as a text. " +
				"A secret is refused: take out of it what you need with json.at.",
			example: `local v = json.decode('{"a": [1, true, null], "n": null}') assert(v.a[1] == 1 and v.a[2] and #v.a == 3 and v.n == nil)`,
			do: func(a *args) int {
				v, err := decodeJSON([]byte(a.text(1)))
				if err != nil {
					return a.fail(malformed("JSON", false, err))
				}
				return a.push(a.decoded(v))
			},
		},
		{
			name: "encode", takes: "value: any, options?: {pretty?: boolean}", gives: "string|secret",
			about:   "Writes a value as JSON, names in order; pretty: in lines, two spaces deep. A table with items is a list, any other an object (see json.list). Where a secret is in it, so is the whole.",
			example: `assert(json.encode({b = {1, "x"}, a = json.list({})}) == '{"a":[],"b":[1,"x"]}') assert(type(json.encode({p = secret.of("pass")})) == "userdata")`,
			do: func(a *args) int {
				v, secrets := a.value(1)
				b, err := encodeJSON(v, a.options(2, "pretty").bool("pretty"))
				if err != nil {
					a.bad(1, "it cannot be written")
				}
				return a.give(b, secrets)
			},
		},
		{
			name: "at", takes: "text: string|secret, path: string|(string|integer)[]", gives: "any|nil, sdk.error?",
			about: "Takes one value out of a JSON text by its path, such as \"users.1.name\" (items from 1 on), or {\"users\", 1, \"first.name\"}. " +
				"Out of a secret comes a secret: a text as it is, any other value as its JSON; each time is one of the 32 questions about secrets that a call may ask.",
			example: `assert(json.at('{"a": [{"b": 7}]}', "a.1.b") == 7) assert(secret.equal(json.at(secret.of('{"user": "u", "password": "p\\"q"}'), "password"), 'p"q'))`,
			do:      jsonAt,
		},
		{
			name: "list", takes: "t: table", gives: "table",
			about:   "Marks a table as a list, so that it is written as [] also when it is empty. Gives the same table.",
			example: `assert(json.encode(json.list({})) == "[]" and json.encode({}) == "{}")`,
			do: func(a *args) int {
				t := a.table(1)
				if t.Metatable != lua.LNil && !isList(t) {
					a.bad(1, "it has a metatable")
				}
				return a.push(a.markList(t))
			},
		},
		{
			name: "null", gives: "userdata",
			about:   "The null of a list, and what a field is set to that is to be written as null.",
			example: `assert(json.encode({a = json.null(), b = {json.null(), 1}}) == '{"a":null,"b":[null,1]}')`,
			do:      func(a *args) int { return a.push(a.null()) },
		},
	},
}

func jsonAt(a *args) int {
	b, isSecret := a.bytes(1)
	path := a.path(2)
	if isSecret {
		a.ask()
	}
	w, err := walkJSON(b, path)
	switch {
	case err != nil:
		return a.fail(malformed("JSON", isSecret, err))
	case w.found == nil:
		return a.fail(noSuch(path))
	}
	raw := b[w.found.from:w.found.to]
	if !isSecret {
		v, err := decodeJSON(raw)
		if err != nil {
			return a.fail(malformed("JSON", false, err))
		}
		return a.push(a.decoded(v))
	}
	if raw[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return a.fail(malformed("JSON", true, nil))
		}
		raw = []byte(text)
	}
	return a.give(raw, true)
}

func encodeJSON(v any, pretty bool) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if pretty {
		e.SetIndent("", "  ")
	}
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// decodeJSON reads one JSON value into what goValue makes.
func decodeJSON(text []byte) (any, error) {
	w := newJSONWalk(text, nil)
	w.keep = true
	v, err := w.whole()
	return v, err
}

// span is where a value stands in a text.
type span struct{ from, to int }

// jsonWalk reads a JSON text, with the place of one value in it.
type jsonWalk struct {
	text  []byte
	dec   *json.Decoder
	left  int // values that may come
	keep  bool
	path  []part
	found *span // of the value at the path
	room  *jsonRoom
}

// jsonRoom is where a field may be added to the object that lacks it.
type jsonRoom struct {
	at     int    // behind the last value, or behind the brace
	space  []byte // before its last name
	filled bool
}

func newJSONWalk(text []byte, path []part) *jsonWalk {
	w := &jsonWalk{text: text, dec: json.NewDecoder(bytes.NewReader(text)), left: maxValues, path: path}
	w.dec.UseNumber()
	return w
}

func walkJSON(text []byte, path []part) (*jsonWalk, error) {
	w := newJSONWalk(text, path)
	_, err := w.whole()
	return w, err
}

func (w *jsonWalk) whole() (any, error) {
	if len(w.text) > maxString {
		return nil, fmt.Errorf("it has more than %d bytes", maxString)
	}
	if !utf8.Valid(w.text) {
		return nil, errors.New("it is no UTF-8")
	}
	v, err := w.value(0, 0)
	if err != nil {
		return nil, err
	}
	if _, err := w.dec.Token(); err != io.EOF {
		return nil, errors.New("something follows it")
	}
	return v, nil
}

// next is where the next token begins.
func (w *jsonWalk) next() int {
	at := int(w.dec.InputOffset())
	for at < len(w.text) && bytes.IndexByte([]byte(" \t\r\n,:"), w.text[at]) >= 0 {
		at++
	}
	return at
}

func (w *jsonWalk) token() (json.Token, error) {
	tok, err := w.dec.Token()
	if err != nil { // its text quotes what it met
		return nil, fmt.Errorf("wrong from byte %d on", w.dec.InputOffset())
	}
	return tok, nil
}

// value reads one value. on is how many parts of the path have led to it; below 0 it lies
// off the path.
func (w *jsonWalk) value(depth, on int) (any, error) {
	if w.left--; w.left < 0 {
		return nil, fmt.Errorf("more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	from := w.next()
	tok, err := w.token()
	if err != nil {
		return nil, err
	}
	v := any(tok)
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '{' {
			v, err = w.object(depth, on)
		} else {
			v, err = w.list(depth, on)
		}
	case json.Number:
		v = numberOf(string(tok))
	}
	if err != nil {
		return nil, err
	}
	if on >= 0 && on == len(w.path) {
		w.found = &span{from, int(w.dec.InputOffset())}
	}
	return v, nil
}

// below is on for a value within.
func (w *jsonWalk) below(on int, name string, place int) int {
	if on >= 0 && on < len(w.path) && w.path[on].is(name, place) {
		return on + 1
	}
	return -1
}

func (w *jsonWalk) object(depth, on int) (any, error) {
	out, seen := map[string]any{}, map[string]bool{}
	room := jsonRoom{at: int(w.dec.InputOffset())}
	for w.dec.More() {
		from := w.next()
		tok, err := w.token()
		name, ok := tok.(string)
		switch {
		case err != nil:
			return nil, err
		case !ok || seen[name]:
			return nil, fmt.Errorf("a name comes twice in one object, before byte %d", w.dec.InputOffset())
		}
		seen[name] = true
		space := bytes.ReplaceAll(w.text[room.at:from], []byte(","), nil)
		v, err := w.value(depth+1, w.below(on, name, 0))
		if err != nil {
			return nil, err
		}
		if w.keep && v != nil {
			out[name] = v
		}
		room = jsonRoom{int(w.dec.InputOffset()), space, true}
	}
	if _, err := w.token(); err != nil {
		return nil, err
	}
	if on >= 0 && on == len(w.path)-1 && !seen[w.path[on].name] {
		w.room = &room
	}
	return out, nil
}

func (w *jsonWalk) list(depth, on int) (any, error) {
	out := []any{}
	for n := 1; w.dec.More(); n++ {
		v, err := w.value(depth+1, w.below(on, "", n))
		if err != nil {
			return nil, err
		}
		if w.keep {
			out = append(out, v)
		}
	}
	_, err := w.token()
	return out, err
}

// numberOf is a number as Lua can hold it; a whole one that it cannot stays a text, since
// it is most often the name of something.
func numberOf(text string) any {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return text
	}
	if math.Abs(f) >= 1<<53 {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && int64(f) != n || err != nil && !strings.ContainsAny(text, ".eE") {
			return text
		}
	}
	return f
}

// putJSON sets one value of a JSON text and leaves every other byte as it is. A field that
// is not there is added to its object; what leads to it must be there.
func putJSON(text []byte, path []part, value []byte) ([]byte, error) {
	w, err := walkJSON(text, path)
	switch {
	case err != nil:
		return nil, unreadable("JSON", err)
	case w.found != nil:
		return replaced(text, *w.found, value), nil
	case w.room == nil:
		return nil, noSuch(path)
	}
	name, err := encodeJSON(path[len(path)-1].name, false)
	if err != nil {
		return nil, unreadable("JSON", err)
	}
	var field []byte
	if w.room.filled {
		field = append([]byte(","), w.room.space...)
	}
	field = append(append(append(field, name...), ": "...), value...)
	return replaced(text, span{w.room.at, w.room.at}, field), nil
}
