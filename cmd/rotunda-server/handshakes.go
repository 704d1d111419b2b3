package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	handshakesAtOnce = 256
	handshakeTurn    = 250 * time.Millisecond // after which a handshake counts no more among them
	handshakeTime    = 10 * time.Second       // after which it is ended
	handshakeWait    = 5 * time.Second        // for a turn; agents give up after twenty
)

// handshakes is a listener whose connections have their TLS handshake behind them, a
// bounded number at a time. Of ten thousand agents that come back at once each would
// wait for all the others, and all would be given up as too slow. Here they have turns,
// the newest first: so a person waits for nobody, and no work goes into connections
// whose other end has given up. Who has waited for long is let go, and comes back after a
// growing pause. Who says nothing has no turn, and whoever takes his time over his part
// holds up the others for a moment only.
type handshakes struct {
	net.Listener
	config *tls.Config
	log    *slog.Logger
	ready  chan net.Conn
	ctx    context.Context
	stop   context.CancelFunc
	all    sync.WaitGroup
	noted  time.Time // when files were last said to be too few

	mu      sync.Mutex
	free    int
	waiting []chan struct{} // for a turn, the newest last
}

func shakeHands(l net.Listener, config *tls.Config, atOnce int, log *slog.Logger) *handshakes {
	h := &handshakes{Listener: l, config: config, log: log, free: atOnce, ready: make(chan net.Conn)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.all.Go(h.take)
	return h
}

// enter waits for a turn; false: there was none in time.
func (h *handshakes) enter() bool {
	h.mu.Lock()
	if h.free > 0 {
		h.free--
		h.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	h.waiting = append(h.waiting, turn)
	h.mu.Unlock()
	late := time.NewTimer(handshakeWait)
	defer late.Stop()
	select {
	case <-turn:
		return true
	case <-late.C:
	case <-h.ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.waiting, turn)
	if i < 0 { // it has come just now
		return true
	}
	h.waiting = slices.Delete(h.waiting, i, i+1)
	return false
}

// leave gives the turn to the newest who waits.
func (h *handshakes) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := len(h.waiting) - 1
	if last < 0 {
		h.free++
		return
	}
	close(h.waiting[last])
	h.waiting = h.waiting[:last]
}

func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.ready:
		return c, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h *handshakes) Close() error {
	h.stop()
	err := h.Listener.Close()
	h.all.Wait()
	return err
}

// take takes connections until the listener is closed.
func (h *handshakes) take() {
	for {
		raw, err := h.Listener.Accept()
		if err == nil {
			h.all.Go(func() { h.shake(raw) })
			continue
		}
		if h.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			h.stop()
			return
		}
		h.note(err)
		select {
		case <-time.After(100 * time.Millisecond): // until others have closed theirs
		case <-h.ctx.Done():
		}
	}
}

// note says why no connection could be taken, once a minute.
func (h *handshakes) note(err error) {
	now := time.Now()
	if now.Sub(h.noted) < time.Minute {
		return
	}
	h.noted = now
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		h.log.Error("no connection can be taken: there are as many open files as there may be", "error", err, "do", raiseFiles)
		return
	}
	h.log.Error("no connection can be taken; tried again", "error", err)
}

// raiseFiles is what to do where open files are too few.
const raiseFiles = "raise the limit of open files above --max-connections (LimitNOFILE= in the service's unit, or ulimit -n), and start the server again"

func (h *handshakes) shake(raw net.Conn) {
	begun := &begun{Conn: raw}
	raw.SetReadDeadline(time.Now().Add(handshakeTime)) //nolint:errcheck // the read fails
	stop := context.AfterFunc(h.ctx, func() { raw.Close() })
	_, err := io.ReadFull(raw, begun.first[:])
	if !stop() || err != nil || raw.SetReadDeadline(time.Time{}) != nil || !h.enter() {
		raw.Close()
		return
	}
	release := sync.OnceFunc(h.leave)
	defer release()
	turn := time.AfterFunc(handshakeTurn, release)
	defer turn.Stop()
	ctx, cancel := context.WithTimeout(h.ctx, handshakeTime)
	defer cancel()
	c := tls.Server(begun, h.config)
	if err := c.HandshakeContext(ctx); err != nil {
		h.log.Debug("no TLS", "address", raw.RemoteAddr(), "error", err)
		plain(err)
		raw.Close()
		return
	}
	release()
	select {
	case h.ready <- c:
	case <-h.ctx.Done():
		raw.Close()
	}
}

// begun is a connection whose first byte was read already.
type begun struct {
	net.Conn
	first [1]byte
	given bool
}

func (b *begun) Read(p []byte) (int, error) {
	if b.given || len(p) == 0 {
		return b.Conn.Read(p)
	}
	b.given = true
	return copy(p, b.first[:]), nil
}

// plain tells a person what is wrong who came without TLS.
func plain(err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil {
		return
	}
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"} {
		if bytes.Equal(record.RecordHeader[:], []byte(method)) {
			io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nThis server speaks TLS alone: give an address that begins with https.\n") //nolint:errcheck // a courtesy
		}
	}
}
