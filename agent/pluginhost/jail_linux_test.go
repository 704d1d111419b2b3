package pluginhost

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/sdk"
)

// probes runs the guest's attempts to get out, and gives what came of each.
func probes(t *testing.T, f *fixture, srv *server) func(what string) string {
	s := f.open(t.Context(), srv.job("probe"))
	return func(what string) string {
		t.Helper()
		_, err := apply(t.Context(), s, "probe "+what, "secret")
		e := (*sdk.Error)(nil)
		if !errors.As(err, &e) || e.Reason != "probe" {
			t.Fatalf("probe %s: %v", what, err)
		}
		return e.Err.Error()
	}
}

// The jail that this machine gives the agent. The other kinds are tried by running
// the test's own binary again as another user.
func TestJail(t *testing.T) {
	t.Setenv("PLUGINHOST_CANARY", "canary-of-the-environment")
	left, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0) // as a shell leaves files open to what it starts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(left) }()
	tryJail(t, newFixture(t, nil))
}

// Where the kernel allows no user namespaces to an agent that is not root, Landlock
// is all that is left.
func TestJailOfLandlockAlone(t *testing.T) {
	v := landlockVersion()
	switch {
	case os.Getuid() == 0:
		t.Skip("needs not to be root: TestJailUnprivileged runs it")
	case v == 0:
		t.Skip("needs a kernel with Landlock")
	}
	t.Setenv("PLUGINHOST_CANARY", "canary-of-the-environment")
	f := newFixture(t, nil)
	f.jail = &jail{iso: Isolation{NoPrivileges: true, Landlock: v, Filter: true, Bounds: true}, bounds: f.cfg.bounds}
	f.jail.sameUser()
	defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }()
	tryJail(t, f)
}

func tryJail(t *testing.T, f *fixture) {
	srv := newServer(t)
	iso := f.Isolation()
	t.Logf("isolation: %+v", iso)
	if iso.Note != "" {
		t.Logf("skipped in part: %s", iso.Note)
	}
	probe := probes(t, f, srv)
	me := strconv.Itoa(os.Getpid())

	open, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@pluginhost-" + me, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	dir := tempDir(t)
	shared, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "s"), 0o777))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shared.Close() }()
	secret := filepath.Join(dir, "agent.key")
	if err := os.WriteFile(secret, []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		when        bool
		what, probe string
		want        string // expression
	}{
		{true, "environment", "environ", `^[^;]*$|^(?:(?:PLUGIN_|ROTUNDA_|TMPDIR)[^;]* ; )*(?:PLUGIN_|ROTUNDA_|TMPDIR)[^;]*$`},
		{true, "the host's files", "open " + secret, `^(EACCES|EPERM|ENOENT)$`},
		{iso.Landlock > 0 || iso.Folder, "what others were started with", "open /proc/1/cmdline", `^(EACCES|EPERM|ENOENT)$`},
		{true, "system files for writing", "write /etc/pluginhost-test", `^(EACCES|EPERM|EROFS|ENOENT)$`},
		{true, "a folder that anybody may write", "write /tmp/pluginhost-test", map[bool]string{true: `^(EACCES|ENOENT)$`, false: `^ok$`}[iso.Landlock > 0 || iso.Folder]},
		{true, "the system's certificates", "open /etc/ssl", `^(ok|ENOENT)$`},
		{iso.Network || iso.Landlock >= 4, "tcp", "connect tcp " + srv.addr(), `^(ENETUNREACH|EACCES)$`},
		{iso.Network, "udp", "connect udp 127.0.0.1:53", `^ENETUNREACH$`},
		{iso.Network || iso.Landlock >= 6, "abstract sockets", "connect unix @pluginhost-" + me, `^(ECONNREFUSED|EPERM)$`},
		// A kernel that does not shut them: then it is said (TestOpenSocketsAreSaid).
		{true, "a socket that every user may open", "connect unix " + filepath.Join(dir, "s"), map[bool]string{true: `^(EACCES|EPERM|ENOENT)$`, false: `^ok$`}[iso.Sockets]},
		{iso.Network, "interfaces", "interfaces", `^0 up$`},
		{iso.Network, "the agent's network", "setns " + me, `^(EACCES|EPERM|ENOENT)$`},
		{iso.Network, "a dialled connection turned elsewhere", "reconnect " + srv.addr() + " 127.0.0.1:1", `^(EISCONN|EINVAL|EACCES|EAFNOSUPPORT|EPROTOTYPE)$`},
		{iso.User, "identity", "identity", `^uid 6[01]\d\d\d gid 6[01]\d\d\d groups 0 nnp 1 `},
		{iso.Processes, "other processes", "identity", ` pid 1 ppid 0$`},
	} {
		if !c.when {
			t.Logf("%s: skipped, this jail does not shut it", c.what)
			continue
		}
		if got := probe(c.probe); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%s: %s gives %q, want %s", c.what, c.probe, got, c.want)
		}
	}
	// Each of the agent's threads: one of them has started the plugin, and may be confined
	// as it is.
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	closed := regexp.MustCompile(`^(?:\w+ (?:EACCES|EPERM|ENOENT|ESRCH|EINVAL) ?)+$`)
	for _, thread := range threads {
		if got := probe("memory " + thread.Name()); !closed.MatchString(got) {
			t.Errorf("the agent's process, by its thread %s: %s", thread.Name(), got)
		}
	}
	if env := probe("environ"); strings.Contains(env, "canary") || strings.Contains(env, "PATH=") {
		t.Errorf("environment of the host: %s", env)
	}
	// Standard input, output, error, and sockets of the runtime and go-plugin; no file and
	// no descriptor of the host's.
	for _, fd := range strings.Fields(probe("descriptors")) {
		if strings.HasSuffix(fd, ":"+strconv.FormatInt(syscall.S_IFREG, 8)) || strings.HasSuffix(fd, ":"+strconv.FormatInt(syscall.S_IFDIR, 8)) {
			t.Errorf("descriptor of a file: %s", fd)
		}
	}
	tmp := probe("tmp")
	info, err := os.Stat(tmp)
	if err != nil || info.Mode().Perm() != 0o700 || filepath.Dir(tmp) != f.cfg.Dir {
		t.Errorf("private folder %s: %v, %v", tmp, info, err)
	}
	if got := probe("write " + filepath.Join(tmp, "own")); got != "ok" {
		t.Errorf("own folder: %s", got)
	}
}

