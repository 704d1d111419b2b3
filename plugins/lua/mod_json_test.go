package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestJSON(t *testing.T) {
	luaCases(t, []string{"json", "secret", "text"}, []luaCase{
		{"numbers that Lua holds", `local v = json.decode("[1, -2.5, 1e3, 9007199254740991]") assert(v[1] == 1 and v[2] == -2.5 and v[3] == 1000 and v[4] == 9007199254740991)`, ""},
		{"a whole number that Lua does not hold", `assert(json.decode("[12345678901234567890, 9007199254740993]")[1] == "12345678901234567890" and json.decode("9007199254740993") == "9007199254740993")`, ""},
		{"an empty list stays one", `assert(json.encode(json.decode('{"a":[],"b":{}}')) == '{"a":[],"b":{}}')`, ""},
		{"null in a list keeps the places", `local v = json.decode("[null, 2]") assert(v[2] == 2 and tostring(v[1]) == "null" and json.encode(v) == "[null,2]")`, ""},
		{"pretty", `assert(json.encode({a = {1}}, {pretty = true}) == '{\n  "a": [\n    1\n  ]\n}')`, ""},
		{"no escapes for HTML", `assert(json.encode("<&>") == '"<&>"')`, ""},
		{"what is no JSON", `local v, err = json.decode("{a: 1}") assert(v == nil and err.class == "unreachable" and err.reason == "json.malformed")`, ""},
		{"something behind it", `local v, err = json.decode("{} {}") assert(v == nil and text.contains(err.text, "follows"))`, ""},
		{"a name twice", `local v, err = json.decode('{"a": 1, "a": 2}') assert(v == nil and text.contains(err.text, "twice"))`, ""},
		{"no UTF-8", `assert(json.decode('"\255"') == nil)`, ""},
		{"a list nested 64 deep is read", `assert(json.decode(string.rep("[", 64) .. string.rep("]", 64)))`, ""},
		{"deeper is not", `local v, err = json.decode(string.rep("[", 66) .. string.rep("]", 66)) assert(v == nil and text.contains(err.text, "deep"))`, ""},
		{"a million brackets", `assert(json.decode(string.rep("[", 1000000)) == nil)`, ""},
		{"too many values", `local v, err = json.decode("[" .. string.rep("0,", 200001) .. "0]") assert(v == nil and text.contains(err.text, "200000"))`, ""},
		{"a secret is refused", `json.decode(secret.of("{}"))`, "got a secret"},
		{"a placeholder is refused", `json.encode({a = "x" .. tostring(secret.of("pass"))})`, "placeholder"},
		{"a placeholder as a name", `json.encode({[tostring(secret.of("pass"))] = 1})`, "placeholder"},
		{"a secret as a name", `json.encode({[secret.of("pass")] = 1})`, "names in a table are texts"},
		{"a secret as a name in a list", `json.encode({1, [secret.of("pass")] = 1})`, "half a list"},
		{"half a list", `json.encode({1, a = 2})`, "half a list"},
		{"a list with a hole", `json.encode({1, nil, 3, [9] = 9})`, "holes"},
		{"a table that holds itself", `local v = {} v.v = v json.encode(v)`, "holds itself"},
		{"a small table that stands for a huge one", `local v = {1, 1} for _ = 1, 60 do v = {v, v} end json.encode(v)`, "200000"},
		{"a long text many times", `local s, v = string.rep("x", 1000000), {} for i = 1, 30 do v[i] = s end json.encode(v)`, "bytes"},
		{"no number", `json.encode(0/0)`, "no number"},
		{"bytes that are no UTF-8", `json.encode("\255")`, "base64"},
		{"a function", `json.encode({f = function() end})`, "function"},
		{"an option that is not there", `json.encode({}, {prety = true})`, "no option prety"},
		{"a list of a table with a metatable", `json.list(setmetatable({}, {}))`, "metatable"},
		{"at: a list of parts", `assert(json.at('{"a.b": {"1": "x"}}', {"a.b", 1}) == "x")`, ""},
		{"at: nothing there", `local v, err = json.at('{"a": 1}', "a.b") assert(v == nil and err.class == "not_found")`, ""},
		{"at: an item that is not there", `assert(json.at("[1]", "2") == nil and json.at("[1]", "0") == nil)`, ""},
		{"at: an object of a secret is a secret", `assert(secret.equal(json.at(secret.of('{"a": {"b": 1}}'), "a"), '{"b": 1}'))`, ""},
		{"at: a malformed secret says nothing of itself", `local v, err = json.at(secret.of('{"a": hunter2}'), "a") assert(v == nil and err.text == "the secret is no JSON that can be read")`, ""},
		{"at: a secret as a path", `json.at("{}", secret.of("a"))`, "got a secret"},
		{"at: too many questions", `for i = 1, 40 do json.at(secret.of("{}"), "a") end`, "questions"},
		{"at: an empty part", `json.at("{}", "a..b")`, "empty"},
	})
	if got := shownSecret(t, []string{"json", "secret"}, `return json.encode({p = json.at(secret.of('{"p": "a\\u00e9\\"<"}'), "p")})`); got != `{"p":"aé\"<"}` {
		t.Errorf("a secret of a secret is %s", got)
	}
}

