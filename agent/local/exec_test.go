//go:build unix

package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

func TestExec(t *testing.T) {
	env, pwd := "/usr/bin/env", "/bin/pwd"
	h := newHost(t, "/bin/sh", env, pwd)
	for _, c := range []struct {
		name           string
		stdin, program string
		args           []string
		exit           int
		signal         string
		stdout, stderr string
	}{
		{"outputs and a status", "in", "/bin/sh", []string{"-c", "cat; echo err >&2; exit 3"}, 3, "", "in", "err\n"},
		{"arguments are a list", "", "/bin/sh", []string{"-c", `printf '%s|' "$@"`, "sh", "a b", "$(id)", "; id", "*", "", "--help", "ü\n"}, 0, "", "a b|$(id)|; id|*||--help|ü\n|", ""},
		{"a name of its own", "", "/bin/sh", []string{"-c", "echo $0"}, 0, "", "/bin/sh\n", ""},
		{"an environment that is a PATH", "", env, nil, 0, "", environment[0] + "\n", ""},
		{"a folder that is the root", "", pwd, nil, 0, "", "/\n", ""},
		{"a signal", "", "/bin/sh", []string{"-c", "kill -SEGV $$"}, -1, "SIGSEGV", "", ""},
		{"no core", "", "/bin/sh", []string{"-c", "ulimit -c"}, 0, "", "0\n", ""},
		{"one that reads nothing of much", strings.Repeat("x", pluginv1.MaxLocalBody), "/bin/sh", []string{"-c", "exit 4"}, 4, "", "", ""},
		{"one that reads much", strings.Repeat("x", pluginv1.MaxLocalBody), "/bin/sh", []string{"-c", "wc -c | tr -d ' '"}, 0, "", "1048576\n", ""},
		{"one that closes its outputs", "", "/bin/sh", []string{"-c", "exec >&- 2>&-; exit 5"}, 5, "", "", ""},
		{"no files of the agent's", "", "/bin/sh", []string{"-c", "for f in 3 4 5 6 7 8 9; do (: >&$f) 2>/dev/null && echo $f; done; true"}, 0, "", "", ""},
	} {
		if c.name == "no core" && runtime.GOOS != "linux" {
			continue
		}
		a, stdout, stderr := h.exec(c.stdin, time.Minute, c.program, c.args...)
		if a.Error != nil || a.Exit != c.exit || a.Signal != c.signal || stdout != c.stdout || stderr != c.stderr || a.Dropped != 0 {
			t.Errorf("%s: exit %d, signal %q, %q, %q, %+v", c.name, a.Exit, a.Signal, stdout, stderr, a.Error)
		}
	}
}

// A program may print for ever: the beginning is kept, the rest counted.
func TestGigabyteOfOutput(t *testing.T) {
	h := newHost(t, "/bin/sh")
	a, stdout, stderr := h.exec("", time.Minute, "/bin/sh", "-c", "echo first >&2; head -c 1073741824 /dev/zero; head -c 100000 /dev/zero >&2")
	if a.Error != nil || len(stdout) != pluginv1.MaxPrinted || len(stderr) != pluginv1.MaxPrinted || !strings.HasPrefix(stderr, "first\n") {
		t.Fatalf("%d and %d bytes, %+v", len(stdout), len(stderr), a.Error)
	}
	if want := int64(1<<30 - pluginv1.MaxPrinted + 100000 + 6 - pluginv1.MaxPrinted); a.Dropped != want {
		t.Errorf("%d bytes dropped, want %d", a.Dropped, want)
	}
}

// stubborn is a shell script: processes that ignore every polite signal, one of them in a
// session of its own and with no parent; each holds the pipe open.
const stubborn = `trap "" TERM INT HUP
exec 3>"$0"
(setsid sh -c '(sh -c "echo away >&3; sleep 1000; sleep 1000") & exec sleep 1000' &)
(sleep 1000; sleep 1000) &
`

