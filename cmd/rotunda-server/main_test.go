package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rotunda-server": main})
}

// TestScripts runs the program: what it refuses, what it keeps, and how it ends.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, Cmds: words,
		Setup: func(e *testscript.Env) error {
			port, err := installation.FreePort()
			e.Setenv("GORACE", "atexit_sleep_ms=10") // else each program that is built for the race detector ends a second late
			e.Setenv("LISTEN", fmt.Sprintf("127.0.0.1:%d", port))
			return err
		},
	})
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
	// answers ADDRESS: waits until a server serves there: it listens before that.
	"answers": func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 1 {
			ts.Fatalf("usage: answers ADDRESS")
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := tls.Dial("tcp", args[0], &tls.Config{InsecureSkipVerify: true}) // whose it is does not matter here
			if err == nil {
				ts.Check(c.Close())
				return
			}
			if time.Now().After(end) {
				ts.Fatalf("%v", err)
			}
		}
	},
	// mode FILE OCTAL: the file has these rights.
	"mode": func(ts *testscript.TestScript, _ bool, args []string) {
		info, err := os.Stat(ts.MkAbs(args[0]))
		ts.Check(err)
		if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
			ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
		}
	},
	// cut FILE N OUT: the first N bytes.
	"cut": func(ts *testscript.TestScript, _ bool, args []string) {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[2]), data[:n], 0o600))
	},
	// flip FILE OUT: the setup code in a backup is another one.
	"flip": func(ts *testscript.TestScript, _ bool, args []string) {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		ts.Check(err)
		at := bytes.LastIndex(data, []byte("setup-code\x00"))
		if at < 0 {
			ts.Fatalf("%s holds no setup code", args[0])
		}
		data[at+512] ^= 1 // its first byte, behind the header
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o600))
	},
	// terminate: sends SIGTERM, as a service manager does, to what runs in the background.
	"terminate": func(ts *testscript.TestScript, _ bool, _ []string) {
		for _, c := range ts.BackgroundCmds() {
			ts.Check(c.Process.Signal(syscall.SIGTERM))
		}
	},
}
