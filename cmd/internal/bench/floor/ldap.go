package floor

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"unicode/utf16"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Directory is an OpenLDAP or a domain controller.
type Directory struct {
	name    string
	at      Endpoint
	tls     *tls.Config
	create  func(ctx context.Context, name string, password sdk.Secret) (dn string, err error)
	change  func(c *ldap.Conn, dn string, password sdk.Secret) error
	pid     func() int
	stop    func() error
	admin   []*ldap.Conn
	entries int
}

// StartLDAP starts an OpenLDAP, which changes passwords by RFC 3062's operation.
func StartLDAP(ctx context.Context, dir string) (Target, error) {
	l, err := targets.StartLDAP(ctx, filepath.Join(dir, "ldap"))
	if err != nil {
		return nil, err
	}
	return &Directory{
		name: "OpenLDAP", at: directoryAt(l.Address, l.SPKI, l.Admin, l.AdminPassword), tls: trusting(l.CA),
		create: l.CreateEntry, pid: l.Pid, stop: l.Stop,
		change: func(c *ldap.Conn, dn string, password sdk.Secret) error {
			_, err := c.PasswordModify(ldap.NewPasswordModifyRequest(dn, "", password.ExposeString()))
			return err
		},
	}, nil
}

// StartAD starts a Samba, which resets passwords by unicodePwd.
func StartAD(ctx context.Context, dir string) (Target, error) {
	ad, err := targets.StartAD(ctx, filepath.Join(dir, "ad"))
	if err != nil {
		return nil, err
	}
	return &Directory{
		name: "Samba AD DC", at: directoryAt(ad.Address, ad.SPKI, ad.Admin, ad.AdminPassword), tls: trusting(ad.CA),
		create: func(ctx context.Context, name string, password sdk.Secret) (string, error) {
			return ad.CreateUser(ctx, name, password)
		},
		pid: ad.Pid, stop: ad.Stop,
		change: func(c *ldap.Conn, dn string, password sdk.Secret) error {
			m := ldap.NewModifyRequest(dn, nil)
			m.Replace("unicodePwd", []string{unicodePwd(password)})
			return c.Modify(m)
		},
	}, nil
}

func directoryAt(address string, spki [sha256.Size]byte, admin string, password sdk.Secret) Endpoint {
	return Endpoint{
		Resource: sdk.Resource{Address: address, TLS: sdk.TLS{Mode: sdk.TLSPin}}, Pins: [][sha256.Size]byte{spki},
		Admin: credential(password), AdminAs: sdk.Account{Name: admin},
	}
}

// unicodePwd is a password as the attribute takes it ([MS-ADTS] 3.1.1.3.1.5).
func unicodePwd(password sdk.Secret) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(`"` + password.ExposeString() + `"`)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// Name of server and library.
func (d *Directory) Name() string { return d.name + ", " + module("github.com/go-ldap/ldap/v3") }

// Endpoint of the server, with the administrator that plugins use.
func (d *Directory) Endpoint() Endpoint { return d.at }

// Accounts makes entries.
func (d *Directory) Accounts(ctx context.Context, n int) ([]*Account, error) {
	var all []*Account
	for range n {
		first := Password()
		dn, err := d.create(ctx, "entry"+strconv.Itoa(d.entries), first)
		if err != nil {
			return nil, err
		}
		d.entries++
		all = append(all, &Account{sdk.Account{Name: dn}, first})
	}
	return all, nil
}

func (d *Directory) connect(ctx context.Context, name string, password sdk.Secret) (*ldap.Conn, error) {
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.at.Resource.Address)
	if err != nil {
		return nil, err
	}
	c := ldap.NewConn(tls.Client(tcp, d.tls), true)
	c.Start()
	if err := c.Bind(name, password.ExposeString()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Warm binds as the administrator.
func (d *Directory) Warm(ctx context.Context, n int) error {
	for len(d.admin) < n {
		c, err := d.connect(ctx, d.at.AdminAs.Name, d.at.Admin.Secret)
		if err != nil {
			return fmt.Errorf("the administrator's session: %w", err)
		}
		d.admin = append(d.admin, c)
	}
	return nil
}

// Rotate is the change, and a fresh bind.
func (d *Directory) Rotate(ctx context.Context, session int, a *Account, _ string) error {
	a.Secret = Password()
	if err := d.change(d.admin[session], a.Name, a.Secret); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	c, err := d.connect(ctx, a.Name, a.Secret)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return c.Close()
}

// Pid of the server.
func (d *Directory) Pid() int { return d.pid() }

// Close ends it.
func (d *Directory) Close() error {
	for _, c := range d.admin {
		_ = c.Close()
	}
	return d.stop()
}
