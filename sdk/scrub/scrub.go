// Package scrub takes secrets out of text by value: out of log lines, error texts
// and whatever a script prints. It is the second line of defence; the first is that
// secrets have a type of their own that does not print.
package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"regexp"
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
// concurrent use.
type Set struct {
	mu     sync.RWMutex
	next   uint64
	values map[uint64][]string
	sorted []string // of all values, longest first; nil when stale
}

// Add takes secret out of all text from now on, until the returned function is
// called: in clear, in base64 (wherever in the encoded text it stands) and hexadecimal,
// quoted as in JSON and escaped as in a URL; and each long line of it, since multi-line
// secrets are often logged by line.
func (s *Set) Add(secret []byte) (remove func()) {
	f := forms(secret)
	if len(f) == 0 {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[uint64][]string{}
	}
	s.next++
	id := s.next
	s.values[id], s.sorted = f, nil
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.values, id)
		s.sorted = nil
	})
}

// Text returns text without the secrets.
func (s *Set) Text(text string) string {
	for _, v := range s.list() {
		text = strings.ReplaceAll(text, v, Mark)
	}
	return text
}

func (s *Set) list() []string {
	s.mu.RLock()
	l, n := s.sorted, len(s.values)
	s.mu.RUnlock()
	if l != nil || n == 0 {
		return l
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		s.sorted = []string{}
		for _, f := range s.values {
			s.sorted = append(s.sorted, f...)
		}
		// Longest first: a secret that contains another one must go as a whole.
		slices.SortFunc(s.sorted, func(a, b string) int { return len(b) - len(a) })
	}
	return s.sorted
}

const lineLen = 16

var everyTwo = regexp.MustCompile("..")

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

func forms(secret []byte) []string {
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) < MinLen {
		return nil
	}
	plain := []string{string(secret)}
	if bytes.IndexByte(secret, '\n') >= 0 {
		for line := range strings.Lines(string(secret)) {
			line = strings.TrimRight(line, "\r\n")
			if len(line) >= lineLen && !strings.HasPrefix(line, "-----") {
				plain = append(plain, line)
			}
		}
	}
	var out []string
	for _, p := range plain {
		digits := hex.EncodeToString([]byte(p))
		out = append(out, p, digits, strings.ToUpper(digits), url.QueryEscape(p), url.PathEscape(p))
		for _, d := range []string{digits, strings.ToUpper(digits)} {
			out = append(out, everyTwo.ReplaceAllString(d, "%$0")) // a URL's, with nothing left as it is
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
