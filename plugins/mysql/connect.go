package main

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"

	"github.com/rotunda-pam/rotunda/sdk"
)

// target is where to log in and how it proves itself.
type target struct {
	host     sdk.Host
	resource sdk.Resource
	config   Config
}

func newTarget(h sdk.Host, r sdk.Resource) (target, error) {
	t := target{host: h, resource: r}
	return t, sdk.DecodeConfig(r, &t.config)
}

// login is one connection on which somebody is logged in.
type login struct{ conn driver.Conn }

// tries is how often a login is begun that the driver breaks off before it answers the
// challenge that counts: by chance that is once in 256 times.
const tries = 5

// connect logs in afresh. One challenge of the account's own method is answered, so that a
// wrong password counts once.
//
// MariaDB asks for an ed25519 login by 32 random bytes, of which the driver takes away the
// last if it is zero, as of other methods' challenges, and then gives up. What it has sent
// by then answers the greeting, for the server's usual method; this challenge is the server's reply.
func (t target) connect(ctx context.Context, who account, secret sdk.Secret) (l *login, err error) {
	for range tries {
		var unused bool
		if l, unused, err = t.login(ctx, who, secret); !unused {
			break
		}
	}
	return l, err
}

// login logs in. Nothing secret is sent before the server has proven itself. unused says
// that the driver understood the server's challenge no more than that it was one, and
// answered nothing to it.
func (t target) login(ctx context.Context, who account, secret sdk.Secret) (l *login, unused bool, err error) {
	if !who.possible() {
		return nil, false, &sdk.Error{Class: sdk.ClassInvalid, Reason: "account.name", NotSent: true, Err: errors.New("no account can have this name")}
	}
	secure, err := sdk.TLSConfig(t.host, t.resource)
	if err != nil {
		return nil, false, err
	}
	line, proven := &counted{}, secure == nil
	if secure != nil {
		proof := secure.VerifyConnection
		secure.VerifyConnection = func(s tls.ConnectionState) error {
			err := proof(s)
			proven, line.writes = err == nil, 0
			return err
		}
	}
	c := mysql.NewConfig() // no password in clear, none of the old form, one statement at a time
	c.User, c.Passwd = who.name, secret.ExposeString()
	c.Net, c.Addr, c.TLS = "tcp", t.resource.Address, secure
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		line.Conn, err = t.host.Dialer.DialContext(ctx, network, address)
		return line, err
	}
	c.InterpolateParams = true // the server prepares no statement about accounts
	c.ConnectionAttributes = "program_name:rotunda"
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, false, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: err}
	}
	conn, err := begin(ctx, connector)
	if err != nil {
		if line.Conn != nil {
			_ = line.Close()
		}
		// Who it is, and before it the end of the TLS handshake: then the challenge came.
		begun := 1
		if secure != nil {
			begun = 2
		}
		return nil, proven && errors.Is(err, mysql.ErrMalformPkt) && line.writes == begun, connectError(ctx, err, proven)
	}
	return &login{conn}, false, nil
}

// counted counts what is written.
type counted struct {
	net.Conn
	writes int
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

// begin has the driver log in. It takes a greeting apart without looking at its length, and
// whoever greets has proven nothing yet.
func begin(ctx context.Context, c driver.Connector) (conn driver.Conn, err error) {
	defer func() {
		if p := recover(); p != nil {
			conn, err = nil, fmt.Errorf("what the server says is not understood: %v", p)
		}
	}()
	return c.Connect(ctx)
}

// query runs one statement and gives its rows as text; NULL is "". Where ctx ends before
// the answer the connection ends with it.
func (l *login) query(ctx context.Context, s statement) ([][]string, error) {
	rows, err := l.conn.(driver.QueryerContext).QueryContext(ctx, s.text, s.values())
	if err != nil {
		return nil, err
	}
	var out [][]string
	dest := make([]driver.Value, len(rows.Columns()))
	for err = rows.Next(dest); err == nil; err = rows.Next(dest) {
		row := make([]string, len(dest))
		for i, v := range dest {
			switch v := v.(type) {
			case nil:
			case []byte:
				row[i] = string(v)
			default:
				row[i] = fmt.Sprint(v)
			}
		}
		out = append(out, row)
	}
	if err != io.EOF {
		return nil, errors.Join(err, rows.Close())
	}
	return out, rows.Close()
}

// run runs one statement that has no rows.
func (l *login) run(ctx context.Context, s statement) error {
	_, err := l.conn.(driver.ExecerContext).ExecContext(ctx, s.text, s.values())
	return err
}

func (s statement) values() []driver.NamedValue {
	out := make([]driver.NamedValue, len(s.args))
	for i, a := range s.args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}

// prepare makes a connection fit for changes: names and values arrive as they are,
// whatever the server does for every connection (init_connect).
func (l *login) prepare(ctx context.Context) error {
	return l.run(ctx, statement{text: "SET NAMES utf8mb4"})
}

// who is the account that the server takes this login for.
func (l *login) who(ctx context.Context) (string, error) {
	rows, err := l.query(ctx, statement{text: "SELECT CURRENT_USER()"})
	switch {
	case err != nil:
		return "", err
	case len(rows) != 1:
		return "", errors.New("server does not say whom it has let in")
	}
	return rows[0][0], nil
}

// alive tells whether the connection can be used for another statement.
func (l *login) alive() bool { return l.conn.(driver.Validator).IsValid() }

func (l *login) hangUp() { _ = l.conn.Close() }

// possible tells whether there can be such an account at all. A longer name is cut by the
// server, and would then be another's.
func (a account) possible() bool {
	const maxName, maxHost = 128, 255 // characters
	fits := func(s string, most int) bool {
		return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && !strings.ContainsRune(s, 0)
	}
	return fits(a.name, maxName) && fits(a.host, maxHost)
}
