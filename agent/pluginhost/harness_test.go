package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// built holds the test plugins, each under the hash of its file.
var built struct {
	dir            string
	guest, hostile [32]byte
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if dir := os.Getenv("PLUGINHOST_TEST_CHILD"); dir != "" {
		return hostChild(dir)
	}
	dir := os.Getenv("PLUGINHOST_TEST_BUILT")
	if dir == "" {
		var err error
		dir, err = os.MkdirTemp("", "rtp")
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
	}
	built.dir = dir
	for name, sum := range map[string]*[32]byte{"guest": &built.guest, "hostile": &built.hostile} {
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./internal/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if os.Getenv("PLUGINHOST_TEST_BUILT") == "" {
			if b, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, b)
				return 1
			}
		}
		b, err := os.ReadFile(out)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		*sum = sha256.Sum256(b)
	}
	return m.Run()
}

// fixture is a host with plugins, and what they log.
type fixture struct {
	*Host
	t       testing.TB
	plugins string
	logs    *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// has waits until text was logged: output comes by a pipe, without a signal.
func (l *logBuffer) has(t testing.TB, text string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(l.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s := l.String()
			t.Fatalf("log lacks %q, ends:\n%s", text, s[max(0, len(s)-2000):])
		}
	}
}

// tempDir is short, since sockets live in it, and can be passed through by others.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rt")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newFixture(t testing.TB, edit func(*Config), hostile ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, plugins: tempDir(t), logs: &logBuffer{}}
	list := []string{f.add("guest", "guest", built.guest).String()}
	for _, name := range hostile {
		file, sum := "hostile", built.hostile
		if name == "scripts" { // the guest, as one that runs scripts
			file, sum = "guest", built.guest
		}
		list = append(list, f.add(name, file, sum).String())
	}
	cat, err := NewCatalogue(f.plugins, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Dir: tempDir(t), Catalogue: cat,
		Log: slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&cfg)
	}
	if f.Host, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := f.Host.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if files, _ := os.ReadDir(cfg.Dir); len(files) > 0 {
			t.Errorf("left behind in the host's folder: %v", files)
		}
	})
	return f
}

func (f *fixture) add(name, file string, sum [32]byte) Plugin {
	p := Plugin{Name: name, SHA256: sum}
	b, err := os.ReadFile(filepath.Join(built.dir, file))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.plugins, p.String()), b, 0o644)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func guest() Plugin              { return Plugin{Name: "guest", SHA256: built.guest} }
func hostile(name string) Plugin { return Plugin{Name: name, SHA256: built.hostile} }

// server is the target: it keeps secrets by user.
type server struct {
	l       net.Listener
	mu      sync.Mutex
	secrets map[string]string
	logins  int
	conns   []net.Conn
	wg      sync.WaitGroup
}

func newServer(t testing.TB) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l: l, secrets: map[string]string{"admin": adminSecret, "app": "app-first"}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *server) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		s.mu.Lock()
		answer := "NO"
		switch {
		case len(f) == 3 && f[0] == "LOGIN":
			s.logins++
			if s.secrets[f[1]] == f[2] {
				answer = "OK"
			}
		case len(f) == 3 && f[0] == "SET":
			s.secrets[f[1]] = f[2]
			answer = "OK"
		}
		s.mu.Unlock()
		if _, err := fmt.Fprintln(c, answer); err != nil {
			return
		}
	}
}

const adminSecret = "adm1n-s3cret"

func (s *server) addr() string { return s.l.Addr().String() }

func (s *server) target(key string) Target {
	return Target{Key: key, Resource: sdk.Resource{Address: s.addr()}, Allow: []string{s.addr()}}
}

func (s *server) job(key string) Job {
	return Job{Target: s.target(key), Admin: password(adminSecret), AdminAs: sdk.Account{Name: "admin"}}
}

func password(s string) sdk.Credential {
	return sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(s))}
}

func (f *fixture) open(ctx context.Context, j Job) *Session {
	f.t.Helper()
	s, err := f.Open(ctx, guest(), j)
	if err != nil {
		f.t.Fatalf("open: %v", err)
	}
	f.t.Cleanup(s.Close)
	return s
}

func apply(ctx context.Context, s *Session, account, secret string) (sdk.ApplyResponse, error) {
	return s.Apply(ctx, sdk.ApplyRequest{Account: sdk.Account{Name: account}, Candidate: password(secret)})
}

// pids lists the plugin processes of the host.
func (f *fixture) pids() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []int
	for _, p := range f.procs {
		select {
		case <-p.started:
			if p.err == nil {
				out = append(out, p.child.cmd.Process.Pid)
			}
		default:
		}
	}
	return out
}

// inFlight waits until the resource's process has a call in flight.
func (f *fixture) inFlight(key string) {
	f.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		p := f.procs[processKey{guest(), key}]
		busy := p != nil && p.busy > 0
		f.mu.Unlock()
		if busy {
			return
		}
		if time.Now().After(end) {
			f.t.Fatal("the call does not begin")
		}
	}
}
