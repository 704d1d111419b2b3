// Package terminal shows on a terminal what other parties wrote: titles, logins, notes,
// names, what targets and servers say. A terminal acts on control characters in it: it
// writes the clipboard, moves over what stood there before, answers as if somebody typed.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// acts says whether a terminal does something else with a character than show it: a
// control character, or a mark that has the text after it read in another order.
func acts(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// Line is text as one line of a table or a message, on a terminal and elsewhere: nobody
// forges another line, and what a terminal would act on is gone.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case acts(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Escaped is text in one line from which it can be read again: what a terminal would act
// on is written as in JSON.
func Escaped(s string) string { return escape(s, "") }

// escape escapes all but the characters of keep.
func escape(s, keep string) string {
	plain := func(r rune) bool { return !acts(r) || strings.ContainsRune(keep, r) }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch short := strings.IndexRune("\n\t\r", r); {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case plain(r):
			b.WriteRune(r)
		case short >= 0:
			b.WriteString([]string{`\n`, `\t`, `\r`}[short])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// Writer is a terminal: what it would act on is written as in JSON, so that JSON stays
// what it is. Line feeds and tabs pass. What is written at once is judged for itself.
type Writer struct{ w io.Writer }

// NewWriter writes to a terminal.
func NewWriter(w io.Writer) *Writer { return &Writer{w} }

// Shown is text as the terminal will show it.
func Shown(s string) string { return escape(s, "\n\t") }

func (t *Writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(t.w, Shown(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Again writes a line over the one on which the terminal is.
func (t *Writer) Again(line string) { fmt.Fprint(t.w, "\r"+Line(line)) }

// Of is a program's own output: a Writer where it goes to a terminal, else the file, to
// which every byte goes as it is.
func Of(f *os.File) io.Writer {
	if !term.IsTerminal(int(f.Fd())) {
		return f
	}
	return NewWriter(f)
}
