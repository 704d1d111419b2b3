package main

import (
	"bytes"
	"regexp"
	"regexp/syntax"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// dialogueObject is what ssh and telnet give to speak with a device.
var dialogueObject = object{
	name: "dialogue", about: "A conversation with a device that has only a terminal: lines are sent, and what it says is waited for.",
	functions: []function{
		{
			name: "send", acts: true, takes: "line: string|secret, options?: table", gives: "true|nil, sdk.error?",
			about: "Sends a line of at most 1,024 bytes, without control characters: a name cannot bring a command of its own. The options: newline, what ends it (of the terminal's kind; \"\" for none); timeout in seconds (30).",
			example: `local d = assert(telnet.connect())
assert(d:send("username bob"))
assert(d:send(job.secret))`,
			do: dialogueSend,
		},
		{
			name: "expect", takes: "patterns: table", gives: "integer|nil, table|sdk.error",
			about: "Waits until the device says what one of the patterns matches: RE2, up to 16 of them in a list, which may hold timeout in seconds (30) besides. It gives the pattern's index and a table with its groups from 1 on, " +
				"text (the whole match) and before (what came before it). Where several match the first in the list counts. It looks at what the device said since the last match, without escape sequences and carriage returns, at most 64 KiB. " +
				"A secret that was sent and that the device says again is [secret] in what is given.",
			example: `local d = assert(telnet.connect())
local n, m = assert(d:expect{"[Pp]assword: ?\\z", "(?m)^(\\w+)>\\s?\\z", timeout = 10})
if n == 2 then
  print("this is", m[1])
end`,
			do: dialogueExpect,
		},
		{name: "close", about: "Ends the conversation.", example: `local d = assert(telnet.connect())
d:close()`, do: func(a *args) int {
			a.self.(*dialogue).close()
			return 0
		}},
	},
}

func dialogueSend(a *args) int {
	d := a.self.(*dialogue)
	line, isSecret := a.bytes(1)
	o := a.options(2, "newline", "timeout")
	if len(line) > maxLine {
		a.bad(1, "a terminal takes at most %d bytes at once", maxLine)
	}
	if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		a.bad(1, "it has a control character in it")
	}
	newline := d.newline
	if o.has("newline") {
		newline = o.text("newline", "")
		if newline != "" && newline != "\r" && newline != "\n" && newline != "\r\n" {
			a.bad(2, `newline: want "\r", "\n", "\r\n" or ""`)
		}
	}
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	if failed := d.say(ctx, line, newline, isSecret); failed != nil {
		return a.fail(failed)
	}
	return a.push(lua.LTrue)
}

// expected is a pattern that is tried again and again on up to maxUnread bytes: it must not
// take long.
func (a *args) expected(n int, text string) *regexp.Regexp {
	if parsed, err := syntax.Parse(text, syntax.Perl); err == nil && len(text) <= maxPattern {
		prog, err := syntax.Compile(parsed.Simplify())
		if err == nil && len(prog.Inst) <= maxExpected {
			return regexp.MustCompile(text)
		}
	}
	a.bad(1, "pattern %d is no regular expression, or one of more than %d bytes or %d steps", n, maxPattern, maxExpected)
	return nil
}

func dialogueExpect(a *args) int {
	d := a.self.(*dialogue)
	t := a.table(1)
	o := options{a: a, n: 1, t: t}
	names, _ := sortedKeys(t)
	for _, name := range names {
		if name != "timeout" && name != "" {
			a.bad(1, "there is no option %s; there is timeout", name)
		}
	}
	items, secrets, why := textList(t)
	if why != "" || secrets {
		a.bad(1, "a pattern: want a text: %s", why)
	}
	if len(items) == 0 || len(items) > maxPatterns {
		a.bad(1, "want 1 to %d patterns", maxPatterns)
	}
	var patterns []*regexp.Regexp
	for n, one := range items {
		patterns = append(patterns, a.expected(n+1, string(one)))
	}
	ctx, cancel := a.within(o.seconds("timeout", 30*time.Second))
	defer cancel()
	f, failed := d.expect(ctx, patterns)
	if failed != nil {
		return a.fail(failed)
	}
	out := a.L.NewTable()
	out.RawSetString("text", lua.LString(f.captures[0]))
	out.RawSetString("before", lua.LString(f.before))
	for n, c := range f.captures[1:] {
		if c != nil {
			out.RawSetInt(n+1, lua.LString(c))
		}
	}
	return a.push(lua.LNumber(f.index), out)
}
