package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/sdk"
)

// target is where to log in and how it proves itself.
type target struct {
	host     sdk.Host
	resource sdk.Resource
	database string
}

func newTarget(h sdk.Host, r sdk.Resource) (target, error) {
	var c Config
	if err := sdk.DecodeConfig(r, &c); err != nil {
		return target{}, err
	}
	return target{host: h, resource: r, database: c.Database}, nil
}

// connect logs in afresh. Nothing secret is sent before the server has proven itself.
func (t target) connect(ctx context.Context, who sdk.Account, secret sdk.Secret) (*pgconn.PgConn, error) {
	invalid := func(reason string, err error) (*pgconn.PgConn, error) {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: err}
	}
	host, port, err := net.SplitHostPort(t.resource.Address)
	if err != nil {
		return invalid("address", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || strings.ContainsAny(host, "/@") { // the driver takes those for sockets
		return invalid("address", errors.New("address must be host:port"))
	}
	if !validName(who.Name) {
		return invalid("account.name", errors.New("no role can have this name"))
	}
	secure, err := sdk.TLSConfig(t.host, t.resource)
	if err != nil {
		return nil, err
	}
	password := secret.Expose()
	defer clear(password)
	prepared, ok := driverPassword(password)
	if !ok {
		return nil, &sdk.Error{
			Class: sdk.ClassUnsupported, Reason: "password.charset", NotSent: true,
			Err: errors.New("the driver cannot send this password as PostgreSQL prepares it"),
		}
	}

	blank, err := blankConfig()
	if err != nil {
		return invalid("driver", err)
	}
	c := blank.Copy()
	c.Host, c.Port, c.Database = host, uint16(number), t.database
	if who.Scope != "" {
		c.Database = who.Scope
	}
	c.User, c.Password, c.TLSConfig, c.Fallbacks = who.Name, prepared, secure, nil
	c.RuntimeParams = map[string]string{"application_name": "rotunda", "client_encoding": "UTF8"}
	c.MaxProtocolMessageBodyLen = 1 << 20
	c.DialFunc = t.host.Dialer.DialContext
	// The agent resolves names.
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	// A server that asks for nothing (trust, certificates) has not judged the password, so
	// its welcome proves nothing. A password in clear goes only to a server that has
	// proven itself.
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
		return nil, connectError(ctx, err, proven)
	}
	return conn, nil
}

// blankConfig is what the driver insists on making itself. It reads the environment and
// files for it: every setting that matters is overwritten in a copy.
var blankConfig = sync.OnceValues(func() (*pgconn.Config, error) {
	return pgconn.ParseConfig("host=h user=u password=p dbname=d sslmode=disable target_session_attrs=any")
})

// connectError classes a login that failed. Whatever the server said before it proved
// itself is not believed.
func connectError(ctx context.Context, err error, proven bool) error {
	out := &sdk.Error{NotSent: true, Err: plain(err)}
	var pg *pgconn.PgError
	var ours *sdk.Error
	var network net.Error
	switch {
	case ctx.Err() != nil:
		out.Class, out.Reason = sdk.ClassUnreachable, "deadline"
	case errors.As(err, &ours): // the dialer's word, or the proof of the target's key
		out.Class, out.Reason = ours.Class, ours.Reason
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		out.Class, out.Reason = sdk.ClassUnreachable, "connection"
	case !proven:
		// A pin or a certificate that does not fit, or no TLS at all.
		out.Class, out.Reason = sdk.ClassAuth, "target_identity"
	case errors.As(err, &pg):
		out.Class, out.Reason = loginRefused(pg.Code)
	default:
		// The driver refused how the server asked: for no password, or for one in clear.
		out.Class, out.Reason = sdk.ClassUnsupported, "auth.method"
	}
	return out
}

// plain drops the driver's configuration, which holds the password, from an error.
func plain(err error) error {
	var c *pgconn.ConnectError
	if errors.As(err, &c) {
		return c.Unwrap()
	}
	return err
}

// loginRefused reads the SQLSTATE of a refused login (PostgreSQL, appendix A).
func loginRefused(code string) (sdk.Class, string) {
	switch {
	case code == "28P01":
		return sdk.ClassAuth, "bad_secret"
	case code == "28000": // NOLOGIN, or no line for this host in pg_hba.conf
		return sdk.ClassAuth, "no_login"
	case code == "42501": // no CONNECT privilege; the password was right
		return sdk.ClassPermission, "no_login"
	case code == "3D000":
		return sdk.ClassInvalid, "database.missing"
	case strings.HasPrefix(code, "53"): // too many connections, out of memory
		return sdk.ClassUnreachable, "throttled"
	case strings.HasPrefix(code, "57P"): // starting, stopping
		return sdk.ClassUnreachable, "unreachable"
	default:
		return sdk.ClassUnsupported, "login.refused"
	}
}

// changeRefused reads the SQLSTATE of an error that ended ALTER ROLE. It is false
// where the error does not prove that nothing was changed.
func changeRefused(pg *pgconn.PgError) (class sdk.Class, reason string, proven bool) {
	// An ERROR rolls the statement back. FATAL and PANIC end the session, which may be
	// after the commit.
	if pg.SeverityUnlocalized != "ERROR" && pg.Severity != "ERROR" {
		return "", "", false
	}
	// A pooler between here and the server says ERROR, too, of a statement that it has sent
	// on and has no answer to. So only what PostgreSQL itself says of one proves anything.
	switch code := pg.Code; {
	case code == "40003": // statement_completion_unknown
		return "", "", false
	case code == "42501":
		return sdk.ClassPermission, "admin.rights", true
	case code == "42704":
		return sdk.ClassNotFound, "account.missing", true
	case code == "42939": // reserved name
		return sdk.ClassInvalid, "account.name", true
	case code == "22023", strings.HasPrefix(code, "28"): // what password-checking modules raise
		return sdk.ClassPolicy, "policy.refused", true
	case code == "25006":
		return sdk.ClassConflict, "target.read_only", true
	case code == "55P03", code == "57014", strings.HasPrefix(code, "40"): // lock, time, deadlock
		return sdk.ClassUnreachable, "target.busy", true
	case strings.HasPrefix(code, "53"), code == "XX000" && strings.HasPrefix(pg.Message, "tuple concurrently "): // resources; somebody changed the role at the same time (not translated)
		return sdk.ClassUnreachable, "target.busy", true
	case strings.HasPrefix(code, "0A"):
		return sdk.ClassUnsupported, "target.refused", true
	case len(code) == 5 && slices.Contains(judged, code[:2]):
		return sdk.ClassConflict, "target.refused", true
	}
	return "", "", false // connection (08), operator (57), system (58), internal (XX), and what nobody has heard of
}

// judged are the classes of the errors by which PostgreSQL refuses a statement that it has
// read: a grantor, a role or what depends on it (0L, 0P, 2B), data (22), constraints (23),
// transaction (25), syntax and access (42), limits (54), state (55), and what a
// function of the database raises (P0).
var judged = []string{"0L", "0P", "22", "23", "25", "2B", "42", "54", "55", "P0"}
