package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostChild is a host in a process of its own, which the test kills: it starts the
// plugins that its arguments name and prints their process ids.
func hostChild(dir string) int {
	fail := func(err error) int { fmt.Println("error", err); return 1 }
	list := strings.Split(os.Getenv("PLUGINHOST_TEST_LIST"), ",")
	cat, err := NewCatalogue(filepath.Join(dir, "plugins"), list, nil)
	if err != nil {
		return fail(err)
	}
	h, err := New(Config{Dir: filepath.Join(dir, "run"), Catalogue: cat})
	if err != nil {
		return fail(err)
	}
	var pids []string
	for _, s := range list {
		p, err := ParsePlugin(s)
		if err != nil {
			return fail(err)
		}
		proc, err := h.acquire(context.Background(), p, "r")
		if err != nil {
			return fail(err)
		}
		pids = append(pids, strconv.Itoa(proc.child.cmd.Process.Pid))
	}
	fmt.Println(strings.Join(pids, " "))
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return 0
}

// When the agent is killed its plugins end: those of the SDK by the death pipe, one
// that has no intention of it by the kernel.
func TestKillOfTheHostEndsPlugins(t *testing.T) {
	for _, as := range []int{0, 65534} {
		t.Run(fmt.Sprintf("uid %d", as), func(t *testing.T) {
			if as != 0 && os.Getuid() != 0 {
				t.Skip("needs root to start a host of another user")
			}
			dir := tempDir(t)
			f := &fixture{t: t, plugins: filepath.Join(dir, "plugins")}
			for _, d := range []string{f.plugins, filepath.Join(dir, "run")} {
				if err := errors.Join(os.Mkdir(d, 0o755), os.Chown(d, max(as, os.Getuid()), -1)); err != nil {
					t.Fatal(err)
				}
			}
			list := f.add("guest", "guest", built.guest).String() + "," + f.add("orphan", "hostile", built.hostile).String()
			exe := filepath.Join(dir, "host") // the test's own folder is closed to others
			if err := exec.Command("cp", os.Args[0], exe).Run(); err != nil {
				t.Fatal(err)
			}
			host := exec.Command(exe)
			host.Env = append(os.Environ(), "PLUGINHOST_TEST_CHILD="+dir, "PLUGINHOST_TEST_LIST="+list)
			host.Stderr = os.Stderr
			if as != 0 {
				host.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(as), Gid: uint32(as)}}
			}
			stdin, err := host.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stdin.Close() }()
			out, err := host.StdoutPipe()
			if err == nil {
				err = host.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			line, _ := bufio.NewReader(out).ReadString('\n')
			var fds []int
			for _, s := range strings.Fields(line) {
				pid, err := strconv.Atoi(s)
				if err != nil {
					t.Fatalf("the host says: %s", line)
				}
				fd, err := unix.PidfdOpen(pid, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unix.Close(fd) }()
				fds = append(fds, fd)
			}
			if len(fds) != 2 {
				t.Fatalf("the host says: %q", line)
			}
			_ = host.Process.Kill()
			_ = host.Wait()
			for i, fd := range fds {
				p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				if n, err := poll(p, 5*time.Second); n != 1 {
					t.Errorf("plugin %d goes on without its agent (%v)", i, err)
				}
			}
			// What the kill left is swept at the next start.
			left, _ := filepath.Glob(filepath.Join(dir, "run", folderPrefix+"*"))
			if len(left) != 2 {
				t.Errorf("left behind: %v", left)
			}
			cat, err := NewCatalogue(f.plugins, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			h, err := New(Config{Dir: filepath.Join(dir, "run"), Catalogue: cat})
			if err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "run", folderPrefix+"*")); len(left) != 0 {
				t.Errorf("not swept: %v", left)
			}
			if err := h.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func poll(p []unix.PollFd, d time.Duration) (int, error) {
	for end := time.Now().Add(d); ; {
		n, err := unix.Poll(p, int(max(time.Until(end), 0).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// halt stops a process, and waits until the last of its threads stands.
func halt(t *testing.T, pid int) {
	t.Helper()
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		states, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		stands := len(states) > 0
		for _, file := range states {
			stat, _ := os.ReadFile(file)
			_, after, _ := bytes.Cut(stat, []byte(") "))
			stands = stands && bytes.HasPrefix(after, []byte("T"))
		}
		if stands {
			return
		}
	}
	t.Fatalf("process %d does not stop", pid)
}

// A process that the kernel has stopped answers nothing at all: it is killed after a
// deadline, and when it is idle.
func TestStoppedProcess(t *testing.T) {
	f, srv := newFixture(t, func(c *Config) { c.Idle = 300 * time.Millisecond }), newServer(t)
	s := f.open(t.Context(), srv.job("r"))
	halt(t, f.pids()[0])
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	r, err := apply(ctx, s, "app", "secret")
	if took := time.Since(start); r.Outcome != 0 || ReasonOf(err) != string(PluginDeaf) || NotSent(err) || took > 200*time.Millisecond+deafFor+10*time.Second {
		t.Errorf("%+v, %v after %v", r, err, took)
	}
	s.Close()
	again := f.open(t.Context(), srv.job("r"))
	f.mu.Lock()
	p := f.procs[processKey{guest(), "r"}]
	f.mu.Unlock()
	halt(t, p.child.cmd.Process.Pid)
	again.Close()
	select {
	case <-p.gone:
	case <-time.After(15 * time.Second):
		t.Error("a stopped process goes on idling")
	}
}
