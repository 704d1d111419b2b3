package client

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// lookAgain is how often a waiting call looks by itself: a hint may have been
// lost, and nothing else would tell.
const lookAgain = 15 * time.Second

// watcher keeps one Watch open and wakes whoever waits for what changed. Hints
// are never facts: who is woken asks, and verifies.
type watcher struct {
	c        *Client
	topics   []string
	progress func(Progress) // may be nil
	cancel   context.CancelFunc
	done     chan struct{}
	tried    func() // the first stream is open, or could not be opened

	mu     sync.Mutex
	wakers map[seal.ID]chan struct{}
}

// watchReady bounds the wait for a watch's first stream. Without it what is waited for is
// found by looking again, and only what came between is not told.
const watchReady = 2 * time.Second

// watch begins to watch: what happens after it has returned is told, unless the server let
// it wait in vain. close ends it and waits for its goroutine.
func (c *Client) watch(ctx context.Context, progress func(Progress), topics ...string) *watcher {
	watching, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	w := &watcher{
		c: c, topics: topics, progress: progress, cancel: cancel, done: make(chan struct{}), wakers: map[seal.ID]chan struct{}{},
		tried: sync.OnceFunc(func() { close(ready) }),
	}
	go w.run(watching)
	late := time.NewTimer(watchReady)
	defer late.Stop()
	select {
	case <-ready:
	case <-late.C:
	case <-ctx.Done():
	}
	return w
}

func (w *watcher) close() {
	w.cancel()
	<-w.done
}

// waker is woken by hints about an id (a run, a command; zero: events, log).
func (w *watcher) waker(id seal.ID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch, ok := w.wakers[id]
	if !ok {
		ch = make(chan struct{}, 1)
		w.wakers[id] = ch
	}
	return ch
}

func (w *watcher) forget(id seal.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.wakers, id)
}

func (w *watcher) wake(id seal.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch, ok := w.wakers[id]; ok {
		select {
		case ch <- struct{}{}:
		default: // woken already
		}
	}
}

func (w *watcher) wakeAll() {
	w.mu.Lock()
	ids := make([]seal.ID, 0, len(w.wakers))
	for id := range w.wakers {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	for _, id := range ids {
		w.wake(id)
	}
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		w.once(ctx)
		if time.Since(began) > 10*time.Second {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// once watches until the stream ends, for whatever reason.
func (w *watcher) once(ctx context.Context) {
	defer w.tried()
	if err := w.c.session(ctx, false); err != nil {
		return
	}
	stream, err := w.c.conn.Watch(ctx, connect.NewRequest(&clientv1.WatchRequest{Topics: w.topics}))
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		switch what := stream.Msg().What.(type) {
		case *clientv1.WatchResponse_Ready:
			w.tried()
			w.wakeAll() // whatever came before is not told again
		case *clientv1.WatchResponse_Run:
			id := idOr(what.Run.RunId)
			w.tell(id, what.Run)
			w.wake(id)
		case *clientv1.WatchResponse_Reply:
			w.wake(idOr(what.Reply))
		case *clientv1.WatchResponse_Events, *clientv1.WatchResponse_Log:
			w.wake(seal.ID{})
		}
	}
	if connect.CodeOf(stream.Err()) == connect.CodeUnauthenticated {
		_ = w.c.session(ctx, true) // its failure shows when it is watched again
	}
}

// tell passes a run's progress on, of runs that somebody waits for.
func (w *watcher) tell(id seal.ID, p *clientv1.RunProgress) {
	w.mu.Lock()
	_, wanted := w.wakers[id]
	w.mu.Unlock()
	if !wanted || w.progress == nil {
		return
	}
	account, err := refFrom(p.Account)
	if err != nil {
		return
	}
	w.progress(Progress{Account: account, RunID: id, State: p.State, Phase: p.Phase})
}
