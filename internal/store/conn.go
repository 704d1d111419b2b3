package store

import (
	"context"
	"database/sql"
	"errors"
)

// statements bounds a connection's cache of prepared statements. The queries
// are about a hundred; those with a list of parameters make more texts.
const statements = 512

// conn is one connection with its prepared statements. It is what the generated
// queries run on, by one goroutine at a time.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

func newConn(ctx context.Context, pool *sql.DB) (*conn, error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c: c, stmts: make(map[string]*sql.Stmt)}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return c.c.Close()
}

func (c *conn) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	s, err := c.c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if len(c.stmts) >= statements {
		for text, old := range c.stmts {
			old.Close()
			delete(c.stmts, text)
			break
		}
	}
	c.stmts[query] = s
	return s, nil
}

func (c *conn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, classified(err)
	}
	r, err := s.ExecContext(ctx, notNull(args)...)
	return r, classified(err)
}

func (c *conn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, classified(err)
	}
	r, err := s.QueryContext(ctx, notNull(args)...)
	return r, classified(err)
}

func (c *conn) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return c.c.QueryRowContext(ctx, query, notNull(args)...) // fails alike, and carries the error
	}
	return s.QueryRowContext(ctx, notNull(args)...)
}

// notNull makes the absent bytes empty: no column takes NULL, and SQLite would
// store a nil slice as such.
func notNull(args []any) []any {
	for i, a := range args {
		if b, ok := a.([]byte); ok && b == nil {
			args[i] = []byte{}
		}
	}
	return args
}

// lent is a connection as one function of Read or Write sees it, until that returns.
// The function's context is looked at before each statement and not within one: they
// are short, an interruption would undo the whole group, and waiting for one costs a
// goroutine a statement.
type lent struct {
	*conn
	ended bool
}

var errEnded = errors.New("the transaction has ended: q is used after the function of Read or Write returned")

func (l *lent) usable(ctx context.Context) error {
	if l.ended {
		return errEnded
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (l *lent) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := l.usable(ctx); err != nil {
		return nil, err
	}
	return l.conn.ExecContext(context.WithoutCancel(ctx), query, args...)
}

func (l *lent) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := l.usable(ctx); err != nil {
		return nil, err
	}
	return l.conn.QueryContext(context.WithoutCancel(ctx), query, args...)
}

func (l *lent) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	// A row cannot carry an error of ours; the statement runs within a moment.
	return l.conn.QueryRowContext(context.WithoutCancel(ctx), query, args...)
}
