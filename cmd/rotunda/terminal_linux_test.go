package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

// TestInterruptAtPrompt: the first ^C on a terminal ends every prompt with its own code,
// and the terminal is as it was. The program is a process of its own here, whose reads
// nothing but the terminal ends.
func TestInterruptAtPrompt(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "code"), []byte("a setup code\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "ROTUNDA_HOME="+filepath.Join(dir, "home"), "XDG_RUNTIME_DIR="+dir)
	init := []string{"org", "init", "--server", "localhost:1", "--name", "Ada", "--kit", filepath.Join(dir, "kit")}
	for _, row := range []struct {
		name, prompt string
		args         []string
	}{
		{"a secret", "setup code: ", init},
		{"a new passphrase", "new passphrase for the device: ", append(init, "--setup-code-file", filepath.Join(dir, "code"))},
		{"standard input", "", []string{"join", "-"}},
	} {
		t.Run(row.name, func(t *testing.T) { interruptAt(t, env, row.prompt, row.args...) })
	}
	if _, err := os.Stat(filepath.Join(dir, "kit")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the kit's file is left behind: %v", err)
	}
}

// TestInterruptAtQuestion: the same where the program has a server.
func TestInterruptAtQuestion(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server")
	}
	i, err := installation.Start(t.Context(), installation.Options{Bin: programsDir(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	home := filepath.Join(i.Dir, "home")
	open := append(os.Environ(), "ROTUNDA_HOME="+home, "XDG_RUNTIME_DIR="+home)
	locked := append(os.Environ(), "ROTUNDA_HOME="+home, "XDG_RUNTIME_DIR="+t.TempDir())
	if _, err := i.CLI(t.Context(), nil, "folder", "add", "Web"); err != nil {
		t.Fatal(err)
	}
	if _, err := i.CLI(t.Context(), nil, "app", "add", "terraform"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, prompt string
		env          []string
		args         []string
	}{
		{"the passphrase", "passphrase of this device: ", locked, []string{"record", "list"}},
		{"a question", "? [y/N] ", open, []string{"app", "remove", "terraform"}},
		{"a secret", "secret", open, []string{"record", "add", "shop", "--folder", "Web", "--login", "shop"}},
		{"--password-stdin", "", open, []string{"record", "add", "shop", "--folder", "Web", "--login", "shop", "--password-stdin"}},
	} {
		t.Run(row.name, func(t *testing.T) { interruptAt(t, row.env, row.prompt, row.args...) })
	}
}

// TestInterruptedRuns: a signal to a command that follows a run, which its agent, away,
// does not take up.
func TestInterruptedRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server and an agent")
	}
	i, err := installation.Start(t.Context(), installation.Options{Bin: programsDir(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	a, err := i.AddAgent(t.Context(), "gw1", installation.Pool)
	if err != nil {
		t.Fatal(err)
	}
	a.Stop()
	if err := i.AddFolder(t.Context()); err != nil {
		t.Fatal(err)
	}
	pass := filepath.Join(i.Dir, "passphrase")
	for _, line := range []string{
		"resource add db --folder Accounts --type database --pool " + installation.Pool + " --plugin postgres --host db.internal --port 5432 --tls system",
		"record add app --folder Accounts --resource db --login app --password-file " + pass,
	} {
		if _, err := i.CLI(t.Context(), nil, strings.Fields(line)...); err != nil {
			t.Fatal(err)
		}
	}
	var list struct {
		Runs []struct {
			ID string `json:"run_id"`
		} `json:"runs"`
	}
	// interrupt gives the signal once the server has the run.
	interrupt := func(args ...string) (stderr *bytes.Buffer) {
		t.Helper()
		p, _, stderr := fakeProcess(t, args...)
		home := filepath.Join(i.Dir, "home")
		p.getenv = func(name string) string {
			return map[string]string{"ROTUNDA_HOME": home, "ROTUNDA_PASSPHRASE_FILE": pass}[name]
		}
		p.now = time.Now
		signals := make(chan chan<- os.Signal, 1)
		p.notify = func(c chan<- os.Signal) func() { signals <- c; return func() {} }
		ended := make(chan exit, 1)
		go func() { ended <- run(p) }()
		for end := time.Now().Add(time.Minute); len(list.Runs) == 0; {
			if err := i.JSON(t.Context(), &list, nil, "run", "list"); err != nil || time.Now().After(end) {
				t.Fatalf("no run: %v", err)
			}
		}
		(<-signals) <- os.Interrupt
		select {
		case code := <-ended:
			if text := stderr.String(); code != exitInterrupted || !strings.Contains(text, "(interrupted)") || strings.Count(text, "interrupted") > 2 || strings.Contains(text, "no_result_yet") {
				t.Errorf("%v: exit %d: %s", args, code, stderr)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%v goes on", args)
		}
		return stderr
	}
	interrupt("verify", "app", "--agent", "gw1", "--wait", "10m")
	interrupt("run", "watch", list.Runs[0].ID)
}

// interruptAt runs the program on a terminal of its own and presses ^C at its prompt;
// without one, when it reads.
func interruptAt(t *testing.T, env []string, prompt string, args ...string) {
	t.Helper()
	master, slave := pseudoTerminal(t)
	before := termios(t, slave)
	var shown bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "rotunda", args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	if prompt == "" {
		// Its reader holds the terminal as its only descriptor of a read that has begun.
		waitReading(t, cmd.Process.Pid)
	}
	b := make([]byte, 1024)
	for end := time.Now().Add(time.Minute); !strings.Contains(shown.String(), prompt); {
		if err := master.SetReadDeadline(end); err != nil {
			t.Fatal(err)
		}
		n, err := master.Read(b)
		shown.Write(b[:n])
		if err != nil {
			t.Fatalf("no prompt: %v: %s", err, &shown)
		}
	}
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("one ^C has not ended it: %s", &shown)
	}
	if code := cmd.ProcessState.ExitCode(); code != int(exitInterrupted) {
		t.Errorf("%s, want exit %d: %s", cmd.ProcessState, exitInterrupted, &shown)
	}
	if after := termios(t, slave); *after != *before {
		t.Errorf("the terminal is not as it was: %+v, was %+v", after, before)
	}
}

// waitReading waits until a thread of a process reads its standard input.
func waitReading(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		calls, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range calls {
			call, _ := os.ReadFile(name) // a thread that is gone reads nothing
			if strings.HasPrefix(string(call), fmt.Sprintf("%d 0x0 ", unix.SYS_READ)) {
				return
			}
		}
	}
	t.Fatal("it does not read its standard input")
}

// pseudoTerminal makes a pseudo-terminal.
func pseudoTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var failed error
	err = conn.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func termios(t *testing.T, f *os.File) *unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// onTerminal runs the program on a terminal of its own, where every question is answered
// with no, and gives what that was sent.
func onTerminal(t *testing.T, env []string, args ...string) string {
	t.Helper()
	master, slave := pseudoTerminal(t)
	cmd := exec.CommandContext(t.Context(), "rotunda", args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close() // the last end is the program's
	if _, err := master.Write([]byte("n\n")); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	_, _ = shown.ReadFrom(master) // ends with an error when that is closed
	_ = cmd.Wait()
	return strings.ReplaceAll(shown.String(), "\r\n", "\n") // the terminal's own line ends
}

// TestTerminalIsSafe: what a member wrote for others to read is acted on by no terminal,
// whichever command shows it, and is every byte of it in a pipe.
func TestTerminalIsSafe(t *testing.T) {
	const title, secret = "a\u009b2K title", "pass\x1b[2K\u009bword"
	p := startPeople(t)
	write := func(name, content string) string {
		file := filepath.Join(p.i.Dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p.do("folder", "add", "Web\u009b2K")
	p.do("record", "add", title, "--folder", "Web\u009b2K", "--login", "login\u009b2K\u202E", "--url", "https://x/\u009b2K",
		"--notes-file", write("notes", evil), "--password-file", write("secret", secret))
	p.do("record", "edit", title, "--password-file", write("secret", secret+"2"))
	env := append(os.Environ(), "ROTUNDA_HOME="+filepath.Join(p.i.Dir, "home"), "XDG_RUNTIME_DIR="+filepath.Join(p.i.Dir, "home"))
	for _, line := range []string{
		"folder list", "folder list --json", "record list", "record list --json", "record get TITLE", "record get TITLE --json",
		"record get TITLE --field login", "record get TITLE --field notes", "record get TITLE --field url", "record get TITLE --reveal",
		"record get TITLE --reveal --json", "record get TITLE --reveal --field secret", "record history TITLE --reveal",
		"record history TITLE --reveal --json", "record remove TITLE", "record get no-such-\u009b2K", "folder rekey Web\u009b2K", "events", "doctor",
	} {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "TITLE", title)
		}
		shown := onTerminal(t, env, args...)
		if strings.ContainsAny(shown, "\x1b\a\u009b\u202E\x7f\r") || shown == "" {
			t.Errorf("%s: %q", line, shown)
		}
	}
	for field, want := range map[string]string{"secret": secret + "2", "notes": evil, "login": "login\u009b2K\u202E"} {
		if got := p.do("record", "get", title, "--reveal", "--field", field); got != want {
			t.Errorf("%s in a pipe: %q, want %q", field, got, want)
		}
	}
}