func TestPutJSON(t *testing.T) {
	for _, c := range []struct{ name, text, path, value, want string }{
		{"a text", `{"a": "old", "b": 1}`, "a", `"new"`, `{"a": "new", "b": 1}`},
		{"a number", "{\n\t\"a\" : 1\n}\n", "a", "22", "{\n\t\"a\" : 22\n}\n"},
		{"an object", `{"a":{"x":[1,{"y":2}]},"z":0}`, "a", `"s"`, `{"a":"s","z":0}`},
		{"within a list", `[{"a":1},{"a":2}]`, "2.a", "3", `[{"a":1},{"a":3}]`},
		{"an item", `[1, 2 ,3]`, "2", "7", `[1, 7 ,3]`},
		{"added to lines", "{\n  \"a\": 1\n}\n", "b", `"x"`, "{\n  \"a\": 1,\n  \"b\": \"x\"\n}\n"},
		{"added with the comma first", "{ \"a\": 1\n, \"b\": 2\n}", "c", "3", "{ \"a\": 1\n, \"b\": 2,\n \"c\": 3\n}"},
		{"added to one line", `{"a":1}`, "b", "2", `{"a":1,"b": 2}`},
		{"added to an empty one", `{"a": {}}`, "a.b", "2", `{"a": {"b": 2}}`},
		{"a name to be escaped", `{}`, `q"`, "2", `{"q\"": 2}`},
		{"names in order stay so", `{"z":1,"a":2}`, "a", "3", `{"z":1,"a":3}`},
		{"nothing leads there", `{"a": 1}`, "b.c", "2", "! path.not_found"},
		{"an item that is not there", `[1]`, "2", "2", "! path.not_found"},
		{"a name twice", `{"a": 1, "a": 2}`, "a", "3", "! text.unreadable"},
		{"with comments", "{\"a\": 1 // one\n}", "a", "3", "! text.unreadable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, err := parsePath(strings.Split(c.path, "."))
			if err != nil {
				t.Fatal(err)
			}
			got, err := putJSON([]byte(c.text), path, []byte(c.value))
			compareEdit(t, got, err, c.want)
		})
	}
}

// compareEdit holds what an edit gave against what was wanted: a text, or "! reason".
func compareEdit(t *testing.T, got []byte, err error, want string) {
	t.Helper()
	if reason, ok := strings.CutPrefix(want, "! "); ok {
		if err == nil || errorFrom(t, err).Reason != reason {
			t.Errorf("gave %q, %v; want %s", got, err, reason)
		}
		return
	}
	if err != nil || string(got) != want {
		t.Errorf("gave\n%s\n%v\nwant\n%s", got, err, want)
	}
}

// What is read is JSON, and what an edit gives says what the text said but for one value.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, {"b": null}], "c": "\u00e9"}`, `[[[]]]`, `{"a":1,"a":2}`, "[1,]", `{"a" 1}`, `"x" 1`, "{ \"a\": 1\n, \"b\": 2\n}", `{"a":{}}`} {
		f.Add([]byte(s), "a.b")
	}
	f.Fuzz(func(t *testing.T, text []byte, at string) {
		v, err := decodeJSON(text)
		if err == nil && !json.Valid(text) {
			t.Fatalf("%q is read as %v, and is no JSON", text, v)
		}
		path, bad := parsePath(strings.Split(at, "."))
		if bad != nil {
			return
		}
		out, put := putJSON(text, path, []byte(`"new"`))
		if put != nil {
			return
		}
		if err != nil {
			t.Fatalf("%q was edited and cannot be read: %v", text, err)
		}
		got, err := decodeJSON(out)
		want, _ := withValue(v, path, "new")
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q became %q: %v; want %v", text, out, err, want)
		}
	})
}
