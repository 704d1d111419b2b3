package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	handshakesAtOnce = 256
	handshakeTurn    = time.Second      // after which a handshake counts no more among them
	handshakeTime    = 10 * time.Second // after which it is ended
)

// handshakes is a listener whose connections have their TLS handshake behind them, a
// bounded number at a time. Of ten thousand agents that come back at once each would
// wait for all the others, and all would be given up as too slow: here they are taken in
// the order in which they came, and wait in the system's queue, where they cost nothing.
// Whoever takes his time over his part holds up the others for a moment only.
type handshakes struct {
	net.Listener
	config *tls.Config
	log    *slog.Logger
	slots  chan struct{}
	ready  chan net.Conn
	ctx    context.Context
	stop   context.CancelFunc
	all    sync.WaitGroup
	noted  time.Time // when files were last said to be too few
}

func shakeHands(l net.Listener, config *tls.Config, atOnce int, log *slog.Logger) *handshakes {
	h := &handshakes{Listener: l, config: config, log: log, slots: make(chan struct{}, atOnce), ready: make(chan net.Conn)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.all.Go(h.take)
	return h
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
		select {
		case h.slots <- struct{}{}:
		case <-h.ctx.Done():
			return
		}
		raw, err := h.Listener.Accept()
		if err == nil {
			h.all.Go(func() { h.shake(raw) })
			continue
		}
		<-h.slots
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
	release := sync.OnceFunc(func() { <-h.slots })
	defer release()
	turn := time.AfterFunc(handshakeTurn, release)
	defer turn.Stop()
	ctx, cancel := context.WithTimeout(h.ctx, handshakeTime)
	defer cancel()
	c := tls.Server(raw, h.config)
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
