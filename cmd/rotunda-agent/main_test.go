package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rotunda-agent": main})
}

// TestScripts runs the program without a server: what it refuses, what it says, and how
// it ends. Its agent is enrolled at a server that is not there.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, Cmds: words, Condition: root,
		Setup: func(e *testscript.Env) error {
			// Plugins run as users of their own, who must pass through.
			if err := os.Chmod(filepath.Dir(e.WorkDir), 0o711); err != nil {
				return err
			}
			port, err := installation.FreePort()
			e.Setenv("HEALTH", "127.0.0.1:"+strconv.Itoa(port))
			e.Setenv("GORACE", "atexit_sleep_ms=10") // else each program that is built for the race detector ends a second late
			e.Setenv("CREDENTIALS_DIRECTORY", "")
			e.Setenv("TMPDIR", "/tmp") // sockets want a short path
			for _, name := range []string{"alice", "bob"} {
				e.Setenv(strings.ToUpper(name), release.PublisherOf(publisher(name)).String())
			}
			return errors.Join(err, os.Mkdir(filepath.Join(e.WorkDir, "plugins"), 0o755), os.WriteFile(filepath.Join(e.WorkDir, "pass"), []byte("the right word\n"), 0o600))
		},
	})
}

// root is a condition of scripts.
func root(name string) (bool, error) {
	if name != "root" {
		return false, fmt.Errorf("no condition %q", name)
	}
	return os.Geteuid() == 0, nil
}

// publisher is the key of one, by name.
func publisher(name string) ed25519.PrivateKey {
	seed := seal.Hash([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

var words = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// exits CODE COMMAND...: runs the command, which ends with exactly this code.
	"exits": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) < 2 {
			ts.Fatalf("usage: exits CODE COMMAND...")
		}
		err := ts.Exec(args[1], args[2:]...)
		got := 0
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			got = ended.ExitCode()
		} else {
			ts.Check(err)
		}
		if strconv.Itoa(got) != args[0] {
			ts.Fatalf("exit %d, want %s", got, args[0])
		}
	},
	// settings FILE KEY=VALUE...: writes an agent's settings, texts all.
	"settings": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) < 1 {
			ts.Fatalf("usage: settings FILE KEY=VALUE...")
		}
		var text strings.Builder
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			fmt.Fprintf(&text, "%s = %q\n", name, value)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text.String()), 0o600))
	},
	// enrolled FOLDER [PASSPHRASE]: makes the folder of an enrolled agent.
	"enrolled": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 1 && len(args) != 2 {
			ts.Fatalf("usage: enrolled FOLDER [PASSPHRASE]")
		}
		keys, err := enrol.MakeKeys(trustv1.EntryKind_ENTRY_KIND_AGENT)
		ts.Check(err)
		id := &enrol.Identity{OrgID: seal.Hash([]byte("an organisation")), Entry: seal.NewID(), Name: "gw1", Owner: seal.NewID(), Server: "127.0.0.1:1", Keys: keys}
		ts.Check(agent.SaveIdentity(filepath.Join(ts.MkAbs(args[0]), "agent.key"), id, []byte(strings.Join(args[1:], ""))))
	},
	// release FOLDER NAME VERSION PUBLISHER [BYTES]: a publisher's signed release, of a
	// program of so many bytes or, where it is no number, of other bytes than else.
	"release": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 4 && len(args) != 5 {
			ts.Fatalf("usage: release FOLDER NAME VERSION PUBLISHER [BYTES]")
		}
		program := []byte(strings.Join(args[1:], " "))
		if n, err := strconv.Atoi(args[len(args)-1]); err == nil {
			program = make([]byte, n)
		}
		ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o755))
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[0]), args[1]), program, 0o755))
		manifest, err := release.Sign(release.Release{
			Name: args[1], Version: args[2], Published: time.Now(),
			Files: []release.File{{OS: runtime.GOOS, Arch: runtime.GOARCH, Name: args[1], Size: int64(len(program)), SHA256: seal.Hash(program)}},
		}, publisher(args[3]))
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[0]), args[1]+".json"), manifest, 0o644))
	},
	// tinydisk FOLDER: makes a folder on a disk of 64 KiB.
	"tinydisk": func(ts *testscript.TestScript, _ bool, args []string) {
		dir := ts.MkAbs(strings.Join(args, ""))
		ts.Check(os.Mkdir(dir, 0o755))
		out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput()
		if err != nil {
			ts.Fatalf("%v: %s", err, out)
		}
		ts.Defer(func() {
			if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
				ts.Logf("%v: %s", err, out)
			}
		})
	},
	// ahead JOURNAL: makes a journal that took a command by a clock that was a year ahead.
	"ahead": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 1 {
			ts.Fatalf("usage: ahead JOURNAL")
		}
		j, _, err := journal.Open(ts.MkAbs(args[0]), true, time.Now())
		ts.Check(err)
		_, err = j.TakeCommands([]journal.Command{{ID: seal.NewID(), Taken: time.Now().AddDate(1, 0, 0)}})
		ts.Check(errors.Join(err, j.Close()))
	},
	// answers ADDRESS: waits until somebody listens there.
	"answers": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 1 {
			ts.Fatalf("usage: answers ADDRESS")
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := net.Dial("tcp", args[0])
			if err == nil {
				ts.Check(c.Close())
				return
			}
			if time.Now().After(end) {
				ts.Fatalf("%v", err)
			}
		}
	},
	// terminate: sends SIGTERM, as a service manager does, to what runs in the background.
	"terminate": func(ts *testscript.TestScript, _ bool, _ []string) {
		for _, c := range ts.BackgroundCmds() {
			ts.Check(c.Process.Signal(syscall.SIGTERM))
		}
	},
	// glob PATTERN: there is exactly one such file.
	"glob": func(ts *testscript.TestScript, _ bool, args []string) {
		if found, err := filepath.Glob(ts.MkAbs(strings.Join(args, ""))); err != nil || len(found) != 1 {
			ts.Fatalf("%v, %v", found, err)
		}
	},
	// grow FILE BYTES: makes a file larger, with comments of TOML.
	"grow": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("usage: grow FILE BYTES")
		}
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		ts.Check(err)
		_, err = f.Write(bytes.Repeat([]byte("#"), n))
		ts.Check(errors.Join(err, f.Close()))
	},
}
