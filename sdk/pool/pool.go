// Package pool keeps the connections of one administrative session: a few, opened when
// needed, used for many accounts one after the other.
package pool

import (
	"context"
	"sync"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Pool is at most a number of connections of type C.
type Pool[C any] struct {
	dial   func(context.Context) (C, error)
	hangUp func(C)
	slots  chan struct{} // as many as there may be connections

	mu     sync.Mutex
	idle   []C
	closed bool
}

// New makes an empty pool of at most size connections. Dial opens one; an error that it
// gives is Take's. HangUp closes one.
func New[C any](size int, dial func(context.Context) (C, error), hangUp func(C)) *Pool[C] {
	return &Pool[C]{dial: dial, hangUp: hangUp, slots: make(chan struct{}, size)}
}

// Take gives a connection for one call: one that was used before, where there is one,
// which may have died unnoticed; else a new one. It waits until there may be one more.
// Its own errors are of type [*sdk.Error] and say that nothing was sent.
func (p *Pool[C]) Take(ctx context.Context) (c C, used bool, err error) {
	if err := cancelled(ctx); err != nil {
		return c, false, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return c, false, cancelled(ctx)
	}
	p.mu.Lock()
	closed := p.closed
	if n := len(p.idle); n > 0 {
		c, p.idle, used = p.idle[n-1], p.idle[:n-1], true
	}
	p.mu.Unlock()
	switch {
	case closed:
		<-p.slots
		return c, false, &sdk.Error{Class: sdk.ClassInternal, Reason: "session.closed", NotSent: true}
	case used:
		return c, true, nil
	}
	if c, err = p.dial(ctx); err != nil {
		<-p.slots
	}
	return c, false, err
}

// Idle gives a connection that was used before, which may have died unnoticed; false where
// there is none just now.
func (p *Pool[C]) Idle() (c C, ok bool) {
	select {
	case p.slots <- struct{}{}:
	default:
		return c, false
	}
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c, p.idle, ok = p.idle[n-1], p.idle[:n-1], true
	}
	p.mu.Unlock()
	if !ok {
		<-p.slots
	}
	return c, ok
}

// Give takes a connection back. One that is not reusable, or that comes back after
// Close, is hung up.
func (p *Pool[C]) Give(c C, reusable bool) {
	p.mu.Lock()
	keep := reusable && !p.closed
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		p.hangUp(c)
	}
	<-p.slots
}

// Close hangs up the idle connections; those in use are hung up when they are given
// back. It may be called twice.
func (p *Pool[C]) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		p.hangUp(c)
	}
}

func cancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}
	}
	return nil
}
