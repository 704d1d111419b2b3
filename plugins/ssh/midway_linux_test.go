package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A connection that is cut while the program runs leaves the outcome unknown: never
// "unchanged". The program that waits is chpasswd itself, held by its lock file.
func TestLostReplyIsUnknown(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("old")})
	s := f.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release := holdPasswordFile(t)
	defer release()
	ended := make(chan error, 1)
	go func() {
		out, err := f.apply(ctx, s, u.Name, password("which may arrive"))
		if out.Outcome != sdk.Unknown {
			err = fmt.Errorf("outcome %v, %w", out.Outcome, err)
		}
		ended <- err
	}()
	waitFor(t, "chpasswd", func() bool { return f.running("chpasswd") != 0 })
	(*f.dialer.last.Load()).Close()
	err := <-ended
	var e *sdk.Error
	if !errors.As(err, &e) || e.NotSent || e.Class != sdk.ClassUnreachable || e.Reason != "reply.lost" {
		t.Errorf("lost reply: %v", err)
	}
	release()
	waitFor(t, "the end of chpasswd", func() bool { return f.running("chpasswd") == 0 })
	// The same candidate brings it home.
	f.mustApply(t, f.open(t), u.Name, password("which may arrive"), changed)
	f.mustAccept(t, u.Name, password("which may arrive"), true)
}

// running is the program's process in a session of this server, or 0: others of this machine
// may run it, too, and stand still with it.
func (f *fixture) running(program string) (pid int) {
	_, port, _ := net.SplitHostPort(f.Address)
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if string(name) == program+"\n" && bytes.Contains(env, []byte(" "+port+"\x00")) { // SSH_CONNECTION ends with it
			pid, _ = strconv.Atoi(filepath.Base(dir))
		}
	}
	return pid
}

// So it is with passwd, which an account runs for itself: whatever ends the dialogue midway,
// nobody knows what became of it, and the same candidate brings it home. Nothing secret is
// seen on the target meanwhile.
func TestItselfMidway(t *testing.T) {
	const current, next = "not-to-be-seen-either", "not-to-be-seen-anywhere"
	f := newFixture(t)
	for name, c := range map[string]struct {
		end     func(cancel func())
		arrives bool // passwd has been told all, and goes on alone
	}{
		"the connection is cut": {func(func()) { (*f.dialer.last.Load()).Close() }, true},
		"the run is cancelled":  {func(cancel func()) { cancel() }, true},
		"passwd is killed": {func(func()) {
			if err := syscall.Kill(f.running("passwd"), syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := f.user(t, targets.UserOptions{Password: secret(current)})
			s := f.itself(t, u.Name, current)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			release := holdPasswordFile(t)
			defer release()
			ended := make(chan error, 1)
			go func() {
				out, err := f.apply(ctx, s, u.Name, password(next))
				if out.Outcome != sdk.Unknown {
					err = fmt.Errorf("outcome %v, %w", out.Outcome, err)
				}
				ended <- err
			}()
			waitFor(t, "passwd", func() bool { return f.waits(f.running("passwd")) })
			unseen(t, "passwd", current)
			unseen(t, "passwd", next)
			c.end(cancel)
			mustBeUnclear(t, <-ended, sdk.ClassUnreachable, "reply.lost")
			release()
			waitFor(t, "the end of passwd", func() bool { return f.running("passwd") == 0 })
			live := current
			if c.arrives {
				live = next
			}
			f.mustAccept(t, u.Name, password(live), true)
			f.mustApply(t, f.itself(t, u.Name, live), u.Name, password(next), changed)
			f.mustAccept(t, u.Name, password(next), true)
			f.mustAccept(t, u.Name, password(current), false)
		})
	}
}

// waits says whether a process waits for the lock of the password file, and has read what it
// was told.
func (f *fixture) waits(pid int) bool {
	if pid == 0 {
		return false
	}
	call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	return bytes.HasPrefix(call, []byte(fmt.Sprintf("%d ", syscall.SYS_FCNTL)))
}

// Nothing secret is in a command line or an environment on the target while the
// program runs.
func TestNoSecretOnCommandLines(t *testing.T) {
	f := newFixture(t)
	u := f.user(t, targets.UserOptions{Password: secret("old")})
	s := f.open(t)
	release := holdPasswordFile(t)
	defer release()
	const pw = "not-to-be-seen-anywhere"
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.mustApply(t, s, u.Name, password(pw), changed)
	}()
	waitFor(t, "chpasswd", func() bool { return f.running("chpasswd") != 0 })
	unseen(t, "chpasswd", pw)
	release()
	<-ended
}

