package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/store/db"
)

// write is one function that waits for the writer. The writer lends its
// transaction to the caller's goroutine, so that a panic in a function is its
// caller's own.
type write struct {
	ctx    context.Context
	turn   chan *tx   // unbuffered: here is the transaction
	ran    chan error // what the function returned
	answer chan error // what became of it
	tx     *tx        // the writer's, for AfterCommit
}

// errPanic stands for a function that did not return.
var errPanic = errors.New("the function did not return")

func (e *engine) Write(ctx context.Context, f func(q *db.Queries) error) error {
	w := &write{ctx: ctx, turn: make(chan *tx), ran: make(chan error, 1), answer: make(chan error, 1)}
	select {
	case <-e.stop: // first: a select with a free queue would choose at random
		return ErrClosed
	default:
	}
	select {
	case e.queue <- w:
	case <-e.stop:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for the writing connection: %w", context.Cause(ctx))
	}
	select {
	case t := <-w.turn:
		func() {
			err := errPanic
			defer func() { w.ran <- err }() // also when f panics, or a test in it stops
			err = f(db.New(t))
		}()
		return <-w.answer
	case err := <-w.answer: // the transaction could not begin
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the writing connection: %w", context.Cause(ctx))
	case <-e.stopped:
		return ErrClosed
	}
}

// writer takes the functions that wait, group by group, until Close.
func (e *engine) writer(c *conn) {
	defer close(e.stopped)
	defer c.close()
	for {
		select {
		case w := <-e.queue:
			e.group(c, w)
		case <-e.stop:
			return
		}
	}
}

// group runs w and whatever waits behind it in one transaction, and answers.
func (e *engine) group(c *conn, w *write) {
	// The callers' contexts do not reach SQLite here: interrupting one
	// statement would undo the whole group.
	ctx := context.Background()
	if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		for ; w != nil; w = e.next() { // they have all waited as long
			w.answer <- failure("begin writing", class(err), err)
		}
		return
	}
	var good []*write
	var broken error
	began := time.Now()
	for n := 1; w != nil; n++ {
		var ok bool
		if ok, broken = e.run(ctx, c, w); ok {
			good = append(good, w)
		}
		w = nil
		if broken == nil && n < groupLength && time.Since(began) < GroupTime {
			w = e.next()
		}
	}
	err := broken
	if err == nil && len(good) > 0 {
		_, err = c.ExecContext(ctx, "COMMIT")
	}
	if err != nil || len(good) == 0 {
		// Where SQLite has rolled back by itself (a full disk, an error of the
		// disk), there is nothing left to roll back.
		c.ExecContext(ctx, "ROLLBACK") //nolint:errcheck // see above
	}
	if err != nil {
		e.failed.Add(uint64(len(good)))
		for _, w := range good {
			w.answer <- failure("commit", class(err), err)
		}
		return
	}
	if len(good) > 0 {
		e.commits.Add(1)
		e.writes.Add(uint64(len(good)))
	}
	for _, w := range good {
		for _, f := range w.tx.after {
			f()
		}
		w.answer <- nil
	}
}

// next is a function that waits, or nil.
func (e *engine) next() *write {
	select {
	case w := <-e.queue:
		return w
	default:
		return nil
	}
}

// run lends the transaction to one function, and answers it where it failed.
// broken tells that the whole transaction is lost.
func (e *engine) run(ctx context.Context, c *conn, w *write) (ok bool, broken error) {
	if _, err := c.ExecContext(ctx, "SAVEPOINT one"); err != nil {
		w.answer <- failure("write", class(err), err)
		return false, err
	}
	w.tx = &tx{lent: lent{conn: c}}
	var err error
	select {
	case w.turn <- w.tx:
		err = <-w.ran
	case <-w.ctx.Done(): // its caller has gone
		err = context.Cause(w.ctx)
	}
	w.tx.ended = true
	if err != nil {
		e.failed.Add(1)
		if _, err := c.ExecContext(ctx, "ROLLBACK TO one"); err != nil {
			broken = err
		}
	}
	if broken == nil {
		_, broken = c.ExecContext(ctx, "RELEASE one")
	}
	if err == nil && broken == nil {
		return true, nil
	}
	if err == nil {
		err = failure("write", class(broken), broken)
	}
	w.answer <- classified(err)
	return false, broken
}

// tx is the transaction as one function of Write sees it.
type tx struct {
	lent
	after []func()
}

// AfterCommit: see db.Queries.AfterCommit.
func (t *tx) AfterCommit(f func()) { t.after = append(t.after, f) }
