//go:build unix

package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/agent/policy"
	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// host is a server with a policy and a manifest that both allow programs and a folder.
type host struct {
	*Server
	t   testing.TB
	dir string // its files are open to scripts, by *.conf and below sub
	log bytes.Buffer
}

func newHost(t testing.TB, programs ...string) *host {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir}
	var list []string
	for _, p := range programs {
		list = append(list, fmt.Sprintf("%q", p))
	}
	p, err := policy.Parse(fmt.Sprintf("[scripts]\nprograms = [%s]\nfiles = [%q, %q, %q, %q]\n", strings.Join(list, ", "), dir+"/*.conf", dir+"/*.conf.bak", dir+"/*/*.conf", dir+"/*/*.conf.bak"))
	if err != nil {
		t.Fatal(err)
	}
	h.Server = &Server{Policy: p, Script: "restart", Programs: programs, Log: slog.New(slog.NewTextHandler(&h.log, nil))}
	for _, f := range []string{"a.conf", "new.conf", "sub/a.conf", "link/a.conf"} {
		h.Files = append(h.Files, h.path(f))
	}
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// put makes a file.
func (h *host) put(name, content string, mode os.FileMode) string {
	h.t.Helper()
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// begin serves a connection, of which it gives the other end.
func (h *host) begin() (conn net.Conn, ended <-chan struct{}) {
	h.t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Serve(h.t.Context(), theirs)
	}()
	h.t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	return ours, done
}

// ask has one request answered.
func (h *host) ask(r pluginv1.LocalRequest, body string) (pluginv1.LocalAnswer, string) {
	h.t.Helper()
	conn, _ := h.begin()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if err := pluginv1.WriteLocal(conn, r, []byte(body)); err != nil {
		h.t.Fatal(err)
	}
	var a pluginv1.LocalAnswer
	out, err := pluginv1.ReadLocal(conn, &a)
	if err != nil {
		h.t.Fatal(err)
	}
	return a, string(out)
}

func (h *host) exec(stdin string, limit time.Duration, program string, args ...string) (a pluginv1.LocalAnswer, stdout, stderr string) {
	h.t.Helper()
	a, out := h.ask(execs(limit, program, args...), stdin)
	return a, out[:a.Stdout], out[a.Stdout:]
}

func execs(limit time.Duration, program string, args ...string) pluginv1.LocalRequest {
	return pluginv1.LocalRequest{Exec: &pluginv1.LocalExec{Program: program, Args: args, Timeout: limit.Milliseconds()}}
}

func (h *host) read(path string) (pluginv1.LocalAnswer, string) {
	h.t.Helper()
	return h.ask(pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: path, Max: 1 << 10}}, "")
}

func (h *host) write(path, content string, backup bool, mode ...uint32) pluginv1.LocalAnswer {
	h.t.Helper()
	w := &pluginv1.LocalWrite{Path: path, Backup: backup}
	if len(mode) > 0 {
		w.Mode = &mode[0]
	}
	a, _ := h.ask(pluginv1.LocalRequest{Write: w}, content)
	return a
}

// refusal is an answer that is one, as a word.
func refusal(a pluginv1.LocalAnswer) string {
	if a.Error == nil {
		return ""
	}
	return a.Error.Class + " " + a.Error.Reason
}

// fifo is a pipe with a name: a program that holds it open is seen to be gone by its end.
type fifo struct {
	t    *testing.T
	path string
	r    *os.File
}

