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

// Bounds of what a process may have logged: a burst, and lines a second from then on;
// separately for records (with steps) and for other lines, so that noise hides no record.
// Before a record's level can be known it has to be decoded: that has a bound of its own,
// in bytes.
const (
	logBurst  = 500
	logRate   = 50
	readBurst = 4 << 20
	readRate  = 256 << 10
	logFields = 32
	logText   = 8 << 10
	maxStep   = 64
)

// output takes what a process prints: hclog's JSON with its level, everything else
// as debug lines. go-plugin's own parser is not used: it trusts the plugin, and a line
// such as {"@message":1} makes it panic in the agent.
type output struct {
	secrets *scrub.Set // live and lately used ones

	mu      sync.Mutex
	log     *slog.Logger
	steps   map[uint64]func(string) // progress by job
	decode  bucket
	records bucket
	noise   bucket
}

// bucket holds what may be taken at once, and is filled at a rate.
type bucket struct {
	burst, rate float64
	tokens      float64
	last        time.Time
	lost        int // lines that were left out, and not told of yet
}

func fullBucket(burst, rate float64) bucket {
	return bucket{burst: burst, rate: rate, tokens: burst, last: time.Now()}
}

func newOutput(log *slog.Logger) *output {
	o := &output{
		secrets: new(scrub.Set), steps: map[uint64]func(string){},
		decode: fullBucket(readBurst, readRate), records: fullBucket(logBurst, logRate), noise: fullBucket(logBurst, logRate),
	}
	o.rename(log)
	return o
}

// rename takes what is logged from now on to another log.
func (o *output) rename(log *slog.Logger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = slog.New(scrub.Handler(log.Handler(), o.secrets))
}

func (o *output) logger() *slog.Logger {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log
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

// line takes one line. What costs the agent time is asked of a bucket first: a process
// that is held to little of it must not spend the agent's.
func (o *output) line(b []byte) {
	if b[0] != '{' {
		o.other(b)
		return
	}
	if !o.decodes(len(b)) {
		return
	}
	var fields map[string]any
	if json.Unmarshal(b, &fields) != nil {
		o.other(b)
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
		if f != nil && o.may(&o.records) {
			step = o.secrets.Text(strings.ToValidUTF8(step, "?"))
			f(step[:min(len(step), maxStep)])
		}
		return
	}
	level := levelOf(text(pluginv1.LogLevel))
	if !o.logger().Enabled(context.Background(), level) || !o.may(&o.records) {
		return
	}
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
	o.emit(level, text(pluginv1.LogMessage), attrs)
}

// other takes a line that is no record.
func (o *output) other(b []byte) {
	if o.logger().Enabled(context.Background(), slog.LevelDebug) && o.may(&o.noise) {
		o.emit(slog.LevelDebug, string(b), nil)
	}
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

// emit logs. Values are scrubbed before they are cut: half a secret would not be found.
func (o *output) emit(l slog.Level, message string, attrs []slog.Attr) {
	o.logger().LogAttrs(context.Background(), l, "plugin: "+cut(o.secrets.Text(message), logText), slog.GroupAttrs("plugin", attrs...))
}

// decodes takes what it costs to decode a line; one that is left out counts as a record.
func (o *output) decodes(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	ok := o.decode.take(n, time.Now())
	if !ok {
		o.records.lost++
	}
	return ok
}

// may takes what it costs to log a line, and tells how many were left out before it.
func (o *output) may(b *bucket) bool {
	o.mu.Lock()
	ok, lost := b.take(1, time.Now()), 0
	if ok {
		lost, b.lost = b.lost, 0
	} else {
		b.lost++
	}
	o.mu.Unlock()
	if lost > 0 {
		o.logger().LogAttrs(context.Background(), slog.LevelWarn, "plugin logs too fast", slog.Int("lines_left_out", lost))
	}
	return ok
}

func (b *bucket) take(n int, now time.Time) bool {
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
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
