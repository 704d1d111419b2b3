package floor

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Postgres is a server that keeps what it was told.
type Postgres struct {
	PG    *targets.PG
	login *pgconn.Config
	admin []*pgconn.PgConn // warm sessions, one for each in flight
	roles int
}

const iterations = 4096 // of SCRAM, PostgreSQL's and its clients' own number

// StartPostgres starts one.
func StartPostgres(ctx context.Context, dir string) (Target, error) {
	// What a test leaves out counts here.
	pg, err := targets.StartPostgres(ctx, filepath.Join(dir, "pg"),
		"fsync=on", "log_statement=none", "log_connections=off", "max_connections=300", "shared_buffers=128MB")
	if err != nil {
		return nil, err
	}
	p := &Postgres{PG: pg}
	if p.login, err = pgconn.ParseConfig("user=u dbname=" + pg.Database + " sslmode=disable"); err != nil {
		return nil, errors.Join(err, pg.Stop())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pg.CA)
	p.login.Host, p.login.Port, p.login.Fallbacks = pg.Host, uint16(pg.Port), nil
	p.login.TLSConfig = &tls.Config{ServerName: pg.ServerName, RootCAs: roots, MinVersion: tls.VersionTLS12}
	if err := p.Warm(ctx, 1); err != nil {
		return nil, errors.Join(err, pg.Stop())
	}
	return p, nil
}

// Name of server and library.
func (p *Postgres) Name() string {
	return "PostgreSQL " + p.admin[0].ParameterStatus("server_version") + ", " + module("github.com/jackc/pgx/v5")
}

// Pid of the server.
func (p *Postgres) Pid() int { return p.PG.Pid() }

// Close ends it.
func (p *Postgres) Close() error {
	for _, c := range p.admin {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = c.Close(ctx)
		cancel()
	}
	return p.PG.Stop()
}

// Endpoint of the server, with the administrator that plugins use.
func (p *Postgres) Endpoint() Endpoint {
	return Endpoint{
		Resource: sdk.Resource{Address: p.PG.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}},
		Pins:     [][sha256.Size]byte{p.PG.SPKI}, Admin: credential(p.PG.AdminPassword), AdminAs: sdk.Account{Name: p.PG.Admin},
	}
}

// Accounts makes roles.
func (p *Postgres) Accounts(ctx context.Context, n int) ([]*Account, error) {
	var all []*Account
	var sql []string
	for range n {
		a := &Account{sdk.Account{Name: "role_" + strconv.Itoa(p.roles)}, sdk.NewSecret([]byte("first"))}
		p.roles++
		all = append(all, a)
		sql = append(sql, "CREATE ROLE "+a.Name+" LOGIN PASSWORD 'first'")
	}
	return all, p.PG.Exec(ctx, sql...)
}

// connect logs in afresh.
func (p *Postgres) connect(ctx context.Context, user string, password sdk.Secret) (*pgconn.PgConn, error) {
	c := p.login.Copy()
	c.User, c.Password = user, password.ExposeString()
	return pgconn.ConnectConfig(ctx, c)
}

// Warm logs the administrator in.
func (p *Postgres) Warm(ctx context.Context, n int) error {
	for len(p.admin) < n {
		c, err := p.connect(ctx, p.PG.Admin, p.PG.AdminPassword)
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		p.admin = append(p.admin, c)
	}
	return nil
}

// Rotate is ALTER ROLE with a computed verifier, and then a fresh login with the new
// password, or the stored verifier read back.
func (p *Postgres) Rotate(ctx context.Context, session int, a *Account, verify string) error {
	admin, role := p.admin[session], a.Name
	a.Secret = Password()
	password := a.Secret.ExposeString()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	v, err := verifier(password, salt, iterations)
	if err != nil {
		return err
	}
	if err := admin.Exec(ctx, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" PASSWORD '"+v+"'").Close(); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	if verify == "readback" {
		return readBack(ctx, admin, role, password)
	}
	c, err := p.connect(ctx, role, a.Secret)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return c.Close(ctx)
}

// readBack compares the stored verifier with one that is computed from the password
// and the stored salt.
func readBack(ctx context.Context, admin *pgconn.PgConn, role, password string) error {
	r := admin.ExecParams(ctx, "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1::text", [][]byte{[]byte(role)}, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != 1 {
		return fmt.Errorf("read back: %d rows, %w", len(r.Rows), r.Err)
	}
	stored := string(r.Rows[0][0])
	_, rest, _ := strings.Cut(strings.TrimPrefix(stored, "SCRAM-SHA-256$"), ":")
	text, _, _ := strings.Cut(rest, "$")
	salt, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	mine, err := verifier(password, salt, iterations)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(mine), []byte(stored)) != 1 {
		return errors.New("read back: the stored verifier is another password's")
	}
	return nil
}

// verifier is RFC 5802's, as PostgreSQL stores it.
func verifier(password string, salt []byte, n int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, n, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(name string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(name))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", n, b(salt), b(stored[:]), b(mac("Server Key"))), nil
}
