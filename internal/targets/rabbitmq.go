package targets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// RabbitServer is a running RabbitMQ on 127.0.0.1, with its management API over TLS.
type RabbitServer struct {
	Host          string // 127.0.0.1
	Address       string // host:port of the management
	AMQP          string // host:port
	Admin         string // may do everything
	AdminPassword sdk.Secret
	Shortest      int               // the least length of a password
	SPKI          [sha256.Size]byte // of the server's key, for pinning
	LogFile       string

	dir         string
	client      *http.Client
	names, proc *process
}

// Debian's broker; the program of that name in the path changes to another user.
const rabbitProgram = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// StartRabbit starts a RabbitMQ of its own in dir, which must be empty, absent or left over
// from an earlier one.
func StartRabbit(ctx context.Context, dir string) (*RabbitServer, error) {
	if !exists(rabbitProgram) {
		return nil, fmt.Errorf("%w: install rabbitmq-server", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert.ca)
	r := &RabbitServer{
		Host: "127.0.0.1", Admin: "rotunda", AdminPassword: sdk.NewSecret([]byte(randomHex(12))), Shortest: 8, SPKI: cert.spki,
		LogFile: filepath.Join(dir, "rabbitmq.out"), dir: dir,
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}},
	}
	for name, b := range map[string][]byte{"server.crt": cert.cert, "server.key": cert.key, "plugins": []byte("[rabbitmq_management].\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("prepare RabbitMQ: %w", err)
		}
	}
	err = onFreePort(func(management int) error {
		return onFreePort(func(amqp int) error {
			return onFreePort(func(nodes int) error {
				return onFreePort(func(names int) error { return r.up(ctx, management, amqp, nodes, names) })
			})
		})
	})
	if err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

func (r *RabbitServer) up(ctx context.Context, management, amqp, nodes, names int) error {
	r.Address, r.AMQP = net.JoinHostPort(r.Host, strconv.Itoa(management)), net.JoinHostPort(r.Host, strconv.Itoa(amqp))
	in := func(name string) string { return filepath.Join(r.dir, name) }
	conf := []string{
		"listeners.tcp.1 = " + r.AMQP,
		"management.ssl.ip = " + r.Host, fmt.Sprintf("management.ssl.port = %d", management),
		"management.ssl.certfile = " + in("server.crt"), "management.ssl.keyfile = " + in("server.key"),
		"default_user = " + r.Admin, "default_pass = " + r.AdminPassword.ExposeString(), "default_user_tags.administrator = true",
		"credential_validator.validation_backend = rabbit_credential_validator_min_password_length", fmt.Sprintf("credential_validator.min_length = %d", r.Shortest),
		"log.file = false", "log.console = true", "log.console.level = info",
	}
	if err := os.WriteFile(in("rabbitmq.conf"), []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("prepare RabbitMQ: %w", err)
	}
	env := []string{
		"LC_ALL=C.UTF-8", "HOME=" + r.dir,
		"RABBITMQ_NODENAME=test@localhost", "RABBITMQ_NODE_IP_ADDRESS=" + r.Host, fmt.Sprintf("RABBITMQ_NODE_PORT=%d", amqp),
		"RABBITMQ_MNESIA_BASE=" + in("data"), "RABBITMQ_LOG_BASE=" + r.dir,
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + in("plugins"),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", nodes), fmt.Sprintf("ERL_EPMD_PORT=%d", names), "ERL_EPMD_ADDRESS=" + r.Host,
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
	// Erlang's list of names is started here, so that it ends here: the broker would leave
	// its own behind.
	var err error
	if r.names, err = start(r.dir, "epmd", nil, "/usr/bin/epmd", "-port", strconv.Itoa(names), "-address", r.Host); err != nil {
		return err
	}
	if r.proc, err = startWith(r.dir, "rabbitmq", nil, env, rabbitProgram); err != nil {
		return errors.Join(err, r.down())
	}
	answers := func(ctx context.Context) error {
		status, _, err := r.Do(ctx, http.MethodGet, "/api/whoami", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("it is not ready: status %d", status)
		}
		return err
	}
	// On a busy machine it takes longer than any other server.
	for range 4 {
		if err = r.proc.ready(ctx, answers); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, r.down()), logTail(r.LogFile))
	}
	return nil
}

func (r *RabbitServer) down() error {
	err := errors.Join(r.proc.stop(terminate), r.names.stop(terminate))
	r.proc, r.names = nil, nil
	return err
}

