// Package targets starts the real servers that rotations are tested against:
// PostgreSQL, OpenSSH, MariaDB and others, on private ports of the loopback interface,
// each in a folder of its own. It is plain Go for demonstrations and a thin layer for
// tests: [Postgres], [OpenSSH], [Maria] and so on.
//
// Nothing that it makes outlives its owner for long, but for one original of each kind of
// server that takes long to make, which later runs copy: what a killed run leaves behind
// (processes, folders, Unix accounts) is written down in the folder before it is made, and
// swept by the next run.
package targets

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrUnavailable is wrapped by every error that says that this machine cannot have
// the server, so that a test should be skipped with the error as its reason.
var ErrUnavailable = errors.New("this machine cannot have the server")

const (
	marker     = "rotunda-target" // a folder that holds this file is ours to empty
	userFile   = "users"          // Unix accounts made for the server in this folder, one a line
	userPrefix = "rotunda-t-"     // every Unix account that we make has a home of this name
	hung       = 10 * time.Second // how long a server may take to end before it is killed
	starting   = time.Minute      // how long it may take to answer
)

// base is where test runs keep their folders; per user, so that one user's leftovers
// never stand in the way of another.
func base() (string, error) {
	dir := filepath.Join(os.TempDir(), "rotunda-targets-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of test servers: %w", err)
	}
	// The name can be guessed: somebody else may have made it first.
	switch ok, err := ownedByUs(dir); {
	case err != nil:
		return "", fmt.Errorf("look at the folder of test servers: %w", err)
	case !ok:
		return "", fmt.Errorf("folder of test servers %s is not a folder of this user: remove it", dir)
	}
	return dir, nil
}

// WorkDir makes a folder for servers, after sweeping what killed runs left behind.
// The folder lives until remove is called or this process ends.
func WorkDir() (dir string, remove func() error, err error) {
	root, err := base()
	if err != nil {
		return "", nil, err
	}
	unlock, err := lockFile(filepath.Join(root, "lock"), true)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if err := sweep(root); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, strconv.Itoa(os.Getpid())+"-"+randomHex(3))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make a folder for test servers: %w", err)
	}
	release, err := lockFile(filepath.Join(dir, "lock"), true)
	if err != nil {
		return "", nil, err
	}
	return dir, func() error {
		err := removeRun(dir)
		release()
		return err
	}, nil
}

// sweep removes the folders whose owner is gone: their lock can be had.
func sweep(root string) error {
	runs, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("look for leftovers of test servers: %w", err)
	}
	for _, r := range runs {
		if !r.IsDir() {
			continue
		}
		dir := filepath.Join(root, r.Name())
		release, err := lockFile(filepath.Join(dir, "lock"), false)
		if err != nil {
			continue // in use
		}
		err = removeRun(dir)
		release()
		if err != nil {
			return err
		}
	}
	return nil
}

func removeRun(dir string) error {
	servers, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove a folder of test servers: %w", err)
	}
	for _, s := range servers {
		if s.IsDir() {
			if err := Clean(filepath.Join(dir, s.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

// Clean ends the server that a killed run left in dir, removes the Unix accounts made
// for it, and the folder. A folder that is not there is no error; one that no server
// was started in is, unless it is empty.
func Clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean a test server's folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil && len(entries) > 0 {
		return fmt.Errorf("folder %s was not made for a test server: choose another, or empty it", dir)
	}
	pids, _ := filepath.Glob(filepath.Join(dir, "*.pid"))
	for _, f := range pids {
		if err := killLeftover(f, dir); err != nil {
			return err
		}
	}
	if err := removeUsers(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove a test server's folder: %w", err)
	}
	return nil
}

// prepare makes dir an empty folder marked as ours.
func prepare(dir string) error {
	if err := Clean(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a test server's folder: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, marker), nil, 0o644)
}

// killLeftover ends the process that pidFile names, if it is still the server that was
// started in dir: process ids are used again.
func killLeftover(pidFile, dir string) error {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return fmt.Errorf("read a test server's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return nil
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	ours := func() bool {
		argv, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		in, _ := os.Readlink(filepath.Join(proc, "cwd")) // Samba writes a title over its arguments
		return err == nil && (bytes.Contains(argv, []byte(dir)) || in == dir)
	}
	if !ours() {
		return nil
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	for _, sig := range []os.Signal{interrupt, terminate} { // MariaDB takes no notice of the first, PostgreSQL waits for its clients at the second
		_ = p.Signal(sig)
	}
	// Not our child, so there is nothing to wait on but the process table.
	for end := time.Now().Add(hung); ours(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			_ = p.Kill()
			return nil
		}
	}
	return nil
}

// process is a server that we started and wait for.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs a server in the foreground, its output in a log. uid and gid are of the
// user to run as; nil runs it as this one.
func start(dir, name string, as *account, argv ...string) (*process, error) {
	return startWith(dir, name, as, nil, argv...)
}

// startWith gives the server variables beside those that every one has.
func startWith(dir, name string, as *account, env []string, argv ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC"}, env...)
	runAs(cmd, as)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process, which stop waits for
		_ = cmd.Wait()
		close(p.done)
	}()
	pid := filepath.Join(dir, name+".pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), p.stop(os.Kill))
	}
	return p, nil
}

// stop signals the server and waits for its end.
func (p *process) stop(sig os.Signal) error {
	if p == nil {
		return nil
	}
	_ = p.resume() // it may be paused
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return nil
	case <-time.After(hung):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end within %s and was killed", p.name, hung)
}

// ready waits until the server answers, by asking again: servers in the foreground
// have no other way to tell.
func (p *process) ready(ctx context.Context, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended at once: %w", p.name, errEnded)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last answer: %w)", p.name, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

var errEnded = errors.New("see its log")

// onFreePort starts a server on a port that nobody uses. Between choosing and using it
// somebody else may take the port, so a server that ends at once is tried again.
func onFreePort(try func(port int) error) error {
	var err error
	for range 3 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if err = try(port); !errors.Is(err, errEnded) {
			return err
		}
	}
	return err
}

// run runs a short command to its end, input on its standard input.
func run(ctx context.Context, input []byte, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	if input != nil {
		cmd.Stdin = bytes.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, tail(out, 4000))
	}
	return nil
}

func tail(b []byte, n int) []byte { return bytes.TrimSpace(b[max(0, len(b)-n):]) }

func logTail(file string) string {
	b, _ := os.ReadFile(file)
	return string(tail(b, 2000))
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func lines(file string) ([]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if s.Text() != "" {
			out = append(out, s.Text())
		}
	}
	return out, s.Err()
}
