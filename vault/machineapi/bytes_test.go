package machineapi_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// What may stand beside a record.
func (s *server) largeData(r record) {
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.CommitRecord(ctx, db.CommitRecordParams{Data: make([]byte, ksm.MaxData), Org: s.org, RecordUid: r.uid[:]})
	})
}

func (s *server) largeCandidate(r record) {
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.AddStaged(ctx, db.AddStagedParams{
			Org: s.org, RecordUid: r.uid[:], OwnerKind: "agent", Data: make([]byte, ksm.MaxData), Result: make([]byte, 16<<10), Authority: make([]byte, 128<<10),
		})
	})
}

func (s *server) largeStatement(r record) {
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.AddStatement(ctx, db.AddStatementParams{Org: s.org, RecordUid: r.uid[:], Seq: 1, Blob: make([]byte, 1<<20+64)})
	})
	s.addStatement(r)
}

func (s *server) largeFormerValue(r record) {
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.KeepInHistory(ctx, db.KeepInHistoryParams{
			Org: s.org, RecordUid: r.uid[:], Data: make([]byte, ksm.MaxData), Why: "replaced", RunID: r.uid[:],
		})
	})
}

func (s *server) largeResults(r record) {
	s.write(func(ctx context.Context, q *db.Queries) error {
		for range 16 {
			digest := seal.NewID()
			err := q.AddResult(ctx, db.AddResultParams{Org: s.org, Digest: digest[:], SubjectUid: r.uid[:], Signed: make([]byte, 16<<10)})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestFetchCountsAllThatItAnswers: what makes many records too large for one answer is
// refused, whatever it is, and fewer of them come.
func TestFetchCountsAllThatItAnswers(t *testing.T) {
	for what, add := range map[string]func(*server, record){
		"data": (*server).largeData, "candidates": (*server).largeCandidate, "statements": (*server).largeStatement, "former values": (*server).largeFormerValue,
	} {
		t.Run(what, func(t *testing.T) {
			s := newServer(t)
			_, c := s.agent("a")
			var ask ksm.FetchRequest
			for range 17 {
				r := s.addRecord(s.edit, login("1"))
				add(s, r)
				ask.RequestedRecords = append(ask.RequestedRecords, r.uid.String())
			}
			_, err := c.Fetch(t.Context(), ask)
			s.want("all at once", refusal(err), ksm.CodeTooLarge)
			ask.RequestedRecords = ask.RequestedRecords[:8]
			got, err := c.Fetch(t.Context(), ask)
			s.must(err)
			if len(got.Records) != 8 {
				t.Errorf("%d records", len(got.Records))
			}
		})
	}
}

// TestOneAccountAlwaysFits: with all that may stand beside it and beside those that its
// links lead to.
func TestOneAccountAlwaysFits(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	account, resource, admin := s.addRecord(s.edit, login("account")), s.addRecord(s.edit, login("resource")), s.addRecord(s.edit, login("admin"))
	for _, link := range [][2]record{{account, resource}, {resource, admin}} {
		from, to := link[0], link[1]
		s.write(func(ctx context.Context, q *db.Queries) error {
			return q.SetRecordLinks(ctx, db.SetRecordLinksParams{
				ResourceUid: to.uid[:], ResourceFolder: s.edit[:], PoolID: p.Owner[:], Org: s.org, RecordUid: from.uid[:],
			})
		})
	}
	for _, r := range []record{account, resource, admin} {
		s.largeData(r)
		s.largeCandidate(r)
		s.largeStatement(r)
		s.largeFormerValue(r)
		s.largeResults(r)
	}
	got, err := c.Fetch(t.Context(), ksm.FetchRequest{RequestedRecords: []string{account.uid.String()}})
	s.must(err)
	if len(got.Records) != 3 {
		t.Errorf("%d records", len(got.Records))
	}
}

// TestApplicationsAnswersAreBounded: files' metadata and folders' names count as data does.
func TestApplicationsAnswersAreBounded(t *testing.T) {
	s := newServer(t)
	m := s.prebound("m")
	var r record
	for range 2 {
		r = s.addRecord(s.edit, login("1"))
		s.write(func(ctx context.Context, q *db.Queries) error {
			for range 400 {
				id := seal.NewID()
				err := q.AddFile(ctx, db.AddFileParams{Org: s.org, FileUid: id[:], RecordUid: r.uid[:], Data: make([]byte, 64<<10)})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	s.want("all records with their files", s.do(m, ksm.OpGetSecret, map[string]any{}), ksm.CodeTooLarge)
	s.want("one of them", s.do(m, ksm.OpGetSecret, map[string]any{"requestedRecords": []any{r.uid}}), "")

	folders := func(n int) {
		s.write(func(ctx context.Context, q *db.Queries) error {
			for range n {
				id := seal.NewID()
				err := q.AddSubfolder(ctx, db.AddSubfolderParams{Org: s.org, FolderUid: id[:], RootUid: s.edit[:], FolderKey: make([]byte, 64), Data: make([]byte, 16<<10)})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	folders(1000)
	s.want("a thousand folders", s.do(m, ksm.OpGetFolders, map[string]any{}), "")
	folders(1600)
	s.want("more", s.do(m, ksm.OpGetFolders, map[string]any{}), ksm.CodeTooLarge)
}

// slowly is an answer that is not read before somebody wants to.
type slowly struct {
	http.ResponseWriter
	asked func()
}

func (s slowly) Write(b []byte) (int, error) {
	s.asked()
	return s.ResponseWriter.Write(b)
}

// TestAnswersAtOnce: who does not read his answers holds a few of them, whatever he asks
// for; others are answered.
func TestAnswersAtOnce(t *testing.T) {
	s := newServer(t)
	_, agent := s.agent("a")
	m := s.prebound("m")
	r := s.addRecord(s.edit, login("1"))
	app := func(op string) func() error {
		return func() error {
			code, _ := s.send(ksm.PathMachine+op, s.raw(m, map[string]any{}))
			if code != "" {
				return errors.New(code)
			}
			return nil
		}
	}
	fetch := func() error {
		_, err := agent.Fetch(t.Context(), ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}})
		return err
	}
	log := func() error { _, err := agent.Log(t.Context(), ksm.LogRequest{}); return err }
	written, read := make(chan struct{}), make(chan struct{})
	answered := make(chan error)
	ask := func(f func() error) { answered <- f() }
	waits := func(what string) {
		t.Helper()
		select {
		case <-written:
			t.Fatalf("%s: one answer too many is under way", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
	s.must(log()) // and reads the server's key
	s.reader = func(w http.ResponseWriter) http.ResponseWriter {
		return slowly{w, func() { written <- struct{}{}; <-read }}
	}
	for range 2 {
		go ask(app(ksm.OpGetSecret))
		<-written
	}
	go ask(app(ksm.OpGetFolders))
	waits("an application")
	for range 2 {
		go ask(fetch)
		<-written
		go ask(log)
		<-written
	}
	go ask(fetch)
	waits("an agent")
	close(read)
	for range 2 {
		<-written // those that waited
	}
	for range 8 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}
