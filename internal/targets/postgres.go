package targets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rotunda-pam/rotunda/sdk"
)

// PG is a running PostgreSQL: TLS and SCRAM-SHA-256 on 127.0.0.1, every statement in
// its log.
type PG struct {
	Host          string // 127.0.0.1
	Port          int
	Address       string // host:port
	Database      string
	Admin         string // a superuser
	AdminPassword sdk.Secret
	CA            []byte            // PEM of the authority that signed the server's certificate
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	ServerName    string            // a name that the certificate has
	LogFile       string            // with every statement that the server ran

	dir, bin string
	as       *account
	settings []string
	proc     *process
}

// StartPostgres starts a PostgreSQL of its own in dir, which must be empty, absent or
// left over from an earlier one, and reachable by the user postgres when this process
// is root, since the server refuses to run as root. Settings are further
// configuration, name=value.
func StartPostgres(ctx context.Context, dir string, settings ...string) (*PG, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	pg := &PG{
		Host: "127.0.0.1", Database: "postgres", Admin: "padmin",
		ServerName: "localhost", LogFile: filepath.Join(dir, "postgres.out"),
		dir: dir, bin: bin, settings: settings,
	}
	if os.Getuid() == 0 {
		if pg.as, err = lookup("postgres"); err != nil {
			return nil, fmt.Errorf("%w: PostgreSQL refuses to run as root, and there is no user postgres: %w", ErrUnavailable, err)
		}
	}
	if err := pg.initialise(ctx); err != nil {
		return nil, err
	}
	err = onFreePort(func(port int) error {
		pg.Port, pg.Address = port, net.JoinHostPort(pg.Host, strconv.Itoa(port))
		return pg.Up(ctx)
	})
	if err == nil {
		err = pg.changePassword(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, pg.Stop())
	}
	return pg, nil
}

// changePassword gives the administrator one that no other server has, and the log has not.
func (pg *PG) changePassword(ctx context.Context) error {
	own := sdk.NewSecret([]byte("p1" + randomHex(12))) // of a letter and a digit, for passwordcheck
	err := pg.Exec(ctx, "SET log_statement = 'none'", "ALTER ROLE "+pg.Admin+" PASSWORD"+Literal(own.ExposeString()))
	if err != nil {
		return fmt.Errorf("change the test server's password: %w", err)
	}
	pg.AdminPassword = own
	return nil
}

