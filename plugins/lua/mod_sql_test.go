package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// dbServer is a database server as scripts see it.
type dbServer struct {
	kind, login string
	secret      sdk.Secret
	at          sdk.Resource
	pins        []byte
}

// run runs code, in which db is a connection unless it makes its own.
func (d dbServer) run(t *testing.T, code string, fill func(*state, *lua.LTable)) error {
	t.Helper()
	if !strings.Contains(code, "sql.connect{") {
		code = "local db = assert(sql.connect{kind = job.kind, login = job.login, secret = job.secret, timeout = 20})\n" + code
	}
	b := newBench(t, []string{"sql", "secret", "text"}, "", code)
	b.allow, b.host.Pins[d.at.Address] = []string{d.at.Address}, d.pins
	_, err := b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("kind", lua.LString(d.kind))
		job.RawSetString("login", lua.LString(d.login))
		job.RawSetString("secret", s.credential(sdk.Credential{Secret: d.secret}))
		if fill != nil {
			fill(s, job)
		}
	}, d.at)
	return err
}

// logins are those that each server judges in the same way.
func (d dbServer) logins(t *testing.T) {
	wrongKey := d
	wrongKey.pins = make([]byte, sha256.Size)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := d
	down.at.Address = l.Addr().String()
	l.Close()
	silent := d
	silent.at.Address, silent.at.TLS = serve(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_, _ = c.Read(make([]byte, 1<<16))
		_, _ = c.Read(make([]byte, 1))
	}), sdk.TLS{Mode: sdk.TLSSystem}
	for name, c := range map[string]struct {
		d      dbServer
		with   string
		class  sdk.Class
		reason string
	}{
		"wrong secret": {d, `secret = secret.of("not it")`, sdk.ClassAuth, "bad_secret"},
		"wrong key":    {wrongKey, `secret = job.secret`, sdk.ClassAuth, "target_identity"},
		"down":         {down, `secret = job.secret`, sdk.ClassUnreachable, "connection"},
		"elsewhere":    {d, `secret = job.secret, address = "127.0.0.1:1"`, sdk.ClassPermission, "dial.denied"},
		"silent":       {silent, `secret = job.secret, timeout = 0.5`, sdk.ClassUnreachable, "deadline"},
	} {
		if err := c.d.run(t, failsWith("sql.connect{kind = job.kind, login = job.login, "+c.with+"}", c.class, c.reason, true), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.run(t, refused(`sql.connect{kind = job.kind, login = job.login, secret = ""}`, "want one"), nil); err != nil {
		t.Error(err)
	}
}

// trickyTexts are texts that are not what they seem to a server that reads them as a part of a
// statement.
var trickyTexts = []string{`it's`, `a\`, `\'; DROP TABLE kept; --`, `'; DROP TABLE kept; --`, `"`, `$$a$$`, "é€😀", `%s?$1@p1`, "a\tb\nc", "`", `\\''\\`, "" + strings.Repeat("'", 100)}

func TestPostgresSQL(t *testing.T) {
	pg := targets.Postgres(t)
	d := dbServer{"postgres", pg.Admin, pg.AdminPassword, sdk.Resource{Address: pg.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, pg.SPKI[:]}
	if err := pg.Exec(t.Context(), "CREATE TABLE kept (n int, v text)"); err != nil {
		t.Fatal(err)
	}
	t.Run("login", d.logins)
	for name, code := range map[string]string{
		"values": `local r = assert(db:query("SELECT 1::int8 AS n, 1.5::float8 AS f, 'a' AS t, true AS b, NULL AS no, 12.10::numeric AS d, '\\x00ff'::bytea AS raw, 9007199254740993 AS big"))
			assert(#r == 1) local v = r[1]
			assert(v.n == 1 and v.f == 1.5 and v.t == "a" and v.b == true and v.no == nil and v.d == "12.10" and v.raw == "\0\255" and v.big == "9007199254740993")`,
		"parameters": `assert(db:exec("INSERT INTO kept VALUES ($1, $2), ($3, $4)", 1, "a", nil, secret.of("b")) == 2)
			local r = assert(db:query("SELECT * FROM kept WHERE v = $1 OR n = $2 ORDER BY v", secret.of("b"), 1)) assert(#r == 2 and r[1].v == "a" and r[2].n == nil)`,
		"no rows":            `assert(#assert(db:query("SELECT 1 WHERE false")) == 0)`,
		"no result":          `assert(#assert(db:query("SET x.y = 'z'")) == 0)`,
		"two statements":     failsWith(`db:exec("SELECT 1; DROP TABLE kept")`, sdk.ClassInvalid, "sql.42601", false),
		"no such table":      failsWith(`db:query("SELECT * FROM nowhere")`, sdk.ClassNotFound, "sql.42p01", false),
		"too many rows":      failsWith(`db:query("SELECT generate_series(1, 20000)")`, sdk.ClassUnsupported, "sql.too_large", false),
		"too many bytes":     failsWith(`db:query("SELECT repeat('a', 1000000) FROM generate_series(1, 20)")`, sdk.ClassUnsupported, "sql.too_large", false),
		"closed":             `db:close() ` + failsWith(`db:exec("DROP TABLE kept")`, sdk.ClassUnreachable, "connection", true),
		"slow":               `local db = assert(sql.connect{kind = job.kind, login = job.login, secret = job.secret, timeout = 4}) ` + failsWith(`db:query("SELECT pg_sleep(60)")`, sdk.ClassUnreachable, "deadline", false),
		"another database":   failsWith(`sql.connect{kind = job.kind, login = job.login, secret = job.secret, database = "nowhere"}`, sdk.ClassNotFound, "sql.3d000", true),
		"a column twice":     refused(`db:query("SELECT 1 AS a, 2 AS a")`, "AS"),
		"a secret query":     refused(`db:query(text.concat("SELECT ", secret.of("1")))`, "want a text, got a secret"),
		"a glued secret":     refused(`db:exec("SELECT '" .. job.secret .. "'")`, "placeholder"),
		"a name that is cut": refused(`db:quote_identifier(string.rep("a", 64))`, "1 to 63"),
		"no words of a secret": `local r, e = db:exec(text.concat("SELEKT '", secret.of("hunter22"), "' part")) assert(e.reason == "sql.42601" and not tostring(e):find("SELEKT"), tostring(e))
			local r, e = db:exec("SELEKT 1") assert(tostring(e):find("SELEKT"), tostring(e))`,
	} {
		if err := d.run(t, code, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n, text := range trickyTexts {
		role := fmt.Sprintf(`app %d"'; DROP TABLE kept; --`, n)
		if err := pg.CreateRole(t.Context(), role, sdk.NewSecret([]byte("before")), ""); err != nil {
			t.Fatal(err)
		}
		err := d.run(t, `assert(db:exec(text.concat("ALTER ROLE ", db:quote_identifier(job.role), " PASSWORD ", assert(db:quote_literal(job.new)))))
			assert(db:query("SELECT $1::text AS v", job.text)[1].v == job.text)
			assert(db:exec("SET standard_conforming_strings = off"))
			assert(db:query("SELECT " .. assert(db:quote_literal(job.text)) .. " AS v")[1].v == job.text)`,
			func(s *state, job *lua.LTable) {
				job.RawSetString("role", lua.LString(role))
				job.RawSetString("text", lua.LString(text))
				job.RawSetString("new", s.secretBytes([]byte(text)))
			})
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if strings.ContainsAny(text, "\n") { // no file of passwords holds it
			continue
		}
		if ok, err := pg.Accepts(t.Context(), role, sdk.NewSecret([]byte(text))); err != nil || !ok {
			t.Errorf("psql with %q: %v, %v", text, ok, err)
		}
	}
}

func TestMySQL(t *testing.T) {
	m := targets.Maria(t)
	d := dbServer{"mysql", m.Admin, m.AdminPassword, sdk.Resource{Address: m.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, m.SPKI[:]}
	if err := m.Exec(t.Context(), "CREATE DATABASE app", "CREATE TABLE app.kept (n int, v text)", "GRANT ALL ON app.* TO "+m.Admin+"@'%'"); err != nil {
		t.Fatal(err)
	}
	t.Run("login", d.logins)
	for name, code := range map[string]string{
		"values": `local r = assert(db:query("SELECT 1 AS n, 1.5e0 AS f, 'a' AS t, NULL AS no, 12.10 AS d, x'00ff' AS raw, 18446744073709551615 AS big"))
			assert(#r == 1) local v = r[1]
			assert(v.n == 1 and v.f == 1.5 and v.t == "a" and v.no == nil and v.d == "12.10" and v.raw == "\0\255" and v.big == "18446744073709551615")
			assert(db:query("SELECT ? + 1 AS n, ? AS t", 1, "x")[1].n == 2)`,
		"parameters": `assert(db:exec("INSERT INTO app.kept VALUES (?, ?), (?, ?)", 1, "a", nil, secret.of("b")) == 2)
			local r = assert(db:query("SELECT * FROM app.kept WHERE v = ? OR n = ? ORDER BY v", secret.of("b"), 1)) assert(#r == 2 and r[1].v == "a" and r[2].n == nil)`,
		"no rows":            `assert(#assert(db:query("SELECT 1 FROM app.kept WHERE false")) == 0)`,
		"two statements":     failsWith(`db:exec("SELECT 1; DROP TABLE app.kept")`, sdk.ClassInvalid, "sql.1064", false),
		"no such table":      failsWith(`db:query("SELECT * FROM app.nowhere")`, sdk.ClassNotFound, "sql.1146", false),
		"too many rows":      failsWith(`db:query("SELECT 1 FROM information_schema.columns a, information_schema.columns b LIMIT 20000")`, sdk.ClassUnsupported, "sql.too_large", false),
		"closed":             `db:close() ` + failsWith(`db:exec("DROP TABLE app.kept")`, sdk.ClassUnreachable, "connection", true),
		"slow":               `local db = assert(sql.connect{kind = job.kind, login = job.login, secret = job.secret, timeout = 4}) ` + failsWith(`db:query("SELECT SLEEP(60)")`, sdk.ClassUnreachable, "deadline", false),
		"a name that is cut": refused(`db:quote_identifier(string.rep("a", 65))`, "1 to 64"),
		"a name":             "assert(db:quote_identifier('a`b') == '`a``b`')",
		"another charset": `assert(db:exec("SET NAMES gbk")) assert(db:quote_literal("a'b") == "'a''b'")
			local r, e = db:quote_literal("a\\b") assert(r == nil and e.not_sent, tostring(e))`,
		"no words of a secret": `local r, e = db:exec(text.concat("SELEKT '", secret.of("hunter22"), "' part")) assert(e.reason == "sql.1064" and not tostring(e):find("SELEKT"), tostring(e))`,
	} {
		if err := d.run(t, code, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n, text := range trickyTexts {
		user := fmt.Sprintf(`app %d"'; --`, n)
		if err := m.CreateUser(t.Context(), strings.ReplaceAll(user, `\`, ``), m.Host, "mysql_native_password", sdk.NewSecret([]byte("before"))); err != nil {
			t.Fatal(err)
		}
		err := d.run(t, `assert(db:exec(text.concat("ALTER USER ", db:quote_literal(job.user), "@", db:quote_literal(job.host), " IDENTIFIED BY ", assert(db:quote_literal(job.new)))))
			assert(db:query("SELECT ? AS v", job.text)[1].v == job.text)
			assert(db:exec("SET sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'"))
			assert(db:query("SELECT " .. assert(db:quote_literal(job.text)) .. " AS v")[1].v == job.text)`,
			func(s *state, job *lua.LTable) {
				job.RawSetString("user", lua.LString(user))
				job.RawSetString("host", lua.LString(m.Host))
				job.RawSetString("text", lua.LString(text))
				job.RawSetString("new", s.secretBytes([]byte(text)))
			})
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if _, ok, err := m.Accepts(t.Context(), user, sdk.NewSecret([]byte(text))); err != nil || !ok {
			t.Errorf("mariadb with %q: %v, %v", text, ok, err)
		}
	}
	// A bound parameter is not written into the statement by this side.
	log, err := os.ReadFile(m.GeneralLog)
	if err != nil || !strings.Contains(string(log), "Prepare\tINSERT INTO app.kept VALUES (?, ?), (?, ?)") {
		t.Errorf("the server was not asked to bind: %v", err)
	}
}

// SQL Server's driver is held to the place, and to its proof, before anybody logs in.
func TestSQLServer(t *testing.T) {
	said := make(chan byte, 20)
	server := func(answer string) dbServer {
		d := dbServer{kind: "mssql", login: "sa", secret: sdk.NewSecret([]byte("s4-secret")), pins: make([]byte, sha256.Size)}
		d.at = sdk.Resource{TLS: sdk.TLS{Mode: sdk.TLSPin}, Address: serve(t, func(c net.Conn) {
			b := make([]byte, 4096)
			if n, err := c.Read(b); err == nil && n > 0 {
				said <- b[0]
				_, _ = c.Write([]byte(answer))
			}
			if n, err := c.Read(b); err == nil && n > 0 {
				said <- b[0]
			}
		})}
		return d
	}
	// The option ENCRYPTION alone: 2 is not supported, 1 is on.
	prelogin := func(encryption string) string {
		return "\x04\x01\x00\x0f\x00\x00\x00\x00" + "\x01\x00\x06\x00\x01\xff" + encryption
	}
	const call = `sql.connect{kind = job.kind, login = job.login, secret = job.secret, timeout = 1}`
	if err := server(prelogin("\x02")).run(t, failsWith(call, sdk.ClassAuth, "target_identity", true), nil); err != nil {
		t.Errorf("no TLS: %v", err)
	}
	if b := <-said; b != 0x12 { // PRELOGIN
		t.Errorf("it was sent %x", b)
	}
	if err := server("").run(t, failsWith(call, sdk.ClassUnreachable, "deadline", true), nil); err != nil {
		t.Errorf("a server that says nothing: %v", err)
	}
	for name, c := range map[string][2]string{"name": {"a]b", "[a]]b]"}, "text": {"it's", "N'it''s'"}} {
		got, err := sqlServer{}.identifier(c[0])
		if name == "text" {
			got, err = sqlServer{}.literal(context.Background(), c[0])
		}
		if err != nil || got != c[1] {
			t.Errorf("%q is %q, %v, want %q", c[0], got, err, c[1])
		}
	}
	if _, err := (sqlServer{}).identifier(strings.Repeat("😀", 65)); err == nil {
		t.Error("a name that the server cuts is quoted")
	}
}

// What is quoted is one literal, and is read as the text that it was made of.
func FuzzSQLQuotes(f *testing.F) {
	for _, text := range trickyTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			if _, err := (postgres{}).literal(t.Context(), text); err == nil {
				t.Fatalf("%q is quoted", text)
			}
			return
		}
		pg, err := postgres{}.literal(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		escapes := strings.HasPrefix(pg, " E'")
		if got, ok := unquote(strings.TrimPrefix(pg, " E"), '\'', escapes); !ok || got != text || !escapes && strings.Contains(text, `\`) {
			t.Errorf("PostgreSQL reads %s as %q", pg, got)
		}
		ms, err := sqlServer{}.literal(t.Context(), text)
		if got, ok := unquote(strings.TrimPrefix(ms, "N"), '\'', false); err != nil || !ok || got != text {
			t.Errorf("SQL Server reads %s as %q, %v", ms, got, err)
		}
		for quote, of := range map[byte]func(string) (string, error){'"': postgres{}.identifier, '`': mySQL{}.identifier} {
			name, err := of(text)
			if err != nil {
				continue
			}
			if got, ok := unquote(name, quote, false); !ok || got != text {
				t.Errorf("%s is read as %q", name, got)
			}
		}
	})
}

// unquote reads one quoted text as a server does.
func unquote(s string, quote byte, escapes bool) (string, bool) {
	if len(s) < 2 || s[0] != quote {
		return "", false
	}
	var out []byte
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && escapes:
			i++
			if i == len(s) {
				return "", false
			}
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] == quote:
			return string(out), i == len(s)-1
		}
		out = append(out, s[i])
	}
	return "", false
}
