package terminal_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/internal/terminal"
)

func TestShown(t *testing.T) {
	for in, want := range map[string]struct{ line, escaped, shown string }{
		"plain":                  {"plain", "plain", "plain"},
		"Zoë 京 \\u001b":          {"Zoë 京 \\u001b", "Zoë 京 \\u001b", "Zoë 京 \\u001b"},
		"two\nlines\tx":          {"two lines x", `two\nlines\tx`, "two\nlines\tx"},
		"over\rwritten":          {"over written", `over\rwritten`, `over\rwritten`},
		"\x1b]52;c;cm0=\a":       {"\uFFFD]52;c;cm0=\uFFFD", `\u001b]52;c;cm0=\u0007`, `\u001b]52;c;cm0=\u0007`},
		"c1 \u009b31m \u007f":    {"c1 \uFFFD31m \uFFFD", `c1 \u009b31m \u007f`, `c1 \u009b31m \u007f`},
		"\u202Egnp.exe":          {"\uFFFDgnp.exe", `\u202egnp.exe`, `\u202egnp.exe`},
		"not\xff utf-8 \x9b31m":  {"not\uFFFD utf-8 \uFFFD31m", `not\xff utf-8 \x9b31m`, `not\xff utf-8 \x9b31m`},
		"replaced \uFFFD before": {"replaced \uFFFD before", "replaced \uFFFD before", "replaced \uFFFD before"},
	} {
		if got := terminal.Line(in); got != want.line {
			t.Errorf("%q as a line: %q, want %q", in, got, want.line)
		}
		if got := terminal.Escaped(in); got != want.escaped {
			t.Errorf("%q escaped: %q, want %q", in, got, want.escaped)
		}
		var out bytes.Buffer
		n, err := terminal.NewWriter(&out).Write([]byte(in))
		if n != len(in) || err != nil || out.String() != want.shown || terminal.Shown(in) != want.shown {
			t.Errorf("%q on a terminal: %q, want %q (%d, %v)", in, out.String(), want.shown, n, err)
		}
	}
}

// To a file every byte goes as it is.
func TestOfAFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if terminal.Of(f) != any(f) {
		t.Error("a file is taken for a terminal")
	}
}

// FuzzWriter: whatever is written, in whatever parts, no terminal acts on it, and JSON says
// what it said.
func FuzzWriter(f *testing.F) {
	for _, s := range []string{"", "\x1b[31m", "\u009b", "\xc2", "\x9b", "\u202e", "a\nb\r\n", "\u2028"} {
		f.Add(s, len(s)/2)
	}
	f.Fuzz(func(t *testing.T, s string, cut int) {
		cut = max(0, min(cut, len(s)))
		var out bytes.Buffer
		w := terminal.NewWriter(&out)
		for _, part := range []string{s[:cut], s[cut:]} {
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		for name, text := range map[string]string{"shown": out.String(), "line": terminal.Line(s), "escaped": terminal.Escaped(s)} {
			if !utf8.ValidString(text) {
				t.Errorf("%s: %q is no text", name, text)
			}
			for _, r := range text {
				if passes := name == "shown" && (r == '\n' || r == '\t'); !passes && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
					t.Errorf("%s: %q holds %U", name, text, r)
				}
			}
		}
		line, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var was, is string
		if json.Unmarshal(line, &was) != nil || json.Unmarshal([]byte(terminal.Shown(string(line))), &is) != nil || was != is {
			t.Errorf("%s is shown as %s", line, terminal.Shown(string(line)))
		}
		if strings.ContainsAny(terminal.Line(s), "\n\r\t") {
			t.Errorf("%q is several lines", terminal.Line(s))
		}
	})
}
