package proof

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// gate stands in front of a target and counts what reaches it: connections, and bytes
// over connections that were there before, since agents keep sessions open. It can be
// closed, or hold what it was given.
type gate struct {
	l net.Listener

	mu     sync.Mutex
	target string
	closed bool
	stalls chan struct{} // closed when it ends; nil: nothing is held
	held   int64         // bytes, while it stalls
	loses  bool          // what the target says
	lost   int64         // answers
	far    time.Duration // that all takes on its way, either way
	seen   traffic
	open   map[net.Conn]struct{}
	work   sync.WaitGroup
}

type traffic struct{ connections, bytes int64 }

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{l: l, target: target, open: map[net.Conn]struct{}{}}
	g.work.Go(g.accept)
	t.Cleanup(func() {
		l.Close()
		g.flow()
		g.cut()
		g.work.Wait()
	})
	return g
}

func (g *gate) accept() {
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.seen.connections++
		target, closed := g.target, g.closed
		g.mu.Unlock()
		if closed {
			c.Close()
			continue
		}
		s, err := net.Dial("tcp", target)
		if err != nil {
			c.Close()
			continue
		}
		g.mu.Lock()
		g.open[c], g.open[s] = struct{}{}, struct{}{}
		g.mu.Unlock()
		g.work.Go(func() { g.pump(s, c, true) })
		g.work.Go(func() { g.pump(c, s, false) })
	}
}

// pump ends both connections when one ends.
func (g *gate) pump(to, from net.Conn, toTarget bool) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if toTarget {
			g.mu.Lock()
			g.seen.bytes += int64(n)
			g.mu.Unlock()
		}
		if n > 0 {
			g.wait(n)
			if !toTarget && g.losing() {
				break
			}
			if _, err := to.Write(b[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, to)
	delete(g.open, from)
}

// traffic is what has reached the target so far.
func (g *gate) traffic() traffic {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

func (a traffic) since(b traffic) string {
	return fmt.Sprintf("%d connections and %d bytes", a.connections-b.connections, a.bytes-b.bytes)
}

// lead leads new connections to another target, and ends those that are open.
func (g *gate) lead(target string) {
	g.mu.Lock()
	g.target = target
	g.mu.Unlock()
	g.cut()
}

func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
}

// close ends every connection, and lets no other through until reopen.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cut()
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

// stall holds every byte until flow, which says how many were held. What is held comes
// late, also where its sender has given up.
func (g *gate) stall() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stalls, g.held = make(chan struct{}), 0
}

func (g *gate) flow() (held int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stalls != nil {
		close(g.stalls)
		g.stalls = nil
	}
	return g.held
}

// holds is how many bytes are held now.
func (g *gate) holds() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// lies has all that passes take a while.
func (g *gate) lies(far time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.far = far
}

// wait is where n bytes are on their way, and held.
func (g *gate) wait(n int) {
	g.mu.Lock()
	far := g.far
	g.mu.Unlock()
	time.Sleep(far)
	g.mu.Lock()
	stalls := g.stalls
	if stalls != nil {
		g.held += int64(n)
	}
	g.mu.Unlock()
	if stalls != nil {
		<-stalls
	}
}

// lose lets everything reach the target and nothing come back: a connection ends when its
// target answers. keep ends it, and says how many answers were lost.
func (g *gate) lose() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loses, g.lost = true, 0
}

func (g *gate) keep() (lost int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loses = false
	return g.lost
}

func (g *gate) losing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loses {
		g.lost++
	}
	return g.loses
}
