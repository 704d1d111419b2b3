package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/ksm"
)

// bodyTime bounds how long a request's body may take to arrive: nobody has signed
// in before it is there. An upload with a good secret is given longer.
const bodyTime = time.Minute

// bodiesWithin gives each request's body its time. It ends with the body, so that
// a stream of answers lasts as long as it likes.
func bodiesWithin(limit time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			c := http.NewResponseController(w)
			if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
				http.Error(w, "the connection has ended", http.StatusBadRequest)
				return
			}
			// A copy: net/http looks at the body of its own request to see whether
			// the connection is fit for another one.
			timed := *r
			timed.Body = &timedBody{r.Body, c}
			r = &timed
		}
		h.ServeHTTP(w, r)
	})
}

type timedBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF { //nolint:errorlint // a reader's end is this very value
		b.conn.SetReadDeadline(time.Time{}) //nolint:errcheck // the connection is gone, or it is not
	}
	return n, err
}

// bodies bounds what requests' bodies hold in memory together, and what those from one
// address do: nobody has signed in before his is there, and many may send theirs at once.
type bodies struct {
	all, each int64

	mu   sync.Mutex
	held int64
	from map[netip.Prefix]int64
}

// Bounds in bytes. A body is decoded beside itself: what it costs is up to three times that.
const (
	bodiesAll  = 128 << 20
	bodiesEach = 32 << 20
)

func newBodies(all, each int64) *bodies {
	return &bodies{all: all, each: each, from: make(map[netip.Prefix]int64)}
}

// bounded counts each body as it arrives, until its request is answered. What would be too
// much is not read. A file's contents go to the disk, and have bounds of their own.
func (b *bodies) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody || strings.HasPrefix(r.URL.Path, ksm.PathFiles) {
			h.ServeHTTP(w, r)
			return
		}
		body := &heldBody{ReadCloser: r.Body, b: b, from: networkOf(r.RemoteAddr)}
		defer body.give()
		counted := *r
		counted.Body = body
		h.ServeHTTP(w, &counted)
	})
}

// errCrowded is the refusal of both APIs.
var errCrowded = errors.Join(
	ksm.Refuse(ksm.CodeUnavailable, "the server receives too much at once; try again"),
	connect.NewError(connect.CodeUnavailable, errors.New("the server receives too much at once; try again")))

type heldBody struct {
	io.ReadCloser
	b    *bodies
	from netip.Prefix
	n    int64
	err  error
}

func (h *heldBody) Read(p []byte) (int, error) {
	if h.err != nil {
		return 0, h.err
	}
	n, err := h.ReadCloser.Read(p)
	if !h.b.take(h.from, int64(n)) {
		h.err = errCrowded
		return 0, h.err
	}
	h.n += int64(n)
	return n, err
}

func (h *heldBody) give() { h.b.take(h.from, -h.n) }

func (b *bodies) take(from netip.Prefix, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 && (b.held+n > b.all || b.from[from]+n > b.each) {
		return false
	}
	b.held += n
	if b.from[from] += n; b.from[from] == 0 {
		delete(b.from, from)
	}
	return true
}

// bounded is a listener that keeps so many connections and no more, together and
// from one address, and ends those that come on top: who has opened all that one
// address may have locks out nobody else.
type bounded struct {
	net.Listener
	all, each int
	log       *slog.Logger

	mu    sync.Mutex
	open  int
	from  map[netip.Prefix]int
	noted time.Time
}

func bound(l net.Listener, all, each int, log *slog.Logger) *bounded {
	return &bounded{Listener: l, all: all, each: each, log: log, from: map[netip.Prefix]int{}}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(c.RemoteAddr())
		if b.enter(from) {
			return &counted{Conn: c, b: b, from: from}, nil
		}
		c.Close()
	}
}

func (b *bounded) enter(from netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.all || b.from[from] >= b.each {
		if now := time.Now(); now.Sub(b.noted) >= time.Minute {
			b.noted = now
			b.log.Warn("connections are turned away", "open", b.open, "of", b.all, "address", from, "from_there", b.from[from], "of_each", b.each)
		}
		return false
	}
	b.open++
	b.from[from]++
	return true
}

func (b *bounded) leave(from netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.from[from]--; b.from[from] == 0 {
		delete(b.from, from)
	}
}

// network is what counts as one address: of IPv6 everybody has 2^64.
func network(a net.Addr) netip.Prefix { return networkOf(a.String()) }

func networkOf(address string) netip.Prefix {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{} // they count together
	}
	bits := 32
	ip := at.Addr().Unmap()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.WithZone("").Prefix(bits) // the bits fit
	return p
}

type counted struct {
	net.Conn
	b    *bounded
	from netip.Prefix
	left sync.Once
}

func (c *counted) Close() error {
	defer c.left.Do(func() { c.b.leave(c.from) })
	return c.Conn.Close()
}
