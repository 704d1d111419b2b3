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
	"time"
)

// A burst of requests shares the connections that there are for it, and the next burst
// finds them: no handshake is done for nothing.
func TestRequestsShareConnections(t *testing.T) {
	var opened atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		time.Sleep(5 * time.Millisecond) // as a durable write takes
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	const connections = 8
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
	if n := opened.Load(); n < 1 || n > connections {
		t.Errorf("%d connections for bursts of %d requests, want at most %d", n, 10*connections, connections)
	}
}
