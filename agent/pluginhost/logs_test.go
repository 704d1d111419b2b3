package pluginhost

import (
	"bufio"
	"bytes"
	"encoding/json"
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

// What a plugin prints beyond its bounds costs the agent next to nothing: it is neither
// decoded nor looked through for secrets, and the next line that is logged tells of it.
func TestOutputBeyondItsBounds(t *testing.T) {
	record := func(n int) []byte { // of n fields
		return []byte(`{"@level":"warn","@message":"m"` + strings.Repeat(`,"a field":[{"b":["c"]}]`, n) + `}`)
	}
	long := record(2500)
	ten := record(10)
	decoded := testing.AllocsPerRun(10, func() { _ = json.Unmarshal(ten, new(map[string]any)) })
	for _, row := range []struct {
		name  string
		spend func(*output)
		line  []byte
		most  float64 // allocations
	}{
		{"long records", func(o *output) { o.decode.tokens, o.decode.rate = 0, 0 }, long, 0},
		{"many records", func(o *output) { o.records.tokens, o.records.rate = 0, 0 }, ten, decoded},
		{"noise", func(o *output) { o.noise.tokens, o.noise.rate = 0, 0 }, bytes.Repeat([]byte("x"), len(long)), 0},
	} {
		var out bytes.Buffer
		o := newOutput(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		row.spend(o)
		if n := testing.AllocsPerRun(10, func() { o.line(row.line) }); n > row.most {
			t.Errorf("%s: %v allocations a line, want at most %v", row.name, n, row.most)
		}
		if out.Len() > 0 {
			t.Errorf("%s: logged %.200s", row.name, out.String())
		}
		o.records.tokens, o.noise.tokens = 1, 1
		if row.name == "noise" {
			o.line([]byte("x"))
		} else {
			o.decode.tokens = readBurst
			o.line(record(0))
		}
		if !strings.Contains(out.String(), `msg="plugin logs too fast" lines_left_out=11`) {
			t.Errorf("%s: it is not told of: %s", row.name, out.String())
		}
	}
}
