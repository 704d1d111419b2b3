package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// textLine is one line of a file, with its own end.
type textLine struct{ text, end string }

func linesOf(text []byte) (lines []textLine) {
	for l := range strings.Lines(string(text)) {
		body, ended := strings.CutSuffix(l, "\n")
		if ended {
			body = strings.TrimSuffix(body, "\r")
		}
		lines = append(lines, textLine{body, l[len(body):]})
	}
	return lines
}

func joinLines(lines []textLine) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l.text + l.end)
	}
	return b.Bytes()
}

// insertLine adds a line at a place, with the end that the file's lines have. A last line
// without an end gets one.
func insertLine(lines []textLine, at int, text ...string) []textLine {
	end := "\n"
	if len(lines) > 0 && lines[0].end != "" {
		end = lines[0].end
	}
	if at > 0 && lines[at-1].end == "" {
		lines[at-1].end = end
	}
	for n, t := range text {
		lines = slices.Insert(lines, at+n, textLine{t, end})
	}
	return lines
}

func twice(what string) error {
	return &sdk.Error{Class: sdk.ClassConflict, Reason: "text.ambiguous", Err: fmt.Errorf("%s is there more than once: which one counts is the program's own rule; remove one", what)}
}

func unsaid(why string) error {
	return &sdk.Error{Class: sdk.ClassPolicy, Reason: "text.value", Err: errors.New(why)}
}

func oneLine(value []byte) bool { return !bytes.ContainsAny(value, "\r\n\x00") }

// iniValue is a value of an INI file without quotes: what most readers would cut off or
// read as a comment is refused.
func iniValue(value []byte) ([]byte, error) {
	v := string(value)
	switch {
	case !oneLine(value):
		return nil, errors.New("the value has more than one line, or a zero byte")
	case v != strings.TrimSpace(v):
		return nil, errors.New("the value begins or ends with white space, which a reader would cut off; ask for quotes")
	case v != "" && strings.ContainsAny(v[:1], `"'#;`) || iniComment.MatchString(v) || strings.HasSuffix(v, `\`):
		return nil, errors.New(`the value has a quote or a comment's sign at its beginning, one after white space, or a \ at its end; ask for quotes`)
	}
	return value, nil
}

var iniComment = regexp.MustCompile(`[ \t][#;]`)

// quoteINI writes a value between quotes, with a backslash before a quote and a backslash.
func quoteINI(value []byte) ([]byte, error) {
	if !oneLine(value) {
		return nil, errors.New("the value has more than one line, or a zero byte")
	}
	return []byte(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(value)) + `"`), nil
}

// quoteMyCnf writes a value as the option files of MySQL and MariaDB want it.
func quoteMyCnf(value []byte) ([]byte, error) {
	if bytes.IndexByte(value, 0) >= 0 {
		return nil, errors.New("the value has a zero byte")
	}
	return []byte(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(string(value)) + `"`), nil
}

var (
	iniSection = regexp.MustCompile(`^\s*\[([^\]]*)\]\s*([#;].*)?$`)
	iniKey     = regexp.MustCompile(`^(\s*)([^=:\s#;\[][^=:]*?)(\s*[=:][ \t]*)(.*)$`)
	bareKey    = regexp.MustCompile(`^[^\s=:#;\[\]"'][^=:\r\n\x00]*$`)
)

// putINI sets one key of a section; written is the value as it is to stand there. Other
// lines, their order and their comments stay; what stood behind the old value goes with it:
// it may be a part of that.
func putINI(text []byte, section, key string, written []byte) ([]byte, error) {
	if key != strings.TrimSpace(key) || !bareKey.MatchString(key) || section != strings.TrimSpace(section) || strings.ContainsAny(section, "]\r\n\x00") {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "text.key", Err: errors.New("a key or a section with signs that an INI file gives a meaning to")}
	}
	lines := linesOf(text)
	now, found, last, style := "", -1, -1, "%s = "
	if section == "" {
		last = 0
	}
	for n, l := range lines {
		if m := iniSection.FindStringSubmatch(l.text); m != nil {
			if now = strings.TrimSpace(m[1]); now == section {
				last = n + 1
			}
			continue
		}
		if now != section {
			continue
		}
		m := iniKey.FindStringSubmatch(l.text)
		if strings.TrimSpace(l.text) != "" {
			last = n + 1
		}
		if m == nil {
			continue
		}
		style = strings.ReplaceAll(m[1], "%", "%%") + "%s" + strings.ReplaceAll(m[3], "%", "%%")
		if m[2] != key {
			continue
		}
		if found >= 0 {
			return nil, twice(key)
		}
		if found = n; goesOn(lines, n, len(m[1])) {
			return nil, &sdk.Error{Class: sdk.ClassConflict, Reason: "text.not_a_value", Err: fmt.Errorf("the value of %s goes on in the next line", key)}
		}
		lines[n].text = m[1] + m[2] + m[3] + string(written)
	}
	switch {
	case found >= 0:
	case last >= 0:
		lines = insertLine(lines, last, fmt.Sprintf(style, key)+string(written))
	default:
		lines = insertLine(lines, len(lines), "["+section+"]", key+" = "+string(written))
	}
	return joinLines(lines), nil
}

