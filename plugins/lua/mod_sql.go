package main

import (
	"context"
	"errors"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

// hangUp is how long a goodbye may take.
const hangUp = 2 * time.Second

var sqlModule = module{
	about: "Logs in to PostgreSQL, MySQL, MariaDB and SQL Server, and runs statements with parameters that the server binds.",
	functions: []function{
		{
			name: "connect", takes: "options: table", gives: "sql.connection|nil, sdk.error?",
			about: "Logs in. The options: kind (postgres, mysql, which is MariaDB, too, or mssql), address (the resource's), login, secret, database (postgres has postgres), timeout in seconds (30) of the login and of each statement. " +
				"It speaks TLS as the statement of the place says. An error's reason is bad_secret where the server judged the secret and refused it; auth.method where it asks for no secret. " +
				"SQL Server's driver could not be tried on a real server where this is made.",
			example: `local c, err = sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret, database = "postgres"}
if not c then
  return sdk.unchanged(err.class, err.reason)
end
c:close()`,
			do: sqlConnect,
		},
	},
	objects: []object{sqlConnection},
}

var sqlConnection = object{
	name: "sql.connection", about: "A connection on which somebody is logged in.",
	functions: []function{
		{
			name: "query", acts: true, takes: "text: string, ...: string|secret|number|boolean|nil", gives: "table[]|nil, sdk.error?",
			about: "Runs a statement and gives its rows, each a table by the names of the columns: numbers and booleans as such, NULL as nil, all else as texts. " +
				"Parameters stand in the statement as $1 (postgres), ? (mysql) or @p1 (mssql), and may be secrets. At most 10,000 rows and 16 MiB.",
			example: `local c = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret})
for _, row in ipairs(assert(c:query("SELECT pid, state FROM pg_stat_activity WHERE usename = $1", job.account.login))) do
  print(row.pid, row.state)
end`,
			do: func(a *args) int { return a.statement(false) },
		},
		{
			name: "exec", acts: true, takes: "text: string|secret, ...: string|secret|number|boolean|nil", gives: "integer|nil, sdk.error?",
			about: "Runs a statement that has no rows, and gives how many it changed. Its text may be a secret, as text.concat makes it of quote_literal's. " +
				"An error's reason is sql. with the server's code; with a secret in the statement its text has no more than the code, since servers quote what they do not understand.",
			example: `local c = assert(sql.connect{kind = "mysql", login = job.admin.login, secret = job.admin.secret})
assert(c:exec("UPDATE app.settings SET value = ? WHERE name = 'password'", job.secret))`,
			do: func(a *args) int { return a.statement(true) },
		},
		{
			name: "quote_identifier", takes: "name: string", gives: "string",
			about: "Writes a name for a statement: where a parameter cannot stand. A name that the server would cut is an error.",
			example: `local c = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret})
assert(c:quote_identifier('a"b') == '"a""b"')`,
			do: func(a *args) int {
				quoted, err := a.self.(*sqlConn).db.identifier(a.text(1))
				if err != nil {
					a.bad(1, "%v", err)
				}
				return a.give([]byte(quoted), false)
			},
		},
		{
			name: "quote_literal", takes: "text: string|secret", gives: "string|secret|nil, sdk.error?",
			about: "Writes a text for a statement that takes no parameters, such as ALTER USER: of a secret it gives a secret. Servers may write such a statement to their logs.",
			example: `local c = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret})
assert(c:exec(text.concat("ALTER ROLE ", c:quote_identifier(job.account.login), " PASSWORD ", assert(c:quote_literal(job.secret)))))`,
			do: sqlLiteral,
		},
		{name: "close", about: "Ends the connection.", example: `local c = assert(sql.connect{kind = "postgres", login = job.admin.login, secret = job.admin.secret})
c:close()`, do: func(a *args) int {
			a.self.(*sqlConn).close()
			return 0
		}},
	},
}

// sqlConn is a connection as a script has it.
type sqlConn struct {
	db     database
	limit  time.Duration
	closed bool
}

func (c *sqlConn) close() {
	if !c.closed {
		c.closed = true
		c.db.close()
	}
}

// sqlKinds are the servers, each with its database where the script names none.
var sqlKinds = map[string]struct {
	open     func(context.Context, sqlLogin) (database, *sdk.Error)
	database string
}{
	"postgres": {openPostgres, "postgres"},
	"mysql":    {openMySQL, ""},
	"mssql":    {openSQLServer, ""},
}

func sqlConnect(a *args) int {
	o := a.options(1, "kind", "address", "login", "secret", "database", "timeout")
	kind, ok := sqlKinds[o.text("kind", "")]
	if !ok {
		a.bad(1, "kind: want postgres, mysql or mssql")
	}
	name, of := o.login()
	if name == "" || quotable(name) != nil {
		a.bad(1, "login: want a name")
	}
	l := sqlLogin{host: a.host, at: o.address(), name: name, secret: of.Secret, database: o.text("database", kind.database)}
	if quotable(l.database) != nil {
		a.bad(1, "database: want a name")
	}
	if of.Len() == 0 { // servers let in some who have none, and have judged nothing
		a.bad(1, "secret: want one")
	}
	c := &sqlConn{limit: o.seconds("timeout", 30*time.Second)}
	ctx, cancel := a.within(c.limit)
	defer cancel()
	var failed *sdk.Error
	if c.db, failed = kind.open(ctx, l); failed != nil {
		return a.fail(failed)
	}
	a.later(c.close)
	return a.push(sqlConnection.of(a.state, c))
}

// statement runs one, with parameters from the second argument on.
func (a *args) statement(exec bool) int {
	c := a.self.(*sqlConn)
	text, hide := "", false
	if exec {
		b, isSecret := a.bytes(1)
		text, hide = string(b), isSecret
	} else {
		text = a.text(1)
	}
	if quotable(text) != nil || text == "" {
		a.bad(1, "want a statement in UTF-8")
	}
	var params []any
	for n := 2; n <= a.L.GetTop(); n++ {
		p, isSecret := a.param(n)
		params, hide = append(params, p), hide || isSecret
	}
	if c.closed {
		return a.fail(&sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", NotSent: true, Err: errClosed})
	}
	ctx, cancel := a.within(c.limit)
	defer cancel()
	if exec {
		n, err := c.db.exec(ctx, text, params)
		if err != nil {
			return a.fail(c.fault(ctx, err, hide))
		}
		return a.push(lua.LNumber(n))
	}
	got, err := c.db.query(ctx, text, params)
	if err != nil {
		return a.fail(c.fault(ctx, err, hide))
	}
	return a.rows(got)
}

// param is a parameter of a statement.
func (a *args) param(n int) (v any, isSecret bool) {
	switch v := a.L.Get(n).(type) {
	case *lua.LNilType:
		return nil, false
	case lua.LBool:
		return bool(v), false
	case lua.LNumber:
		if f := float64(v); f == float64(int64(f)) && f > -(1<<53) && f < 1<<53 {
			return int64(f), false
		}
		return float64(v), false
	}
	b, isSecret := a.bytes(n)
	return string(b), isSecret
}

// fault is an error of a statement. Servers quote what they do not understand, and
// that may be a part of a secret.
func (c *sqlConn) fault(ctx context.Context, err error, hide bool) *sdk.Error {
	e := c.db.fault(err)
	if ctx.Err() != nil {
		e.Class, e.Reason = sdk.ClassUnreachable, "deadline"
	}
	if hide {
		e.Err = errors.New("the server's words are left out, since the statement has a secret in it")
	}
	return e
}

func (a *args) rows(got *rows) int {
	seen := map[string]bool{}
	for _, name := range got.columns {
		if seen[name] || len(got.columns) > maxNames {
			a.wrong("two columns are called %q, or there are more than %d: name them with AS", name, maxNames)
		}
		seen[name] = true
	}
	list := a.L.CreateTable(len(got.values), 0)
	for _, values := range got.values {
		row := a.L.CreateTable(0, len(values))
		for i, v := range values {
			row.RawSetString(got.columns[i], a.plain(v))
		}
		list.Append(row)
	}
	return a.push(list)
}

func sqlLiteral(a *args) int {
	c := a.self.(*sqlConn)
	b, isSecret := a.bytes(1)
	if quotable(string(b)) != nil {
		a.bad(1, "it is no UTF-8, or has NUL in it")
	}
	ctx, cancel := a.within(c.limit)
	defer cancel()
	quoted, err := c.db.literal(ctx, string(b))
	if err != nil {
		e := c.fault(ctx, err, false)
		e.NotSent = true
		return a.fail(e)
	}
	return a.give([]byte(quoted), isSecret)
}
