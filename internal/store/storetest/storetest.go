// Package storetest is what every engine behind store.Store must do.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// Run runs the suite. open gives an empty store, closed by its own cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"what was written is read", writtenIsRead},
		{"no row is ErrNotFound", notFound},
		{"the same key twice is ErrExists", exists},
		{"a failed function leaves nothing and spoils nobody else's", savepoints},
		{"a panic is the caller's and leaves nothing", panics},
		{"a function that stops its goroutine leaves nothing", stops},
		{"AfterCommit runs after the commit, and only then", afterCommit},
		{"AfterCommit outside of Write panics", afterCommitOutside},
		{"a caller that gives up while waiting writes nothing", givesUp},
		{"a caller that gives up too late is told the truth", givesUpLate},
		{"writers that wait share commits", grouped},
		{"readers that leave in the middle cost nobody else anything", readersGone},
		{"a read sees one moment", snapshot},
		{"a read cannot write", readOnly},
		{"q is dead after its function", qEnds},
		{"absent bytes are empty bytes", emptyBytes},
		{"a closed store refuses", closed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func org(n int) db.CreateOrgParams {
	return db.CreateOrgParams{OrgID: fmt.Appendf(nil, "org %d", n), Head: []byte{1}, Created: int64(n)}
}

func write(t *testing.T, s store.Store, n int) {
	t.Helper()
	if err := s.Write(t.Context(), create(t.Context(), n)); err != nil {
		t.Fatal(err)
	}
}

func create(ctx context.Context, n int) func(q *db.Queries) error {
	return func(q *db.Queries) error { return q.CreateOrg(ctx, org(n)) }
}

func has(t *testing.T, s store.Store, n int) bool {
	t.Helper()
	err := s.Read(t.Context(), func(q *db.Queries) error {
		_, err := q.OrgByID(t.Context(), org(n).OrgID)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func writtenIsRead(t *testing.T, s store.Store) {
	write(t, s, 1)
	if !has(t, s, 1) {
		t.Error("the row is not there")
	}
}

func notFound(t *testing.T, s store.Store) {
	find := func(q *db.Queries) error {
		_, err := q.OrgByID(t.Context(), []byte("nobody"))
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("inside: got %v", err)
		}
		return fmt.Errorf("find nobody: %w", err)
	}
	if err := s.Read(t.Context(), find); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Read: got %v", err)
	}
	if err := s.Write(t.Context(), find); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Write: got %v", err)
	}
}

func exists(t *testing.T, s store.Store) {
	write(t, s, 1)
	err := s.Write(t.Context(), func(q *db.Queries) error {
		err := q.CreateOrg(t.Context(), org(1))
		if !errors.Is(err, store.ErrExists) {
			t.Errorf("inside: got %v", err)
		}
		return err
	})
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v", err)
	}
	write(t, s, 2)
}

// together runs the functions in one group: they are queued while another
// function holds the writer.
func together(t *testing.T, s store.Store, fs ...func(q *db.Queries) error) []error {
	t.Helper()
	hold, held := make(chan struct{}), make(chan struct{})
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Write(t.Context(), func(*db.Queries) error { close(held); <-hold; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-held
	for i, f := range fs {
		wg.Go(func() { errs[i] = s.Write(t.Context(), f) })
	}
	for s.Stats().Waiting < len(fs) {
		if t.Context().Err() != nil {
			t.Fatal("the functions do not queue")
		}
	}
	close(hold)
	wg.Wait()
	return errs
}

func savepoints(t *testing.T, s store.Store) {
	bad := errors.New("bad")
	errs := together(t, s,
		create(t.Context(), 1),
		func(q *db.Queries) error { return errors.Join(q.CreateOrg(t.Context(), org(2)), bad) },
		create(t.Context(), 3))
	if errs[0] != nil || !errors.Is(errs[1], bad) || errs[2] != nil {
		t.Errorf("got %v", errs)
	}
	if !has(t, s, 1) || has(t, s, 2) || !has(t, s, 3) {
		t.Errorf("rows: got %v %v %v, want true false true", has(t, s, 1), has(t, s, 2), has(t, s, 3))
	}
}

func panics(t *testing.T, s store.Store) {
	func() {
		defer func() {
			if r := recover(); r != "mine" {
				t.Errorf("recovered %v", r)
			}
		}()
		s.Write(t.Context(), func(q *db.Queries) error {
			if err := q.CreateOrg(t.Context(), org(1)); err != nil {
				t.Error(err)
			}
			panic("mine")
		})
	}()
	write(t, s, 2)
	if has(t, s, 1) {
		t.Error("the row of the function that panicked is there")
	}
}

func stops(t *testing.T, s store.Store) {
	t.Run("inner", func(t *testing.T) {
		s.Write(t.Context(), func(q *db.Queries) error {
			if err := q.CreateOrg(t.Context(), org(1)); err != nil {
				t.Error(err)
			}
			t.Skip("as a test may end: by runtime.Goexit")
			return nil
		})
	})
	write(t, s, 2)
	if has(t, s, 1) {
		t.Error("the row of the function that stopped is there")
	}
}

func afterCommit(t *testing.T, s store.Store) {
	seen := false
	err := s.Write(t.Context(), func(q *db.Queries) error {
		q.AfterCommit(func() { seen = has(t, s, 1) })
		return q.CreateOrg(t.Context(), org(1))
	})
	if err != nil || !seen {
		t.Errorf("committed: err %v, seen %v", err, seen)
	}
	s.Write(t.Context(), func(q *db.Queries) error {
		q.AfterCommit(func() { t.Error("ran although the function failed") })
		return errors.New("bad")
	})
	write(t, s, 2)
}

func afterCommitOutside(t *testing.T, s store.Store) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Read(t.Context(), func(q *db.Queries) error { q.AfterCommit(func() {}); return nil })
}

func givesUp(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	hold, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Write(t.Context(), func(*db.Queries) error { close(held); <-hold; return nil })
	})
	<-held
	var err error
	gone := make(chan struct{})
	go func() { defer close(gone); err = s.Write(ctx, create(ctx, 1)) }()
	for s.Stats().Waiting < 1 {
		if t.Context().Err() != nil {
			t.Fatal("the function does not queue")
		}
	}
	cancel()
	<-gone
	close(hold)
	wg.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	write(t, s, 2)
	if has(t, s, 1) {
		t.Error("the row is there")
	}
}

