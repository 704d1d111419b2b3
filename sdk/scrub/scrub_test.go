package scrub_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

const secret = `p&ss "wörd" <1>/+%`

func TestText(t *testing.T) {
	j, _ := json.Marshal(secret)
	for name, text := range map[string]string{
		"clear":    secret,
		"base64":   base64.StdEncoding.EncodeToString([]byte(secret)),
		"raw url":  base64.RawURLEncoding.EncodeToString([]byte(secret)),
		"hex":      hex.EncodeToString([]byte(secret)),
		"HEX":      strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"query":    url.QueryEscape(secret),
		"path":     url.PathEscape(secret),
		"json":     string(j),
		"repeated": secret + secret,
	} {
		s := new(scrub.Set)
		remove := s.Add([]byte(secret))
		got := s.Text("before " + text + " after")
		if strings.Contains(got, text) || !strings.Contains(got, scrub.Mark) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %s", name, got)
		}
		remove()
		remove()
		if got := s.Text(text); got != text {
			t.Errorf("%s: still scrubbed after its removal: %s", name, got)
		}
	}
}

// Many calls have the same secret at a time: it stays until the last of them is over.
func TestTextOfOneAddedTwice(t *testing.T) {
	s := new(scrub.Set)
	first, second := s.Add([]byte(secret)), s.Add([]byte(secret+"\n"))
	first()
	first()
	if got := s.Text(secret); got != scrub.Mark {
		t.Errorf("gone with the first call: %q", got)
	}
	second()
	if got := s.Text(secret); got != secret {
		t.Errorf("still scrubbed after the last call: %q", got)
	}
	s.Add([]byte(secret))
	if got := s.Text(secret); got != scrub.Mark {
		t.Errorf("not found when it came back: %q", got)
	}
}

func TestTextOfSeveral(t *testing.T) {
	s := new(scrub.Set)
	s.Add([]byte("short"))
	s.Add([]byte("short-and-long"))
	if got := s.Text("a short-and-long b short c"); got != "a [secret] b [secret] c" {
		t.Errorf("a secret within another: %q", got)
	}
	s.Add([]byte("abc"))
	s.Add(nil)
	if got := s.Text("abc"); got != "abc" {
		t.Errorf("a value too short to look for: %q", got)
	}
	key := "-----BEGIN KEY-----\nAAAAB3NzaC1yc2EAAAADAQABAAAB\nZm9vYmFyZm9vYmFyZm9vYmFyZm9v\n-----END KEY-----\n"
	s.Add([]byte(key))
	got := s.Text("line: ZZ ZZ Zm9vYmFyZm9vYmFyZm9vYmFyZm9v\n-----BEGIN KEY-----")
	if strings.Contains(got, "Zm9vYmFy") || !strings.Contains(got, "BEGIN KEY") {
		t.Errorf("one line of a key: %q", got)
	}
}

type loud struct{ S string }

func TestHandler(t *testing.T) {
	s := new(scrub.Set)
	s.Add([]byte(secret))
	var out bytes.Buffer
	l := slog.New(scrub.Handler(slog.NewJSONHandler(&out, nil), s))
	l.With("with", secret).WithGroup(secret).Info("message "+secret,
		"string", secret, "bytes", []byte(secret), "error", fmt.Errorf("x: %w", errors.New(secret)),
		"struct", loud{secret}, "map", map[string]string{secret: secret}, secret, 1,
		slog.Group("group", "in", secret), "number", 42, "nil", nil)
	text := out.String()
	var fields map[string]any
	if err := json.Unmarshal(out.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"wörd", `w\u00f6rd`} {
		if strings.Contains(text, leak) {
			t.Errorf("the log has the secret: %s", text)
		}
	}
	if !strings.Contains(text, `"number":42`) || fields["msg"] != "message [secret]" {
		t.Errorf("innocent text is gone: %s", text)
	}
}

