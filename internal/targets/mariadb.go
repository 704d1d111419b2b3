package targets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// MariaDBServer is a running MariaDB on 127.0.0.1 with TLS, every statement in its
// general log, every change in its binary log, and an administrator who may change
// accounts, read what is stored of them, and nothing else.
type MariaDBServer struct {
	Host          string // 127.0.0.1, which is also the host part that its clients have
	Port          int
	Address       string // host:port
	Admin         string // at any host
	AdminPassword sdk.Secret
	CA            []byte            // PEM
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string            // its own messages
	GeneralLog    string            // every statement that it was sent

	dir, root string // root: who may do everything, by the socket
	as        *account
	settings  []string
	proc      *process
}

// StartMariaDB starts a MariaDB of its own in dir, which must be empty, absent or left
// over from an earlier one, and reachable by the user mysql when this process is root.
// Settings are further options of the server, --name=value.
func StartMariaDB(ctx context.Context, dir string, settings ...string) (*MariaDBServer, error) {
	if !exists("/usr/sbin/mariadbd") || !exists("/usr/bin/mariadb") {
		return nil, fmt.Errorf("%w: install mariadb-server", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("prepare MariaDB: %w", err)
	}
	m := &MariaDBServer{
		Host: "127.0.0.1", Admin: "radmin", AdminPassword: sdk.NewSecret([]byte(randomHex(12))), CA: cert.ca, SPKI: cert.spki,
		LogFile: filepath.Join(dir, "mariadb.out"), GeneralLog: filepath.Join(dir, "data", "general.log"),
		dir: dir, root: me.Username, settings: settings,
	}
	if os.Getuid() == 0 {
		if m.as, err = lookup("mysql"); err != nil {
			return nil, fmt.Errorf("%w: MariaDB refuses to run as root, and there is no user mysql: %w", ErrUnavailable, err)
		}
	}
	if err := m.initialise(ctx, cert); err != nil {
		return nil, err
	}
	err = onFreePort(func(port int) error {
		m.Port, m.Address = port, net.JoinHostPort(m.Host, strconv.Itoa(port))
		return m.Up(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	err = m.Exec(ctx,
		"CREATE USER "+m.Admin+"@'%' IDENTIFIED BY '"+m.AdminPassword.ExposeString()+"'",
		"GRANT CREATE USER ON *.* TO "+m.Admin+"@'%'",
		"GRANT SELECT ON mysql.global_priv TO "+m.Admin+"@'%'",
	)
	if err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

// mariaLog keeps InnoDB's log, which is written in full at first, from being 96 MB long.
const mariaLog = "--innodb-log-file-size=4M"

// mariaInstall is what the data is made with, beside its place and its users.
var mariaInstall = []string{mariaLog, "--skip-test-db", "--auth-root-authentication-method=socket"}

func (m *MariaDBServer) initialise(ctx context.Context, cert certificate) error {
	version, err := installed("/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db")
	if err != nil {
		return err
	}
	if _, err := (original{"mariadb", fmt.Sprint(version, m.root, m.as, mariaInstall), m.makeData}).copyTo(ctx, "data", filepath.Join(m.dir, "data")); err != nil {
		return err
	}
	if err := m.ownFolder(m.tmp()); err != nil {
		return fmt.Errorf("prepare MariaDB: %w", err)
	}
	for name, pem := range map[string][]byte{"server.crt": cert.cert, "server.key": cert.key} {
		if err := writeNew(filepath.Join(m.dir, "data", name), pem, m.as); err != nil {
			return fmt.Errorf("prepare MariaDB: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(m.dir, "ca.pem"), cert.ca, 0o600)
}

func (m *MariaDBServer) makeData(ctx context.Context, dir string) error {
	data, tmp := filepath.Join(dir, "data"), filepath.Join(dir, "tmp")
	argv := []string{
		"/usr/bin/mariadb-install-db", "--no-defaults", "--datadir=" + data, "--tmpdir=" + tmp, "--auth-root-socket-user=" + m.root,
	}
	argv = append(argv, mariaInstall...)
	if m.as != nil {
		argv = append(argv, "--user=mysql")
	}
	if err := errors.Join(m.ownFolder(data), m.ownFolder(tmp)); err != nil {
		return err
	}
	return run(ctx, nil, argv...)
}

func (m *MariaDBServer) ownFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil || m.as == nil {
		return err
	}
	return os.Chown(dir, m.as.uid, m.as.gid)
}

// Up starts the server again after Down, on the same port with the same data.
func (m *MariaDBServer) Up(ctx context.Context) error {
	data := filepath.Join(m.dir, "data")
	in := func(name string) string { return filepath.Join(data, name) }
	var err error
	m.proc, err = start(m.dir, "mariadb", m.as, append([]string{
		"/usr/sbin/mariadbd", "--no-defaults", "--datadir=" + data, "--tmpdir=" + m.tmp(), "--port=" + strconv.Itoa(m.Port), "--bind-address=" + m.Host,
		"--socket=" + m.socket(), "--pid-file=" + in("mariadbd.pid"), "--skip-name-resolve",
		"--ssl-ca=" + filepath.Join(data, "server.crt"), "--ssl-cert=" + in("server.crt"), "--ssl-key=" + in("server.key"),
		"--general-log", "--general-log-file=" + m.GeneralLog, "--log-bin=" + in("binlog"), "--server-id=1",
		mariaLog, "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--innodb-fast-shutdown=2",
	}, m.settings...)...)
	if err != nil {
		return err
	}
	err = m.proc.ready(ctx, func(ctx context.Context) error { return m.Exec(ctx, "DO 1") })
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, m.Down()), logTail(m.LogFile))
	}
	return nil
}

// tmp is the server's own: each that begins deletes whatever temporary tables it finds,
// also those of another that is at work.
func (m *MariaDBServer) tmp() string { return filepath.Join(m.dir, "tmp") }

// socket is short, since the system allows no long one; nobody else may come to it.
func (m *MariaDBServer) socket() string { return filepath.Join(m.dir, "data", "s") }

// Down stops the server and waits for its end; the data stays.
func (m *MariaDBServer) Down() error {
	err := m.proc.stop(terminate)
	m.proc = nil
	return err
}

// Pid is that of the server's process.
func (m *MariaDBServer) Pid() int { return m.proc.cmd.Process.Pid }

// Stop stops the server and removes its folder.
func (m *MariaDBServer) Stop() error { return errors.Join(m.Down(), Clean(m.dir)) }

// Pause makes the server deaf: it takes connections and says nothing.
func (m *MariaDBServer) Pause() error { return m.proc.pause() }

// Resume ends a Pause.
func (m *MariaDBServer) Resume() error { return m.proc.resume() }

// Exec runs statements as somebody who may do everything.
func (m *MariaDBServer) Exec(ctx context.Context, sql ...string) error {
	_, err := m.client(ctx, []byte(strings.Join(sql, ";\n")+";\n"), m.asRoot()...)
	return err
}

// Query runs one statement as somebody who may do everything, and gives what the client
// program prints: columns by tabs, rows by newlines.
func (m *MariaDBServer) Query(ctx context.Context, sql string) (string, error) {
	return m.client(ctx, []byte(sql+";\n"), append(m.asRoot(), "--skip-column-names", "--batch")...)
}

// asRoot has the server read text as [sqlText] writes it, whatever its own mode.
func (m *MariaDBServer) asRoot() []string {
	return []string{"--no-defaults", "--socket=" + m.socket(), "--user=" + m.root, "--init-command=SET sql_mode = ''"}
}

// CreateUser makes an account that logs in by this method with a password, and has no
// rights.
func (m *MariaDBServer) CreateUser(ctx context.Context, name, host, method string, password sdk.Secret) error {
	return m.Exec(ctx, "CREATE USER "+sqlText(name)+"@"+sqlText(host)+" IDENTIFIED VIA "+method+" USING PASSWORD("+sqlText(password.ExposeString())+")")
}

// Accepts tells whether the server lets name in with this password, and as which account.
// It asks the program mariadb, so that the judge shares no code with what is judged. The
// password is given by a file.
func (m *MariaDBServer) Accepts(ctx context.Context, name string, password sdk.Secret) (as string, ok bool, err error) {
	f, err := os.CreateTemp(m.dir, "client-")
	if err != nil {
		return "", false, err
	}
	defer os.Remove(f.Name())
	options := strings.Join([]string{
		"[client]", "protocol=tcp", "host=" + m.Host, "port=" + strconv.Itoa(m.Port),
		"ssl-ca=" + filepath.Join(m.dir, "ca.pem"), "ssl-verify-server-cert",
		"user=" + optionText(name), "password=" + optionText(password.ExposeString()), "",
	}, "\n")
	_, err = f.WriteString(options)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", false, err
	}
	as, err = m.client(ctx, []byte("SELECT CURRENT_USER();\n"), "--defaults-file="+f.Name(), "--skip-column-names", "--batch", "--raw")
	switch {
	case err == nil:
		return as, true, nil
	case strings.Contains(err.Error(), "ERROR 1045 "), strings.Contains(err.Error(), "ERROR 4151 "): // denied, locked
		return "", false, nil
	}
	return "", false, err
}

// Failures is how often the server has refused a login of this name.
func (m *MariaDBServer) Failures(name string) (int, error) {
	log, err := os.ReadFile(m.GeneralLog)
	return strings.Count(string(log), "Access denied for user '"+name+"'@"), err
}

func (m *MariaDBServer) client(ctx context.Context, input []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/mariadb", args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + m.dir}
	cmd.Stdin = strings.NewReader(string(input))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mariadb: %w: %s", err, tail(out, 500))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// sqlText is a literal for a session with no sql_mode.
func sqlText(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// optionText is a value of an option file.
func optionText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s) + `"`
}
