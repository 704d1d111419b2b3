package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"

	"github.com/rotunda-pam/rotunda/sdk"
)

// postgres is a login on PostgreSQL. Statements go by the extended protocol, which takes
// one at a time.
type postgres struct{ conn *pgconn.PgConn }

func openPostgres(ctx context.Context, l sqlLogin) (database, *sdk.Error) {
	invalid := func(reason, why string) (database, *sdk.Error) {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: errors.New(why)}
	}
	host, port, err := net.SplitHostPort(l.at.Address)
	number, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || host == "" || strings.ContainsAny(host, "/@") { // the driver takes those for sockets
		return invalid("address", "the address must be host:port")
	}
	password := l.secret.ExposeString()
	if !driverKeeps(password) {
		return nil, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "password.charset", NotSent: true, Err: errors.New("the driver cannot send this password as PostgreSQL prepares it")}
	}
	secure, err := sdk.TLSConfig(l.host, l.at)
	if err != nil {
		return nil, asError(err, sdk.ClassInvalid, "address")
	}
	blank, err := blankPostgres()
	if err != nil {
		return invalid("sql.driver", err.Error())
	}
	c := blank.Copy()
	c.Host, c.Port, c.Database, c.User, c.Password = host, uint16(number), l.database, l.name, password
	c.TLSConfig, c.Fallbacks = secure, nil
	c.RuntimeParams = map[string]string{"application_name": "rotunda", "client_encoding": "UTF8"}
	c.MaxProtocolMessageBodyLen = maxString
	c.DialFunc = l.host.Dialer.DialContext
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil } // the agent resolves names
	// A server that asks for nothing has not judged the password. One in clear goes only to
	// a server that has proven itself.
	c.RequireAuth = "scram-sha-256,md5"
	if secure != nil {
		c.RequireAuth += ",password"
	}
	proven := secure == nil
	c.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, n net.Conn) (net.Conn, error) {
		proven = true
		return n, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		var of *pgconn.ConnectError // it has the configuration, and so the password
		if errors.As(err, &of) {
			err = of.Unwrap()
		}
		fault := postgres{}.fault(err)
		if fault.Reason == "sql.driver" { // it refused how the server asked: for no password, or for one in clear
			fault.Class, fault.Reason = sdk.ClassUnsupported, "auth.method"
		}
		return nil, loginFault(ctx, fault, proven)
	}
	return postgres{conn}, nil
}

// blankPostgres is what the driver insists on making itself. It reads the environment and
// files for it: every setting that matters is overwritten in a copy.
var blankPostgres = sync.OnceValues(func() (*pgconn.Config, error) {
	return pgconn.ParseConfig("host=h user=u password=p dbname=d sslmode=disable target_session_attrs=any")
})

// driverKeeps says whether the driver sends a password as PostgreSQL prepares it: they
// prepare by different rules, which leave most passwords alone.
func driverKeeps(password string) bool {
	ascii := !strings.ContainsFunc(password, func(r rune) bool { return r > '~' || r < ' ' })
	prepared, err := precis.OpaqueString.String(password)
	return ascii || norm.NFKC.IsNormalString(password) && (err != nil || prepared == password)
}

// Types whose values are told as what they are; all others are texts.
const (
	pgBool, pgBytes, pgInt8, pgInt2, pgInt4, pgOID, pgFloat4, pgFloat8 = 16, 17, 20, 21, 23, 26, 700, 701
)

func pgValue(kind uint32, b []byte) any {
	if b == nil {
		return nil
	}
	text := string(b)
	switch kind {
	case pgBool:
		return text == "t"
	case pgBytes:
		return hexText(text)
	case pgInt2, pgInt4, pgInt8, pgOID:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > -(1<<53) && n < 1<<53 {
			return n
		}
	case pgFloat4, pgFloat8:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	}
	return text
}

func pgParams(params []any) [][]byte {
	out := make([][]byte, len(params))
	for i, p := range params {
		switch p := p.(type) {
		case string:
			out[i] = append([]byte{}, p...)
		case bool:
			out[i] = strconv.AppendBool(nil, p)
		case int64:
			out[i] = strconv.AppendInt(nil, p, 10)
		case float64:
			out[i] = strconv.AppendFloat(nil, p, 'g', -1, 64)
		}
	}
	return out
}

func (p postgres) query(ctx context.Context, text string, params []any) (*rows, error) {
	got := p.conn.ExecParams(ctx, text, pgParams(params), nil, nil, nil)
	out := &rows{}
	for got.NextRow() {
		fields := got.FieldDescriptions()
		row := make([]any, len(fields))
		for i, b := range got.Values() {
			row[i] = pgValue(fields[i].DataTypeOID, b)
		}
		if !out.add(row) {
			p.close() // or closing would read the rest
			return nil, errTooLarge
		}
	}
	for _, f := range got.FieldDescriptions() {
		out.columns = append(out.columns, f.Name)
	}
	_, err := got.Close()
	return out, err
}

func (p postgres) exec(ctx context.Context, text string, params []any) (int64, error) {
	done, err := p.conn.ExecParams(ctx, text, pgParams(params), nil, nil, nil).Close()
	return done.RowsAffected(), err
}

// literal is right whatever standard_conforming_strings says.
func (postgres) literal(_ context.Context, text string) (string, error) {
	if err := quotable(text); err != nil {
		return "", err
	}
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted, nil
}

func (postgres) identifier(name string) (string, error) {
	return quoteName(name, `"`, `"`, 63, func(s string) int { return len(s) })
}

func (p postgres) close() {
	ctx, cancel := context.WithTimeout(context.Background(), hangUp)
	defer cancel()
	_ = p.conn.Close(ctx)
}

// fault reads the SQLSTATE (PostgreSQL, appendix A).
func (postgres) fault(err error) *sdk.Error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		e := sqlFault(err)
		e.NotSent = e.NotSent || pgconn.SafeToRetry(err)
		return e
	}
	e := &sdk.Error{Class: sdk.ClassInvalid, Reason: "sql." + strings.ToLower(pg.Code), Err: errors.New(pg.Message)}
	switch code := pg.Code; {
	case code == "28P01":
		e.Class, e.Reason = sdk.ClassAuth, "bad_secret"
	case code == "28000": // NOLOGIN, or no line for this host in pg_hba.conf
		e.Class, e.Reason = sdk.ClassAuth, "no_login"
	case code == "42501":
		e.Class = sdk.ClassPermission
	case code == "42704", code == "42P01", code == "42883", code == "3D000", code == "3F000":
		e.Class = sdk.ClassNotFound
	case strings.HasPrefix(code, "23"), code == "42710", code == "42P07", code == "25006":
		e.Class = sdk.ClassConflict
	case strings.HasPrefix(code, "0A"):
		e.Class = sdk.ClassUnsupported
	case strings.HasPrefix(code, "08"), strings.HasPrefix(code, "40"), strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57"), code == "55P03", code == "XX000":
		e.Class = sdk.ClassUnreachable
	}
	return e
}
