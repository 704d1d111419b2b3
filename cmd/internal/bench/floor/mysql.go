package floor

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// MariaDB is a server with accounts that log in by mysql_native_password.
type MariaDB struct {
	server *targets.MariaDBServer
	tls    *tls.Config
	admin  []driver.Conn
	users  int
}

// StartMariaDB starts one.
func StartMariaDB(ctx context.Context, dir string) (Target, error) {
	s, err := targets.StartMariaDB(ctx, filepath.Join(dir, "mariadb"))
	if err != nil {
		return nil, err
	}
	return &MariaDB{server: s, tls: trusting(s.CA)}, nil
}

// trusting is a client's configuration that knows one authority.
func trusting(ca []byte) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{ServerName: "localhost", RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// Name of server and library.
func (m *MariaDB) Name() string { return "MariaDB, " + module("github.com/go-sql-driver/mysql") }

// Endpoint of the server, with the administrator that plugins use.
func (m *MariaDB) Endpoint() Endpoint {
	return Endpoint{
		Resource: sdk.Resource{Address: m.server.Address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, Pins: [][sha256.Size]byte{m.server.SPKI},
		Admin: credential(m.server.AdminPassword), AdminAs: sdk.Account{Name: m.server.Admin},
	}
}

// Accounts makes users.
func (m *MariaDB) Accounts(ctx context.Context, n int) ([]*Account, error) {
	var all []*Account
	var statements []string
	for range n {
		a := &Account{sdk.Account{Name: "user_" + strconv.Itoa(m.users), Scope: m.server.Host}, Password()}
		m.users++
		all = append(all, a)
		statements = append(statements, "CREATE USER "+a.Name+"@'"+a.Scope+"' IDENTIFIED VIA mysql_native_password USING '"+native(a.Secret)+"'")
	}
	return all, m.server.Exec(ctx, statements...)
}

// native is what mysql_native_password stores: SHA1(SHA1(password)).
func native(password sdk.Secret) string {
	once := sha1.Sum(password.Expose())
	twice := sha1.Sum(once[:])
	return "*" + strings.ToUpper(hex.EncodeToString(twice[:]))
}

func (m *MariaDB) connect(ctx context.Context, user string, password sdk.Secret) (driver.Conn, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr, c.TLS = user, password.ExposeString(), "tcp", m.server.Address, m.tls
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return connector.Connect(ctx)
}

// Warm logs the administrator in.
func (m *MariaDB) Warm(ctx context.Context, n int) error {
	for len(m.admin) < n {
		c, err := m.connect(ctx, m.server.Admin, m.server.AdminPassword)
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		m.admin = append(m.admin, c)
	}
	return nil
}

// Rotate is ALTER USER with a computed digest, and a fresh login that runs a statement: one
// whose password has expired logs in and may run none.
func (m *MariaDB) Rotate(ctx context.Context, session int, a *Account, _ string) error {
	a.Secret = Password()
	change := "ALTER USER " + a.Name + "@'" + a.Scope + "' IDENTIFIED VIA mysql_native_password USING '" + native(a.Secret) + "'"
	if _, err := m.admin[session].(driver.ExecerContext).ExecContext(ctx, change, nil); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	c, err := m.connect(ctx, a.Name, a.Secret)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	rows, err := c.(driver.QueryerContext).QueryContext(ctx, "SELECT CURRENT_USER()", nil)
	if err == nil {
		err = errors.Join(rows.Next(make([]driver.Value, 1)), rows.Close())
	}
	return errors.Join(err, c.Close())
}

// Pid of the server.
func (m *MariaDB) Pid() int { return m.server.Pid() }

// Close ends it.
func (m *MariaDB) Close() error {
	for _, c := range m.admin {
		_ = c.Close()
	}
	return m.server.Stop()
}
