package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const restart = `--[[ rotunda
name = "restart"
version = "1.0.0"
kind = "after_rotation"
about = "Restarts a unit"
needs = ["secret"]
modules = ["text"]
[parameters.unit]
type = "string"
about = "the unit"
default = "nginx"
]]
local text = require "text"
function run(job)
  local line = text.concat("restart ", job.parameters.unit, " ", job.secret)
  return sdk.changed
end
`

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		was, is string // in the script
		line    int
		says    string
		hint    string
	}{
		"as it is":          {"", "", 0, "", ""},
		"unknown global":    {"local line =", "io.write('x') local line =", 15, "there is no global io", "module file"},
		"its own global":    {"local line =", "count = 1 local x = count line =", 0, "", ""},
		"a module's name":   {"local line =", "http.get() local line =", 15, "there is no global http", `require "http"`},
		"syntax":            {"return sdk.changed", "return sdk.changed return", 16, "no Lua near", ""},
		"module not asked":  {"local line =", `local h = require "http" local line =`, 15, "http is not in the manifest", "modules"},
		"module not used":   {`local text = require "text"`, "local text = {concat = tostring}", 0, "asks for the module text", "take it out"},
		"reveal":            {"local line =", "local x = job.secret:reveal() local line =", 15, "does not say why", "reveals"},
		"reveal not used":   {`needs = ["secret"]`, "needs = [\"secret\"]\nreveals = \"to see it\"", 0, "reveals none", "take reveals out"},
		"no function":       {"function run(job)", "function walk(job)", 0, "has a function run", ""},
		"manifest":          {`kind = "after_rotation"`, `kind = "afterwards"`, 4, "kind", ""},
		"fails when loaded": {"function run", "error('no') function run", 14, "no", ""},
		"loops when loaded": {"function run", "while true do end function run", 0, "deadline", ""},
		"unknown function":  {"local line =", "text.cancat('a') local line =", 15, "the module text has no function cancat", "concat"},
		"unknown parameter": {"job.parameters.unit", "job.parameters.unti", 15, "no parameter unti", "parameters.unti"},
		"by another name":   {"local line =", "local p = job.parameters local x = p.unti local line =", 15, "no parameter unti", ""},
		"a shadowed name":   {"local line =", "for _, text in pairs({}) do local x = text.cancat end local line =", 0, "", ""},
		"a method":          {"local line =", "local s = job.secret:public() local line =", 0, "", ""},
		"no end":            {"return sdk.changed\nend", "return sdk.changed", 16, "ends before it should", ""},
		"no answer":         {"return sdk.changed", "return sdk.chnged", 16, "sdk has no chnged", "changed"},
		"not asked for":     {"local line =", "local a = job.former local line =", 15, "does not ask for former", "needs"},
		"no hosts":          {`modules = ["text"]`, `modules = ["text", "http"]`, 0, "reaches nothing", "hosts"},
		"xpcall":            {"local line =", "xpcall(run, run) local line =", 15, "no global xpcall", "pcall"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "loops when loaded" && testing.Short() {
				t.Skip("left out: it takes two seconds")
			}
			text := restart
			if c.was != "" {
				if text = strings.Replace(restart, c.was, c.is, 1); text == restart {
					t.Fatalf("%q is not in the script", c.was)
				}
			}
			_, found := check([]byte(text))
			switch {
			case c.says == "" && len(found) == 0:
				return
			case c.says == "":
				t.Fatalf("problems: %+v", found)
			case len(found) == 0:
				t.Fatal("no problem was found")
			}
			p := found[max(0, slices.IndexFunc(found, func(p problem) bool { return strings.Contains(p.Text, c.says) }))]
			if !strings.Contains(p.Text, c.says) || !strings.Contains(p.Hint, c.hint) || c.line > 0 && p.Line != c.line {
				t.Errorf("problem %+v; want one of line %d with %q and the hint %q", p, c.line, c.says, c.hint)
			}
			if p.Line > 0 && p.Source == "" {
				t.Errorf("problem %+v does not show its line", p)
			}
		})
	}
}