// initialise gives the server its data, with the administrator's first password, which all have.
func (pg *PG) initialise(ctx context.Context) error {
	data := filepath.Join(pg.dir, "data")
	cert, err := newCertificate()
	if err != nil {
		return err
	}
	pg.CA, pg.SPKI = cert.ca, cert.spki
	version, err := installed(filepath.Join(pg.bin, "postgres"), filepath.Join(pg.bin, "initdb"))
	if err != nil {
		return err
	}
	secret, err := original{"postgres", fmt.Sprint(version, pg.Admin, pg.as, initdb), pg.makeCluster}.copyTo(ctx, "data", data)
	if err != nil {
		return err
	}
	if len(secret) == 0 {
		return errors.New("the test cluster that is kept has no secret: remove rotunda-targets-*-kept in the folder of temporary files")
	}
	pg.AdminPassword = sdk.NewSecret(secret)
	for name, pem := range map[string][]byte{"server.crt": cert.cert, "server.key": cert.key} {
		if err := writeNew(filepath.Join(data, name), pem, pg.as); err != nil {
			return fmt.Errorf("prepare PostgreSQL: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(pg.dir, "ca.pem"), pg.CA, 0o644)
}

// initdb is what the cluster is made with, beside its place and its administrator.
var initdb = []string{"--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"}

func (pg *PG) makeCluster(ctx context.Context, dir string) error {
	data, pw, secret := filepath.Join(dir, "data"), filepath.Join(dir, "pw"), []byte(randomHex(12))
	for _, err := range []error{
		os.Mkdir(data, 0o700), pg.own(data),
		os.WriteFile(filepath.Join(dir, secretsFile), secret, 0o600), os.WriteFile(pw, secret, 0o600), pg.own(pw),
	} {
		if err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(pg.bin, "initdb"), append([]string{"-D", data, "-U", pg.Admin, "--pwfile=" + pw}, initdb...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	runAs(cmd, pg.as)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb in %s: %w: %s", dir, err, tail(out, 1000))
	}
	return os.Remove(pw)
}

func (pg *PG) own(file string) error {
	if pg.as == nil {
		return nil
	}
	return os.Chown(file, pg.as.uid, pg.as.gid)
}

// Up starts the server again after Down, on the same port with the same data.
func (pg *PG) Up(ctx context.Context) error {
	argv := []string{filepath.Join(pg.bin, "postgres"), "-D", filepath.Join(pg.dir, "data"), "-p", strconv.Itoa(pg.Port)}
	for _, s := range append([]string{
		"listen_addresses=" + pg.Host, "unix_socket_directories=", "ssl=on", "fsync=off",
		"log_statement=all", "log_connections=on", "log_line_prefix=%m [%p] %u ", "timezone=UTC", "log_timezone=UTC",
	}, pg.settings...) {
		argv = append(argv, "-c", s)
	}
	var err error
	if pg.proc, err = start(pg.dir, "postgres", pg.as, argv...); err != nil {
		return err
	}
	err = pg.proc.ready(ctx, func(ctx context.Context) error {
		c, err := pg.Connect(ctx)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, pg.Down()), logTail(pg.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end; the data stays.
func (pg *PG) Down() error {
	err := pg.proc.stop(interrupt)
	pg.proc = nil
	return err
}

// Pause leaves new connections without an answer until Resume. Connections that are
// open already go on.
func (pg *PG) Pause() error { return pg.proc.pause() }

// Resume ends Pause.
func (pg *PG) Resume() error { return pg.proc.resume() }

// Pid is the id of the server's first process.
func (pg *PG) Pid() int { return pg.proc.cmd.Process.Pid }

// Stop stops the server and removes its folder.
func (pg *PG) Stop() error { return errors.Join(pg.Down(), Clean(pg.dir)) }

// Connect logs in as the administrator.
func (pg *PG) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pg.ConnectAs(ctx, pg.Admin, pg.AdminPassword)
}

// ConnectAs logs in as a role.
func (pg *PG) ConnectAs(ctx context.Context, role string, password sdk.Secret) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("dbname=" + pg.Database + " sslmode=disable")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pg.CA)
	c.Host, c.Port, c.User, c.Password = pg.Host, uint16(pg.Port), role, password.ExposeString()
	if !slices.Contains(pg.settings, "ssl=off") {
		c.TLSConfig = &tls.Config{ServerName: pg.ServerName, RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c.Fallbacks = nil
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return pgx.ConnectConfig(ctx, c)
}

// Exec runs statements as the administrator, each on its own.
func (pg *PG) Exec(ctx context.Context, statements ...string) error {
	c, err := pg.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, s := range statements {
		if _, err := c.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// CreateRole makes a role that can log in. The server computes the verifier, and its
// log has the statement. Options are as CREATE ROLE takes them.
func (pg *PG) CreateRole(ctx context.Context, name string, password sdk.Secret, options string) error {
	if !strings.Contains(options, "NOLOGIN") {
		options += " LOGIN" // said twice, in whatever form, it is refused
	}
	return pg.Exec(ctx, "CREATE ROLE "+pgx.Identifier{name}.Sanitize()+" "+options+" PASSWORD "+Literal(password.ExposeString()))
}

// Literal quotes a string constant for PostgreSQL whatever its settings are.
func Literal(s string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// Accepts tells whether the server lets role in with password. It asks psql, so that
// the judge shares no code with what is judged: libpq prepares passwords itself.
func (pg *PG) Accepts(ctx context.Context, role string, password sdk.Secret) (bool, error) {
	dir, err := os.MkdirTemp(pg.dir, "psql-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	secret := password.Expose()
	defer clear(secret)
	line := []byte("*:*:*:*:")
	for _, c := range secret {
		if c == '\\' || c == ':' {
			line = append(line, '\\')
		}
		line = append(line, c)
	}
	defer clear(line)
	file := filepath.Join(dir, "pass")
	if err := os.WriteFile(file, append(line, '\n'), 0o600); err != nil {
		return false, err
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	cmd := exec.CommandContext(ctx, filepath.Join(pg.bin, "psql"), "-w", "-X", "-At", "-c", "SELECT 1",
		fmt.Sprintf("host=%s port=%d dbname=%s user='%s' sslmode=verify-full sslrootcert='%s' passfile='%s' client_encoding=UTF8",
			pg.Host, pg.Port, pg.Database, quote.Replace(role), quote.Replace(filepath.Join(pg.dir, "ca.pem")), quote.Replace(file)))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err == nil && bytes.Equal(bytes.TrimSpace(out), []byte("1")):
		return true, nil
	case err == nil:
		return false, fmt.Errorf("psql answered %q", out)
	case errors.As(err, &exit) && exit.ExitCode() == 2: // no connection: refused, or no server
		c, err := pg.Connect(ctx)
		if err != nil {
			return false, err
		}
		return false, c.Close(ctx)
	default:
		return false, fmt.Errorf("ask psql: %w", err)
	}
}
