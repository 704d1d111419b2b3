package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// A client that sends its body byte by byte is let go in time; one that waits for
// a long answer is not.
func TestSlowBodiesAreEnded(t *testing.T) {
	const limit = 300 * time.Millisecond
	ended := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /body", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		// As a message is read of a stream that may go on: not to the end.
		io.CopyN(io.Discard, r.Body, 3)
		for range 4 {
			select {
			case <-time.After(limit / 2):
			case <-r.Context().Done():
				return
			}
			fmt.Fprintln(w, "still here")
			http.NewResponseController(w).Flush()
		}
	})
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(bodiesWithin(limit, mux))
			srv.EnableHTTP2 = protocol == "HTTP/2.0"
			srv.StartTLS()
			defer srv.Close()

			body, drip := io.Pipe()
			stop := make(chan struct{})
			go func() {
				for {
					if _, err := drip.Write([]byte("x")); err != nil {
						return
					}
					select {
					case <-time.After(limit / 10):
					case <-stop:
						drip.Close()
						return
					}
				}
			}()
			began := time.Now()
			go func() {
				if resp, err := srv.Client().Post(srv.URL+"/body", "", body); err == nil {
					resp.Body.Close()
				}
			}()
			select {
			case err := <-ended:
				if err == nil || time.Since(began) < limit {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			case <-time.After(20 * limit):
				t.Error("the slow body still holds its handler")
			}
			close(stop)

			for _, method := range []string{http.MethodGet, http.MethodPost} {
				var content io.Reader
				if method == http.MethodPost {
					content = io.MultiReader(strings.NewReader("all at once")) // its length unknown
				}
				req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/stream", content)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || bytes.Count(answer, []byte("\n")) != 4 || resp.Proto != protocol {
					t.Errorf("%s: a long answer: %q, %v, %s", method, answer, err, resp.Proto)
				}
			}
		})
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := bound(l, 3, 2, slog.New(slog.NewTextHandler(&log, nil)))
	got := make(chan net.Conn)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				close(got)
				return
			}
			got <- c
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Skipf("no connection from %s can be made here: %v", from, err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	taken := func(from string) net.Conn {
		t.Helper()
		dial(from)
		select {
		case c := <-got:
			return c
		case <-time.After(10 * time.Second):
			t.Fatalf("a connection from %s was turned away", from)
			return nil
		}
	}
	turnedAway := func(from string) {
		t.Helper()
		c := dial(from)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := bufio.NewReader(c).ReadByte(); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Fatalf("a connection from %s: %v", from, err)
		}
	}
	first := taken("127.0.0.1")
	taken("127.0.0.1")
	turnedAway("127.0.0.1") // its own are all open
	taken("127.0.0.2")      // which locks out nobody else
	turnedAway("127.0.0.3") // all are open
	first.Close()
	first.Close() // as TLS does: it counts once
	taken("127.0.0.3")
	turnedAway("127.0.0.4")
	l.Close()
	<-got
	if n := strings.Count(log.String(), "turned away"); n != 1 {
		t.Errorf("logged %d times: %s", n, &log)
	}
}

func TestNetworkOfAnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:1234":             "192.0.2.7/32",
		"[::ffff:192.0.2.7]:1":       "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:443": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:443":         "fe80::/64",
	} {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := network(net.TCPAddrFromAddrPort(at)).String(); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

// A body waits in its handler while others arrive.
func TestBodiesAreBounded(t *testing.T) {
	const size = 10_000
	b := newBodies(5*size, 2*size)
	arrived := make(chan error)
	done := make(chan struct{})
	h := b.bounded(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		arrived <- err
		<-done
	}))
	var under sync.WaitGroup
	send := func(from, path string, n int) error {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(make([]byte, n)))
		r.RemoteAddr = from + ":1000"
		under.Go(func() { h.ServeHTTP(httptest.NewRecorder(), r) })
		return <-arrived
	}
	const api, files = ksm.PathMachine + ksm.OpGetSecret, ksm.PathFiles + "upload"
	round := func() {
		for _, c := range []struct {
			what, from, path string
			n                int
			fits             bool
		}{
			{"one", "192.0.2.1", api, size, true},
			{"a second from there", "192.0.2.1", api, size, true},
			{"a third", "192.0.2.1", api, 1, false},
			{"a file from there", "192.0.2.1", files, 10 * size, true},
			{"another address", "192.0.2.2", api, 2 * size, true},
			{"a third address", "192.0.2.3", api, size, true},
			{"one more than fits in all", "192.0.2.4", api, 1, false},
			{"one without a body", "192.0.2.4", api, 0, true},
		} {
			if err := send(c.from, c.path, c.n); (err == nil) != c.fits {
				t.Errorf("%s: %v", c.what, err)
			}
		}
		close(done)
		under.Wait()
	}
	round()
	done = make(chan struct{})
	round() // all were given back
	if b.held != 0 || len(b.from) != 0 {
		t.Errorf("%d bytes are held, by %v", b.held, b.from)
	}
}

// bodyTooMany: both APIs say that it may be tried again.
func bodyTooMany(t *testing.T, address string, insecure *tls.Config) {
	transport := &http.Transport{TLSClientConfig: insecure, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	for path, want := range map[string]string{
		ksm.PathMachine + ksm.OpGetSecret:                `"error":"server_unavailable"`,
		clientv1connect.VaultServiceSignInProcedure:      `"code":"unavailable"`,
		clientv1connect.VaultServiceListRecordsProcedure: `"code":"unavailable"`,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+path, bytes.NewReader(make([]byte, 101<<10)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/proto")
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(answer), want) {
			t.Errorf("%s: %s, %s, %v", path, resp.Status, answer, err)
		}
	}
}

// TestStrangersHoldNothing is the whole server, to which somebody connects who
// has no key and takes his time.
func TestStrangersHoldNothing(t *testing.T) {
	port, err := installation.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s := &settings{
		data: t.TempDir(), listen: address, names: []string{"localhost"}, logFormat: "text", logLevel: "error",
		connections: 3, perAddress: 3, bodyTime: 5 * time.Second, bodies: newBodies(1<<20, 100<<10),
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, s, io.Discard) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	insecure := &tls.Config{InsecureSkipVerify: true} // whose server it is does not matter here
	dial := func() (*tls.Conn, error) { return tls.Dial("tcp", address, insecure) }
	slow := map[string]string{
		"machines":     ksm.PathMachine + ksm.OpGetSecret,
		"uploads":      ksm.PathFiles + "upload",
		"people's API": clientv1connect.VaultServiceSignInProcedure,
	}
	conns := map[string]*tls.Conn{}
	for end := time.Now().Add(20 * time.Second); len(conns) == 0; time.Sleep(10 * time.Millisecond) {
		if c, err := dial(); err == nil {
			c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Run("a body too many", func(t *testing.T) { bodyTooMany(t, address, insecure) })
	for name, path := range slow {
		c, err := dial()
		// The connection before may hold its place until the server sees its end.
		for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			c, err = dial()
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		conns[name] = c
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nContent-Type: %s\r\n\r\n-",
			path, map[bool]string{true: "multipart/form-data; boundary=x", false: "application/proto"}[name == "uploads"])
	}
	if c, err := dial(); err == nil {
		c.Close()
		t.Error("more connections than allowed")
	}
	for name, c := range conns {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: the connection is not ended: %v", name, err)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := dial()
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("their places are not free again: %v", err)
		}
	}
}
