package sdk

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// newLogger writes hclog's JSON, one line for each record, so that levels survive
// on their way through standard error.
func newLogger(w io.Writer, job uint64, secrets *scrub.Set) *slog.Logger {
	h := slog.NewJSONHandler(lines{w}, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.MessageKey:
				a.Key = pluginv1.LogMessage
			case slog.LevelKey:
				a.Key = pluginv1.LogLevel
				if l, ok := a.Value.Any().(slog.Level); ok {
					a.Value = slog.StringValue(levelName(l))
				}
			case slog.TimeKey:
				a.Key = pluginv1.LogTime
				if a.Value.Kind() == slog.KindTime {
					a.Value = slog.StringValue(a.Value.Time().Format(hclogTime))
				}
			}
			return a
		},
	})
	return slog.New(scrub.Handler(h, secrets)).With(pluginv1.LogJob, job)
}

const hclogTime = "2006-01-02T15:04:05.000000Z07:00"

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	default:
		return "error"
	}
}

// lines keeps a record that is too long for one line from losing its level.
type lines struct{ w io.Writer }

func (l lines) Write(b []byte) (int, error) {
	if len(b) <= pluginv1.MaxLogLine {
		return l.w.Write(b)
	}
	_, err := fmt.Fprintf(l.w, `{"%s":"warn","%s":"a log record of %d bytes was left out"}`+"\n",
		pluginv1.LogLevel, pluginv1.LogMessage, len(b))
	return len(b), err
}

// syncWriter keeps lines of different jobs apart.
type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

const maxStep = 64

type step struct {
	job  uint64
	text string
}

// progress carries steps to standard error without ever blocking a plugin.
type progress struct {
	w io.Writer
	c chan step
}

func (p progress) sender(job uint64, secrets *scrub.Set) func(string) {
	return func(text string) {
		text = secrets.Text(text)
		select {
		case p.c <- step{job, text[:min(len(text), maxStep)]}:
		default: // a step that comes too fast for a person is of no use
		}
	}
}

// write runs until the process ends.
func (p progress) write() {
	for s := range p.c {
		b, err := json.Marshal(map[string]any{
			pluginv1.LogLevel: "debug", pluginv1.LogMessage: "progress", pluginv1.LogTime: time.Now().Format(hclogTime),
			pluginv1.LogJob: s.job, pluginv1.LogProgress: s.text,
		})
		if err == nil {
			_, _ = p.w.Write(append(b, '\n'))
		}
	}
}
