package jump

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// conn is a connection behind the hosts: a channel of SSH, with the address that it
// leads to, and with deadlines, of which SSH knows none: one that passes ends it.
type conn struct {
	net.Conn
	ways   *Ways
	hop    *hop
	remote net.Addr

	closed atomic.Bool
	mu     sync.Mutex
	timer  *time.Timer
}

// RemoteAddr is the target's: some drivers dial it again.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// CloseWrite carries an end of file.
func (c *conn) CloseWrite() error { return c.Conn.(ssh.Channel).CloseWrite() }

// Close ends the connection. The host is told aside: it may not listen, and whoever
// closes must not wait for it.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	_ = c.SetDeadline(time.Time{})
	c.ways.wg.Go(func() {
		defer c.ways.release(c.hop)
		t := time.AfterFunc(closeTime, c.hop.close)
		defer t.Stop()
		_ = c.Conn.Close()
	})
	return nil
}

// SetDeadline ends the connection at a time.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if !t.IsZero() {
		c.timer = time.AfterFunc(time.Until(t), func() { _ = c.Close() })
	}
	return nil
}

// SetReadDeadline is SetDeadline.
func (c *conn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline is SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }
