// Package socket is the WebSocket under the agent channel: whole binary
// messages, bounded in size and in time. It is the one place that knows which
// library does it.
//
// A Conn has one reader and one writer at a time; Close and Abort may be called
// by anyone, also while the others wait.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// MaxMessage bounds a message in bytes, both ways.
const MaxMessage = 128 << 10

// Protocol is the subprotocol that both ends have to name (RFC 6455, 1.9).
const Protocol = "rotunda.channel.v1"

// Ten thousand idle sockets: a reader that is small, and write buffers that
// only those have who write.
const (
	readBuffer  = 512
	writeBuffer = 4096
)

var writeBuffers sync.Pool

// ErrTooLarge: the other side sent a message above MaxMessage.
var ErrTooLarge = websocket.ErrReadLimit

// ErrNotBinary: the other side sent a text message.
var ErrNotBinary = errors.New("a message is not binary")

// Conn is one end of a WebSocket.
type Conn struct{ ws *websocket.Conn }

// Accept answers an upgrade request. Where it fails, the request is answered.
// Browsers are refused: no page has a reason to open an agent's channel.
func Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	up := websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   readBuffer,
		WriteBufferSize:  writeBuffer,
		WriteBufferPool:  &writeBuffers,
		Subprotocols:     []string{Protocol},
		CheckOrigin:      func(r *http.Request) bool { return r.Header.Get("Origin") == "" },
	}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("accept a channel: %w", err)
	}
	if ws.Subprotocol() != Protocol {
		ws.Close()
		return nil, fmt.Errorf("accept a channel: the other side does not speak %s", Protocol)
	}
	return wrap(ws), nil
}

// StatusError is an answer other than an upgrade.
type StatusError struct {
	Code       int
	RetryAfter string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered with status %d (%s) and opened no channel", e.Code, http.StatusText(e.Code))
}

// Dial opens a WebSocket over a connection that is there already (TCP, or TLS
// on it), which it owns from then on.
func Dial(ctx context.Context, over net.Conn, host, path string) (*Conn, error) {
	d := websocket.Dialer{
		NetDialTLSContext: func(context.Context, string, string) (net.Conn, error) { return over, nil },
		Subprotocols:      []string{Protocol},
		ReadBufferSize:    writeBuffer,
		WriteBufferSize:   writeBuffer,
	}
	// A context that ends has to reach a handshake that waits.
	stop := context.AfterFunc(ctx, func() { over.Close() })
	ws, resp, err := d.DialContext(ctx, "wss://"+host+path, nil)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		over.Close()
		if resp != nil && errors.Is(err, websocket.ErrBadHandshake) {
			return nil, &StatusError{Code: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
		}
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if ws.Subprotocol() != Protocol {
		ws.Close()
		return nil, fmt.Errorf("open a channel: the server does not speak %s", Protocol)
	}
	return wrap(ws), nil
}

func wrap(ws *websocket.Conn) *Conn {
	ws.SetReadLimit(MaxMessage)
	return &Conn{ws: ws}
}

// Read waits for one message, for at most the given time: all of it has to be
// there by then.
func (c *Conn) Read(timeout time.Duration) ([]byte, error) {
	if err := c.ws.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	if kind != websocket.BinaryMessage {
		return nil, ErrNotBinary
	}
	message, err := io.ReadAll(r)
	if err == nil {
		fault.Heard("frame", message)
	}
	return message, err
}

// Write sends one message. A peer that has not taken it within the given time
// is lost: the connection cannot be used any more.
func (c *Conn) Write(message []byte, timeout time.Duration) error {
	if len(message) > MaxMessage {
		return fmt.Errorf("message of %d bytes: %w", len(message), ErrTooLarge)
	}
	if err := c.ws.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	return c.ws.WriteMessage(websocket.BinaryMessage, message)
}

// Close says goodbye, if that takes no longer than a moment, and closes.
func (c *Conn) Close() error {
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	c.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second)) //nolint:errcheck // a courtesy
	return c.ws.Close()
}

// Abort closes without a word.
func (c *Conn) Abort() error { return c.ws.Close() }
