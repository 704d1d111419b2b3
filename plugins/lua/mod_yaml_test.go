package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestYAML(t *testing.T) {
	luaCases(t, []string{"yaml", "json", "secret", "text"}, []luaCase{
		{"kinds", `local v = yaml.decode("a: 1\nb: 1.5\nc: yes\nd: true\ne: '1'\nf: 2026-01-02\ng: 0x10\n1: x\n") assert(v.a == 1 and v.b == 1.5 and v.c == "yes" and v.d == true and v.e == "1" and v.f == "2026-01-02" and v.g == 16 and v["1"] == "x")`, ""},
		{"a whole number that Lua does not hold", `assert(yaml.decode("12345678901234567890") == "12345678901234567890" and yaml.decode("9007199254740993") == "9007199254740993")`, ""},
		{"a tag of somebody's own is a text", `assert(yaml.decode("a: !vault xyz\n").a == "xyz")`, ""},
		{"merged", `local v = yaml.decode("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n") assert(v.b.x == 1 and v.b.y == 3)`, ""},
		{"nothing", `assert(yaml.decode("") == nil)`, ""},
		{"round and back", `local v = yaml.decode(yaml.encode({a = "null", b = "- x", c = json.list({}), d = "1", e = "a: b # c", f = " x\n"})) assert(v.a == "null" and v.b == "- x" and v.d == "1" and v.e == "a: b # c" and v.f == " x\n")`, ""},
		{"two documents", `local v, err = yaml.decode("a: 1\n---\nb: 1\n") assert(v == nil and text.contains(err.text, "document"))`, ""},
		{"a name twice", `assert(yaml.decode("a: 1\na: 2\n") == nil)`, ""},
		{"a name that is a list", `assert(yaml.decode("[1, 2]: 2\n") == nil)`, ""},
		{"what is no YAML", `local v, err = yaml.decode("a: [1\n") assert(v == nil and err.reason == "yaml.malformed")`, ""},
		{"billion laughs", `local t = {"a0: &a0 [x,x,x,x,x,x,x,x,x,x]"} for i = 1, 9 do t[#t + 1] = "a" .. i .. ": &a" .. i .. " [" .. string.rep("*a" .. (i - 1) .. ",", 10) .. "]" end
			local v, err = yaml.decode(table.concat(t, "\n")) assert(v == nil and text.contains(err.text, "200000"))`, ""},
		{"laughs in merges", `local t = {"a0: &a0 {x: 1}"} for i = 1, 40 do t[#t + 1] = "a" .. i .. ": &a" .. i .. " {<<: [*a" .. (i - 1) .. ", *a" .. (i - 1) .. "]}" end
			assert(yaml.decode(table.concat(t, "\n")) == nil)`, ""},
		{"an anchor that holds itself", `assert(yaml.decode("&a [*a]") == nil)`, ""},
		{"nested a thousand deep", `assert(yaml.decode(string.rep("[", 1000) .. string.rep("]", 1000)) == nil)`, ""},
		{"nested half a million deep", `assert(yaml.decode(string.rep("[", 500000)) == nil)`, ""},
		{"dashes without end", `assert(yaml.decode(string.rep("- ", 500000)) == nil)`, ""},
		{"too long", `assert(yaml.decode(string.rep("x", 1100000)) == nil)`, ""},
		{"a secret is refused", `yaml.decode(secret.of("a: 1"))`, "got a secret"},
		{"a placeholder is refused", `yaml.encode({a = tostring(secret.of("pass"))})`, "placeholder"},
		{"at: an item of an alias", `assert(yaml.at("a: &x [1, {b: 2}]\nc: *x\n", "c.2.b") == 2)`, ""},
		{"at: a number of a secret as it is written", `assert(secret.equal(yaml.at(secret.of("pin: 0123\n"), "pin"), "0123"))`, ""},
		{"at: a mapping of a secret", `local v, err = yaml.at(secret.of("a: {b: 1}\n"), "a") assert(v == nil and err.class == "not_found")`, ""},
		{"at: a malformed secret says nothing of itself", `local v, err = yaml.at(secret.of("a: *hunter2"), "a") assert(v == nil and err.text == "the secret is no YAML that can be read")`, ""},
	})
	if got := shownSecret(t, []string{"yaml", "secret"}, `return yaml.encode({p = secret.of("a: 'b")})`); got != "p: 'a: ''b'\n" {
		t.Errorf("with a secret it is %q", got)
	}
}

