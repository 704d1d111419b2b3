package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// line is the way from the plugin to its target, which a test can damage. The zero
// line is whole.
type line struct {
	mu     sync.Mutex
	damage damage
	dials  int
	writes int           // of the plugin's, since the damage was set
	open   int           // connections that nobody has closed
	held   chan struct{} // closed when the damage is taken away
}

// damage is what a line does. Writes are counted from 1.
type damage struct {
	down      bool // no connection is made
	hung      bool // connections are made and carry nothing
	cutBefore int  // the line is cut in place of this write
	cutAfter  int  // this write arrives, and what the target answers does not
	late      bool // everything arrives, and what the target answers comes when the damage is over
	// Before is called before each write; what it gives, once the write has arrived. The
	// target's answer to that is lost.
	before func(write int) (after func())
	// Ends is called in place of each write, and ends the plugin's call. None arrives: each
	// fails when the agent has closed its connection.
	ends func()
}

var errCut = errors.New("the line is cut")

// maxCuts bounds the writes at which a line is cut.
const maxCuts = 16

// picked are the writes at which it is cut: of many the first and the last, since a call
// logs in before it changes something.
func picked(writes int) (all []int) {
	for n := 1; n <= writes; n++ {
		if n <= maxCuts/2 || n > writes-maxCuts/2 {
			all = append(all, n)
		}
	}
	return all
}

// ofWrites says how many were picked.
func ofWrites(writes int) string {
	if writes > maxCuts {
		return fmt.Sprintf("%d of %d writes: the first and the last %d", maxCuts, writes, maxCuts/2)
	}
	return fmt.Sprintf("%d writes", writes)
}

// set sets the damage and counts from here.
func (l *line) set(d damage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		close(l.held)
	}
	l.damage, l.dials, l.writes, l.held = d, 0, 0, make(chan struct{})
}

// connections is how many are open.
func (l *line) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

func (l *line) counts() (dials, writes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials, l.writes
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	l.dials++
	down := l.damage.down
	l.mu.Unlock()
	if down {
		return nil, errCut
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.open++
	l.mu.Unlock()
	return &conn{Conn: c, line: l, closed: make(chan struct{})}, nil
}

// conn is one connection on the line.
type conn struct {
	net.Conn
	line *line

	once   sync.Once
	closed chan struct{}

	mu   sync.Mutex
	deaf bool // what the target answers from now on is lost
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.line.mu.Lock()
		c.line.open--
		c.line.mu.Unlock()
	})
	return c.Conn.Close()
}

func (c *conn) Write(b []byte) (int, error) {
	c.line.mu.Lock()
	c.line.writes++
	d, n, held := c.line.damage, c.line.writes, c.line.held
	c.line.mu.Unlock()
	if d.ends != nil {
		d.ends()
		select {
		case <-c.closed:
		case <-held: // a connection that is not of the call
		}
		_ = c.Close()
		return 0, errCut
	}
	if d.before != nil {
		if after := d.before(n); after != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			defer after()
			c.deaf = true
			return c.Conn.Write(b)
		}
	}
	switch {
	case d.hung:
		return len(b), nil
	case d.cutBefore > 0 && n >= d.cutBefore, d.cutAfter > 0 && n > d.cutAfter:
		_ = c.Close()
		return 0, errCut
	case d.cutAfter == n && n > 0:
		c.mu.Lock()
		c.deaf = true
		c.mu.Unlock()
	}
	return c.Conn.Write(b)
}

// Read loses what comes after the write that was the last: the target has dealt with
// it by then.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.line.mu.Lock()
	late, held := c.line.damage.late, c.line.held
	c.line.mu.Unlock()
	if late {
		select {
		case <-held:
		case <-c.closed:
		}
	}
	c.mu.Lock()
	deaf := c.deaf
	c.mu.Unlock()
	if deaf {
		_ = c.Close()
		return 0, io.EOF
	}
	return n, err
}

// CloseWrite carries the plugin's end of file.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
