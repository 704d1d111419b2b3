package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/store"
)

// TestHandshakesAreTakenInTurn: who comes and says nothing has no turn, who begins and
// does not go on has it for a moment, and the others are taken after that.
func TestHandshakesAreTakenInTurn(t *testing.T) {
	for name, c := range map[string]struct {
		says  string
		holds bool
	}{
		"nothing":   {"", false},
		"the start": {"\x16\x03\x01", true},
	} {
		t.Run(name, func(t *testing.T) {
			l := listening(t)
			h := shakeHands(l, testTLS(t), 1, slog.New(slog.DiscardHandler))
			defer h.Close()
			slow, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer slow.Close()
			if _, err := io.WriteString(slow, c.says); err != nil {
				t.Fatal(err)
			}
			taken := func() (free int) {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.free
			}
			for end := time.Now().Add(10 * time.Second); c.holds && taken() == 1 && time.Now().Before(end); {
				runtime.Gosched()
			}
			const others = 3
			for range others {
				go func() {
					c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
					if err == nil {
						defer c.Close()
						io.Copy(io.Discard, c)
					}
				}()
			}
			for range others {
				c, err := h.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if !c.(*tls.Conn).ConnectionState().HandshakeComplete {
					t.Error("a connection was given out before its handshake")
				}
			}
		})
	}
}

// TestTheNewestHasTheNextTurn: and who finds none in time is let go.
func TestTheNewestHasTheNextTurn(t *testing.T) {
	h := &handshakes{}
	h.ctx, h.stop = t.Context(), func() {}
	type came struct {
		who int
		had bool
	}
	order := make(chan came, 3)
	for who := range 3 {
		go func() { order <- came{who, h.enter()} }()
		for ready := false; !ready; {
			h.mu.Lock()
			ready = len(h.waiting) == who+1
			h.mu.Unlock()
			runtime.Gosched()
		}
	}
	for _, want := range []came{{2, true}, {1, true}} {
		h.leave()
		if got := <-order; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if got := <-order; got != (came{0, false}) {
		t.Errorf("the oldest, with no turn left: %+v", got)
	}
	h.leave()
	if !h.enter() {
		t.Error("a free turn was not given")
	}
}

func TestPlainHTTPIsTold(t *testing.T) {
	l := listening(t)
	h := shakeHands(l, testTLS(t), 1, slog.New(slog.DiscardHandler))
	defer h.Close()
	resp, err := http.Get("http://" + l.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "https") {
		t.Errorf("%s: %q", resp.Status, body)
	}
}

// exhausted is a listener for which there are no files left, at first.
type exhausted struct {
	net.Listener
	times int
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.times > 0 {
		e.times--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return e.Listener.Accept()
}

// TestTooFewFiles: the log says what to do, once, and who comes later is served.
func TestTooFewFiles(t *testing.T) {
	l := listening(t)
	var log bytes.Buffer
	h := shakeHands(&exhausted{l, 2}, testTLS(t), 1, slog.New(slog.NewTextHandler(&log, nil)))
	go func() {
		if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
			defer c.Close()
			io.Copy(io.Discard, c)
		}
	}()
	c, err := h.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	h.Close()
	if n := strings.Count(log.String(), "LimitNOFILE"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
}

// TestFilesBoundConnections: more connections than files are turned away, and so said.
func TestFilesBoundConnections(t *testing.T) {
	var log bytes.Buffer
	files := openFiles()
	if n := possible(files+1, slog.New(slog.NewTextHandler(&log, nil))); n >= files || !strings.Contains(log.String(), "LimitNOFILE") {
		t.Errorf("%d connections with %d files: %s", n, files, &log)
	}
	log.Reset()
	if n := possible(1, slog.New(slog.NewTextHandler(&log, nil))); n != 1 || log.Len() > 0 {
		t.Errorf("one connection: %d, %s", n, &log)
	}
}

func listening(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	ca, err := openAuthority(t.TempDir(), []string{"127.0.0.1"}, store.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca.TLS(store.Now)
}
