package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/rotunda-pam/rotunda/internal/store/db"
)

const (
	readers     = 4
	busyTimeout = 5 * time.Second // for another process; within this one nobody waits
	queueLength = 1024            // functions that wait for the writer; more wait in Write
	groupLength = 256             // functions in one commit
	// GroupTime is how long a commit takes on functions that wait: then it ends.
	GroupTime = 20 * time.Millisecond
)

//go:embed migrations/*.sql
var migrations embed.FS

// engine is the SQLite store. One goroutine owns the writing connection.
type engine struct {
	pool    *sql.DB
	readers chan *conn
	queue   chan *write
	stop    chan struct{} // closed by Close
	stopped chan struct{} // closed when the writer has ended
	close   sync.Once
	err     error // of Close

	commits, writes, failed, reads atomic.Uint64
}

// Open opens the database file at path, makes it (mode 0600, its directory
// 0700) where it is missing, and brings its schema up to date.
func Open(ctx context.Context, path string) (Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	if err := createFile(path); err != nil {
		return nil, failure("open the database "+path, ErrUnwritable, err)
	}
	pool, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	e, err := open(ctx, pool)
	if err != nil {
		return nil, errors.Join(failure("open the database "+path, class(err), err), pool.Close())
	}
	return e, nil
}

func open(ctx context.Context, pool *sql.DB) (*engine, error) {
	pool.SetMaxOpenConns(readers + 1)
	pool.SetMaxIdleConns(readers + 1)
	if err := migrate(ctx, pool); err != nil {
		return nil, err
	}
	e := &engine{
		pool:    pool,
		readers: make(chan *conn, readers),
		queue:   make(chan *write, queueLength),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	for range readers {
		c, err := newConn(ctx, pool)
		if err != nil {
			return nil, err
		}
		if _, err := c.ExecContext(ctx, "PRAGMA query_only = ON"); err != nil {
			return nil, err
		}
		e.readers <- c
	}
	writer, err := newConn(ctx, pool)
	if err != nil {
		return nil, err
	}
	// All that runs do goes through it: with SQLite's own 2 MB each would read pages anew
	// beside 100,000 accounts.
	if _, err := writer.ExecContext(ctx, "PRAGMA cache_size = -8000"); err != nil {
		return nil, err
	}
	go e.writer(writer)
	return e, nil
}

// createFile makes the file before SQLite does, for the mode: SQLite gives its
// own files beside it the same.
func createFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

func dsn(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // C:/…
		path = "/" + path
	}
	set := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(ON)",
			"temp_store(MEMORY)", // what undoes one function of a group needs no file
		},
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: set.Encode()}).String()
}

func migrate(ctx context.Context, pool *sql.DB) error {
	list, err := steps()
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, nil, goose.WithGoMigrations(list...), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring the schema up to date: %w", err)
	}
	return nil
}

// steps are the migrations. SQLite reads the statements of each as they stand: goose's own
// reading of them takes 4 MiB a line.
var steps = sync.OnceValues(func() (list []*goose.Migration, err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, err
		}
		version, err := goose.NumericComponent(name)
		if err != nil {
			return nil, err
		}
		_, up, begins := strings.Cut(string(text), "-- +goose Up\n")
		up, _, ends := strings.Cut(up, "-- +goose Down\n")
		if !begins || !ends || strings.Contains(up, "+goose") {
			return nil, fmt.Errorf("%s: want -- +goose Up and -- +goose Down, and no other word to goose", name)
		}
		list = append(list, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, up)
			return err
		}}, nil))
	}
	return list, nil
})

func (e *engine) Read(ctx context.Context, f func(q *db.Queries) error) error {
	var c *conn
	select {
	case c = <-e.readers:
	case <-e.stop:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for a reading connection: %w", context.Cause(ctx))
	}
	defer func() { e.readers <- c }()
	if ctx.Err() != nil {
		return fmt.Errorf("begin reading: %w", context.Cause(ctx))
	}
	// The caller's context does not reach SQLite: a BEGIN that was interrupted may have begun.
	if _, err := c.ExecContext(context.WithoutCancel(ctx), "BEGIN DEFERRED"); err != nil {
		return failure("begin reading", class(err), err)
	}
	e.reads.Add(1)
	l := &lent{conn: c}
	// Also after a panic in f, and after ctx has ended.
	defer func() {
		l.ended = true
		c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // nothing was written
	}()
	return classified(f(db.New(l)))
}

func (e *engine) Stats() Stats {
	return Stats{
		Commits: e.commits.Load(),
		Writes:  e.writes.Load(),
		Failed:  e.failed.Load(),
		Reads:   e.reads.Load(),
		Waiting: len(e.queue),
	}
}

func (e *engine) Close() error {
	e.close.Do(func() {
		close(e.stop)
		<-e.stopped
		var errs []error
		for range readers {
			c := <-e.readers
			errs = append(errs, c.close())
		}
		e.err = errors.Join(append(errs, e.pool.Close())...)
	})
	return e.err
}

// classified adds the class to an engine's error on its way out of the store.
func classified(err error) error {
	if err == nil {
		return nil
	}
	c := class(err)
	if c == nil || errors.Is(err, c) {
		return err
	}
	return fmt.Errorf("%w (%w)", c, err)
}

// class tells the errors of SQLite apart by code.
func class(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return nil
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return ErrExists
	case sqlite3.SQLITE_IOERR_SHMSIZE: // the log's index could not grow
		return ErrFull
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return ErrLocked
	case sqlite3.SQLITE_FULL:
		return ErrFull
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return ErrCorrupt
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return ErrUnwritable
	}
	return nil
}