// What a program started is ended with it: when it ends by itself, when its time is over,
// when nobody waits for the answer any more. What is left of it would hold the pipe.
func TestNothingIsLeft(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: only Linux can find what leaves its process group")
	}
	for _, c := range []struct {
		name, ends string
		limit      time.Duration
		cut        bool
		want       string
	}{
		{"it ends by itself", "read x <\"$1\"; exit 0", time.Minute, false, ""},
		{"its time is over", "sleep 1000; sleep 1000", 5 * time.Second, false, "unreachable local.deadline"},
		{"its connection is cut", "sleep 1000; sleep 1000", time.Minute, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, p, go_ := newHost(t, "/bin/sh"), newFIFO(t), newFIFO(t)
			conn, ended := h.begin()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			if err := pluginv1.WriteLocal(conn, execs(c.limit, "/bin/sh", "-c", stubborn+c.ends, p.path, go_.path), make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			p.line()
			if c.cut {
				_ = conn.Close()
				<-ended
				p.gone()
				return
			}
			if strings.HasPrefix(c.ends, "read") {
				w, err := os.OpenFile(go_.path, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = w.Close() }() // later: the program may not have opened it yet
				_, _ = w.WriteString("\n")
			}
			var a pluginv1.LocalAnswer
			if _, err := pluginv1.ReadLocal(conn, &a); err != nil || refusal(a) != c.want || a.Error != nil && a.Error.NotSent {
				t.Errorf("%q, %v, want %q, and not that nothing was begun", refusal(a), err, c.want)
			}
			p.gone()
		})
	}
}

// The agent's own end is its programs'.
func TestAgentDies(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: only on Linux a program has a keeper")
	}
	if path := os.Getenv("ROTUNDA_LOCAL_DIES"); path != "" {
		_, _ = run(t.Context(), "/bin/sh", []string{"-c", stubborn + "sleep 1000", path}, nil)
		return
	}
	p := newFIFO(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestAgentDies$")
	cmd.Env = append(os.Environ(), "ROTUNDA_LOCAL_DIES="+p.path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.line()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	p.gone()
}

// rootsFolder is a folder that only root can change, on all of its way.
func rootsFolder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("left out: only root makes programs that a script may run")
	}
	dir, err := os.MkdirTemp("/var/lib", "rotunda-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A program runs only where nobody but root can put another in its place.
func TestPrograms(t *testing.T) {
	dir := rootsFolder(t)
	make := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	do := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	const script = "#!/bin/sh\necho \"$0\"\n"
	good := make("good", script, 0o755)
	foreign := make("foreign", script, 0o755)
	do(os.Chown(foreign, 1, 1))
	make("open/program", script, 0o755)
	do(os.Chmod(filepath.Join(dir, "open"), 0o777))
	make("sticky/program", script, 0o755)
	do(os.Chmod(filepath.Join(dir, "sticky"), 0o777|os.ModeSticky))
	do(os.Symlink(good, filepath.Join(dir, "open/link")))
	do(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o755))
	for _, c := range []struct {
		name, path string
		want       string // refusal
		says       string
	}{
		{"root's own", good, "", ""},
		{"by a link", link("link", "good"), "", ""},
		{"by a link to a whole path", link("whole", good), "", ""},
		{"by a link through a folder and back", link("dots", "../"+filepath.Base(dir)+"/./good"), "", ""},
		{"by a link that goes through a program", link("through", "good/../good"), "permission local.program", "not a directory"},
		{"that a group can change", make("group", script, 0o775), "permission local.program", "chmod go-w"},
		{"that everybody can change", make("all", script, 0o757), "permission local.program", "chmod go-w"},
		{"of another user", foreign, "permission local.program", "chown root"},
		{"in a folder that others can change", filepath.Join(dir, "open/program"), "permission local.program", "chmod go-w"},
		{"in a folder such as /tmp", filepath.Join(dir, "sticky/program"), "permission local.program", "chmod go-w"},
		{"by a link into such a folder", link("into", "open/program"), "permission local.program", "chmod go-w"},
		{"by a link out of such a folder", filepath.Join(dir, "open/link"), "permission local.program", "chmod go-w"},
		{"that is a folder", filepath.Dir(dir), "permission local.program", "not a regular file"},
		{"that is a pipe", filepath.Join(dir, "pipe"), "permission local.program", "not a regular file"},
		{"that is a device", "/dev/null", "permission local.program", ""},
		{"that is a link to the root", link("root", "/"), "permission local.program", "not a regular file"},
		{"by a link to itself", link("loop", "loop"), "permission local.program", "links"},
		{"by a link to nothing", link("nothing", "nowhere"), "not_found local.program", "nowhere"},
		{"that is not there", filepath.Join(dir, "absent"), "not_found local.program", "absent"},
		{"that is not executable", make("data", script, 0o644), "permission local.program", "chmod 755"},
		{"that is no program", make("text", "echo\n", 0o755), "internal local.program", "begins with #!"},
		{"without its interpreter", make("alone", "#!/nowhere/sh\n", 0o755), "internal local.program", "interpreter"},
	} {
		h := newHost(t, c.path)
		a, stdout, _ := h.exec("", time.Minute, c.path)
		switch {
		case c.want != "" && (refusal(a) != c.want || !a.Error.NotSent || !strings.Contains(a.Error.Text, c.says)):
			t.Errorf("a program %s: %q, %+v", c.name, refusal(a), a.Error)
		case c.want == "" && (a.Error != nil || stdout != good+"\n"):
			t.Errorf("a program %s: %q, %+v", c.name, stdout, a.Error)
		}
		if err := CheckProgram(c.path); c.says != "" && !strings.HasPrefix(c.want, "internal") && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("a program %s, looked at: %v", c.name, err)
		}
	}
}

