package sdk

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// counted is a rotator whose sessions count how often they are closed, and bear it once.
type counted struct {
	closes atomic.Int64
	err    error // of Close
}

func (c *counted) Open(context.Context, OpenRequest) (Session, error) {
	return &countedSession{c: c}, nil
}

func (c *counted) Verify(context.Context, VerifyRequest) (VerifyResponse, error) {
	return VerifyResponse{}, nil
}

type countedSession struct {
	c    *counted
	once atomic.Bool
}

func (s *countedSession) Apply(context.Context, ApplyRequest) (ApplyResponse, error) {
	return ApplyResponse{Outcome: Changed}, nil
}

func (s *countedSession) Close() error {
	s.c.closes.Add(1)
	if s.once.Swap(true) {
		panic("closed twice")
	}
	return s.c.err
}

// However often the agent closes a session, the plugin's Close is called once, and what
// comes later is a success; the others stay open.
func TestCloseTwice(t *testing.T) {
	for name, plugins := range map[string]error{"closes": nil, "fails to": errors.New("x")} {
		t.Run(name, func(t *testing.T) {
			c := &counted{err: plugins}
			m := Manifest{Name: "counted", Version: "1", Kinds: []Kind{Password}}
			s := newServer([]Plugin{{Manifest: m, Rotator: c}}, nil, os.Stderr)
			for _, id := range []uint64{1, 2} {
				if _, err := s.Open(t.Context(), &pluginv1.OpenRequest{Plugin: m.Name, Session: id}); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			var failed atomic.Int64
			for range 16 {
				all.Go(func() {
					if _, err := s.Close(t.Context(), &pluginv1.CloseRequest{Session: 1}); err != nil {
						failed.Add(1)
					}
				})
			}
			all.Wait()
			if n := c.closes.Load(); n != 1 || (failed.Load() == 1) != (plugins != nil) || failed.Load() > 1 {
				t.Errorf("the plugin's Close was called %d times, and %d calls failed", n, failed.Load())
			}
			if _, err := s.Apply(t.Context(), &pluginv1.ApplyRequest{Session: 1}); err == nil || detailOf(t, err).Reason != "session.closed" {
				t.Errorf("a verb of a session that is closed: %v", err)
			}
			if _, err := s.Apply(t.Context(), &pluginv1.ApplyRequest{Session: 2}); err != nil {
				t.Errorf("the other session: %v", err)
			}
			if _, err := s.Close(t.Context(), &pluginv1.CloseRequest{Session: 3}); err != nil || c.closes.Load() != 1 {
				t.Errorf("a session that never was: %v", err)
			}
		})
	}
}