// Stop stops the server and removes its folder.
func (r *RabbitServer) Stop() error { return errors.Join(r.down(), Clean(r.dir)) }

// Do calls the management API as the administrator, and gives the status and what was
// answered.
func (r *RabbitServer) Do(ctx context.Context, method, path string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("ask RabbitMQ: %w", err)
		}
		content = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+r.Address+path, content)
	if err != nil {
		return 0, nil, fmt.Errorf("ask RabbitMQ: %w", err)
	}
	req.SetBasicAuth(r.Admin, r.AdminPassword.ExposeString())
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask RabbitMQ: %w", err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return resp.StatusCode, out, err
}

// CreateUser makes a user that may open the broker's virtual host. Tags are his rights in
// the management, with commas between them.
func (r *RabbitServer) CreateUser(ctx context.Context, name string, password sdk.Secret, tags string) error {
	for _, one := range []struct {
		path string
		body map[string]string
	}{
		{"/api/users/", map[string]string{"password": password.ExposeString(), "tags": tags}},
		{"/api/permissions/%2F/", map[string]string{"configure": "", "write": "", "read": ""}},
	} {
		status, out, err := r.Do(ctx, http.MethodPut, one.path+url.PathEscape(name), one.body)
		if err != nil || status > 299 {
			return fmt.Errorf("make the user %q: status %d: %s: %w", name, status, tail(out, 300), err)
		}
	}
	return nil
}

// Tags are a user's as the API has them; empty for one who is missing.
func (r *RabbitServer) Tags(ctx context.Context, name string) (string, error) {
	status, out, err := r.Do(ctx, http.MethodGet, "/api/users/"+url.PathEscape(name), nil)
	if err != nil || status == http.StatusNotFound {
		return "", err
	}
	var u struct{ Tags json.RawMessage }
	err = json.Unmarshal(out, &u)
	return string(u.Tags), err
}

// Failures is how many logins as a user the broker has refused.
func (r *RabbitServer) Failures(name string) (int, error) {
	log, err := os.ReadFile(r.LogFile)
	return bytes.Count(log, fmt.Appendf(nil, "user '%s' - invalid credentials", name)), err
}

// Accepts tells whether the broker lets a user in. It asks as applications do, by AMQP
// 0-9-1: so the judge shares no code with what speaks to the management.
func (r *RabbitServer) Accepts(ctx context.Context, name string, password sdk.Secret) (bool, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", r.AMQP)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false, err
	}
	if method, _, err := amqpMethod(conn); err != nil || method != amqpStart {
		return false, fmt.Errorf("RabbitMQ begins with %#x: %w", method, err)
	}
	long := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	short := func(s string) []byte { return append([]byte{byte(len(s))}, s...) }
	// Without this wish a refused login ends in silence.
	wish := append(short("authentication_failure_close"), 't', 1)
	args := long(append(append(short("capabilities"), 'F'), long(wish)...))
	args = append(args, short("PLAIN")...)
	args = append(args, long([]byte("\x00"+name+"\x00"+password.ExposeString()))...)
	args = append(args, short("en_US")...)
	payload := append(binary.BigEndian.AppendUint32(nil, amqpStartOK), args...)
	frame := append([]byte{1, 0, 0}, long(payload)...)
	if _, err := conn.Write(append(frame, 0xce)); err != nil {
		return false, err
	}
	switch method, args, err := amqpMethod(conn); {
	case err != nil:
		return false, err
	case method == amqpTune:
		return true, nil
	case method == amqpClose && len(args) > 2 && binary.BigEndian.Uint16(args) == 403: // ACCESS_REFUSED
		return false, nil
	default:
		return false, fmt.Errorf("RabbitMQ answers a login with %#x", method)
	}
}

// Methods of a connection: class and number.
const (
	amqpStart   = 10<<16 | 10
	amqpStartOK = 10<<16 | 11
	amqpTune    = 10<<16 | 30
	amqpClose   = 10<<16 | 50
)

// amqpMethod reads one frame.
func amqpMethod(r io.Reader) (method uint32, args []byte, err error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[3:])
	if head[0] != 1 || size < 4 || size > 1<<20 {
		return 0, nil, errors.New("that is no method of AMQP")
	}
	payload := make([]byte, size+1) // with the frame's end
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(payload), payload[4:size], nil
}
