package agent

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// A burst of requests shares the connections that there are for it, and the next burst
// finds them: no handshake is done for nothing.
func TestRequestsShareConnections(t *testing.T) {
	const connections = 8
	var opened atomic.Int64
	var mu sync.Mutex
	inside, full := 0, make(chan struct{})
	// Requests are answered when there are as many as there may be connections, so that a
	// burst needs all of them at once, again and again.
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		together := full
		if inside++; inside == connections {
			close(full)
			inside, full = 0, make(chan struct{})
		}
		mu.Unlock()
		select {
		case <-together:
		case <-r.Context().Done():
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	c := vaultHTTP(&tls.Config{InsecureSkipVerify: true}, connections)
	defer c.CloseIdleConnections()
	for range 3 {
		var all sync.WaitGroup
		for range 10 * connections {
			all.Go(func() {
				r, err := c.Get(srv.URL)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				r.Body.Close()
			})
		}
		all.Wait()
	}
	if n := opened.Load(); n != connections {
		t.Errorf("%d connections for bursts of %d requests, want %d", n, 10*connections, connections)
	}
}