// The file that was looked at is the one that runs: one that is swapped for another all the
// time is that, or refused.
func TestSwappedProgram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("left out: only Linux runs a file that is open")
	}
	dir := rootsFolder(t)
	put := func(name, from string, mode os.FileMode) string {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad, path := put("good", "/bin/true", 0o755), put("bad", "/bin/false", 0o777), filepath.Join(dir, "program")
	if err := os.Link(good, path); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, path)
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Link([]string{good, bad}[n%2], path+".new")
			_ = os.Rename(path+".new", path)
			_ = os.Remove(path + ".new") // a rename onto the same file does nothing
		}
	})
	ran, refused := 0, 0
	for n := 0; n < 1000 && (n < 100 || ran == 0 || refused == 0); n++ {
		a, _, _ := h.exec("", time.Minute, path)
		switch {
		case a.Error == nil && a.Exit == 0:
			ran++
		case a.Error != nil && a.Error.Reason == Program:
			refused++
		default:
			t.Fatalf("exit %d, %+v: the file that others can change was run", a.Exit, a.Error)
		}
	}
	close(stop)
	swapping.Wait()
	t.Logf("ran %d times, refused %d times", ran, refused)
	if ran == 0 || refused == 0 {
		t.Error("nothing was swapped")
	}
}

// The log tells what ran, and nothing that it was given.
func TestLogHasNoContent(t *testing.T) {
	h := newHost(t, "/bin/sh")
	h.exec("hunter2hunter2", time.Minute, "/bin/sh", "-c", "cat; cat >&2", "s3cr3t-argument")
	h.write(h.path("a.conf"), "hunter2hunter2", false)
	h.read(h.path("a.conf"))
	h.exec("hunter2hunter2", time.Minute, "/bin/cat", "s3cr3t-argument")
	said := h.log.String()
	for _, secret := range []string{"hunter2", "s3cr3t"} {
		if strings.Contains(said, secret) {
			t.Errorf("the log says %s:\n%s", secret, said)
		}
	}
	for _, word := range []string{"program=/bin/sh", "file=" + h.path("a.conf"), "script=restart", "reason=local.manifest"} {
		if !strings.Contains(said, word) {
			t.Errorf("the log does not say %s:\n%s", word, said)
		}
	}
}