// goesOn says whether the value of line n goes on in the next: by a backslash, or as a
// line that stands deeper.
func goesOn(lines []textLine, n, depth int) bool {
	if strings.HasSuffix(lines[n].text, `\`) && !strings.HasSuffix(lines[n].text, `\\`) {
		return true
	}
	if n+1 == len(lines) || strings.TrimSpace(lines[n+1].text) == "" {
		return false
	}
	next := lines[n+1].text
	body := strings.TrimLeft(next, " \t")
	return len(next)-len(body) > depth && !strings.ContainsAny(body[:1], "#;[")
}

var (
	envKey  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	envLine = regexp.MustCompile(`^(\s*(?:export\s+)?)([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)
	envBare = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]*$`)
)

// envValue writes a value of an env file so that a shell, systemd and dotenv read it alike.
func envValue(value []byte, quote string) ([]byte, error) {
	v := string(value)
	if !oneLine(value) {
		return nil, errors.New("the value has more than one line, or a zero byte")
	}
	switch {
	case quote == "none":
		return value, nil
	case quote == "auto" && envBare.MatchString(v):
		return value, nil
	case quote != "double" && !strings.Contains(v, "'"):
		return []byte("'" + v + "'"), nil
	case quote == "single":
		return nil, errors.New("the value has a single quote")
	}
	return []byte(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(v) + `"`), nil
}

// putEnv sets one variable of a file of NAME=value lines.
func putEnv(text []byte, key string, written []byte) ([]byte, error) {
	if !envKey.MatchString(key) {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "text.key", Err: errors.New("a variable's name has letters, digits and _")}
	}
	lines, found := linesOf(text), false
	for n, l := range lines {
		m := envLine.FindStringSubmatch(l.text)
		if m == nil || m[2] != key {
			continue
		}
		if found {
			return nil, twice(key)
		}
		if found = true; openQuote(m[3]) {
			return nil, &sdk.Error{Class: sdk.ClassConflict, Reason: "text.not_a_value", Err: fmt.Errorf("the value of %s goes on in the next line", key)}
		}
		lines[n].text = m[1] + key + "=" + string(written)
	}
	if !found {
		lines = insertLine(lines, len(lines), key+"="+string(written))
	}
	return joinLines(lines), nil
}

// openQuote says whether a value does not end in its line.
func openQuote(value string) bool {
	quote, escaped := rune(0), false
	for _, c := range value {
		switch {
		case escaped:
			escaped = false
		case c == '\\' && quote != '\'':
			escaped = true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		}
	}
	return escaped || quote != 0
}

// pgEntry names a line of a .pgpass file.
type pgEntry [4]string // host, port, database, user

var pgEscape = strings.NewReplacer(`\`, `\\`, `:`, `\:`)

// putPgpass sets the password of one entry. The first line that fits is the one that
// counts, so an entry goes before those with a star that would hide it, or hid it.
func putPgpass(text []byte, entry pgEntry, password []byte) ([]byte, error) {
	if !oneLine(password) {
		return nil, unsaid("the password has more than one line, or a zero byte")
	}
	var head strings.Builder
	for _, f := range entry {
		if f == "" || !oneLine([]byte(f)) || strings.HasPrefix(f, "#") {
			return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "text.key", Err: errors.New("host, port, database and user are texts of one line; * stands for any")}
		}
		if f != "*" {
			f = pgEscape.Replace(f)
		}
		head.WriteString(f + ":")
	}
	line := head.String() + pgEscape.Replace(string(password))
	lines, at, own := linesOf(text), -1, -1
	for n, l := range lines {
		fields := pgFields(l.text)
		if strings.HasPrefix(l.text, "#") || len(fields) < 4 {
			continue
		}
		same, hides := true, true
		for i, f := range entry {
			same = same && fields[i] == f
			hides = hides && (fields[i] == f || fields[i] == "*")
		}
		switch {
		case same && own >= 0:
			return nil, twice("the entry")
		case same:
			own = n
		}
		if hides && at < 0 {
			at = n
		}
	}
	switch {
	case own >= 0 && own == at:
		lines[own].text = line
	case own >= 0: // behind a line that hides it
		lines = insertLine(slices.Delete(lines, own, own+1), at, line)
	case at >= 0:
		lines = insertLine(lines, at, line)
	default:
		lines = insertLine(lines, len(lines), line)
	}
	return joinLines(lines), nil
}

// pgFields are a line's first four fields, as they are meant. A star that is escaped looks
// like one that stands for any: at worst a new entry goes further up than it had to.
func pgFields(line string) (fields []string) {
	var b strings.Builder
	for i := 0; i < len(line) && len(fields) < 4; i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case line[i] == ':':
			fields = append(fields, b.String())
			b.Reset()
		default:
			b.WriteByte(line[i])
		}
	}
	return fields
}