func newFIFO(t *testing.T) *fifo {
	t.Helper()
	p := &fifo{t: t, path: filepath.Join(t.TempDir(), "pipe")}
	if err := unix.Mkfifo(p.path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(p.path, os.O_RDONLY|unix.O_NONBLOCK, 0) // waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	p.r = r
	t.Cleanup(func() { _ = r.Close() })
	return p
}

// line waits until the program has said something.
func (p *fifo) line() string {
	p.t.Helper()
	var all []byte
	for b := make([]byte, 1); !bytes.HasSuffix(all, []byte("\n")); {
		_ = p.r.SetReadDeadline(time.Now().Add(time.Minute))
		switch n, err := p.r.Read(b); {
		case err == io.EOF: // nobody has opened it yet
			p.wait()
		case err != nil:
			p.t.Fatalf("the program says nothing: %v", err)
		default:
			all = append(all, b[:n]...)
		}
	}
	return strings.TrimSpace(string(all))
}

// wait waits for somebody to open the pipe.
func (p *fifo) wait() {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(p.r.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err == nil && fds[0].Revents&unix.POLLIN != 0 {
			return
		}
	}
}

// gone waits until nobody holds the pipe open any more.
func (p *fifo) gone() {
	p.t.Helper()
	_ = p.r.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadAll(p.r); err != nil {
		p.t.Errorf("somebody still holds the pipe: %v", err)
	}
}

// What neither list has, or no list can have, is refused before anything is begun.
func TestRefusals(t *testing.T) {
	h := newHost(t, "/bin/sh")
	h.put("a.conf", "x", 0o600)
	h.put("other.conf", "x", 0o600)
	h.put("a.txt", "x", 0o600)
	only := *h.Server.Policy // what the manifest has and the policy has not
	h.Programs = append(h.Programs, "/bin/ls")
	h.Files = append(h.Files, h.path("a.txt"))
	second := time.Second
	mode := uint32(0o666)
	for _, c := range []struct {
		name string
		r    pluginv1.LocalRequest
		body string
		want string
	}{
		{"a program that the manifest has not", execs(second, "/bin/cat"), "", "permission local.manifest"},
		{"one that the policy has not", execs(second, "/bin/ls"), "", "permission local.policy"},
		{"one by its name", execs(second, "sh"), "", "invalid local.program"},
		{"one by a way with dots", execs(second, "/bin/../bin/sh"), "", "invalid local.program"},
		{"one with a slash at the end", execs(second, "/bin/sh/"), "", "invalid local.program"},
		{"one with a NUL", execs(second, "/bin/sh\x00x"), "", "invalid local.program"},
		{"an argument with a NUL", execs(second, "/bin/sh", "-c", "true\x00x"), "", "invalid local.program"},
		{"too many arguments", execs(second, "/bin/sh", make([]string, pluginv1.MaxArgs+1)...), "", "invalid local.program"},
		{"too long ones", execs(second, "/bin/sh", strings.Repeat("x", pluginv1.MaxArgBytes+1)), "", "invalid local.program"},
		{"no time", execs(0, "/bin/sh"), "", "invalid local.program"},
		{"too much time", execs(2*time.Hour, "/bin/sh"), "", "invalid local.program"},
		{"more time than there is", pluginv1.LocalRequest{Exec: &pluginv1.LocalExec{Program: "/bin/sh", Timeout: 1 << 62}}, "", "invalid local.program"},
		{"a file that the manifest has not", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("other.conf"), Max: 10}}, "", "permission local.manifest"},
		{"one that the policy has not", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("a.txt"), Max: 10}}, "", "permission local.policy"},
		{"one by a way with dots", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.dir + "/sub/../a.conf", Max: 10}}, "", "invalid local.file"},
		{"one from here", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: "a.conf", Max: 10}}, "", "invalid local.file"},
		{"the root", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: "/", Max: 10}}, "", "invalid local.file"},
		{"more than is read", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("a.conf"), Max: pluginv1.MaxLocalBody + 1}}, "", "invalid local.file"},
		{"nothing to be read", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("a.conf")}}, "", "invalid local.file"},
		{"a file to be written that the policy has not", pluginv1.LocalRequest{Write: &pluginv1.LocalWrite{Path: h.path("a.txt")}}, "", "permission local.policy"},
		{"a mode for everybody", pluginv1.LocalRequest{Write: &pluginv1.LocalWrite{Path: h.path("a.conf"), Mode: &mode}}, "", "invalid local.file"},
		{"nothing", pluginv1.LocalRequest{}, "", "invalid local.request"},
		{"two things", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("a.conf"), Max: 10}, Write: &pluginv1.LocalWrite{Path: h.path("a.conf")}}, "", "invalid local.request"},
		{"a content to be read", pluginv1.LocalRequest{Read: &pluginv1.LocalRead{Path: h.path("a.conf"), Max: 10}}, "x", "invalid local.request"},
	} {
		a, out := h.ask(c.r, c.body)
		if got := refusal(a); got != c.want || out != "" || a.Error != nil && !a.Error.NotSent {
			t.Errorf("%s: %q with %d bytes, want %q, and nothing begun: %+v", c.name, got, len(out), c.want, a.Error)
		}
	}
	h.Server.Policy = nil
	if a, _ := h.read(h.path("a.conf")); refusal(a) != "permission local.policy" {
		t.Errorf("without a policy: %q", refusal(a))
	}
	h.Server.Policy = &only
	if a, out := h.read(h.path("a.conf")); refusal(a) != "" || out != "x" {
		t.Errorf("what both lists have: %q, %q", refusal(a), out)
	}
}

// A second request is refused while the first has no answer, and taken after it.
func TestOneAtATime(t *testing.T) {
	h, p := newHost(t, "/bin/sh"), newFIFO(t)
	h.put("a.conf", "x", 0o600)
	conn, ended := h.begin()
	if err := pluginv1.WriteLocal(conn, execs(time.Minute, "/bin/sh", "-c", `exec 3>"$0"; echo here >&3; sleep 1000`, p.path), nil); err != nil {
		t.Fatal(err)
	}
	p.line()
	if a, _ := h.read(h.path("a.conf")); refusal(a) != "conflict local.busy" {
		t.Errorf("beside another request: %q", refusal(a))
	}
	_ = conn.Close()
	<-ended
	p.gone()
	if a, _ := h.read(h.path("a.conf")); refusal(a) != "" {
		t.Errorf("after it: %q", refusal(a))
	}
}