func givesUpLate(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Write(ctx, func(q *db.Queries) error {
		err := q.CreateOrg(ctx, org(1))
		cancel()
		return err
	})
	if err != nil || !has(t, s, 1) {
		t.Errorf("finished function: err %v, row %v", err, has(t, s, 1))
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = s.Write(ctx, func(q *db.Queries) error {
		cancel()
		return q.CreateOrg(ctx, org(2))
	})
	if !errors.Is(err, context.Canceled) || has(t, s, 2) {
		t.Errorf("function that went on: err %v, row %v", err, has(t, s, 2))
	}
	write(t, s, 3) // one caller's end is nobody else's
}

// readersGone: callers that leave in the middle of a reading, as strangers can, cost
// nobody else anything.
func readersGone(t *testing.T, s store.Store) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 1500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%500)*time.Microsecond)
				_ = s.Read(ctx, func(q *db.Queries) error { _, err := q.ListOrgs(ctx); return err }) // as it may be
				cancel()
			}
		})
	}
	all.Wait()
	for range 64 {
		if err := s.Read(t.Context(), func(q *db.Queries) error { _, err := q.ListOrgs(t.Context()); return err }); err != nil {
			t.Fatalf("a reading after the others: %v", err)
		}
	}
}

func grouped(t *testing.T, s store.Store) {
	before := s.Stats()
	var fs []func(q *db.Queries) error
	for n := range 32 {
		fs = append(fs, create(t.Context(), n))
	}
	began := time.Now()
	for _, err := range together(t, s, fs...) {
		if err != nil {
			t.Error(err)
		}
	}
	took := time.Since(began)
	after := s.Stats()
	if got := after.Writes - before.Writes; got != 33 { // and the one that held the writer
		t.Errorf("writes: got %d, want 33", got)
	}
	// The one that held the writer, and those that waited; on a slow machine a group ends
	// by its time.
	if got, most := after.Commits-before.Commits, 2+uint64(took/store.GroupTime); got > most {
		t.Errorf("commits: got %d in %s, want at most %d", got, took, most)
	}
}

func snapshot(t *testing.T, s store.Store) {
	err := s.Read(t.Context(), func(q *db.Queries) error {
		if _, err := q.OrgByID(t.Context(), org(1).OrgID); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("before: %w", err)
		}
		write(t, s, 1)
		if _, err := q.OrgByID(t.Context(), org(1).OrgID); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("the read sees what came later: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if !has(t, s, 1) {
		t.Error("the row is not there afterwards")
	}
}

func readOnly(t *testing.T, s store.Store) {
	if err := s.Read(t.Context(), create(t.Context(), 1)); err == nil {
		t.Error("a write in a read was taken")
	}
	if has(t, s, 1) {
		t.Error("the row is there")
	}
}

func qEnds(t *testing.T, s store.Store) {
	var kept *db.Queries
	if err := s.Write(t.Context(), func(q *db.Queries) error { kept = q; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := kept.CreateOrg(t.Context(), org(1)); err == nil {
		t.Error("q of a Write that has ended writes")
	}
}

func emptyBytes(t *testing.T, s store.Store) {
	err := s.Write(t.Context(), func(q *db.Queries) error {
		return q.CreateOrg(t.Context(), db.CreateOrgParams{OrgID: []byte("o"), Head: nil, Created: 1})
	})
	if err != nil {
		t.Error(err)
	}
}

func closed(t *testing.T, s store.Store) {
	write(t, s, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), create(t.Context(), 2)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Write: got %v", err)
	}
	err := s.Read(t.Context(), func(*db.Queries) error { return nil })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("Read: got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
