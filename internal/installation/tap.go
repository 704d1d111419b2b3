package installation

import (
	"bytes"
	"io"
	"net"
	"sync"
)

// tap stands between the server and everybody else and keeps what passes: it sees
// what the network sees.
type tap struct {
	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	target string
	seen   bytes.Buffer
	open   map[net.Conn]struct{}
}

func newTap() (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tap{listener: l, open: map[net.Conn]struct{}{}}
	t.work.Go(t.accept)
	return t, nil
}

func (t *tap) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		target := t.target
		t.mu.Unlock()
		s, err := net.Dial("tcp", target)
		if err != nil {
			c.Close()
			continue
		}
		t.mu.Lock()
		t.open[c], t.open[s] = struct{}{}, struct{}{}
		t.mu.Unlock()
		t.work.Go(func() { t.pump(c, s) })
		t.work.Go(func() { t.pump(s, c) })
	}
}

// pump ends both connections when one ends.
func (t *tap) pump(to, from net.Conn) {
	_, _ = io.Copy(io.MultiWriter(to, t), from) // an end is an end
	to.Close()
	from.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, to)
	delete(t.open, from)
}

func (t *tap) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.Write(b)
}

func (t *tap) close() {
	t.listener.Close()
	t.mu.Lock()
	for c := range t.open {
		c.Close()
	}
	t.mu.Unlock()
	t.work.Wait()
}
