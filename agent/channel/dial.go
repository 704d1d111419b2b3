package channel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
)

const dialPatience = 20 * time.Second

// dial opens the socket: TCP (through the proxy, where there is one), TLS with
// the pinned authority, WebSocket. The exporter binds the sign-in to this TLS
// connection.
func (c *Channel) dial(ctx context.Context) (sock *socket.Conn, exporter [32]byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialPatience, errors.New("the server did not answer in time"))
	defer cancel()
	raw, err := c.dialTCP(ctx)
	if err != nil {
		return nil, exporter, err
	}
	config := c.cfg.TLS.Clone()
	config.MinVersion = tls.VersionTLS13 // the exporter of older versions binds nothing
	config.NextProtos = []string{"http/1.1"}
	config.ServerName = c.host
	secure := tls.Client(raw, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, exporter, c.tlsError(err)
	}
	state := secure.ConnectionState()
	material, err := state.ExportKeyingMaterial(seal.ChannelExporter, nil, len(exporter))
	if err != nil {
		secure.Close()
		return nil, exporter, failed("tls", fmt.Errorf("export keying material: %w", err))
	}
	copy(exporter[:], material)
	sock, err = socket.Dial(ctx, secure, c.cfg.Server, socket.Path)
	if err != nil {
		return nil, exporter, c.statusError(err)
	}
	return sock, exporter, nil
}

func (c *Channel) dialTCP(ctx context.Context) (net.Conn, error) {
	var proxy *url.URL
	if c.cfg.Proxy != nil {
		var err error
		proxy, err = c.cfg.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: c.cfg.Server}})
		if err != nil {
			return nil, failed("proxy", fmt.Errorf("the proxy's address cannot be read: %w", err))
		}
	}
	if proxy == nil {
		raw, err := c.cfg.Dial(ctx, "tcp", c.cfg.Server)
		if err != nil {
			return nil, c.dialError(err)
		}
		return raw, nil
	}
	if proxy.Scheme != "http" {
		return nil, failed("proxy", fmt.Errorf("the proxy %s is of a kind that is not supported: give one that begins with http", proxy.Redacted()))
	}
	address := proxy.Host
	if proxy.Port() == "" {
		address = net.JoinHostPort(proxy.Hostname(), "80")
	}
	raw, err := c.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, failed("proxy", fmt.Errorf("the proxy %s cannot be reached: %w", address, err))
	}
	if err := c.connect(ctx, raw, proxy); err != nil {
		raw.Close()
		return nil, failed("proxy", err)
	}
	return raw, nil
}

// connect asks an HTTP proxy for a tunnel (RFC 9110, 9.3.6).
func (c *Channel) connect(ctx context.Context, raw net.Conn, proxy *url.URL) error {
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: c.cfg.Server}, Host: c.cfg.Server, Header: make(http.Header)}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(raw); err != nil {
		return fmt.Errorf("ask the proxy %s: %w", proxy.Host, err)
	}
	// The server speaks only after we did, so nothing of it is in the buffer.
	resp, err := http.ReadResponse(bufio.NewReaderSize(raw, 4096), req)
	if err != nil {
		return fmt.Errorf("ask the proxy %s: %w", proxy.Host, err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy %s answered with status %d: it gives no way to %s", proxy.Host, resp.StatusCode, c.cfg.Server)
	}
	return nil
}
