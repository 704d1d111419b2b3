package main

import (
	"regexp"
	"regexp/syntax"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

var regexModule = module{
	about: "Regular expressions (RE2: the time that one takes grows with the text's length and no faster). They read texts only: a secret is refused, since what matches would tell it.",
	functions: []function{
		{
			name: "match", takes: "text: string, pattern: string", gives: "boolean",
			about:   "Whether the pattern matches anywhere in the text.",
			example: `assert(regex.match("version 1.20", [[\d+\.\d+$]]) and not regex.match("a", "^b"))`,
			do: func(a *args) int {
				re, text := a.pattern()
				return a.push(lua.LBool(re.MatchString(text)))
			},
		},
		{
			name: "find", takes: "text: string, pattern: string", gives: "string[]|nil",
			about:   "The first match: its groups or, where the pattern has none, the whole of it, in a list; nil where nothing matches. A named group is there by its name, too; one that takes no part is empty.",
			example: `local m = regex.find("uid=7(bob)", [[uid=(\d+)\((?P<name>\w+)\)]]) assert(m[1] == "7" and m.name == "bob" and regex.find("a", "b") == nil)`,
			do: func(a *args) int {
				re, text := a.pattern()
				m := re.FindStringSubmatch(text)
				if m == nil {
					return a.push(lua.LNil)
				}
				return a.push(a.groups(re, m))
			},
		},
		{
			name: "find_all", takes: "text: string, pattern: string", gives: "string[][]",
			about:   "All matches, each as find gives it; more than 10,000 are an error, and more than 100,000 groups in all.",
			example: `assert(#regex.find_all("a=1, b=2", [[(\w)=(\d)]]) == 2)`,
			do: func(a *args) int {
				re, text := a.pattern()
				most := most(re)
				all := re.FindAllStringSubmatch(text, most+1)
				a.few(len(all), most)
				t := a.L.NewTable()
				for _, m := range all {
					t.Append(a.groups(re, m))
				}
				return a.push(t)
			},
		},
		{
			name: "replace", takes: "text: string, pattern: string, with: string", gives: "string",
			about:   "Puts a text in place of each match; $1 and ${name} in it are groups, $$ is a dollar. More than 10,000 matches are an error. For secrets use text.replace, text.put_… or template.render.",
			example: `assert(regex.replace("a=1", [[(\w)=(\d)]], "$2=$1") == "1=a")`,
			do:      replaceMatches,
		},
	},
}

// Bounds of a regular expression's work: instructions times bytes are the steps that it
// can take, and nothing ends one early.
const (
	maxPattern = 1000
	maxSteps   = 1 << 28
	maxMatches = 10_000
)

// pattern is the text and the compiled pattern of a call.
func (a *args) pattern() (*regexp.Regexp, string) {
	text, pattern := a.text(1), a.text(2)
	if len(pattern) > maxPattern {
		a.bad(2, "the pattern has more than %d bytes", maxPattern)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		a.bad(2, "%v", err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		a.bad(2, "%v", err)
	}
	if steps := maxSteps / len(prog.Inst); len(text) > steps {
		a.bad(1, "it has more than %d bytes", steps)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		a.bad(2, "%v", err)
	}
	return re, text
}

// most is how many matches are taken: fewer where each has many groups.
func most(re *regexp.Regexp) int { return min(maxMatches, 10*maxMatches/(re.NumSubexp()+1)) }

func (a *args) few(matches, most int) {
	if matches > most {
		a.wrong("more than %d matches", most)
	}
}

func (a *args) groups(re *regexp.Regexp, m []string) *lua.LTable {
	t := a.L.NewTable()
	if len(m) == 1 {
		t.Append(lua.LString(m[0]))
		return t
	}
	names := re.SubexpNames()
	for n, g := range m[1:] {
		t.RawSetInt(n+1, lua.LString(g))
		if name := names[n+1]; name != "" {
			t.RawSetString(name, lua.LString(g))
		}
	}
	return t
}

func replaceMatches(a *args) int {
	re, text := a.pattern()
	with := a.text(3)
	most := most(re)
	all := re.FindAllStringSubmatchIndex(text, most+1)
	a.few(len(all), most)
	var out []byte
	from := 0
	for _, m := range all {
		out = append(out, text[from:m[0]]...)
		// Each $ stands for at most the whole match.
		if n := strings.Count(with, "$"); n > 0 && m[1]-m[0] > maxString/n {
			a.wrong("the result has more than %d bytes", maxString)
		}
		if out = re.ExpandString(out, with, text, m); len(out) > maxString {
			a.wrong("the result has more than %d bytes", maxString)
		}
		from = m[1]
	}
	return a.give(append(out, text[from:]...), false)
}