const restartTest = `
test("says that it did it", function()
  local got = run(job{secret = secret("hunter2!"), parameters = {unit = "sshd"}})
  assert(outcome(got) == "changed", outcome(got))
end)
test("parameters have their defaults", function()
  assert(job{}.parameters.unit == "nginx")
end)
`

func TestScriptTests(t *testing.T) {
	for name, c := range map[string]struct {
		script, tests string
		ok            []bool
		says          string // in the answer, where something is wrong
	}{
		"all well":          {restart, restartTest, []bool{true, true}, ""},
		"one fails":         {restart, restartTest + `test("wrong", function() assert(outcome(run(job{secret = secret("a")})) == "unchanged") end)`, []bool{true, true, false}, "restart_test.lua:9"},
		"mocked":            {restart, `mock("text", {concat = function(...) seen = select("#", ...) return "x" end}) test("t", function() run(job{secret = secret("a")}) assert(seen == 4) end)`, []bool{true}, ""},
		"states are fresh":  {restart, `n = (n or 0) + 1 test("a", function() assert(n == 1) n = 5 end) test("b", function() assert(n == 1) end)`, []bool{true, true}, ""},
		"wrong parameter":   {restart, `test("p", function() job{parameters = {unti = "x"}} end)`, []bool{false}, "unti"},
		"needs nothing":     {strings.Replace(restart, `needs = ["secret"]`, "needs = []", 1), `test("s", function() job{secret = secret("abc")} end)`, []bool{false}, "does not ask for secret"},
		"nothing answered":  {restart, `test("s", function() assert(outcome(nil) == "unknown") end)`, []bool{true}, ""},
		"unknown function":  {restart, `test("s", function() local t = require("text") t.cancat() end)`, []bool{false}, "no cancat in the module text"},
		"unknown parameter": {restart, `test("s", function() return job{}.parameters.unti end)`, []bool{false}, "no unti in the manifest's parameters"},
		"unknown record":    {restart, `test("s", function() job{records = {host = {}}} end)`, []bool{false}, "asks for no record host"},
		"no test":           {restart, `local x = 1`, nil, "has no test"},
		"recorded":          {restart, `test("s", function() local d = dialogue{"\r\nsw1>", "enable", "\r\nPassword: ", "en", "\r\nsw1#"} d:expect{"(?m)^sw1>\\z"} d:send("enable") assert(d:expect{"password", "Password: \\z"} == 2) d:send(secret("en")) d:expect{"#"} end)`, []bool{true}, ""},
		"sends another":     {restart, `test("s", function() local d = dialogue{"sw1>", "enable"} d:expect{">"} pcall(d.send, d, "reload") end)`, []bool{false}, `the script sends \"reload\" where the recording has \"enable\"`},
		"sends less":        {restart, `test("s", function() local d = dialogue{"sw1>", "enable", "#"} d:expect{">"} end)`, []bool{false}, `the script has not sent \"enable\"`},
		"sends more":        {restart, `test("s", function() local d = dialogue{"sw1>"} d:expect{">"} d:send("enable") end)`, []bool{false}, "the recording is at its end"},
		"waits for more":    {restart, `test("s", function() local d = dialogue{"sw1>", "enable", "#"} local n, err = d:expect{"#"} assert(n == nil and err.reason == "dialogue.timeout") d:send("enable") d:expect{"#"} n, err = d:expect{"#"} assert(err.reason == "dialogue.closed") end)`, []bool{true}, ""},
		"secret compared":   {restart, `test("s", function() assert(reveal(secret("abc")) == "abc") end)`, []bool{true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "restart.lua")
			for path, text := range map[string]string{file: c.script, filepath.Join(dir, "restart_test.lua"): c.tests} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out, errs bytes.Buffer
			status := byHand([]string{"test", file}, nil, &out, &errs)
			var got []tested
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 1 || len(got[0].Tests) != len(c.ok) {
				t.Fatalf("status %d, %s%s", status, &out, &errs)
			}
			all := true
			for n, ok := range c.ok {
				if got[0].Tests[n].OK != ok {
					t.Errorf("test %+v: want %t", got[0].Tests[n], ok)
				}
				all = all && ok
			}
			if want := !all || c.ok == nil; (status == 1) != want || status > 1 {
				t.Errorf("status %d", status)
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("%s does not say %q", &out, c.says)
			}
		})
	}
}
