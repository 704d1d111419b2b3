package jump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// echo is a target that sends back what it gets, until the end of file.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func hostOf(s *targets.SSHD) Host {
	return Host{Address: s.Address, Pins: s.Pins(), Login: s.Admin, Credential: sdk.Credential{Kind: sdk.SSHKey, Secret: s.AdminKey}}
}

// counted are Ways whose dials to a first host are counted.
func counted(t *testing.T, cfg Config) (*Ways, *atomic.Int32) {
	t.Helper()
	dials := new(atomic.Int32)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	if cfg.Reach == nil {
		cfg.Reach = func(netip.Addr) error { return nil }
	}
	w := New(cfg)
	t.Cleanup(w.Close)
	return w, dials
}

// TestThroughRealHosts passes two OpenSSH servers on the way to a target.
func TestThroughRealHosts(t *testing.T) {
	first, second := targets.OpenSSH(t, targets.SSHDOptions{}), targets.OpenSSH(t, targets.SSHDOptions{})
	target := echo(t)
	w, dials := counted(t, Config{})
	dial, digest := w.Dial([]Host{hostOf(first), hostOf(second)})
	if _, other := w.Dial([]Host{hostOf(second), hostOf(first)}); digest == other {
		t.Error("two ways have one digest")
	}
	for n := range 3 {
		c, err := dial(t.Context(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != target {
			t.Errorf("the connection's far end is %s, want %s", c.RemoteAddr(), target)
		}
		text := []byte(strings.Repeat(fmt.Sprint("there and back ", n), 10_000))
		go func() {
			_, _ = c.Write(text)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(text), err)
		}
		_ = c.Close()
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("three connections took %d logins at the first host", n)
	}

	c, err := dial(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes read past the deadline", n)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write past the deadline: %v", err)
	}

	// A host that went away and came back is logged in to again.
	if err := first.Down(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	for _, h := range w.hops {
		go h.close() // sshd's children live on
	}
	w.mu.Unlock()
	if err := first.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err = dial(t.Context(), "tcp", target); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after the host came back: %v", err)
		}
	}
}

// TestWhichHostFailed: every error names the host, and never looks like one of the
// target's own login.
func TestWhichHostFailed(t *testing.T) {
	first, second := targets.OpenSSH(t, targets.SSHDOptions{}), targets.OpenSSH(t, targets.SSHDOptions{Lines: []string{"AllowTcpForwarding no"}})
	target := echo(t)
	nobody := "127.0.0.1:1"
	one, two := hostOf(first), hostOf(second)
	strange := one
	strange.Pins = two.Pins
	refused := one
	refused.Credential = two.Credential
	gone := one
	gone.Address = nobody
	unpinned := one
	unpinned.Pins = nil
	secondStrange := two
	secondStrange.Pins = one.Pins
	broken := one
	broken.Credential.Secret = sdk.NewSecret([]byte("no key"))
	denied := errors.New("the local policy does not allow it")
	for name, c := range map[string]struct {
		hosts  []Host
		to     string
		reach  func(netip.Addr) error
		class  sdk.Class
		reason string
		names  string
	}{
		"the first is down":                 {[]Host{gone, two}, target, nil, sdk.ClassUnreachable, "jump.unreachable", "jump host 1 (" + nobody + ")"},
		"the first shows another key":       {[]Host{strange, two}, target, nil, sdk.ClassAuth, "target_identity", "jump host 1 (" + first.Address + ")"},
		"the first refuses the login":       {[]Host{refused, two}, target, nil, sdk.ClassUnreachable, "jump.refused", "jump host 1 (" + first.Address + ")"},
		"the first pins no key":             {[]Host{unpinned}, target, nil, sdk.ClassInvalid, "jump.host_key", "jump host 1 (" + first.Address + ")"},
		"the login's key cannot be read":    {[]Host{broken}, target, nil, sdk.ClassInvalid, "jump.key", "jump host 1 (" + first.Address + ")"},
		"the second shows another key":      {[]Host{one, secondStrange}, target, nil, sdk.ClassAuth, "target_identity", "jump host 2 (" + second.Address + ")"},
		"the second lets nothing through":   {[]Host{one, two}, target, nil, sdk.ClassUnreachable, "jump.forbidden", "jump host 2 (" + second.Address + ")"},
		"the target is down":                {[]Host{one}, nobody, nil, sdk.ClassUnreachable, "dial.unreachable", "jump host 1 (" + first.Address + ")"},
		"a name that nobody here knows":     {[]Host{one}, "nowhere.invalid:22", nil, sdk.ClassUnreachable, "jump.name", "nowhere.invalid"},
		"the policy forbids the target":     {[]Host{one}, target, func(netip.Addr) error { return denied }, sdk.ClassPermission, "local_policy", denied.Error()},
		"the policy forbids the second hop": {[]Host{one, two}, target, func(netip.Addr) error { return denied }, sdk.ClassPermission, "local_policy", denied.Error()},
	} {
		w, dials := counted(t, Config{Reach: c.reach})
		dial, _ := w.Dial(c.hosts)
		_, err := dial(t.Context(), "tcp", c.to)
		var e *sdk.Error
		if !errors.As(err, &e) || e.Class != c.class || e.Reason != c.reason || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %v; want %s, %s, %q", name, err, c.class, c.reason, c.names)
		}
		if c.class == sdk.ClassPermission && dials.Load() > 0 {
			t.Errorf("%s: somebody was dialled", name)
		}
		before := dials.Load()
		if _, err := dial(t.Context(), "tcp", c.to); err == nil || c.reason == "jump.refused" && dials.Load() != before {
			t.Errorf("%s, again: %v, %d more logins at the first host", name, err, dials.Load()-before)
		}
	}
}

