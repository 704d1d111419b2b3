package targets

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rotunda-pam/rotunda/sdk"
)

// RedisServer is a running Redis on 127.0.0.1, which speaks TLS only and keeps its users
// in an ACL file.
type RedisServer struct {
	Host          string // 127.0.0.1
	Port          int
	Address       string // host:port
	Admin         string // may do everything
	AdminPassword sdk.Secret
	CA            []byte            // PEM
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string
	UsersFile     string // what ACL SAVE writes

	dir  string
	proc *process
}

// StartRedis starts a Redis of its own in dir, which must be empty, absent or left over
// from an earlier one. Lines are further lines of its configuration.
func StartRedis(ctx context.Context, dir string, lines ...string) (*RedisServer, error) {
	if !exists("/usr/bin/redis-server") {
		return nil, fmt.Errorf("%w: install redis-server", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	r := &RedisServer{
		Host: "127.0.0.1", Admin: "radmin", AdminPassword: sdk.NewSecret([]byte(randomHex(12))), CA: cert.ca, SPKI: cert.spki,
		LogFile: filepath.Join(dir, "redis.out"), UsersFile: filepath.Join(dir, "users.acl"), dir: dir,
	}
	users := fmt.Sprintf("user default off\nuser %s on #%x ~* &* +@all\n", r.Admin, sha256.Sum256(r.AdminPassword.Expose()))
	for name, b := range map[string][]byte{"ca.pem": cert.ca, "server.crt": cert.cert, "server.key": cert.key, "users.acl": []byte(users)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("prepare Redis: %w", err)
		}
	}
	err = onFreePort(func(port int) error {
		r.Port, r.Address = port, net.JoinHostPort(r.Host, strconv.Itoa(port))
		conf := append([]string{
			"port 0", "tls-port " + strconv.Itoa(port), "bind 127.0.0.1", "dir " + dir, `save ""`, "appendonly no",
			"tls-cert-file " + filepath.Join(dir, "server.crt"), "tls-key-file " + filepath.Join(dir, "server.key"),
			"tls-ca-cert-file " + filepath.Join(dir, "ca.pem"), "tls-auth-clients no", "aclfile " + r.UsersFile, "loglevel verbose",
		}, lines...)
		if err := os.WriteFile(filepath.Join(dir, "redis.conf"), []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
			return fmt.Errorf("prepare Redis: %w", err)
		}
		return r.Up(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// Up starts the server again after Down, on the same port with the users of its file.
func (r *RedisServer) Up(ctx context.Context) error {
	var err error
	if r.proc, err = start(r.dir, "redis", nil, "/usr/bin/redis-server", filepath.Join(r.dir, "redis.conf")); err != nil {
		return err
	}
	err = r.proc.ready(ctx, func(ctx context.Context) error {
		_, err := r.Do(ctx, "PING")
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, r.Down()), logTail(r.LogFile))
	}
	return nil
}

// Down stops the server and waits for its end; its users stay as they were saved.
func (r *RedisServer) Down() error {
	err := r.proc.stop(os.Interrupt)
	r.proc = nil
	return err
}

// Pid is that of the server's process.
func (r *RedisServer) Pid() int { return r.proc.cmd.Process.Pid }

// Stop stops the server and removes its folder.
func (r *RedisServer) Stop() error { return errors.Join(r.Down(), Clean(r.dir)) }

// Do runs one command as the administrator.
func (r *RedisServer) Do(ctx context.Context, argv ...string) (string, error) {
	return r.do(ctx, r.Admin, r.AdminPassword, argv...)
}

// CreateUser makes a user that may do everything, and saves it.
func (r *RedisServer) CreateUser(ctx context.Context, name string, password sdk.Secret) error {
	sum := sha256.Sum256(password.Expose())
	if _, err := r.Do(ctx, "ACL", "SETUSER", name, "reset", "on", fmt.Sprintf("#%x", sum), "~*", "&*", "+@all"); err != nil {
		return err
	}
	_, err := r.Do(ctx, "ACL", "SAVE")
	return err
}

// Accepts tells whether the server lets a user in with this password. It asks redis-cli,
// so that the judge shares no code with what is judged.
func (r *RedisServer) Accepts(ctx context.Context, name string, password sdk.Secret) (bool, error) {
	out, err := r.do(ctx, name, password, "PING")
	switch {
	case err == nil && out == "PONG":
		return true, nil
	case err != nil && strings.Contains(err.Error(), "WRONGPASS"):
		return false, nil
	}
	return false, fmt.Errorf("redis-cli says %q: %w", out, err)
}

// Failures is how many logins as a user have failed.
func (r *RedisServer) Failures(ctx context.Context, name string) (int, error) {
	out, err := r.Do(ctx, "--json", "ACL", "LOG")
	if err != nil {
		return 0, err
	}
	var entries []struct {
		Count            int
		Reason, Username string
	}
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		return 0, fmt.Errorf("read the server's log of refusals: %w", err)
	}
	n := 0
	for _, e := range entries {
		if e.Reason == "auth" && e.Username == name {
			n += e.Count
		}
	}
	return n, nil
}

// do runs redis-cli, which exits with 0 whatever the server says. The password is given
// by the environment, since it may be anything.
func (r *RedisServer) do(ctx context.Context, user string, password sdk.Secret, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/redis-cli", append([]string{
		"-h", r.Host, "-p", strconv.Itoa(r.Port), "--tls", "--cacert", filepath.Join(r.dir, "ca.pem"), "--user", user, "--no-auth-warning", "-e",
	}, argv...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "REDISCLI_AUTH=" + password.ExposeString()}
	b, err := cmd.CombinedOutput()
	out := strings.TrimSpace(string(b))
	if err != nil {
		return out, fmt.Errorf("redis-cli: %w: %s", err, tail(b, 300))
	}
	// A refused AUTH is told of, and the command goes on without one.
	if strings.Contains(out, "WRONGPASS") || strings.Contains(out, "NOAUTH") || strings.HasPrefix(out, "ERR") {
		return out, fmt.Errorf("redis-cli: %s", out)
	}
	return out, nil
}