// What somebody sends who is no script of ours is answered, or not, and does nothing.
func TestFrames(t *testing.T) {
	h := newHost(t, "/bin/sh")
	path := h.put("a.conf", "old", 0o600)
	head := fmt.Sprintf(`{"write":{"path":%q,"follow":true}}`, path)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(head)))
	b = append(binary.BigEndian.AppendUint32(b, 0), head...)
	conn, _ := h.begin()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	var a pluginv1.LocalAnswer
	if _, err := pluginv1.ReadLocal(conn, &a); err != nil || refusal(a) != "invalid local.request" {
		t.Errorf("an unknown name: %q, %v", refusal(a), err)
	}
	// Each end of a request within it.
	var whole bytes.Buffer
	if err := pluginv1.WriteLocal(&whole, pluginv1.LocalRequest{Write: &pluginv1.LocalWrite{Path: path}}, []byte("new")); err != nil {
		t.Fatal(err)
	}
	for n := range whole.Len() {
		conn, ended := h.begin()
		if _, err := conn.Write(whole.Bytes()[:n]); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		<-ended
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("half a request wrote %q", got)
	}
}

// No bytes make the server do what no list allows.
func FuzzServe(f *testing.F) {
	for _, r := range []pluginv1.LocalRequest{
		execs(time.Second, "/bin/sh", "-c", "exit 1"),
		{Read: &pluginv1.LocalRead{Path: "/etc/passwd", Max: 100}},
		{Write: &pluginv1.LocalWrite{Path: "/tmp/x", Backup: true}},
	} {
		var b bytes.Buffer
		if err := pluginv1.WriteLocal(&b, r, []byte("body")); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{Programs: []string{"/bin/sh"}, Files: []string{"/etc/passwd", "/tmp/x"}}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Serve(t.Context(), theirs)
		}()
		go func() {
			_, _ = ours.Write(b)
			if want := 8; len(b) < want { // it waits for more
				_ = ours.Close()
			}
		}()
		stop := time.AfterFunc(time.Second, func() { _ = ours.Close() }) // likewise
		var a pluginv1.LocalAnswer
		if _, err := pluginv1.ReadLocal(ours, &a); err == nil && a.Error == nil {
			t.Errorf("%q was done", b)
		}
		stop.Stop()
		_ = ours.Close()
		<-done
	})
}

// keeps is a memory of one value.
type keeps struct{ b []byte }

func (k *keeps) Get(string) ([]byte, bool, bool, error) { return k.b, true, k.b != nil, nil }
func (k *keeps) Set(_ string, b []byte, _ bool) error {
	k.b = b
	return nil
}

// What a script puts away is only for one whose manifest names the module.
func TestState(t *testing.T) {
	h := newHost(t)
	k := &keeps{}
	h.State = k
	set := pluginv1.LocalRequest{State: &pluginv1.LocalState{Name: "n", Set: true}}
	if a, _ := h.ask(set, "7"); refusal(a) != "permission local.manifest" || k.b != nil {
		t.Errorf("a script that does not name it: %+v", a)
	}
	h.Keeps = true
	if a, _ := h.ask(set, "7"); a.Error != nil || string(k.b) != "7" {
		t.Errorf("%+v, %q", a, k.b)
	}
	if a, out := h.ask(pluginv1.LocalRequest{State: &pluginv1.LocalState{Name: "n"}}, ""); !a.Known || !a.Secret || out != "7" {
		t.Errorf("%+v, %q", a, out)
	}
	for _, bad := range []pluginv1.LocalState{{Name: ""}, {Name: "a/b"}, {Name: strings.Repeat("n", 65)}, {Name: "n", Set: true, Forget: true}} {
		if a, _ := h.ask(pluginv1.LocalRequest{State: &bad}, ""); a.Error == nil || a.Error.Class != "invalid" {
			t.Errorf("%+v: %+v", bad, a)
		}
	}
	if a, _ := h.ask(pluginv1.LocalRequest{State: &pluginv1.LocalState{Name: "n"}}, "a body"); refusal(a) != "invalid local.request" {
		t.Errorf("a body where none is: %+v", a)
	}
	forget := pluginv1.LocalRequest{State: &pluginv1.LocalState{Name: "n", Forget: true}}
	if a, _ := h.ask(forget, ""); a.Error != nil || k.b != nil {
		t.Errorf("%+v, %q", a, k.b)
	}
	for range maxSets {
		h.ask(set, "7")
	}
	if a, _ := h.ask(set, "8"); refusal(a) != "invalid state.often" || string(k.b) != "7" {
		t.Errorf("once too often: %+v, %q", a, k.b)
	}
}