// A name behind a host is resolved here and handed on as an address, and the policy is
// asked of each: of those that it allows one is dialled.
func TestNamesAreResolvedHere(t *testing.T) {
	host := targets.OpenSSH(t, targets.SSHDOptions{})
	target := echo(t)
	_, port, err := net.SplitHostPort(target)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	w, _ := counted(t, Config{
		Resolve: func(_ context.Context, network, name string) ([]netip.Addr, error) {
			if network != "ip" || name != "db.internal" {
				return nil, errors.New("unknown")
			}
			return []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("127.0.0.1")}, nil
		},
		Reach: func(a netip.Addr) error {
			asked = append(asked, a.String())
			if a.IsLinkLocalUnicast() {
				return errors.New("metadata")
			}
			return nil
		},
	})
	dial, _ := w.Dial([]Host{hostOf(host)})
	c, err := dial(t.Context(), "tcp", "db.internal:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if fmt.Sprint(asked) != "[169.254.169.254 127.0.0.1]" || c.RemoteAddr().String() != target {
		t.Errorf("the policy was asked of %v, and %s was dialled", asked, c.RemoteAddr())
	}
}

// A connection that nobody uses ends after a while.
func TestIdleEnds(t *testing.T) {
	host := targets.OpenSSH(t, targets.SSHDOptions{})
	w, dials := counted(t, Config{Idle: 50 * time.Millisecond})
	dial, _ := w.Dial([]Host{hostOf(host)})
	c, err := dial(t.Context(), "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("a connection in use was ended: %v", err)
	}
	_ = c.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		n := len(w.hops)
		w.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the connection to the host stays, and nobody uses it")
		}
	}
	if dials.Load() != 1 {
		t.Errorf("%d logins", dials.Load())
	}
}

// A host that is silent holds nobody beyond his deadline.
func TestSilentHost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w, _ := counted(t, Config{})
	dial, _ := w.Dial([]Host{{Address: l.Addr().String(), Pins: make([]byte, 32), Login: "x", Credential: sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("secret"))}}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = dial(ctx, "tcp", "127.0.0.1:9")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), "jump host 1 (") || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
