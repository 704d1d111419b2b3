package main

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"

	"github.com/rotunda-pam/rotunda/sdk"
)

// mySQL is a login on MySQL or MariaDB. Parameters are bound by the server, which prepares
// each statement that has some.
type mySQL struct{ *pooled }

// mysqlTries is how often a login is begun that the driver breaks off before it answers the
// challenge that counts: by chance that is once in 256 times with MariaDB's ed25519.
const mysqlTries = 5

func openMySQL(ctx context.Context, l sqlLogin) (db database, failed *sdk.Error) {
	for range mysqlTries {
		var unused bool
		if db, unused, failed = mysqlLogin(ctx, l); !unused {
			break
		}
	}
	return db, failed
}

// mysqlLogin logs in once. unused says that the driver understood the server's challenge no
// more than that it was one, and answered nothing to it.
func mysqlLogin(ctx context.Context, l sqlLogin) (_ database, unused bool, _ *sdk.Error) {
	secure, err := sdk.TLSConfig(l.host, l.at)
	if err != nil {
		return nil, false, asError(err, sdk.ClassInvalid, "address")
	}
	line, proven := &countedConn{}, secure == nil
	if secure != nil {
		proof := secure.VerifyConnection
		secure.VerifyConnection = func(s tls.ConnectionState) error {
			err := proof(s)
			proven, line.writes = err == nil, 0
			return err
		}
	}
	c := mysql.NewConfig() // no password in clear, none of the old form, one statement at a time
	c.User, c.Passwd, c.DBName = l.name, l.secret.ExposeString(), l.database
	c.Net, c.Addr, c.TLS = "tcp", l.at.Address, secure
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		line.Conn, err = l.host.Dialer.DialContext(ctx, network, address)
		return line, err
	}
	c.MaxAllowedPacket = maxString
	c.ConnectionAttributes = "program_name:rotunda"
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, false, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: errors.New("the address must be host:port")}
	}
	conn, err := connectMySQL(ctx, connector)
	if err == nil {
		db := mySQL{}
		if db.pooled, err = newPooled(ctx, connector, conn, mysqlText, func() { _ = line.Close() }); err == nil {
			// Names and values arrive as they are, whatever the server does for every connection.
			_, err = db.exec(ctx, "SET NAMES utf8mb4", nil)
		}
		if err == nil {
			return db, false, nil
		}
	}
	if line.Conn != nil {
		_ = line.Close()
	}
	// Who it is, and before it the end of the TLS handshake: then the challenge came.
	begun := 1
	if secure != nil {
		begun = 2
	}
	unused = proven && errors.Is(err, mysql.ErrMalformPkt) && line.writes == begun
	fault := mySQL{}.fault(err)
	if fault.Reason == "sql.driver" { // it refused how the server asked
		fault.Class, fault.Reason = sdk.ClassUnsupported, "auth.method"
	}
	return nil, unused, loginFault(ctx, fault, proven)
}

// connectMySQL has the driver log in. It takes a greeting apart without looking at its
// length, and whoever greets has proven nothing yet.
func connectMySQL(ctx context.Context, c driver.Connector) (conn driver.Conn, err error) {
	defer func() {
		if p := recover(); p != nil {
			conn, err = nil, fmt.Errorf("what the server says is not understood: %v", p)
		}
	}()
	return c.Connect(ctx)
}

// countedConn counts what is written.
type countedConn struct {
	net.Conn
	writes int
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

// mysqlText is a value that the driver gives as bytes.
func mysqlText(_ string, b []byte) any { return string(b) }

// literal asks the server how it reads a backslash, which the script may have changed, and
// that it reads texts as the UTF-8 that they are: in other character sets a backslash can
// be the second half of a character.
func (m mySQL) literal(ctx context.Context, text string) (string, error) {
	if err := quotable(text); err != nil {
		return "", err
	}
	quoted := strings.ReplaceAll(text, "'", "''")
	if strings.Contains(text, `\`) {
		got, err := m.query(ctx, "SELECT @@SESSION.sql_mode, @@SESSION.character_set_client", nil)
		if err != nil || len(got.values) != 1 {
			return "", errors.Join(err, errors.New("the server does not say how it reads a backslash"))
		}
		mode, set := fmt.Sprint(got.values[0][0]), fmt.Sprint(got.values[0][1])
		if !strings.HasPrefix(set, "utf8") {
			return "", fmt.Errorf("the connection's character set is %s: a text with a backslash is quoted in utf8mb4 only", set)
		}
		if !slices.Contains(strings.Split(mode, ","), "NO_BACKSLASH_ESCAPES") {
			quoted = strings.ReplaceAll(quoted, `\`, `\\`)
		}
	}
	return "'" + quoted + "'", nil
}

func (mySQL) identifier(name string) (string, error) {
	return quoteName(name, "`", "`", 64, utf8.RuneCountInString)
}

// fault reads the number of the server's error (MySQL's and MariaDB's lists).
func (mySQL) fault(err error) *sdk.Error {
	var my *mysql.MySQLError
	switch {
	case errors.Is(err, mysql.ErrInvalidConn):
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "connection", Err: err}
	case errors.Is(err, mysql.ErrPktTooLarge):
		return sqlFault(errTooLarge)
	case !errors.As(err, &my):
		return sqlFault(err)
	}
	e := &sdk.Error{Class: sdk.ClassInvalid, Reason: "sql." + strconv.Itoa(int(my.Number)), Err: errors.New(my.Message)}
	switch my.Number {
	case 1045, 1698: // or there is no such account, or it may not come from this host
		e.Class, e.Reason = sdk.ClassAuth, "bad_secret"
	case 3118, 3955, 4151, 4150: // locked by a person, and by too many wrong passwords
		e.Class, e.Reason = sdk.ClassAuth, "locked"
	case 1820, 1862: // let in to change the password, and not let in
		e.Class, e.Reason = sdk.ClassAuth, "expired"
	case 1130: // nobody may come from this host
		e.Class, e.Reason = sdk.ClassAuth, "no_login"
	case 1044, 1142, 1143, 1227, 1370:
		e.Class = sdk.ClassPermission
	case 1049, 1054, 1133, 1146, 1396, 1410:
		e.Class = sdk.ClassNotFound
	case 1062, 1050, 1007, 1792, 1836:
		e.Class = sdk.ClassConflict
	case 1819, 3638:
		e.Class = sdk.ClassPolicy
	case 1235, 1251, 1295, 1524, 3159:
		e.Class = sdk.ClassUnsupported
	case 1040, 1047, 1053, 1129, 1203, 1205, 1206, 1213, 1226, 3032:
		e.Class = sdk.ClassUnreachable
	}
	return e
}
