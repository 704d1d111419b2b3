package scrub

import (
	"context"
	"fmt"
	"log/slog"
)

// Handler passes records on to next without the secrets of s: message, keys and
// values. A value that is not plain is printed first, so that nothing hides in it.
func Handler(next slog.Handler, s *Set) slog.Handler { return handler{next, s} }

type handler struct {
	next slog.Handler
	set  *Set
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, h.set.Text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return handler{h.next.WithAttrs(clean), h.set}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.next.WithGroup(h.set.Text(name)), h.set}
}

func (h handler) attr(a slog.Attr) slog.Attr {
	a.Key = h.set.Text(a.Key)
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		v = slog.StringValue(h.set.Text(v.String()))
	case slog.KindGroup:
		var in []slog.Attr
		for _, g := range v.Group() {
			in = append(in, h.attr(g))
		}
		v = slog.GroupValue(in...)
	case slog.KindAny:
		text := ""
		switch x := v.Any().(type) {
		case []byte:
			text = string(x)
		default:
			text = fmt.Sprintf("%+v", x)
		}
		v = slog.StringValue(h.set.Text(text))
	}
	a.Value = v
	return a
}
