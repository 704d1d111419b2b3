// Package audit writes and lists the organisation's events: who did what, what
// was refused and why, how runs went.
//
// An event is written in the transaction of the change that it tells of, so
// that neither exists without the other. Every name stands in the Catalogue
// with the meaning of its fields; Write takes no other. An event holds ids,
// counts, codes and the names that stand in the log in clear; never a secret,
// and never text that a target or a script wrote. What an approved script says
// beforehand why it must see a secret is its author's word, and may stand there.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// Bounds in bytes. Longer text is cut, not refused: an event must not be what
// makes a commit fail.
const (
	maxReason = 64
	maxField  = 256
)

// Event is one thing that happened. Empty ids mean "none".
type Event struct {
	Org    int64
	Time   time.Time // zero: now
	Name   string    // a constant of this package
	Actor  []byte    // entry id of the member's device, agent or app that acted; empty: the server itself
	Folder []byte    // uid of the folder, of the record's folder
	Record []byte    // uid of the record
	RunID  []byte
	Reason string            // stable reason code, where the event has one
	Fields map[string]string // as documented in the Catalogue
}

// Write adds an event within a transaction of the store and gives it the
// organisation's next number. A name or field that the Catalogue does not know
// is an error, and a mistake in the program.
func Write(ctx context.Context, q *db.Queries, e Event) error {
	kind, known := kinds[e.Name]
	if !known {
		return fmt.Errorf("audit: event %q is not in the catalogue", e.Name)
	}
	fields := make(map[string]string, len(e.Fields))
	for name, value := range e.Fields {
		if !kind.has(name) {
			return fmt.Errorf("audit: field %q of event %s is not in the catalogue", name, e.Name)
		}
		fields[name] = clean(value, maxField)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("audit: event %s: %w", e.Name, err)
	}
	if e.Time.IsZero() {
		e.Time = store.Now()
	}
	err = q.InsertEvent(ctx, db.InsertEventParams{
		Org:       e.Org,
		Time:      e.Time.UnixMilli(),
		Name:      e.Name,
		Actor:     e.Actor,
		FolderUid: e.Folder,
		RecordUid: e.Record,
		RunID:     e.RunID,
		Reason:    clean(e.Reason, maxReason),
		Fields:    string(text),
	})
	if err != nil {
		return fmt.Errorf("audit: write %s: %w", e.Name, err)
	}
	return nil
}

// Tell writes an event and, once it is durable, tells the organisation's
// watching clients that there are events.
func Tell(ctx context.Context, q *db.Queries, b bus.Bus, e Event) error {
	if err := Write(ctx, q, e); err != nil {
		return err
	}
	q.AfterCommit(func() { b.Publish(bus.Push(e.Org), hint) })
	return nil
}

// hint is the encoded WatchResponse that says "there are events".
var hint = func() []byte {
	payload, err := proto.Marshal(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Events{Events: true}})
	if err != nil {
		panic(err) // a constant message
	}
	return payload
}()

// maxPage bounds one List.
const maxPage = 1000

// Filter chooses events of one organisation.
type Filter struct {
	Org    int64
	After  int64    // the seq to go on from; 0: from the oldest, or the newest
	Newest bool     // newest first
	Names  []string // prefixes of names ("run.", "agent.enrolled"); none: all
	Limit  int      // at most 1000; 0: 100
}

// List gives the events that match, in the order asked for, and beginning
// behind After. To follow, list oldest first and go on from the last seq
// whenever the organisation's push topic says that there are events.
func List(ctx context.Context, q *db.Queries, f Filter) ([]db.Event, error) {
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 0 || f.Limit > maxPage {
		return nil, fmt.Errorf("audit: list events: limit %d, at most %d", f.Limit, maxPage)
	}
	if f.Newest && f.After == 0 {
		f.After = 1<<63 - 1
	}
	if len(f.Names) == 0 {
		events, err := list(ctx, q, f)
		if err != nil {
			return nil, fmt.Errorf("audit: list events: %w", err)
		}
		return events, nil
	}
	// Each name of the catalogue that matches is one short walk of the index
	// on names; the walks are merged. The catalogue bounds their number.
	var found []db.Event
	for _, name := range matching(f.Names) {
		events, err := listNamed(ctx, q, f, name)
		if err != nil {
			return nil, fmt.Errorf("audit: list events %s: %w", name, err)
		}
		found = merge(found, events, f)
	}
	return found, nil
}

func list(ctx context.Context, q *db.Queries, f Filter) ([]db.Event, error) {
	if f.Newest {
		return q.EventsBefore(ctx, db.EventsBeforeParams{Org: f.Org, Seq: f.After, N: int64(f.Limit)})
	}
	return q.EventsAfter(ctx, db.EventsAfterParams{Org: f.Org, Seq: f.After, N: int64(f.Limit)})
}

func listNamed(ctx context.Context, q *db.Queries, f Filter, name string) ([]db.Event, error) {
	if f.Newest {
		return q.EventsNamedBefore(ctx, db.EventsNamedBeforeParams{Org: f.Org, Name: name, Seq: f.After, N: int64(f.Limit)})
	}
	return q.EventsNamedAfter(ctx, db.EventsNamedAfterParams{Org: f.Org, Name: name, Seq: f.After, N: int64(f.Limit)})
}

// merge keeps the first f.Limit of two lists that are in the filter's order.
func merge(a, b []db.Event, f Filter) []db.Event {
	if len(a) == 0 {
		return b
	}
	out := make([]db.Event, 0, min(len(a)+len(b), f.Limit))
	for len(out) < f.Limit && (len(a) > 0 || len(b) > 0) {
		takeA := len(b) == 0 || len(a) > 0 && (a[0].Seq < b[0].Seq) != f.Newest
		if takeA {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}

// clean cuts text to n bytes at a rune's end and replaces what is not
// printable, so that an event is safe to show on a terminal.
func clean(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
