// Package scrub takes secrets out of text by value: out of log lines, error texts
// and whatever a script prints. It is the second line of defence; the first is that
// secrets have a type of their own that does not print.
package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// MinLen is the shortest value that is looked for: anything shorter would tear
// innocent text apart and is not a secret.
const MinLen = 4

// Mark stands where a secret was.
const Mark = "[secret]"

// Set holds the values to take out. The zero Set is empty and ready; it is safe for
// concurrent use. Adding costs next to nothing: most secrets leave again before there is a
// text to look at.
type Set struct {
	mu     sync.Mutex
	values map[string]*value // by the secret
	sorted []string          // the forms of all values, longest first; nil when stale
}

// value is a secret, as often as it was added.
type value struct {
	uses  int
	forms []string // nil until there is a text to look for them in
}

// Add takes secret out of all text from now on, until the returned function is
// called: in clear, in base64 (wherever in the encoded text it stands) and hexadecimal,
// quoted as in JSON, escaped as in a URL and as in HTML and XML; and each long line of it,
// since multi-line secrets are often logged by line.
func (s *Set) Add(secret []byte) (remove func()) {
	key := string(bytes.TrimRight(secret, "\r\n"))
	if len(key) < MinLen {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.values[key]
	if v == nil {
		if s.values == nil {
			s.values = map[string]*value{}
		}
		v = new(value)
		s.values[key], s.sorted = v, nil
	}
	v.uses++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if v.uses--; v.uses == 0 {
			delete(s.values, key)
			s.sorted = nil
		}
	})
}

// Text returns text without the secrets.
func (s *Set) Text(text string) string {
	if len(text) < MinLen {
		return text
	}
	for _, v := range s.list() {
		text = strings.ReplaceAll(text, v, Mark)
	}
	return text
}

func (s *Set) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		for secret, v := range s.values {
			if v.forms == nil {
				v.forms = forms(secret)
			}
			s.sorted = append(s.sorted, v.forms...)
		}
		// Longest first: a secret that contains another one must go as a whole.
		slices.SortFunc(s.sorted, func(a, b string) int { return len(b) - len(a) })
	}
	return s.sorted
}

const lineLen = 16

// percent escapes all of hexadecimal digits as a URL may, with nothing left as it is.
func percent(digits string) string {
	out := make([]byte, 0, len(digits)/2*3)
	for i := 0; i < len(digits); i += 2 {
		out = append(out, '%', digits[i], digits[i+1])
	}
	return string(out)
}

// inURL are the forms of a text that is escaped where it has to be: as in a query, in a path,
// and by those who write a space as %20 in either; with capital hexadecimal digits and without.
func inURL(text string) (out []string) {
	query := url.QueryEscape(text)
	for _, escaped := range []string{query, url.PathEscape(text), strings.ReplaceAll(query, "+", "%20")} {
		small := []byte(escaped)
		for i := 0; i+2 < len(small); i++ {
			if small[i] == '%' {
				copy(small[i+1:], bytes.ToLower(small[i+1:i+3]))
			}
		}
		out = append(out, escaped, string(small))
	}
	return out
}

// quotes are how HTML and XML are given the quotation mark and the apostrophe: Go's way is
// the first, others leave them as they are where they may.
var quotes = [][2]string{
	{"&#34;", "&#39;"}, {"&quot;", "&#39;"}, {"&quot;", "&apos;"}, {"&quot;", "&#x27;"}, {"&quot;", "&#039;"}, {"&quot;", "'"}, {`"`, "'"},
}

// inMarkup are the forms of a text in HTML and XML.
func inMarkup(text string) (out []string) {
	for _, q := range quotes {
		out = append(out, strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, q[0], "'", q[1]).Replace(text))
	}
	var b strings.Builder
	if xml.EscapeText(&b, []byte(text)) == nil { // which escapes line breaks, too
		out = append(out, b.String())
	}
	return out
}

// within are the forms of a text in the base64 of a longer one: three of them, by where in it
// the text begins. Characters that stand for bits of its neighbours, too, are left out.
func within(e *base64.Encoding, text string) (out []string) {
	for before := range 3 {
		all := e.EncodeToString([]byte(strings.Repeat("\x00", before) + text))
		from, to := (before*8+5)/6, (before+len(text))*8/6
		out = append(out, all[from:to])
	}
	return out
}

// forms are what a secret may look like in a text.
func forms(secret string) []string {
	plain := []string{secret}
	if strings.Contains(secret, "\n") {
		for line := range strings.Lines(secret) {
			line = strings.TrimRight(line, "\r\n")
			if len(line) >= lineLen && !strings.HasPrefix(line, "-----") {
				plain = append(plain, line)
			}
		}
	}
	var out []string
	for _, p := range plain {
		digits := hex.EncodeToString([]byte(p))
		out = append(out, p, digits, strings.ToUpper(digits), percent(digits), percent(strings.ToUpper(digits)))
		out = append(out, inURL(p)...)
		if strings.ContainsAny(p, "&<>\"'\r\n\t") {
			out = append(out, inMarkup(p)...)
		}
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			out = append(out, e.EncodeToString([]byte(p)))
			out = append(out, within(e, p)...)
		}
		for _, html := range []bool{true, false} {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(html)
			if e.Encode(p) == nil {
				out = append(out, strings.Trim(strings.TrimSpace(b.String()), `"`))
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(v string) bool { return len(v) < MinLen })
}
