package main

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rotunda-server": main})
}

// TestScripts runs the program: what it refuses, what it keeps, and how it ends.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, Cmds: words,
		Setup: func(e *testscript.Env) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			e.Setenv("LISTEN", l.Addr().String())
			return l.Close()
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
}
