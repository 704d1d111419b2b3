package client

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
)

// lateWatch is a server that opens a watch when it is let, and then tells of one run.
type lateWatch struct {
	clientv1connect.UnimplementedVaultServiceHandler
	once        sync.Once // the first watch; a watcher opens another when it has ended
	asked, open chan struct{}
	tell        chan *clientv1.RunProgress
}

func (s *lateWatch) Watch(ctx context.Context, _ *connect.Request[clientv1.WatchRequest], out *connect.ServerStream[clientv1.WatchResponse]) error {
	s.once.Do(func() { close(s.asked) })
	select {
	case <-s.open:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := out.Send(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Ready{Ready: &clientv1.Ready{}}}); err != nil {
		return err
	}
	select {
	case p := <-s.tell:
		return out.Send(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Run{Run: p}})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A run's first word would be lost if it began before the watch is open.
func TestWatchIsOpenWhenItBegins(t *testing.T) {
	s := &lateWatch{asked: make(chan struct{}), open: make(chan struct{}), tell: make(chan *clientv1.RunProgress, 1)}
	mux := http.NewServeMux()
	mux.Handle(clientv1connect.NewVaultServiceHandler(s))
	server := httptest.NewServer(mux)
	defer server.Close()
	c := &Client{conn: &enrol.Conn{VaultServiceClient: clientv1connect.NewVaultServiceClient(server.Client(), server.URL)}, now: time.Now}
	c.sign.ends = time.Now().Add(time.Hour)

	told := make(chan Progress, 1)
	began := make(chan *watcher, 1)
	go func() { began <- c.watch(t.Context(), func(p Progress) { told <- p }, "runs") }()
	<-s.asked
	select {
	case w := <-began:
		w.close()
		t.Fatal("watches before the server says that it does")
	default:
	}
	close(s.open)
	w := <-began
	defer w.close()
	run := seal.NewID()
	w.waker(run)
	ref := Ref{Folder: seal.NewID(), Record: seal.NewID()}
	s.tell <- &clientv1.RunProgress{RunId: run.Bytes(), Account: ref.Proto(), State: "queued"}
	if p := <-told; p.RunID != run || p.State != "queued" {
		t.Errorf("told %+v", p)
	}
}

// A watch that does not open is no reason to do nothing: by looking again all is found.
func TestWatchThatDoesNotOpen(t *testing.T) {
	s := &lateWatch{asked: make(chan struct{}), open: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle(clientv1connect.NewVaultServiceHandler(s))
	server := httptest.NewServer(mux)
	defer server.Close()
	for name, url := range map[string]string{"silent": server.URL, "refused": server.URL + "/elsewhere"} {
		t.Run(name, func(t *testing.T) {
			c := &Client{conn: &enrol.Conn{VaultServiceClient: clientv1connect.NewVaultServiceClient(server.Client(), url)}, now: time.Now}
			c.sign.ends = time.Now().Add(time.Hour)
			c.watch(t.Context(), nil, "runs").close() // returns
		})
	}
}
