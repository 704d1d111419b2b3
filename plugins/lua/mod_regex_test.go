package main

import (
	"strings"
	"testing"
	"time"
)

func TestRegex(t *testing.T) {
	luaCases(t, []string{"regex", "secret"}, []luaCase{
		{"no groups", `assert(regex.find("ab12", "[0-9]+")[1] == "12")`, ""},
		{"a group that takes no part", `assert(regex.find("b", "(a)?b")[1] == "")`, ""},
		{"all of an empty pattern", `assert(#regex.find_all("abc", "") == 4)`, ""},
		{"named in a replacement", `assert(regex.replace("k=v", "(?P<a>.)=(?P<b>.)", "${b}:$a$$") == "v:k$")`, ""},
		{"nothing to replace", `assert(regex.replace("abc", "x", "y") == "abc")`, ""},
		{"a pattern that is none", `regex.match("a", "(")`, "missing closing"},
		{"looking behind", `regex.match("a", "(?<=a)b")`, "invalid"},
		{"a long pattern", `regex.match("a", string.rep("a", 1001))`, "more than 1000"},
		{"a count of a count", `regex.match("a", "((a{1000}){1000}){1000}")`, "repeat"},
		{"much text with a huge pattern", `regex.match(string.rep("a", 1000000), string.rep("(a|b){999}", 20))`, "more than"},
		{"more matches than are taken", `regex.find_all(string.rep("a", 20000), "a")`, "more than 10000"},
		{"a replacement that grows", `regex.replace(string.rep("a", 10000), "a", string.rep("x", 10000))`, "more than"},
		{"a replacement that grows at once", `regex.replace(string.rep("a", 1000000), "a*", string.rep("$0", 1000))`, "more than"},
		{"a secret is refused", `regex.match(secret.of("a"), "a")`, "got a secret"},
		{"a secret as a pattern", `regex.match("a", secret.of("a"))`, "got a secret"},
		{"a secret as a replacement", `regex.replace("a", "a", secret.of("a"))`, "got a secret"},
	})
	// What takes other engines for ever is over at once.
	from := time.Now()
	luaCases(t, []string{"regex"}, []luaCase{{"nested stars", `assert(not regex.match(string.rep("a", 100000) .. "!", "^(a*)*$"))`, ""}})
	if took := time.Since(from); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestTemplate(t *testing.T) {
	luaCases(t, []string{"template", "secret", "text"}, []luaCase{
		{"as it is", `assert(template.render("a {{ x }} b{{y}}", {x = 1, y = true}) == "a 1 btrue")`, ""},
		{"what is put in is not read again", `assert(template.render("{{x}}", {x = "{{y}}"}) == "{{y}}")`, ""},
		{"filters", `assert(template.render("{{x|url}} {{x|xml}} {{x|base64|json}}", {x = "a b&"}) == 'a%20b%26 a b&amp; "YSBiJg=="')`, ""},
		{"nothing to put in", `assert(template.render("a } }} b", {}) == "a } }} b")`, ""},
		{"a name without a value", `template.render("{{x}}", {y = 1})`, "x: want a text, got nothing"},
		{"a filter that is not there", `template.render("a\n{{x|sql}}", {x = 1})`, `line 2: there is no filter "sql"`},
		{"an end that is not there", `template.render("{{x", {x = 1})`, "without its }}"},
		{"an end in another line", `template.render("{{x\n}}", {x = 1})`, "without its }}"},
		{"no name", `template.render("{{ x y }}", {})`, "no name"},
		{"five filters", `template.render("{{x|json|json|json|json|json}}", {x = 1})`, "more than 4 filters"},
		{"a line in an INI file", `template.render("p={{x|ini}}", {x = secret.of("a\nb=c")})`, "more than one line"},
		{"a zero byte in a shell", `template.render("{{x|shell}}", {x = "a\0b"})`, "zero byte"},
		{"a placeholder", `template.render("{{x}}", {x = tostring(secret.of("pass"))})`, "placeholder"},
		{"a placeholder in the text", `template.render(tostring(secret.of("pass")), {})`, "placeholder"},
		{"a secret as the text", `template.render(secret.of("{{x}}"), {x = 1})`, "got a secret"},
		{"a table", `template.render("{{x}}", {x = {}})`, "got a table"},
		{"a small text that stands for a huge one", `template.render(string.rep("{{x}}", 10000), {x = string.rep("a", 10000)})`, "more than"},
	})
	if got := shownSecret(t, []string{"template", "secret"}, `return template.render("p={{p|shell}};u={{u}}", {p = secret.of("it's"), u = "x"})`); got != `p='it'\''s';u=x` {
		t.Errorf("with a secret it is %s", got)
	}
}

// A template is read as one or not at all, and what stands outside of {{ }} stays.
func FuzzTemplate(f *testing.F) {
	f.Add("a {{x|json|url}} b {{ y }}")
	f.Add("{{")
	f.Add("{{{x}}}")
	f.Fuzz(func(t *testing.T, text string) {
		parts, err := parseTemplate(text)
		if err != nil {
			return
		}
		rest := text
		for _, p := range parts {
			if p.name == "" {
				var ok bool
				if rest, ok = strings.CutPrefix(rest, p.text); !ok || strings.Contains(p.text, "{{") {
					t.Fatalf("%q: %q is lost in %q", text, p.text, rest)
				}
				continue
			}
			_, after, ok := strings.Cut(rest, "}}")
			if rest = after; !ok {
				t.Fatalf("%q: %s has no end", text, p.name)
			}
		}
		if rest != "" {
			t.Fatalf("%q: %q is lost", text, rest)
		}
	})
}

func TestRetry(t *testing.T) {
	luaCases(t, []string{"retry"}, []luaCase{
		{"gives up", `local n = 0 local v, err = retry.call({attempts = 3, wait = 0.001, f = function() n = n + 1 return nil, {class = "unreachable", reason = "no"} end}) assert(n == 3 and v == nil and err.reason == "no")`, ""},
		{"another class is not repeated", `local n = 0 local v, err = retry.call({wait = 0.001, f = function() n = n + 1 return nil, {class = "auth", reason = "no"} end}) assert(n == 1 and err.class == "auth")`, ""},
		{"unless it is asked for", `local n = 0 retry.call({attempts = 2, wait = 0.001, on = {"auth"}, f = function() n = n + 1 return nil, {class = "auth"} end}) assert(n == 2)`, ""},
		{"false is an answer", `local n = 0 assert(retry.call({f = function() n = n + 1 return false end}) == false and n == 1)`, ""},
		{"nil alone is an answer", `local n = 0 retry.call({f = function() n = n + 1 end}) assert(n == 1)`, ""},
		{"several answers", `local a, b, c = retry.call({f = function() return 1, nil, 3 end}) assert(a == 1 and b == nil and c == 3)`, ""},
		{"an error that is raised", `retry.call({f = function() error("oops") end})`, "oops"},
		{"in a coroutine", `local co = coroutine.wrap(function() return retry.call({f = function(n) return n end}) end) assert(co() == 1)`, ""},
		{"a function that yields", `local co = coroutine.create(function() return retry.call({f = function() coroutine.yield(1) end}) end) assert(coroutine.resume(co))`, "can not yield"},
		{"within one another", `assert(retry.call({f = function() return retry.call({f = function() return "in" end}) end}) == "in")`, ""},
		{"no longer than the call may last", `local n = 0 local v = retry.call({wait = 3600, f = function() n = n + 1 return nil, {class = "unreachable"} end}) assert(v == nil and n == 1)`, ""},
		{"no function", `retry.call({})`, "want a function"},
		{"too many attempts", `retry.call({f = print, attempts = 1000})`, "1 to 100"},
		{"a class that is not there", `retry.call({f = print, on = {"never"}})`, "no class of errors"},
		{"a backoff that is none", `retry.call({f = print, backoff = 0.5})`, "from 1 to 10"},
	})
	if _, err := load([]byte("--[[ rotunda\nname = \"t\"\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"A test.\"\nmodules = [\"retry\"]\n]]\nrequire(\"retry\").call({f = function() end})\nfunction run() end\n")); err == nil || !strings.Contains(err.Error(), "before a function") {
		t.Errorf("at the top of a script it gives %v", err)
	}
}
