package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Through a real plugin: what its dialer gives for an address.
func TestDialer(t *testing.T) {
	f, srv := newFixture(t, nil), newServer(t)
	_, port, _ := net.SplitHostPort(srv.addr())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	job := srv.job("r")
	job.Allow = append(job.Allow, "LOCALHOST.:"+port, closed.Addr().String())
	s := f.open(t.Context(), job)
	for address, want := range map[string]string{
		srv.addr():                 "*net.TCPAddr 127.0.0.1:" + port,
		"localhost:" + port:        "*net.TCPAddr 127.0.0.1:" + port, // the agent resolves; the spelling is its own
		closed.Addr().String():     "dial.unreachable",
		"127.0.0.1:1":              "dial.refused",
		"127.0.0.2:" + port:        "dial.refused",
		"example.com:" + port:      "dial.refused",
		"localhost:" + port + "0":  "dial.refused",
		"nonsense":                 "dial.refused",
		strings.Repeat("x", 1000):  "dial.refused",
		"/run/dbus/system_bus_soc": "dial.refused",
	} {
		_, err := apply(t.Context(), s, "dial "+address, "secret")
		if e := (*sdk.Error)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) || e.NotSent {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}

// end is the plugin's end of one dial, by hand.
type end struct {
	*net.UnixConn
	status pluginv1.DialStatus
}

func dialBy(t *testing.T, g *grant, network, address string, timeout time.Duration) end {
	t.Helper()
	c, err := net.DialUnix("unix", nil, g.s.l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	frame, err := pluginv1.AppendDialRequest(bytes.Clone(g.token[:]), pluginv1.DialRequest{Network: network, Address: address, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	status, _, err := pluginv1.ReadDialReply(c)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return end{c, status}
}

// targets gives a dialer whose other ends come out of the channel.
func targets() (DialFunc, chan *net.TCPConn) {
	out := make(chan *net.TCPConn, 16)
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		other, err := l.Accept()
		if err != nil {
			return nil, err
		}
		out <- other.(*net.TCPConn)
		return c, nil
	}, out
}

func newGrant(t *testing.T, max int, dial DialFunc) *grant {
	t.Helper()
	s, err := newDialServer(filepath.Join(tempDir(t), "dial"), -1, 64, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	g, err := s.grant([]string{"db.example:5432"}, max, dial, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func ended(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(make([]byte, 1))
	if n != 0 || err == nil || isTimeout(err) {
		t.Errorf("%s: read %d, %v; want the end", what, n, err)
	}
}

// What a plugin sends goes to its target as long as everybody who uses the grant may
// change it, and not a byte of it afterwards.
func TestNothingGoesOutPastTheHold(t *testing.T) {
	dial, out := targets()
	g := newGrant(t, 4, dial)
	lost := errors.New("lost")
	var first, second atomic.Pointer[error]
	asks := func(p *atomic.Pointer[error]) func() error {
		return func() error {
			if err := p.Load(); err != nil {
				return *err
			}
			return nil
		}
	}
	one, two := new(Session), new(Session)
	g.heeds(one, asks(&first))
	g.heeds(two, asks(&second))
	plugin := dialBy(t, g, "tcp", "db.example:5432", 0)
	target := <-out
	arrives := func(text string) {
		t.Helper()
		if _, err := plugin.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = target.SetReadDeadline(time.Now().Add(10 * time.Second))
		got := make([]byte, len(text))
		if _, err := io.ReadFull(target, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v, want %q", got, err, text)
		}
	}
	arrives("while both may")
	first.Store(&lost)
	g.leaves(one)
	arrives("when who may not is gone")
	second.Store(&lost)
	if _, err := plugin.Write([]byte("too late")); err != nil {
		t.Fatal(err)
	}
	ended(t, "the target's end", target)
	ended(t, "the plugin's end", plugin)
	if c := dialBy(t, g, "tcp", "db.example:5432", 0); c.status != pluginv1.DialClosed {
		t.Errorf("another connection: %d", c.status)
	}
}

// A name may lead to several servers. Where it led for one job, the next of the same
// address may go, too; nobody else.
func TestWhereANameLed(t *testing.T) {
	dial, out := targets()
	g := newGrant(t, 4, dial)
	dialBy(t, g, "tcp", "DB.example.:5432", 0)
	first := (<-out).LocalAddr().String()
	if c := dialBy(t, g, "tcp", first, 0); c.status != pluginv1.DialOK {
		t.Errorf("the same job: %d", c.status)
	}
	for allow, want := range map[string]pluginv1.DialStatus{"db.example:5432": pluginv1.DialOK, "db.example:5433": pluginv1.DialRefused} {
		refused := 0
		other, err := g.s.grant([]string{allow}, 4, dial, nil, func() { refused++ })
		if err != nil {
			t.Fatal(err)
		}
		if c := dialBy(t, other, "tcp", first, 0); c.status != want || (refused > 0) != (want == pluginv1.DialRefused) {
			t.Errorf("another job, for %s: %d, told %d times, want %d", allow, c.status, refused, want)
		}
	}
	for range 2 * maxRemotes { // the memory has an end
		other, err := g.s.grant([]string{"db.example:5432"}, 4, dial, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = dialBy(t, other, "tcp", "db.example:5432", 0).Close()
		_ = (<-out).Close()
		other.cut()
	}
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if n := len(g.s.led["db.example:5432"]); n == 0 || n > maxRemotes {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestPump(t *testing.T) {
	dial, out := targets()
	t.Run("both ways, counted, half-close carried", func(t *testing.T) {
		g := newGrant(t, 4, dial)
		c := dialBy(t, g, "tcp", "db.example:5432", 0)
		target := <-out
		defer func() { _ = target.Close() }()
		up, down := bytes.Repeat([]byte("u"), 300_000), bytes.Repeat([]byte("d"), 200_000)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Write(up); _ = c.CloseWrite() })
		got, err := io.ReadAll(target) // ends by the plugin's half-close
		if err != nil || !bytes.Equal(got, up) {
			t.Errorf("upward: %d bytes, %v", len(got), err)
		}
		wg.Go(func() { _, _ = target.Write(down); _ = target.Close() })
		got, err = io.ReadAll(c)
		if err != nil || !bytes.Equal(got, down) {
			t.Errorf("downward, after the half-close: %d bytes, %v", len(got), err)
		}
		wg.Wait()
	})
	t.Run("the plugin goes", func(t *testing.T) {
		c := dialBy(t, newGrant(t, 4, dial), "tcp", "db.example:5432", 0)
		target := <-out
		_ = c.Close()
		ended(t, "target", target)
		_ = target.SetWriteDeadline(time.Now().Add(10 * time.Second))
		for err := error(nil); err == nil; { // its other half ends too
			_, err = target.Write(make([]byte, 1<<16))
			if isTimeout(err) {
				t.Error("the target's side stays open for a plugin that is gone")
			}
		}
	})
	t.Run("the plugin goes after a half-close", func(t *testing.T) {
		g := newGrant(t, 4, dial)
		c := dialBy(t, g, "tcp", "db.example:5432", 0)
		target := <-out
		_ = c.CloseWrite()
		ended(t, "target", target)
		_ = c.Close()
		// The target keeps silent: the agent itself must notice.
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			g.mu.Lock()
			n := len(g.open)
			g.mu.Unlock()
			if n == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the connection stays")
			}
		}
	})
	t.Run("a reset reads as the end", func(t *testing.T) {
		c := dialBy(t, newGrant(t, 4, dial), "tcp", "db.example:5432", 0)
		target := <-out
		_ = target.SetLinger(0)
		_ = target.Close()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v", n, err)
		}
	})
	t.Run("cut", func(t *testing.T) {
		g := newGrant(t, 4, dial)
		c := dialBy(t, g, "tcp", "db.example:5432", 0)
		target := <-out
		g.cut()
		ended(t, "plugin", c)
		ended(t, "target", target)
		if again := dialBy(t, g, "tcp", "db.example:5432", 0); again.status != pluginv1.DialClosed {
			t.Errorf("a dial after the cut: %v", again.status)
		}
	})
}

func TestDialStatus(t *testing.T) {
	dial, _ := targets()
	g := newGrant(t, 2, dial)
	for _, c := range []struct {
		network, address string
		want             pluginv1.DialStatus
	}{
		{"tcp", "db.example:5432", pluginv1.DialOK},
		{"tcp", "other.example:5432", pluginv1.DialRefused},
		{"udp", "db.example:5432", pluginv1.DialRefused},
		{"unix", "db.example:5432", pluginv1.DialRefused},
		{"tcp4", "DB.example.:05432", pluginv1.DialOK},
		{"tcp", "db.example:5432", pluginv1.DialLimit},
	} {
		if got := dialBy(t, g, c.network, c.address, 0).status; got != c.want {
			t.Errorf("%s %s: %s, want %s", c.network, c.address, got.Reason(), c.want.Reason())
		}
	}
	wrong := &grant{s: g.s}
	if got := dialBy(t, wrong, "tcp", "db.example:5432", 0).status; got != pluginv1.DialClosed {
		t.Errorf("a token of nobody's: %v", got)
	}
}

func TestDialGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		give    func(*grant, *net.UnixConn)
		want    pluginv1.DialStatus
	}{
		"by the plugin":        {0, func(_ *grant, c *net.UnixConn) { _ = c.Close() }, 0},
		"by its timeout":       {50 * time.Millisecond, func(*grant, *net.UnixConn) {}, pluginv1.DialTimeout},
		"by a cut":             {0, func(g *grant, _ *net.UnixConn) { g.cut() }, 0},
		"by talking too early": {0, func(_ *grant, c *net.UnixConn) { _, _ = c.Write([]byte("x")) }, pluginv1.DialTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan struct{})
			g := newGrant(t, 4, func(ctx context.Context, _, _ string) (net.Conn, error) {
				close(begun)
				<-ctx.Done()
				close(ended)
				return nil, ctx.Err()
			})
			conn, err := net.DialUnix("unix", nil, g.s.l.Addr().(*net.UnixAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			frame, err := pluginv1.AppendDialRequest(bytes.Clone(g.token[:]), pluginv1.DialRequest{Network: "tcp", Address: "db.example:5432", Timeout: c.timeout})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(frame)
			<-begun
			c.give(g, conn)
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("the agent dials on")
			}
			if c.want != 0 {
				if got, _, err := pluginv1.ReadDialReply(conn); err != nil || got != c.want {
					t.Errorf("answer %v, %v; want %v", got, err, c.want)
				}
			}
		})
	}
}