// One plugin is shut off from another's folder and process.
func TestJailBetweenPlugins(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	if !f.Isolation().User && f.Isolation().Landlock == 0 {
		t.Skipf("nothing separates plugins here: %s", f.Isolation().Note)
	}
	f.open(t.Context(), srv.job("other"))
	other := f.pids()[0]
	f.mu.Lock()
	socket := f.procs[processKey{guest(), "other"}].socket
	f.mu.Unlock()
	probe := probes(t, f, srv)
	if got := probe(fmt.Sprint("memory ", other)); strings.Contains(got, " ok") {
		t.Errorf("another plugin's process: %s", got)
	}
	if got := probe("open " + filepath.Dir(socket)); got != "EACCES" && got != "ENOENT" {
		t.Errorf("another plugin's folder: %s", got)
	}
	if f.Isolation().User {
		if got := probe("connect unix " + socket); got != "EACCES" && got != "ENOENT" {
			t.Errorf("another plugin's dialer: %s", got)
		}
	}
}

// Processes that a plugin leaves behind, even in a session of their own and with its
// standard error, end with it and hold nothing up.
func TestJailGrandchild(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	if !f.Isolation().Processes {
		t.Skipf("no process namespaces: %s", f.Isolation().Note)
	}
	f.jail.iso.Filter = false // it keeps plugins from having any: this is the fence behind it
	probe := probes(t, f, srv)
	if got := probe("child"); got != "ok" {
		t.Fatalf("no child could be started: %s", got)
	}
	f.mu.Lock()
	p := f.procs[processKey{guest(), "probe"}]
	f.mu.Unlock()
	p.child.kill()
	<-p.gone
	out, _ := exec.Command("pgrep", "-f", "^/bin/sleep 3600$").Output()
	for _, pid := range strings.Fields(string(out)) {
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		if regexp.MustCompile(`Uid:\s+64\d\d\d`).Match(status) {
			t.Errorf("a grandchild goes on: %s", pid)
		}
	}
}

// An agent that is not root has weaker jails; each is tried as a user of its own.
func TestJailUnprivileged(t *testing.T) {
	if os.Getenv("PLUGINHOST_TEST_UNPRIVILEGED") != "" {
		t.Skip("runs inside of itself")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user; as another user the tests are this one")
	}
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "test")
	if err := exec.Command("cp", os.Args[0], exe).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^(TestRotation|TestJail|TestJailOfLandlockAlone|TestJailBetweenPlugins|TestDialer)$", "-test.v", "-test.timeout=5m")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PLUGINHOST_TEST_UNPRIVILEGED=1", "PLUGINHOST_TEST_BUILT="+built.dir, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestJail ") || strings.Count(string(out), "--- PASS") < 4 {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", regexp.MustCompile(`isolation: .*`).Find(out))
}

// Sockets of the host stay open to plugins where the kernel cannot shut them: whoever looks
// is told.
func TestOpenSocketsAreSaid(t *testing.T) {
	f := newFixture(t, nil)
	if i := f.Isolation(); i.Sockets != (i.Folder || shutsSockets()) || i.Landlock > 0 && i.Sockets == strings.Contains(i.Note, openSockets) {
		t.Errorf("%+v", i)
	}
}

// Root that may make no namespaces, as in most containers, sets no bounds: to do so it would
// be the plugin's user for a moment, and the plugin could end it. It says so.
func TestRootWithoutNamespaces(t *testing.T) {
	const inside = "PLUGINHOST_TEST_NO_NAMESPACES"
	if os.Getenv(inside) == "" {
		setpriv, err := exec.LookPath("setpriv")
		if err != nil || os.Getuid() != 0 {
			t.Skipf("needs root, and setpriv of util-linux: %v", err)
		}
		cmd := exec.Command(setpriv, "--bounding-set=-sys_admin", "--", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	j := newJail(defaultUsers, defaultBounds())
	if !j.iso.User || j.iso.Processes || j.iso.Bounds || !strings.Contains(j.iso.Note, "without a bound") {
		t.Errorf("%+v", j.iso)
	}
}

// Programs and folders of the agent may lie below what plugins are shown anyway.
func TestRootBelowUsr(t *testing.T) {
	if !newFixture(t, nil).Isolation().Folder {
		t.Skip("plugins have no root of their own here, and doctor says so")
	}
	dir, err := os.MkdirTemp("/usr/local", "rotunda-test-")
	if err != nil {
		t.Skipf("needs to write below /usr: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	for what, c := range map[string]confinement{
		"the program":       {folder: folder{dir: "/proc"}, binary: "/usr/bin/env"},
		"the plugin folder": {folder: folder{dir: dir}, binary: "/usr/bin/env"},
	} {
		memory, err := newMemory(1<<20, 0, "0700", 0)
		if err != nil {
			t.Fatal(err)
		}
		c.folder.file = memory
		done := make(chan error)
		go onOtherThread(func() { done <- c.enter() })
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = unix.Close(memory)
	}
}
