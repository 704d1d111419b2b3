// Package store is the database behind the server's parts: one SQLite file, its
// schema and its transactions. The queries are the package db, generated from
// queries/*.sql, which keep to the SQL that SQLite and PostgreSQL share; a second
// engine has to pass storetest.Run.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// Store gives transactions over the server's tables. It is safe for concurrent
// use.
type Store interface {
	// Read runs f in a read transaction: everything f sees is one moment.
	// q must not be used after f has returned.
	Read(ctx context.Context, f func(q *db.Queries) error) error

	// Write runs f in a write transaction and returns after the commit is on
	// the disk. Functions that wait at the same time share one commit, each
	// under a savepoint of its own: where f fails, only what f did is undone.
	// Where the commit fails, nothing of the group is kept and all get the error.
	//
	// f runs in the caller's goroutine while the others wait: it must not wait
	// for anything outside the database, nor call Write (that would wait for
	// itself for ever). It may be run again by an engine that has to repeat a
	// transaction, so what it does outside the database belongs into
	// q.AfterCommit. Once f has begun, Write answers when the commit is settled,
	// whatever becomes of ctx: nobody is told of a failure that then stands.
	Write(ctx context.Context, f func(q *db.Queries) error) error

	// Stats counts since Open.
	Stats() Stats

	// Close waits for the transactions under way and refuses further ones.
	Close() error
}

// Stats are counters since Open.
type Stats struct {
	Commits uint64 // durable commits: each one is a write to the disk that was waited for
	Writes  uint64 // functions of Write that were committed
	Failed  uint64 // functions of Write that were undone
	Reads   uint64 // functions of Read
	Waiting int    // functions of Write that wait now
}

// The errors that callers tell apart, by errors.Is.
var (
	// ErrNotFound: no such row. It is sql.ErrNoRows, so that it means the same
	// inside a function and outside.
	ErrNotFound = sql.ErrNoRows
	// ErrExists: a row with this key is there already.
	ErrExists = errors.New("exists already")
	// ErrLocked: another process holds the database's write lock.
	ErrLocked = errors.New("the database is locked by another process: stop the other server or tool that has this file open, then try again")
	// ErrFull: no room on the disk.
	ErrFull = errors.New("the disk is full: free some space; nothing that was acknowledged is lost and the server goes on by itself")
	// ErrCorrupt: the file is damaged or no database.
	ErrCorrupt = errors.New("the database file is damaged or no database: stop the server and restore the newest backup")
	// ErrUnwritable: the file or its directory may not be written.
	ErrUnwritable = errors.New("the database may not be written: check the owner and mode of its file and directory")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store is closed")
)

// failure joins what was being done, the class and the engine's error, which may
// bear its class already.
func failure(what string, class, err error) error {
	if class == nil || errors.Is(err, class) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%w)", what, class, err)
}
