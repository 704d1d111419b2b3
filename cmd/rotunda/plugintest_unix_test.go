//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// late ends as if its time were over.
type late struct{ context.Context }

func (l late) Err() error {
	if l.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

// Whoever stops the kit learns nothing bad of the plugin, and its test process is gone.
func TestStoppedKit(t *testing.T) {
	for name, row := range map[string]struct {
		code exit
		want string
		run  func(p *process, stop <-chan struct{}) exit
	}{
		"signal": {exitInterrupted, `"reason":"interrupted"`, func(p *process, stop <-chan struct{}) exit {
			p.notify = func(c chan<- os.Signal) func() {
				go func() { <-stop; c <- os.Interrupt }()
				return func() {}
			}
			return run(p)
		}},
		"hang-up": {exitInterrupted, `"reason":"interrupted"`, func(p *process, stop <-chan struct{}) exit {
			mine := make(chan os.Signal, 1) // also where whoever runs this has it ignored
			signal.Notify(mine, syscall.SIGHUP)
			defer signal.Stop(mine)
			go func() { <-stop; _ = syscall.Kill(os.Getpid(), syscall.SIGHUP) }()
			return run(p)
		}},
		"time": {exitUnreachable, `"reason":"deadline"`, func(p *process, stop <-chan struct{}) exit {
			ctx, cancel := context.WithCancel(context.Background())
			go func() { <-stop; cancel() }()
			c := &cli{p: p, json: true, stopped: ctx.Done()}
			return report(p.stderr, c.proves(late{ctx}, p.dir), true)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			p, stdout, stderr := fakeProcess(t, "plugin", "test", "--json")
			for file, text := range map[string]string{
				"go.mod": "module hangs\n\ngo 1.26\n",
				"hangs_test.go": fmt.Sprintf(`package hangs

import (
	"net"
	"testing"
)

func TestConformance(t *testing.T) {
	t.Run("FirstChange", func(*testing.T) {})
	t.Run("VerifyIsFresh", func(*testing.T) {
		c, _ := net.Dial("tcp", %q)
		c.Read(make([]byte, 1))
	})
}
`, l.Addr()),
			} {
				if err := os.WriteFile(filepath.Join(p.dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ended, stop := make(chan exit, 1), make(chan struct{})
			go func() {
				defer l.Close()
				ended <- row.run(p, stop)
			}()
			conn, err := l.Accept()
			if err != nil {
				t.Fatalf("the test was not run: exit %d: %s%s", <-ended, stdout, stderr)
			}
			defer conn.Close()
			close(stop)
			if code := <-ended; code != row.code || !strings.Contains(stderr.String(), row.want) {
				t.Errorf("exit %d: %s", code, stderr)
			}
			for _, want := range []string{`"failed":0`, `"passed":1`, `"unfinished":1`, `"test":"TestConformance/VerifyIsFresh","result":"unfinished"`} {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("no %s in %s", want, stdout)
				}
			}
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the test's process lives on: %d, %v", n, err)
			}
		})
	}
}