func TestConcurrent(t *testing.T) {
	s := new(scrub.Set)
	s.Add([]byte("constant"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				v := fmt.Sprintf("secret-%d", i)
				remove := s.Add([]byte(v))
				if got := s.Text(v + " constant"); strings.Contains(got, v) || strings.Contains(got, "constant") {
					t.Errorf("%s", got)
				}
				remove()
			}
		})
	}
	wg.Wait()
}

func FuzzText(f *testing.F) {
	f.Add([]byte("secret"), "a secret text")
	f.Add([]byte("line one is here\nline two is there\n"), "x line two is there y")
	f.Fuzz(func(t *testing.T, secret []byte, text string) {
		s := new(scrub.Set)
		remove := s.Add(secret)
		got := s.Text(text)
		plain := strings.TrimRight(string(secret), "\r\n")
		if len(plain) >= scrub.MinLen && !strings.Contains(scrub.Mark, plain) && strings.Contains(got, plain) {
			t.Errorf("%q is in %q", plain, got)
		}
		remove()
		if s.Text(text) != text {
			t.Error("changed without secrets")
		}
	})
}

// A secret is found in the base64 of a longer text, wherever in it it stands, of every length.
func TestTextWithinBase64(t *testing.T) {
	for n := scrub.MinLen + 1; n < 12; n++ {
		s := new(scrub.Set)
		s.Add([]byte("pa\xff\xfess wörd")[:n])
		for before := range 5 {
			for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				text := e.EncodeToString(fmt.Appendf(nil, "%s%s&rest", "user="[:before], []byte("pa\xff\xfess wörd")[:n]))
				if got := s.Text(text); !strings.Contains(got, scrub.Mark) {
					t.Errorf("%d bytes after %d: %s", n, before, got)
				}
			}
		}
	}
}

// A target may show what it was given in a page or a message, each in its own way of escaping.
func TestTextEscaped(t *testing.T) {
	const secret = `a&b<c>d"e'f`
	s := new(scrub.Set)
	s.Add([]byte(secret))
	var x bytes.Buffer
	if err := xml.EscapeText(&x, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"Go, HTML":         html.EscapeString(secret),
		"Go, XML":          x.String(),
		"of .NET":          `a&amp;b&lt;c&gt;d&quot;e&#39;f`,
		"of XML":           `a&amp;b&lt;c&gt;d&quot;e&apos;f`,
		"of Python":        `a&amp;b&lt;c&gt;d&quot;e&#x27;f`,
		"of PHP":           `a&amp;b&lt;c&gt;d&quot;e&#039;f`,
		"of an attribute":  `a&amp;b&lt;c&gt;d&quot;e'f`,
		"of a text":        `a&amp;b&lt;c&gt;d"e'f`,
		"in small letters": strings.ToLower(url.QueryEscape(secret)),
		"in a path":        strings.ToLower(url.PathEscape(secret)),
	} {
		if got := s.Text("<p>" + text + "</p>"); got != "<p>"+scrub.Mark+"</p>" {
			t.Errorf("%s: %s", name, got)
		}
	}
	mixed := new(scrub.Set)
	mixed.Add([]byte("R/b S+é"))
	for _, text := range []string{"R%2Fb+S%2B%C3%A9", "R%2fb+S%2b%c3%a9", "R%2Fb%20S%2B%C3%A9", "R%2fb%20S%2b%c3%a9", "R%2fb%20S+%c3%a9"} {
		if got := mixed.Text(text); got != scrub.Mark {
			t.Errorf("%s: %s", text, got)
		}
	}
	lines := new(scrub.Set)
	lines.Add([]byte("one & two\r\nthree\tfour"))
	if got := lines.Text("one &amp; two&#xD;&#xA;three&#x9;four"); got != scrub.Mark {
		t.Errorf("line breaks: %s", got)
	}
}

// A URL may escape what it need not.
func TestTextEscapedWhole(t *testing.T) {
	s := new(scrub.Set)
	s.Add([]byte("s3cret"))
	for _, text := range []string{"%73%33%63%72%65%74", strings.ToUpper("%73%33%63%72%65%74")} {
		if got := s.Text("a=" + text); got != "a="+scrub.Mark {
			t.Error(got)
		}
	}
}
