package pluginhost

import (
	"bufio"
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// Whatever a plugin prints, the agent does not stumble and no secret gets through.
func FuzzOutput(f *testing.F) {
	for _, s := range []string{
		`{"@message":"x","@level":"error","k":{"a":[1,"secret-canary"]}}`, `{"@message":1}`, `{"@progress":"secret-canary","@job":1}`,
		"{", "null", "[]", "\x00\xff\n\n\r\n", strings.Repeat("x", 1000),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		o := newOutput(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		o.secrets.Add([]byte("secret-canary"))
		o.follow(1, func(step string) { out.WriteString(step) })
		o.read(bufio.NewReaderSize(bytes.NewReader(b), 64))
		if strings.Contains(out.String(), "secret-canary") {
			t.Errorf("%q is logged as %s", b, out.String())
		}
	})
}

func TestOutput(t *testing.T) {
	var out bytes.Buffer
	o := newOutput(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	var steps []string
	o.follow(7, func(s string) { steps = append(steps, s) })
	lines := []string{
		`{"@level":"warn","@message":"careful","@timestamp":"2026-01-01T00:00:00.000000Z","@job":7,"n":1}`,
		`{"@progress":"first","@job":7}`,
		`{"@progress":"of nobody","@job":8}`,
		`not JSON`,
		`{"@message":1,"@level":2}`,
	}
	for range 2 * logBurst {
		lines = append(lines, "flood")
	}
	lines = append(lines, `{"@level":"error","@message":"still heard"}`)
	o.read(bufio.NewReader(strings.NewReader(strings.Join(lines, "\n"))))
	text := out.String()
	for _, want := range []string{`level=WARN msg="plugin: careful" plugin.n=1`, `level=DEBUG msg="plugin: not JSON"`, `level=ERROR msg="plugin: still heard"`} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if n := strings.Count(text, "flood"); n < logBurst-1 || n > logBurst+logRate {
		t.Errorf("%d lines of the flood", n)
	}
	if len(steps) != 1 || steps[0] != "first" {
		t.Errorf("steps %q", steps)
	}
}
