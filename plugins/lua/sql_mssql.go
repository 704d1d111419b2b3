package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"

	mssql "github.com/microsoft/go-mssqldb"
	"github.com/microsoft/go-mssqldb/msdsn"

	"github.com/rotunda-pam/rotunda/sdk"
)

// sqlServer is a login on Microsoft's SQL Server, by SQL Server's own logins. No such
// server can be had where this is tested: what is tested is what stands before it answers.
type sqlServer struct{ *pooled }

// agentDialer leaves the resolution of names to the agent.
type agentDialer struct {
	sdk.Dialer
	address string

	mu      sync.Mutex
	dialled net.Conn
}

// hang closes what was dialled: the driver's handshake takes no context.
func (d *agentDialer) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dialled != nil {
		_ = d.dialled.Close()
	}
}

func (d *agentDialer) HostName() string { return d.address }

// DialContext reaches the one address, also where the server sends the driver to another.
func (d *agentDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" || spelt(address) != spelt(d.address) {
		return nil, &sdk.Error{Class: sdk.ClassPermission, Reason: "sql.redirect", NotSent: true, Err: errors.New("the server sends on to another address")}
	}
	c, err := d.Dialer.DialContext(ctx, network, d.address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dialled = c
	return c, err
}

func openSQLServer(ctx context.Context, l sqlLogin) (database, *sdk.Error) {
	host, port, err := net.SplitHostPort(l.at.Address)
	number, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || host == "" {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: errors.New("the address must be host:port")}
	}
	if strings.Contains(l.name, `\`) { // the driver would take it for a login of Windows
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "sql.login", NotSent: true, Err: errors.New("a login of SQL Server has no backslash")}
	}
	secure, err := sdk.TLSConfig(l.host, l.at)
	if err != nil {
		return nil, asError(err, sdk.ClassInvalid, "address")
	}
	c := msdsn.Config{
		Host: host, Port: number, Database: l.database, User: l.name, Password: l.secret.ExposeString(),
		Encryption: msdsn.EncryptionDisabled, Protocols: []string{"tcp"}, Parameters: map[string]string{}, ProtocolParameters: map[string]any{},
		AppName: "rotunda", Workstation: "rotunda", DisableRetry: true, NoTraceID: true, PacketSize: 4096, DialTimeout: -1, HostInCertificateProvided: true,
	}
	// The driver keeps only the text of what the proof of the key says.
	var refused error
	proven := secure == nil
	if secure != nil {
		proof := secure.VerifyConnection
		secure.VerifyConnection = func(s tls.ConnectionState) error {
			refused = proof(s)
			proven = refused == nil
			return refused
		}
		c.Encryption, c.TLSConfig = msdsn.EncryptionRequired, secure
	}
	connector := mssql.NewConnectorConfig(c)
	dialer := &agentDialer{Dialer: l.host.Dialer, address: l.at.Address}
	connector.Dialer = dialer
	stop := context.AfterFunc(ctx, dialer.hang)
	conn, err := connector.Connect(ctx)
	stop()
	if err == nil {
		db := sqlServer{}
		if db.pooled, err = newPooled(ctx, connector, conn, sqlServerText, dialer.hang); err == nil {
			return db, nil
		}
	}
	dialer.hang()
	return nil, loginFault(ctx, sqlServer{}.fault(errors.Join(refused, err)), proven)
}

func sqlServerText(kind string, b []byte) any {
	if kind == "UNIQUEIDENTIFIER" {
		var id mssql.UniqueIdentifier
		if id.Scan(b) == nil {
			return id.String()
		}
	}
	return string(b)
}

func (sqlServer) literal(_ context.Context, text string) (string, error) {
	if err := quotable(text); err != nil {
		return "", err
	}
	return "N'" + strings.ReplaceAll(text, "'", "''") + "'", nil
}

func (sqlServer) identifier(name string) (string, error) {
	return quoteName(name, "[", "]", 128, func(s string) int { return len(utf16.Encode([]rune(s))) })
}

// fault reads the number of the server's error (sys.messages).
func (sqlServer) fault(err error) *sdk.Error {
	var ms mssql.Error
	if !errors.As(err, &ms) {
		return sqlFault(err)
	}
	e := &sdk.Error{Class: sdk.ClassInvalid, Reason: "sql." + strconv.Itoa(int(ms.Number)), Err: errors.New(ms.Message)}
	switch ms.Number {
	case 18456:
		e.Class, e.Reason = sdk.ClassAuth, "bad_secret"
	case 18470, 18486: // disabled, locked out
		e.Class, e.Reason = sdk.ClassAuth, "locked"
	case 18487, 18488: // expired, must be changed
		e.Class, e.Reason = sdk.ClassAuth, "expired"
	case 229, 230, 262, 300, 15247, 15151: // the last: it does not exist, or may not be altered
		e.Class = sdk.ClassPermission
	case 208, 4060, 15007:
		e.Class = sdk.ClassNotFound
	case 15113, 15114, 15115, 15116, 15118, 15119: // what the password policy says
		e.Class = sdk.ClassPolicy
	case 2601, 2627, 15025, 15023:
		e.Class = sdk.ClassConflict
	case 1205, 1222, 40197, 40501, 40613:
		e.Class = sdk.ClassUnreachable
	}
	return e
}
