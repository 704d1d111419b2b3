package script

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkText wants a text that shows whoever reads it what Lua reads. A carriage return of
// its own begins a line for Lua and overwrites one on a terminal; marks of direction turn
// a line round on the screen alone; what has no width makes two names look like one.
func checkText(text []byte) error {
	if len(text) > MaxText {
		return &Error{Line: 1, Text: fmt.Sprintf("the script has %d bytes", len(text)), Hint: fmt.Sprintf("at most %d are taken", MaxText)}
	}
	line := 1
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return &Error{Line: line, Text: "is not UTF-8", Hint: `save the file as UTF-8; other bytes are written "\255" in a string`}
		case r == '\n':
			line++
		case r == '\t', r == '\r' && bytes.HasPrefix(text[i+1:], []byte("\n")):
		case hides(r):
			return &Error{Line: line, Text: fmt.Sprintf("has the character U+%04X, which is not to be seen", r), Hint: "remove it; in a string write it as an escape"}
		}
		i += n
	}
	return nil
}

// hides says whether a character is not to be seen, or does something to those around it:
// controls, marks of direction, spaces without width, soft hyphens, tags, fillers. U+FE0F,
// which makes a picture of a sign, is one that people write.
func hides(r rune) bool {
	return r != '\ufe0f' && (unicode.IsControl(r) ||
		unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector))
}

// opening is how a manifest's comment begins: on the file's first line, with as many = as
// its values make necessary.
var opening = regexp.MustCompile(`^--\[(={0,8})\[[ \t]*rotunda[ \t]*\r?\n`)

// comment gives the manifest's comment and the TOML in it; that begins on the file's first
// line, so that its lines are the file's.
func comment(text []byte) (all, inner []byte, err error) {
	m := opening.FindSubmatchIndex(text)
	if m == nil {
		return nil, nil, &Error{Line: 1, Text: "has no manifest", Hint: "the file's first line is --[[ rotunda, then the manifest follows, and ]] ends it"}
	}
	head := m[1] - 1 // the newline is TOML's already
	end := bytes.Index(text[head:], []byte("]"+string(text[m[2]:m[3]])+"]"))
	if end < 0 {
		return nil, nil, &Error{Line: 1, Text: "the manifest's comment does not end", Hint: "write ]" + string(text[m[2]:m[3]]) + "] on a line of its own after it"}
	}
	end += head
	all = text[:end+2+m[3]-m[2]]
	if len(all) > MaxManifest {
		return nil, nil, &Error{Line: 1, Text: fmt.Sprintf("the manifest has %d bytes", len(all)), Hint: fmt.Sprintf("at most %d are taken", MaxManifest)}
	}
	return all, text[head:end], nil
}

// endsHere is the hint for what is not finished on the manifest's last line.
const endsHere = "the comment ends here, at the first ]]: where a value has one, begin with --[==[ rotunda and end with ]==]"

const (
	maxDepth = 4 // of brackets and braces in each other
	maxDots  = 4 // of a key
)

// layout finds the line of each key, and bounds what the TOML library is given: it takes
// any depth, and remembers the whole path of every key. Strings are those of one line, so
// that this knows as exactly as the library where one ends.
func layout(text string) (map[string]int, *Error) {
	lines := map[string]int{}
	depth, head := 0, ""
	all := strings.Split(text, "\n")
	for n, s := range all {
		fail := func(what, hint string) (map[string]int, *Error) {
			if n == len(all)-1 {
				hint = endsHere
			}
			return nil, &Error{Line: n + 1, Text: what, Hint: hint}
		}
		dots, equals := 0, -1
		first := depth == 0
		for i := 0; i < len(s) && s[i] != '#'; i++ {
			switch s[i] {
			case '"', '\'':
				end := closing(s[i:])
				if end < 0 {
					return fail("has a string that does not end on its line", "close it, and write a line's end in it as \\n")
				}
				if end == 1 && strings.HasPrefix(s[i+2:], s[i:i+1]) {
					return fail("has a string of several lines", "write it on one, with \\n for a line's end")
				}
				i += end
			case '[', '{':
				if depth++; depth > maxDepth {
					return fail("is nested too deep", "no value of a manifest is more than a list or a table")
				}
				dots = 0
			case ']', '}':
				depth = max(depth-1, 0)
			case '=':
				if first && equals < 0 {
					equals = i
				}
				dots = 0
			case ',':
				dots = 0
			case '.':
				if dots++; dots > maxDots {
					return fail("has a key of too many parts", "no key of a manifest has more than three")
				}
			}
		}
		switch t := strings.TrimSpace(s); {
		case !first:
		case strings.HasPrefix(t, "["):
			head, _, _ = strings.Cut(strings.TrimLeft(t, "["), "]")
			head = plain(head)
			note(lines, head, n+1)
			head += "."
		case equals > 0:
			note(lines, head+plain(s[:equals]), n+1)
		}
	}
	return lines, nil
}

// note keeps the first line of a key, and of the tables that it makes.
func note(lines map[string]int, key string, line int) {
	for i := range len(key) {
		if _, ok := lines[key[:i]]; key[i] == '.' && !ok {
			lines[key[:i]] = line
		}
	}
	if _, ok := lines[key]; !ok {
		lines[key] = line
	}
}

// plain is a key without what TOML allows around its parts.
func plain(key string) string {
	return strings.NewReplacer(" ", "", "\t", "", "\r", "", `"`, "", "'", "").Replace(key)
}

// closing is where the string that begins here ends, negative if not on this line.
func closing(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return i
		case s[i] == '\\' && s[0] == '"':
			i++
		}
	}
	return -1
}
