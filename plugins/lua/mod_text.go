package main

import (
	"bytes"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

var textModule = module{
	about: "Puts texts together and takes them apart. Where one of them is a secret, so is the whole.",
	functions: append([]function{
		{
			name: "concat", takes: "...: string|secret|number", gives: "string|secret",
			about:   "Puts its arguments together. With .. a secret would be its placeholder, which no module takes.",
			example: `assert(text.concat("a", 1) == "a1" and type(text.concat("a", secret.of("b"))) == "userdata")`,
			do: func(a *args) int {
				var out []byte
				secrets := false
				for n := 1; n <= a.L.GetTop(); n++ {
					b, isSecret := a.bytes(n)
					if out = append(out, b...); len(out) > maxString {
						a.wrong("the result has more than %d bytes", maxString)
					}
					secrets = secrets || isSecret
				}
				return a.give(out, secrets)
			},
		},
		{
			name: "join", takes: "items: (string|secret)[], between?: string", gives: "string|secret",
			about:   "Puts the items of a list together, with a text between them.",
			example: `assert(text.join({"a", "b"}, ",") == "a,b")`,
			do: func(a *args) int {
				items, secrets := a.list(1)
				return a.give(bytes.Join(items, []byte(a.optText(2, ""))), secrets)
			},
		},
		{
			name: "trim", takes: "text: string|secret", gives: "string|secret",
			about:   "Takes away white space at both ends.",
			example: `assert(text.trim(" a\n") == "a")`,
			do: func(a *args) int {
				b, isSecret := a.bytes(1)
				return a.give(bytes.TrimSpace(b), isSecret)
			},
		},
		{
			name: "lines", takes: "text: string", gives: "string[]",
			about:   "The lines of a text, without their ends.",
			example: `assert(#text.lines("a\r\nb\n") == 2)`,
			do: func(a *args) int {
				t := a.L.NewTable()
				for line := range strings.Lines(a.text(1)) {
					t.Append(lua.LString(strings.TrimRight(line, "\r\n")))
				}
				return a.push(t)
			},
		},
		{
			name: "split", takes: "text: string, at: string", gives: "string[]",
			about:   "Cuts a text at a separator, which is no pattern.",
			example: `assert(text.split("a.b.c", ".")[3] == "c")`,
			do: func(a *args) int {
				t, sep := a.L.NewTable(), a.text(2)
				if sep == "" {
					a.bad(2, "want a separator")
				}
				for part := range strings.SplitSeq(a.text(1), sep) {
					t.Append(lua.LString(part))
				}
				return a.push(t)
			},
		},
		textQuestion("starts_with", "Whether a text begins with another.", `assert(text.starts_with("abc", "a"))`, strings.HasPrefix),
		textQuestion("ends_with", "Whether a text ends with another.", `assert(text.ends_with("abc", "c"))`, strings.HasSuffix),
		textQuestion("contains", "Whether a text has another in it.", `assert(text.contains("abc", "b"))`, strings.Contains),
		{
			name: "replace", takes: "text: string, from: string, to: string|secret", gives: "string|secret",
			about:   "Puts one text in place of another, everywhere; from is no pattern.",
			example: `assert(text.replace("a.b.c", ".", "-") == "a-b-c")`,
			do: func(a *args) int {
				from := []byte(a.text(2))
				if len(from) == 0 {
					a.bad(2, "want what is to be replaced")
				}
				b := []byte(a.text(1))
				with, secrets := a.bytes(3)
				if n := bytes.Count(b, from); n > 0 && len(with) > maxString/n {
					a.wrong("the result has more than %d bytes", maxString)
				}
				return a.give(bytes.ReplaceAll(b, from, with), secrets)
			},
		},
	}, textEdits...),
}

func textQuestion(name, about, example string, ask func(s, part string) bool) function {
	return function{
		name: name, takes: "text: string, part: string", gives: "boolean", about: about, example: example,
		do: func(a *args) int { return a.push(lua.LBool(ask(a.text(1), a.text(2)))) },
	}
}
