package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Bounds of an answer.
const (
	maxRows  = 10_000
	maxNames = 256 // columns
)

var errTooLarge = errors.New("the answer is too large: ask for fewer rows or columns")

// database is one login on a server. What its methods answer of errors is the driver's:
// fault says what they mean.
type database interface {
	query(ctx context.Context, text string, params []any) (*rows, error)
	exec(ctx context.Context, text string, params []any) (int64, error)
	// literal is a text that the server reads as this one, where it takes no parameter.
	literal(ctx context.Context, text string) (string, error)
	identifier(name string) (string, error)
	fault(err error) *sdk.Error
	close()
}

// login is where to log in, and who.
type sqlLogin struct {
	host     sdk.Host
	at       sdk.Resource
	name     string
	secret   sdk.Secret
	database string
}

// rows are an answer. A value is nil, a bool, an int64, a float64 or a string.
type rows struct {
	columns []string
	values  [][]any
	size    int
}

// add takes one row, and is false where there are too many.
func (r *rows) add(row []any) bool {
	for _, v := range row {
		r.size += 16
		if s, ok := v.(string); ok {
			r.size += len(s)
		}
	}
	r.values = append(r.values, row)
	return len(r.values) <= maxRows && r.size <= maxString
}

// sqlFault is what every driver's errors have in common.
func sqlFault(err error) *sdk.Error {
	e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", Err: err}
	var known *sdk.Error
	var network net.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, errTooLarge):
		e.Class, e.Reason = sdk.ClassUnsupported, "sql.too_large"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e.Reason = "deadline"
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone), errors.Is(err, net.ErrClosed):
	default:
		e.Class, e.Reason = sdk.ClassInvalid, "sql.driver"
	}
	e.NotSent = errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) // of a connection that ended before
	return e
}

// loginFault is an error of a login. Whatever a server said before it proved itself is not
// believed.
func loginFault(ctx context.Context, fault *sdk.Error, proven bool) *sdk.Error {
	fault.NotSent = true
	switch {
	case ctx.Err() != nil:
		fault.Class, fault.Reason = sdk.ClassUnreachable, "deadline"
	case proven, fault.Class == sdk.ClassUnreachable, fault.Class == sdk.ClassPermission && fault.Reason == "dial.denied", fault.Reason == "target_identity":
	default:
		fault.Class, fault.Reason = sdk.ClassAuth, "target_identity"
	}
	return fault
}

// quotable says whether a text can stand in a statement at all.
func quotable(text string) error {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return errors.New("it is no UTF-8, or has NUL in it")
	}
	return nil
}

// quoteName puts a name in its quotes, which are doubled in it. Servers cut a longer name,
// which would then be another's.
func quoteName(name, open, shut string, most int, count func(string) int) (string, error) {
	if err := quotable(name); err != nil {
		return "", err
	}
	if name == "" || count(name) > most {
		return "", fmt.Errorf("a name has 1 to %d characters", most)
	}
	return open + strings.ReplaceAll(name, shut, shut+shut) + shut, nil
}

// pooled is a login through database/sql, which knows how values of a driver are read. It
// has one connection, and makes no other.
type pooled struct {
	db     *sql.DB
	conn   *sql.Conn
	text   func(kind string, b []byte) any // of a column's type
	ending func()
}

// once is a connector that has one connection to give: a login is not repeated.
type once struct {
	driver.Connector
	mu   sync.Mutex
	conn driver.Conn
}

func (o *once) Connect(context.Context) (driver.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	conn := o.conn
	o.conn = nil
	if conn == nil {
		return nil, sql.ErrConnDone
	}
	return conn, nil
}

func newPooled(ctx context.Context, c driver.Connector, conn driver.Conn, text func(string, []byte) any, ending func()) (*pooled, error) {
	p := &pooled{db: sql.OpenDB(&once{Connector: c, conn: conn}), text: text, ending: ending}
	p.db.SetMaxOpenConns(1)
	var err error
	if p.conn, err = p.db.Conn(ctx); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pooled) query(ctx context.Context, text string, params []any) (*rows, error) {
	got, err := p.conn.QueryContext(ctx, text, params...)
	if err != nil {
		return nil, err
	}
	defer got.Close()
	out := &rows{}
	if out.columns, err = got.Columns(); err != nil {
		return nil, err
	}
	types, err := got.ColumnTypes()
	if err != nil {
		return nil, err
	}
	for got.Next() {
		row, into := make([]any, len(types)), make([]any, len(types))
		for i := range row {
			into[i] = &row[i]
		}
		if err := got.Scan(into...); err != nil {
			return nil, err
		}
		for i, v := range row {
			row[i] = p.value(types[i].DatabaseTypeName(), v)
		}
		if !out.add(row) {
			p.ending() // or closing would read the rest
			return nil, errTooLarge
		}
	}
	return out, got.Err()
}

func (p *pooled) value(kind string, v any) any {
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v
	case float32:
		return float64(v)
	case uint64:
		if v < 1<<53 {
			return int64(v)
		}
		return fmt.Sprint(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []byte:
		return p.text(kind, v)
	}
	return fmt.Sprint(v)
}

func (p *pooled) exec(ctx context.Context, text string, params []any) (int64, error) {
	done, err := p.conn.ExecContext(ctx, text, params...)
	if err != nil {
		return 0, err
	}
	n, err := done.RowsAffected()
	if err != nil {
		return 0, nil // the driver does not say; the statement was carried out
	}
	return n, nil
}

func (p *pooled) close() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	_ = p.db.Close()
}

// hexText is what PostgreSQL writes for bytes.
func hexText(s string) string {
	if b, err := hex.DecodeString(strings.TrimPrefix(s, `\x`)); err == nil && strings.HasPrefix(s, `\x`) {
		return string(b)
	}
	return s
}
