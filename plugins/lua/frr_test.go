package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// frr is a routing daemon of FRRouting with a terminal of its own on the loopback interface.
type frr struct {
	at     sdk.Resource
	config string // file
}

const frrProgram = "/usr/lib/frr/ripd"

// startFRR starts one that ends with the test. It is of the second tier.
func startFRR(t *testing.T, password, enable string) *frr {
	t.Helper()
	if os.Getenv(targets.TestAll) == "" {
		t.Skipf("left out: it is of the second tier: make test-all, or %s=1", targets.TestAll)
	}
	if !targets.Installed(targets.FRR) || os.Getuid() != 0 {
		t.Skip("left out: install frr, and be root")
	}
	dir, err := os.MkdirTemp("", "frr") // short, since sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &frr{config: filepath.Join(dir, "ripd.conf")}
	if err := os.WriteFile(f.config, fmt.Appendf(nil, "hostname r1\npassword %s\nenable password %s\n", password, enable), 0o640); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", "frr:frr", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	f.at = sdk.Resource{Address: l.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSOff}}
	l.Close()
	cmd := exec.Command(frrProgram, "-A", "127.0.0.1", "-P", port, "-f", f.config, "-i", filepath.Join(dir, "pid"), "--vty_socket", dir, "-z", filepath.Join(dir, "zebra"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", f.at.Address)
		if err == nil {
			c.Close()
			return f
		}
		select {
		case <-ended:
			t.Fatal("ripd ended at once")
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("ripd does not answer: %v", err)
		}
	}
}

// has says whether a restart would bring this password.
func (f *frr) has(t *testing.T, password string) bool {
	t.Helper()
	b, err := os.ReadFile(f.config)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), "\npassword "+password+"\n")
}

// cutLine cuts a connection in place of, or after, its nth write.
type cutLine struct {
	net.Conn
	left  *int
	after bool
}

var errCut = errors.New("the line is cut")

func (c cutLine) Write(b []byte) (int, error) {
	if *c.left--; *c.left == 0 {
		defer c.Close()
		if c.after {
			n, err := c.Conn.Write(b)
			time.Sleep(50 * time.Millisecond) // it arrives; the answer does not
			return n, err
		}
		return 0, errCut
	}
	return c.Conn.Write(b)
}

type cutDialer struct {
	writes int // that are left
	after  bool
}

func (d *cutDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return cutLine{c, &d.writes, d.after}, err
}

// The password of a real daemon's terminal is changed by itself, with the line cut before
// and after each write of it: what the script says is true, and the same candidate can be
// set afterwards by whoever comes in, by the one or by the other.
func TestFRR(t *testing.T) {
	current, enable := "first0"+rand.Text()[:8], "enable"+rand.Text()[:8]
	f := startFRR(t, current, enable)
	b := fromLibrary(t, "rotators/frr-vty")
	b.allow = []string{f.at.Address}
	account := sdk.Account{Name: "vty"}
	open := func(c string) sdk.OpenRequest {
		return sdk.OpenRequest{Host: b.host, Resource: f.at, Admin: password(c), AdminAs: account, Self: true, Extra: map[string]sdk.Credential{"enable": password(enable)}}
	}
	accepts := func(c string) bool {
		t.Helper()
		got, err := rotator{b.p}.Verify(t.Context(), sdk.VerifyRequest{Host: b.host, Resource: f.at, Account: account, Credential: password(c)})
		if err != nil || got.Verdict == sdk.Undecided {
			t.Fatalf("verify: %+v, %v", got, err)
		}
		return got.Verdict == sdk.Accepted
	}
	writes := 8 // at least those of a change
	for n := 1; n <= writes; n++ {
		for _, after := range []bool{false, true} {
			next := "next" + rand.Text()[:12]
			o := open(current)
			line := &cutDialer{writes: 100}
			o.Host.Dialer = line
			s, err := rotator{b.p}.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			line.writes, line.after = n, after
			out, err := s.Apply(t.Context(), sdk.ApplyRequest{Account: account, Candidate: password(next), Current: password(current)})
			s.Close()
			took := accepts(next)
			var e *sdk.Error
			switch {
			case took && (err == nil && out.Outcome == sdk.Unchanged || errors.As(err, &e) && e.NotSent):
				t.Errorf("write %d: %+v, %v; but the daemon took it", n, out, err)
			case !took && err == nil && out.Outcome == sdk.Changed:
				t.Errorf("write %d: %+v; but the daemon did not take it", n, out)
			}
			by := current
			if took {
				by = next
			}
			if out, got := b.rotate(open(by), sdk.ApplyRequest{Account: account, Candidate: password(next), Current: password(current)}); out.Outcome != sdk.Changed || got.Verdict != sdk.Accepted {
				t.Fatalf("after a cut at write %d: %+v, %+v\n%s", n, out, got, b.logged)
			}
			if accepts(current) || !f.has(t, next) {
				t.Fatal("the former password still works, or a restart would bring it back")
			}
			current = next
		}
	}
	if _, err := (rotator{b.p}).Open(t.Context(), open("wrong")); errorFrom(t, err).Class != sdk.ClassAuth {
		t.Errorf("a wrong password: %v", err)
	}
}