// unseen looks for a secret in the command lines and environments of all processes,
// while a program runs.
func unseen(t *testing.T, program, secret string) {
	t.Helper()
	seen := 0
	for _, what := range []string{"cmdline", "environ"} {
		files, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err == nil && bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s has the password", file)
			}
			if err == nil && bytes.Contains(b, []byte(program)) {
				seen++
			}
		}
	}
	if seen == 0 {
		t.Error("the program was not seen, so this proves nothing")
	}
}

// sudo may ask no password for the shell, and one for everything else. The password that
// it does not read goes no further than the shell.
func TestSudoForTheShellAlone(t *testing.T) {
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("sudo is not installed on this machine")
	}
	f := newFixture(t)
	const own = "the-administrator's-own-word"
	admin := f.user(t, targets.UserOptions{Password: secret(own), Sudo: true})
	rule := filepath.Join("/etc/sudoers.d", filepath.Base(admin.Home))
	if err := os.WriteFile(rule, []byte(admin.Name+" ALL=(ALL:ALL) NOPASSWD: /bin/sh\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(rule)
	u := f.user(t, targets.UserOptions{Password: secret("old"), AuthorizedKeys: []byte("")})
	s := f.openAs(t, admin.Name, password(own))
	f.mustApply(t, s, u.Name, newKey(t), changed)
	release := holdPasswordFile(t)
	defer release()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.mustApply(t, s, u.Name, password("set through sudo"), changed)
	}()
	waitFor(t, "chpasswd", func() bool { return exec.Command("pgrep", "-x", "chpasswd").Run() == nil })
	unseen(t, "chpasswd", own)
	release()
	<-ended
	f.mustAccept(t, u.Name, password("set through sudo"), true)
	// And if sudo lets him in freely after all, his password ends in the shell.
	s.sudo = paidSudo
	f.mustApply(t, s, u.Name, password("not under a wrong input"), unchanged(sdk.ClassPermission, "admin.sudo"))
	f.mustApply(t, s, u.Name, newKey(t), unchanged(sdk.ClassPermission, "admin.sudo"))
	f.mustAccept(t, u.Name, password("set through sudo"), true)
}

// holdPasswordFile takes the lock that chpasswd waits for, fifteen seconds at most
// (lckpwdf(3)).
func holdPasswordFile(t *testing.T) (release func()) {
	t.Helper()
	f, err := os.OpenFile("/etc/.pwd.lock", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		t.Fatalf("hold the password file: %v", err)
	}
	return sync.OnceFunc(func() { f.Close() })
}

// A first line that is not ours ends every script before it has run any program: here
// there are none that it could run.
func TestWrongInputEndsInTheShell(t *testing.T) {
	for name, p := range map[string]program{"password": passwordSetter, "add a key": keyAdder, "drop a key": keyDropper} {
		const path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
		command := strings.Replace(p.command, path, "PATH=/nowhere", 1)
		if command == p.command {
			t.Fatalf("%s: the script has another path, so this proves nothing", name)
		}
		for input, want := range map[string]int{"a password\nroot\n": exitInput, "": exitInput, firstLine + "\nroot\n": exitMissing} {
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
			cmd.Stdin = strings.NewReader(input)
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%s: input %q ends with %d, want %d", name, input, got, want)
			}
		}
	}
}

func waitFor(t *testing.T, what string, there func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// A program that hangs takes only its own connection with it: what goes on beside it goes on.
// Verbs that come one after the other share one.
func TestConnectionForEachVerb(t *testing.T) {
	f := newFixture(t)
	s := f.open(t)
	for range 3 {
		if got, err := s.program(t.Context(), "exec true", nil); err != nil || got.exit != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := f.dialer.dials.Load(); n != 1 {
		t.Errorf("%d connections for one verb after the other, want 1", n)
	}
	dir := t.TempDir()
	first, second, end := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "end")
	for _, fifo := range []string{first, second, end} {
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	short, giveUp := context.WithCancel(t.Context())
	hangs := make(chan error, 1)
	go func() {
		_, err := s.program(short, "echo >"+first+"; exec sleep 600", nil)
		hangs <- err
	}()
	beside := make(chan error, 1)
	go func() {
		got, err := s.program(t.Context(), "echo >"+second+"; cat "+end, nil)
		if err == nil && got.out != "whole\n" {
			err = fmt.Errorf("%+v", got)
		}
		beside <- err
	}()
	for _, began := range []string{first, second} {
		if _, err := os.ReadFile(began); err != nil { // waits for who writes
			t.Fatal(err)
		}
	}
	giveUp()
	if err := <-hangs; err == nil {
		t.Error("the program that hangs has ended")
	}
	if err := os.WriteFile(end, []byte("whole\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-beside; err != nil {
		t.Errorf("beside a program that hung: %v", err)
	}
	if n := f.dialer.dials.Load(); n != 2 {
		t.Errorf("%d connections for two verbs at once, want 2", n)
	}
}
