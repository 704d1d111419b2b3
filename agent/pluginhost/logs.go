package pluginhost

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// Bounds of what a process may have logged: a burst, and lines a second from then
// on; separately for records and for other lines, so that noise hides no record.
const (
	logBurst  = 500
	logRate   = 50
	logFields = 32
	logText   = 8 << 10
	maxStep   = 64
)

// output takes what a process prints: hclog's JSON with its level, everything else
// as debug lines. go-plugin's own parser is not used: it trusts the plugin, and a line
// such as {"@message":1} makes it panic in the agent.
type output struct {
	log     *slog.Logger
	secrets *scrub.Set // live and lately used ones

	mu      sync.Mutex
	steps   map[uint64]func(string) // progress by job
	records bucket
	noise   bucket
}

type bucket struct {
	tokens float64
	last   time.Time
	lost   int
}

func newOutput(log *slog.Logger) *output {
	s := new(scrub.Set)
	full := bucket{tokens: logBurst, last: time.Now()}
	return &output{
		log: slog.New(scrub.Handler(log.Handler(), s)), secrets: s,
		steps: map[uint64]func(string){}, records: full, noise: full,
	}
}

func (o *output) follow(job uint64, f func(string)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f == nil {
		delete(o.steps, job)
		return
	}
	o.steps[job] = f
}

// read takes lines until end of file. Of a line that is too long the rest is dropped.
func (o *output) read(r *bufio.Reader) {
	for {
		line, more, err := r.ReadLine()
		if len(line) > 0 {
			o.line(line)
		}
		for more && err == nil {
			_, more, err = r.ReadLine()
		}
		if err != nil {
			return
		}
	}
}

func (o *output) line(b []byte) {
	var fields map[string]any
	if b[0] != '{' || json.Unmarshal(b, &fields) != nil {
		o.emit(&o.noise, slog.LevelDebug, string(b), nil)
		return
	}
	text := func(key string) string {
		s, _ := fields[key].(string)
		return s
	}
	if step := text(pluginv1.LogProgress); step != "" {
		job, _ := fields[pluginv1.LogJob].(float64)
		o.mu.Lock()
		f := o.steps[uint64(job)]
		o.mu.Unlock()
		if f != nil {
			step = o.secrets.Text(strings.ToValidUTF8(step, "?"))
			f(step[:min(len(step), maxStep)])
		}
		return
	}
	level, message := levelOf(text(pluginv1.LogLevel)), text(pluginv1.LogMessage)
	var attrs []slog.Attr
	for k, v := range fields {
		switch k {
		case pluginv1.LogLevel, pluginv1.LogMessage, pluginv1.LogTime, pluginv1.LogJob:
			continue
		}
		if len(attrs) < logFields {
			attrs = append(attrs, slog.String(cut(o.secrets.Text(k), maxStep), cut(o.secrets.Text(fmt.Sprint(v)), logText)))
		}
	}
	o.emit(&o.records, level, message, attrs)
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

func levelOf(s string) slog.Level {
	switch s {
	case "error":
		return slog.LevelError
	case "warn":
		return slog.LevelWarn
	case "info":
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (o *output) emit(b *bucket, l slog.Level, message string, attrs []slog.Attr) {
	ctx := context.Background()
	if !o.log.Enabled(ctx, l) {
		return
	}
	o.mu.Lock()
	ok, lost := b.take(time.Now())
	o.mu.Unlock()
	if !ok {
		return
	}
	if lost > 0 {
		o.log.LogAttrs(ctx, slog.LevelWarn, "plugin logs too fast", slog.Int("lines_left_out", lost))
	}
	// Values are scrubbed before they are cut: half a secret would not be found.
	o.log.LogAttrs(ctx, l, "plugin: "+cut(o.secrets.Text(message), logText), slog.GroupAttrs("plugin", attrs...))
}

// take takes a token; lost is how many were refused since the last one.
func (b *bucket) take(now time.Time) (ok bool, lost int) {
	b.tokens = min(logBurst, b.tokens+logRate*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		b.lost++
		return false, 0
	}
	b.tokens--
	lost, b.lost = b.lost, 0
	return true, lost
}

// firstLine reads the handshake, at most max bytes of it.
func firstLine(r *bufio.Reader, max int) ([]byte, error) {
	var line []byte
	for len(line) < max {
		b, err := r.ReadByte()
		if err != nil {
			return line, err
		}
		line = append(line, b)
		if b == '\n' {
			return line, nil
		}
	}
	return line, io.ErrShortBuffer
}
