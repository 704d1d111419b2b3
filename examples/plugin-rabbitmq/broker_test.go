package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Debian's broker; the program of that name in the path changes to another user.
const program = "/usr/lib/rabbitmq/bin/rabbitmq-server"

const (
	adminName = "rotunda"
	shortest  = 8 // the least length of a password
)

// broker is a running RabbitMQ on ports of the loopback interface.
type broker struct {
	amqp, management string // host:port
	admin            sdk.Credential
	spki             [32]byte
	client           *http.Client
	log              string // file
}

func (b *broker) host() sdk.Host {
	return sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{b.management: b.spki[:]},
	}
}

func (b *broker) resource() sdk.Resource {
	return sdk.Resource{Address: b.management, TLS: sdk.TLS{Mode: sdk.TLSPin}}
}

// startBroker starts a broker that ends with the test.
func startBroker(t *testing.T) *broker {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Skipf("left out: install rabbitmq-server: %v", err)
	}
	dir := t.TempDir()
	ports := freePorts(t, 4)
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	b := &broker{amqp: at(ports[0]), management: at(ports[1]), admin: password("admin-" + rand.Text())}
	b.certificate(t, dir)
	conf := []string{
		"listeners.tcp.1 = " + b.amqp,
		"management.ssl.ip = 127.0.0.1", fmt.Sprintf("management.ssl.port = %d", ports[1]),
		"management.ssl.certfile = " + filepath.Join(dir, "server.crt"), "management.ssl.keyfile = " + filepath.Join(dir, "server.key"),
		"default_user = " + adminName, "default_pass = " + b.admin.Secret.ExposeString(), "default_user_tags.administrator = true",
		"credential_validator.validation_backend = rabbit_credential_validator_min_password_length", fmt.Sprintf("credential_validator.min_length = %d", shortest),
		"log.file = false", "log.console = true", "log.console.level = info",
	}
	write(t, filepath.Join(dir, "rabbitmq.conf"), []byte(strings.Join(conf, "\n")+"\n"))
	write(t, filepath.Join(dir, "plugins"), []byte("[rabbitmq_management].\n"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	b.log = log.Name()
	env := []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + dir,
		"RABBITMQ_NODENAME=test@localhost", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprintf("RABBITMQ_NODE_PORT=%d", ports[0]),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "data"), "RABBITMQ_LOG_BASE=" + dir,
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "plugins"),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", ports[2]), fmt.Sprintf("ERL_EPMD_PORT=%d", ports[3]), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
	// Erlang's list of names is started here, so that it ends here: the broker would leave
	// its own behind.
	start := func(name string, argv ...string) <-chan struct{} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, log, log
		if err := cmd.Start(); err != nil {
			t.Fatalf("start %s: %v", name, err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill()
				<-ended
			}
		})
		return ended
	}
	start("epmd", "/usr/bin/epmd", "-port", fmt.Sprint(ports[3]), "-address", "127.0.0.1")
	ended := start("the broker", program)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if resp, err := b.do(t, "GET", "/api/whoami", nil); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return b
			}
		}
		select {
		case <-ended:
			t.Fatalf("the broker ended: %s", tail(t, log.Name()))
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the broker does not answer: %s", tail(t, log.Name()))
		}
	}
}

// ask calls the API as the administrator, who may do everything.
func (b *broker) ask(t *testing.T, method, path string, body any) []byte {
	t.Helper()
	resp, err := b.do(t, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%s %s: status %d: %s", method, path, resp.StatusCode, out)
	}
	return out
}

func (b *broker) do(t *testing.T, method, path string, body any) (*http.Response, error) {
	t.Helper()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+b.management+path, content)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(adminName, b.admin.Secret.ExposeString())
	return b.client.Do(req)
}

// certificate makes the broker's proof and a client that believes it.
func (b *broker) certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "server.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "server.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	b.spki = sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	b.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}, Timeout: time.Minute}
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tail(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b[max(0, len(b)-3000):]
}

// failures is how many logins as a user the broker has refused. It writes its log a little
// later, in order: what came before a login of nobody's is there when that one is.
func (b *broker) failures(t *testing.T, name string) int {
	t.Helper()
	refusals := func(name string) int {
		log, err := os.ReadFile(b.log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(log, fmt.Appendf(nil, "user '%s' - invalid credentials", name))
	}
	nobody := "nobody-" + rand.Text()
	if b.accepts(t, nobody, password("nobody's own")) {
		t.Fatal("the broker lets in whom it does not know")
	}
	for end := time.Now().Add(time.Minute); refusals(nobody) == 0; time.Sleep(5 * time.Millisecond) { // a file gives no signal
		if time.Now().After(end) {
			t.Fatalf("the broker's log does not tell of a login that it refused: %s", tail(t, b.log))
		}
	}
	return refusals(name)
}
