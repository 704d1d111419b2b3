package audit_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t *testing.T, s store.Store, e audit.Event) {
	t.Helper()
	if err := s.Write(t.Context(), func(q *db.Queries) error { return audit.Write(t.Context(), q, e) }); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, s store.Store, f audit.Filter) []db.Event {
	t.Helper()
	var events []db.Event
	err := s.Read(t.Context(), func(q *db.Queries) (err error) {
		events, err = audit.List(t.Context(), q, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestWriteKeepsWhatItWasGiven(t *testing.T) {
	s := open(t)
	at := time.UnixMilli(1_700_000_000_123)
	write(t, s, audit.Event{
		Org: 1, Time: at, Name: audit.CommandRefused, Actor: []byte{1}, Folder: []byte{2}, Record: []byte{3},
		RunID: []byte{4}, Reason: "signature_bad", Fields: map[string]string{"command": "abc"},
	})
	e := list(t, s, audit.Filter{Org: 1})[0]
	if e.Seq != 1 || e.Time != at.UnixMilli() || e.Name != "command.refused" || e.Actor[0] != 1 || e.FolderUid[0] != 2 ||
		e.RecordUid[0] != 3 || e.RunID[0] != 4 || e.Reason != "signature_bad" {
		t.Errorf("stored %+v", e)
	}
	if fields, err := fieldsOf(e); err != nil || fields["command"] != "abc" {
		t.Errorf("fields %v, %v", fields, err)
	}
}

func TestWriteNumbersEachOrganisation(t *testing.T) {
	s := open(t)
	for _, org := range []int64{1, 2, 1, 1, 2} {
		write(t, s, audit.Event{Org: org, Name: audit.OrgCreated})
	}
	for org, want := range map[int64][]int64{1: {1, 2, 3}, 2: {1, 2}} {
		if got := seqs(list(t, s, audit.Filter{Org: org})); !slices.Equal(got, want) {
			t.Errorf("organisation %d: seq %v, want %v", org, got, want)
		}
	}
}

func TestWriteRefusesWhatIsNotDocumented(t *testing.T) {
	s := open(t)
	for _, e := range []audit.Event{
		{Org: 1, Name: "run.exploded"},
		{Org: 1, Name: audit.RunStarted, Fields: map[string]string{"mood": "fine"}},
	} {
		if err := s.Write(t.Context(), func(q *db.Queries) error { return audit.Write(t.Context(), q, e) }); err == nil {
			t.Errorf("%s %v was written", e.Name, e.Fields)
		}
	}
	if n := len(list(t, s, audit.Filter{Org: 1})); n != 0 {
		t.Errorf("%d events stored", n)
	}
}

func TestWriteCutsAndCleansText(t *testing.T) {
	s := open(t)
	write(t, s, audit.Event{
		Org: 1, Name: audit.AgentConnected, Reason: strings.Repeat("r", 1000),
		Fields: map[string]string{"version": strings.Repeat("ä", 1000), "os": "li\x1b[31mnux\n\xff"},
	})
	e := list(t, s, audit.Filter{Org: 1})[0]
	fields, err := fieldsOf(e)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Reason) != 64 || fields["version"] != strings.Repeat("ä", 128) || fields["os"] != "li?[31mnux??" {
		t.Errorf("reason of %d bytes, fields %q", len(e.Reason), fields)
	}
}

func TestList(t *testing.T) {
	s := open(t)
	for _, name := range []string{
		audit.RunQueued, audit.AgentConnected, audit.RunStarted, audit.RunFinished, // 1-4
		audit.AgentDisconnected, audit.RunQueued, audit.RunFailed, // 5-7
	} {
		write(t, s, audit.Event{Org: 1, Name: name})
	}
	write(t, s, audit.Event{Org: 2, Name: audit.RunQueued})
	for _, c := range []struct {
		what   string
		filter audit.Filter
		want   []int64
	}{
		{"all", audit.Filter{}, []int64{1, 2, 3, 4, 5, 6, 7}},
		{"newest first", audit.Filter{Newest: true}, []int64{7, 6, 5, 4, 3, 2, 1}},
		{"a page", audit.Filter{Limit: 3}, []int64{1, 2, 3}},
		{"the next page", audit.Filter{Limit: 3, After: 3}, []int64{4, 5, 6}},
		{"the next page, newest first", audit.Filter{Limit: 3, After: 5, Newest: true}, []int64{4, 3, 2}},
		{"a name", audit.Filter{Names: []string{"run.queued"}}, []int64{1, 6}},
		{"a prefix", audit.Filter{Names: []string{"run."}}, []int64{1, 3, 4, 6, 7}},
		{"two prefixes that overlap", audit.Filter{Names: []string{"run.", "run.f"}}, []int64{1, 3, 4, 6, 7}},
		{"two prefixes", audit.Filter{Names: []string{"agent.", "run.f"}}, []int64{2, 4, 5, 7}},
		{"a page of a prefix", audit.Filter{Names: []string{"run."}, Limit: 2, After: 1}, []int64{3, 4}},
		{"a page of a prefix, newest first", audit.Filter{Names: []string{"run."}, Limit: 2, Newest: true, After: 7}, []int64{6, 4}},
		{"a name that nothing has", audit.Filter{Names: []string{"zebra"}}, nil},
		{"after the end", audit.Filter{After: 7}, nil},
	} {
		c.filter.Org = 1
		if got := seqs(list(t, s, c.filter)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, got, c.want)
		}
	}
}

func TestListIsBounded(t *testing.T) {
	s := open(t)
	for _, limit := range []int{-1, 1001} {
		err := s.Read(t.Context(), func(q *db.Queries) error {
			_, err := audit.List(t.Context(), q, audit.Filter{Org: 1, Limit: limit})
			return err
		})
		if err == nil {
			t.Errorf("limit %d was taken", limit)
		}
	}
}

func TestTellPushesAfterTheCommit(t *testing.T) {
	s, b := open(t), bus.New()
	watch := b.Subscribe(bus.Push(1))
	defer watch.Close()
	err := s.Write(t.Context(), func(q *db.Queries) error {
		if err := audit.Tell(t.Context(), q, b, audit.Event{Org: 1, Name: audit.OrgCreated}); err != nil {
			return err
		}
		select {
		case <-watch.C():
			t.Error("pushed before the commit")
		default:
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got clientv1.WatchResponse
	if err := proto.Unmarshal(<-watch.C(), &got); err != nil || !got.GetEvents() {
		t.Errorf("pushed %v, %v", &got, err)
	}
}

func TestWhoseWordAnEventMayBe(t *testing.T) {
	for _, c := range []struct {
		name          string
		agent, client bool
	}{
		{audit.MemberRemoved, false, false},
		{audit.RunCommitted, false, false},
		{audit.CommandRefused, true, false},
		{audit.RecordEditedOutside, true, false},
		{audit.ScriptReveals, true, false},
		{audit.ScriptStopped, true, false},
		{audit.RecordRevealed, false, true},
		{audit.LogRefused, true, true},
		{"no.such", false, false},
	} {
		if audit.AgentMayReport(c.name) != c.agent || audit.ClientMayNote(c.name) != c.client {
			t.Errorf("%s: agent %v, client %v", c.name, audit.AgentMayReport(c.name), audit.ClientMayNote(c.name))
		}
	}
}

func fieldsOf(e db.Event) (fields map[string]string, err error) {
	err = json.Unmarshal([]byte(e.Fields), &fields)
	return fields, err
}

func seqs(events []db.Event) []int64 {
	var out []int64
	for _, e := range events {
		out = append(out, e.Seq)
	}
	return out
}
