package ksm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// vaultStub opens envelopes like the vault and answers what a test wants.
type vaultStub struct {
	*httptest.Server
	keys   atomic.Pointer[ServerKeys]
	answer func(w http.ResponseWriter, r *http.Request, o *Opened)
	conns  atomic.Int64
	asked  atomic.Int64 // for the server's key
}

func newStub(t *testing.T) *vaultStub {
	t.Helper()
	s := &vaultStub{}
	s.rollKey(t, 100)
	s.answer = func(w http.ResponseWriter, r *http.Request, o *Opened) { w.Write(o.Seal([]byte(`{"epoch":7}`))) }
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *vaultStub) rollKey(t *testing.T, id int) {
	k, _ := newKey(t)
	s.keys.Store(&ServerKeys{{ID: id, Private: k}})
}

func (s *vaultStub) serve(w http.ResponseWriter, r *http.Request) {
	keys := *s.keys.Load()
	if r.URL.Path == PathServer {
		s.asked.Add(1)
		point, _ := seal.DevicePub(keys[0].Private)
		json.NewEncoder(w).Encode(ServerInfo{Host: "vault", KeyID: keys[0].ID, PublicKey: point, Version: "1"})
		return
	}
	body, _ := io.ReadAll(r.Body)
	o, refused := keys.Open(r.Header, body)
	if refused != nil {
		WriteError(w, r.URL.Path, refused)
		return
	}
	s.answer(w, r, o)
}

func (s *vaultStub) client(t *testing.T) *Client {
	t.Helper()
	key, _ := newKey(t)
	c, err := NewClient(ClientConfig{BaseURL: s.URL, HTTP: s.Client(), Key: key, Version: "1.0"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientSignsOperationAndIdentity(t *testing.T) {
	s := newStub(t)
	var head AgentHead
	var path string
	s.answer = func(w http.ResponseWriter, r *http.Request, o *Opened) {
		path = r.URL.Path
		json.Unmarshal(o.Payload, &head)
	}
	c := s.client(t)
	if err := c.Stage(t.Context(), StageRequest{AgentHead: AgentHead{Op: "forged"}}); err != nil {
		t.Fatal(err)
	}
	if path != PathAgent+OpStage || head.Op != OpStage || head.ClientID != c.id || head.ClientVersion != "rt1.0" {
		t.Errorf("path %s, head %+v", path, head)
	}
}

func TestClientKeepsItsConnection(t *testing.T) {
	s := newStub(t)
	c := s.client(t)
	for range 10 {
		if a, err := c.Lease(t.Context(), LeaseRequest{}); err != nil || a.Epoch != 7 {
			t.Fatal(a, err)
		}
	}
	if n, asked := s.conns.Load(), s.asked.Load(); n != 1 || asked != 1 {
		t.Errorf("%d connections, the key fetched %d times", n, asked)
	}
}

func TestClientFollowsANewServerKey(t *testing.T) {
	s := newStub(t)
	c := s.client(t)
	if _, err := c.Lease(t.Context(), LeaseRequest{}); err != nil {
		t.Fatal(err)
	}
	s.rollKey(t, 101)
	if _, err := c.Lease(t.Context(), LeaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if s.asked.Load() != 2 {
		t.Errorf("the key was fetched %d times", s.asked.Load())
	}
}

// TestRefusalsAreToldFromUnknownOutcomes: only the server's own word says that
// nothing was done.
func TestRefusalsAreToldFromUnknownOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, o *Opened)
		want   string // the refusal's code; "": the outcome is not known
	}{
		"refused": {func(w http.ResponseWriter, r *http.Request, _ *Opened) {
			WriteError(w, r.URL.Path, Refuse(CodeEpochOld, "moved on"))
		}, CodeEpochOld},
		"throttled": {func(w http.ResponseWriter, r *http.Request, _ *Opened) {
			WriteError(w, r.URL.Path, Refuse(CodeThrottled, "too many"))
		}, CodeThrottled},
		"the server failed": {func(w http.ResponseWriter, r *http.Request, _ *Opened) {
			WriteError(w, r.URL.Path, Refuse(CodeUnavailable, "failed"))
		}, ""},
		"a proxy's page":        {func(w http.ResponseWriter, _ *http.Request, _ *Opened) { http.Error(w, "<html>", http.StatusForbidden) }, ""},
		"cut off":               {func(http.ResponseWriter, *http.Request, *Opened) { panic(http.ErrAbortHandler) }, ""},
		"an answer of another":  {func(w http.ResponseWriter, _ *http.Request, _ *Opened) { w.Write(make([]byte, 64)) }, ""},
		"an answer that is not": {func(w http.ResponseWriter, _ *http.Request, o *Opened) { w.Write(o.Seal([]byte("{"))) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStub(t)
			s.answer = test.answer
			_, err := s.client(t).Lease(t.Context(), LeaseRequest{})
			var refused *Error
			if errors.As(err, &refused); err == nil || test.want == "" && refused != nil || test.want != "" && !errors.Is(err, &Error{Code: test.want}) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if test.want == CodeThrottled && refused.RetryAfter != time.Second {
				t.Errorf("retry after %s", refused.RetryAfter)
			}
		})
	}
}

func TestClientStopsWithItsContext(t *testing.T) {
	s := newStub(t)
	entered, ended := make(chan struct{}), make(chan struct{})
	defer close(ended) // before the server is closed, which waits for its handlers
	s.answer = func(http.ResponseWriter, *http.Request, *Opened) {
		close(entered)
		<-ended
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := s.client(t).Lease(ctx, LeaseRequest{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestClientConfiguration(t *testing.T) {
	key, point := newKey(t)
	for name, c := range map[string]ClientConfig{
		"no HTTP client": {BaseURL: "https://vault", Key: key},
		"no key":         {BaseURL: "https://vault", HTTP: http.DefaultClient},
		"not https":      {BaseURL: "http://vault", HTTP: http.DefaultClient, Key: key},
		"no point":       {BaseURL: "https://vault", HTTP: http.DefaultClient, Key: key, ServerKey: point[:64]},
	} {
		if _, err := NewClient(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
