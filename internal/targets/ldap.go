package targets

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/rotunda-pam/rotunda/sdk"
)

// LDAPServer is a running OpenLDAP on 127.0.0.1 with a password policy (at least eight
// characters, two former passwords remembered, three tries) and an administrator who may
// write passwords and has no other rights.
type LDAPServer struct {
	Host          string // 127.0.0.1
	Port          int    // in clear, and StartTLS; it takes no password in clear
	TLSPort       int
	Address       string // host:port, TLS
	Base          string // DN of the people
	Admin         string // DN
	AdminPassword sdk.Secret
	CA            []byte            // PEM
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string            // with every operation

	dir          string
	rootPassword sdk.Secret
	proc         *process
}

const (
	ldapSuffix = "dc=rotunda,dc=test"
	ldapRoot   = "cn=root," + ldapSuffix
	ldapPolicy = "cn=policy," + ldapSuffix
)

// StartLDAP starts an OpenLDAP of its own in dir, which must be empty, absent or left
// over from an earlier one. Lines are further ones of its password policy's overlay.
func StartLDAP(ctx context.Context, dir string, lines ...string) (*LDAPServer, error) {
	if !exists("/usr/sbin/slapd") || !exists("/usr/bin/ldapwhoami") {
		return nil, fmt.Errorf("%w: install slapd and ldap-utils", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	l := &LDAPServer{
		Host: "127.0.0.1", Base: "ou=people," + ldapSuffix, Admin: "cn=agent," + ldapSuffix,
		AdminPassword: sdk.NewSecret([]byte(randomHex(12))), rootPassword: sdk.NewSecret([]byte(randomHex(12))),
		CA: cert.ca, SPKI: cert.spki, LogFile: filepath.Join(dir, "slapd.out"), dir: dir,
	}
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, fmt.Errorf("prepare OpenLDAP: %w", err)
	}
	for name, b := range map[string][]byte{
		"ca.pem": cert.ca, "server.crt": cert.cert, "server.key": cert.key,
		"slapd.conf": []byte(l.conf(lines)), "init.ldif": []byte(l.ldif()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("prepare OpenLDAP: %w", err)
		}
	}
	if err := run(ctx, nil, "/usr/sbin/slapadd", "-q", "-f", filepath.Join(dir, "slapd.conf"), "-l", filepath.Join(dir, "init.ldif")); err != nil {
		return nil, fmt.Errorf("prepare OpenLDAP: %w", err)
	}
	err = onFreePort(func(port int) error {
		l.Port = port
		return onFreePort(func(port int) error {
			l.TLSPort, l.Address = port, net.JoinHostPort(l.Host, strconv.Itoa(port))
			return l.Up(ctx)
		})
	})
	if err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func (l *LDAPServer) conf(overlay []string) string {
	in := func(name string) string { return filepath.Join(l.dir, name) }
	lines := append([]string{
		"include /etc/ldap/schema/core.schema", "include /etc/ldap/schema/cosine.schema", "include /etc/ldap/schema/inetorgperson.schema",
		"modulepath /usr/lib/ldap", "moduleload back_mdb", "moduleload ppolicy",
		"TLSCACertificateFile " + in("ca.pem"), "TLSCertificateFile " + in("server.crt"), "TLSCertificateKeyFile " + in("server.key"),
		"security simple_bind=128", "password-hash {SSHA}", "loglevel stats", "threads 8",
		"database mdb", "suffix " + ldapSuffix, "rootdn " + ldapRoot, "rootpw " + l.rootPassword.ExposeString(), "directory " + in("db"),
		"dbnosync", "maxsize 104857600",
		"overlay ppolicy", "ppolicy_default " + ldapPolicy, "ppolicy_hash_cleartext",
	}, overlay...)
	return strings.Join(append(lines,
		"access to attrs=userPassword by dn.exact=\""+l.Admin+"\" write by self =wx by anonymous auth by * none",
		"access to * by users read",
		"",
	), "\n")
}

func (l *LDAPServer) ldif() string {
	return strings.Join([]string{
		"dn: " + ldapSuffix, "objectClass: dcObject", "objectClass: organization", "dc: rotunda", "o: test", "",
		"dn: " + l.Base, "objectClass: organizationalUnit", "ou: people", "",
		"dn: " + ldapPolicy, "objectClass: device", "objectClass: pwdPolicy", "cn: policy", "pwdAttribute: userPassword",
		"pwdCheckQuality: 2", "pwdMinLength: 8", "pwdInHistory: 2", "pwdLockout: TRUE", "pwdMaxFailure: 3", "pwdAllowUserChange: TRUE", "",
		"dn: " + l.Admin, "objectClass: organizationalRole", "objectClass: simpleSecurityObject", "cn: agent",
		"userPassword: " + l.AdminPassword.ExposeString(), "",
	}, "\n")
}

// Up starts the server again after Down, on the same ports with the same data.
func (l *LDAPServer) Up(ctx context.Context) error {
	var err error
	l.proc, err = start(l.dir, "slapd", nil, "/usr/sbin/slapd", "-f", filepath.Join(l.dir, "slapd.conf"),
		"-h", fmt.Sprintf("ldap://%s:%d ldaps://%s:%d", l.Host, l.Port, l.Host, l.TLSPort), "-d", "stats")
	if err != nil {
		return err
	}
	err = l.proc.ready(ctx, func(ctx context.Context) error {
		ok, err := l.Accepts(ctx, l.Admin, l.AdminPassword)
		if err == nil && !ok {
			return errors.New("the administrator is not let in")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, l.Down()), logTail(l.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end; the data stays.
func (l *LDAPServer) Down() error {
	err := l.proc.stop(interrupt)
	l.proc = nil
	return err
}

// Pid is that of the server's process.
func (l *LDAPServer) Pid() int { return l.proc.cmd.Process.Pid }

// Stop stops the server and removes its folder.
func (l *LDAPServer) Stop() error { return errors.Join(l.Down(), Clean(l.dir)) }

// PlainAddress is where StartTLS is asked for.
func (l *LDAPServer) PlainAddress() string { return net.JoinHostPort(l.Host, strconv.Itoa(l.Port)) }

// CreateEntry makes an account with a password below Base and gives its DN.
func (l *LDAPServer) CreateEntry(ctx context.Context, name string, password sdk.Secret) (string, error) {
	dn := "cn=" + ldap.EscapeDN(name) + "," + l.Base
	ldif := "dn:: " + b64(dn) + "\nobjectClass: person\ncn:: " + b64(name) + "\nsn: test\nuserPassword:: " + b64(password.ExposeString()) + "\n"
	return dn, l.asRoot(ctx, "/usr/bin/ldapadd", ldif)
}

// Modify changes entries as somebody who may do everything; changes are in LDIF.
func (l *LDAPServer) Modify(ctx context.Context, ldif string) error {
	return l.asRoot(ctx, "/usr/bin/ldapmodify", ldif)
}

func (l *LDAPServer) asRoot(ctx context.Context, program, ldif string) error {
	_, err := l.tool(ctx, ldapRoot, l.rootPassword, ldif, program, "-e", "relax")
	return err
}

// Values are an entry's of one attribute, as somebody sees them who may see everything.
func (l *LDAPServer) Values(ctx context.Context, dn, attribute string) ([]string, error) {
	c, err := ldap.DialURL("ldaps://"+l.Address, ldap.DialWithTLSConfig(&tls.Config{RootCAs: pool(l.CA), MinVersion: tls.VersionTLS12}))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.Bind(ldapRoot, l.rootPassword.ExposeString()); err != nil {
		return nil, err
	}
	out, err := c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 5, false, "(objectClass=*)", []string{attribute}, nil))
	if err != nil {
		return nil, err
	}
	return out.Entries[0].GetAttributeValues(attribute), ctx.Err()
}

func pool(pem []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}

// Accepts tells whether the server lets an entry in with this password. It asks
// ldapwhoami, so that the judge shares no code with what is judged.
func (l *LDAPServer) Accepts(ctx context.Context, dn string, password sdk.Secret) (bool, error) {
	code, err := l.tool(ctx, dn, password, "", "/usr/bin/ldapwhoami")
	switch {
	case err == nil:
		return true, nil
	case code == ldap.LDAPResultInvalidCredentials, code == ldap.LDAPResultInvalidDNSyntax:
		return false, nil
	}
	return false, err
}

func (l *LDAPServer) tool(ctx context.Context, dn string, password sdk.Secret, input, program string, args ...string) (int, error) {
	code, _, err := ldapTool(ctx, l.dir, l.Address, dn, password, input, program, args...)
	return code, err
}

// ldapTool runs a program of ldap-utils against the server that was started in dir. Its
// exit status is the server's code.
func ldapTool(ctx context.Context, dir, address, name string, password sdk.Secret, input, program string, args ...string) (int, string, error) {
	f, err := os.CreateTemp(dir, "pass-")
	if err != nil {
		return 0, "", err
	}
	defer os.Remove(f.Name())
	secret := password.Expose()
	defer clear(secret)
	if _, err := f.Write(secret); err != nil {
		return 0, "", errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return 0, "", err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"-x", "-H", "ldaps://" + address, "-D", name, "-y", f.Name()}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "LDAPTLS_CACERT=" + filepath.Join(dir, "ca.pem")}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), "", fmt.Errorf("%s: %w: %s", filepath.Base(program), err, tail(out, 300))
	}
	return 0, string(out), err
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