func TestPutYAML(t *testing.T) {
	const compose = "# ours\nservices:\n    app:   # the app\n        env:\n            PASSWORD: old   # changes\n\n            USER: 'u'\n        image: \"i:1\"\n"
	for _, c := range []struct {
		name, text, path string
		value            any
		want             string
	}{
		{"plain stays plain", compose, "services.app.env.PASSWORD", "new", strings.Replace(compose, "old", "new", 1)},
		{"plain that needs quotes", compose, "services.app.env.PASSWORD", "a: #b", strings.Replace(compose, "old", `"a: #b"`, 1)},
		{"single quotes stay", compose, "services.app.env.USER", "it's", strings.Replace(compose, "'u'", "'it''s'", 1)},
		{"double quotes stay", compose, "services.app.image", "j\n", strings.Replace(compose, `"i:1"`, `"j\n"`, 1)},
		{"a text that looks like a number", "a: x\n", "a", "123", "a: \"123\"\n"},
		{"a text that looks like a boolean", "a: x\n", "a", "true", "a: \"true\"\n"},
		{"a number", "a: 1\n", "a", int64(22), "a: 22\n"},
		{"a boolean", "a: 1 # x", "a", true, "a: true # x"},
		{"nothing before", "a:\nb: 1\n", "a", "x", "a: x\nb: 1\n"},
		{"in a list", "- a: 1\n- a: 2\n", "2.a", int64(3), "- a: 1\n- a: 3\n"},
		{"in a flow", "a: {b: old, c: 1}\n", "a.b", "x,y", "a: {b: \"x,y\", c: 1}\n"},
		{"added last", "a:\n  b: 1 # one\n# end\nz: 1\n", "a.c", "x", "a:\n  b: 1 # one\n  c: x\n# end\nz: 1\n"},
		{"added at the end without a line's end", "a: 1", "b", "x", "a: 1\nb: x"},
		{"a block becomes a line, comments stay", "# top\na: |\n  one\n  two\nb: 1 # one\n", "a", "x", "# top\na: x\nb: 1 # one\n"},
		{"letters of more bytes before it", "{ä: ö, b: old}\n", "b", "new", "{ä: ö, b: new}\n"},
		{"an anchor", "a: &x old\nb: *x\n", "a", "new", "! text.shared"},
		{"through an alias", "a: &x {p: old}\nb: *x\n", "b.p", "new", "! text.shared"},
		{"an alias alone", "a: &x old\nb: *x\n", "b", "new", "a: &x old\nb: new\n"},
		{"a mapping", "a: {b: 1}\n", "a", "new", "! text.not_a_value"},
		{"nothing leads there", "a: 1\n", "b.c", "new", "! path.not_found"},
		{"an item that is not there", "[1]\n", "2", "new", "! path.not_found"},
		{"an empty text", "", "a", "new", "! path.not_found"},
		{"no YAML", "a: [", "a", "new", "! text.unreadable"},
		{"two documents", "a: 1\n---\na: 2\n", "a", "new", "! text.unreadable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, err := parsePath(strings.Split(c.path, "."))
			if err != nil {
				t.Fatal(err)
			}
			got, err := putYAML([]byte(c.text), path, c.value)
			compareEdit(t, got, err, c.want)
		})
	}
}

// Whatever is edited says what it said but for the value.
func FuzzPutYAML(f *testing.F) {
	f.Add([]byte("a: {b: old, c: 'x'}\nd: |\n  y\n"), "a.b", "new")
	f.Add([]byte("a: &x old\nb: *x\n"), "b", "it's")
	f.Add([]byte("- ? x\n- \"a\\\"\" # c\n"), "2", "a: #b")
	f.Add([]byte("a:\n- 1\n-\n"), "a.2", "\u2028")
	f.Fuzz(func(t *testing.T, text []byte, at, value string) {
		path, err := parsePath(strings.Split(at, "."))
		if err != nil || len(text) > 1<<12 {
			return
		}
		out, err := putYAML(text, path, value)
		if err != nil {
			return
		}
		before, err := decodeYAML(text)
		if err != nil {
			t.Fatalf("%q was edited and cannot be read: %v", text, err)
		}
		after, err := decodeYAML(out)
		want, _ := withValue(before, path, value)
		if err != nil || !reflect.DeepEqual(after, want) {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
	})
}
