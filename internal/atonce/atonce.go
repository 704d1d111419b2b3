// Package atonce lets each of many callers have a few things under way at once; what is
// more waits for its turn. So one caller's answers hold so much memory and no more, how
// slowly ever he reads them.
package atonce

import (
	"context"
	"sync"
)

// Gate is one bound for each caller.
type Gate struct {
	most int

	mu sync.Mutex
	of map[string]*caller // those that are in, or wait
}

type caller struct {
	slots chan struct{}
	here  int // in, or waiting
}

// New makes a gate that lets each caller in so many times at once.
func New(most int) *Gate { return &Gate{most: most, of: make(map[string]*caller)} }

// Enter waits until there is room for the caller. leave has to be called, once.
func (g *Gate) Enter(ctx context.Context, who string) (leave func(), err error) {
	g.mu.Lock()
	c := g.of[who]
	if c == nil {
		c = &caller{slots: make(chan struct{}, g.most)}
		g.of[who] = c
	}
	c.here++
	g.mu.Unlock()
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots; g.forget(who, c) }, nil
	case <-ctx.Done():
		g.forget(who, c)
		return nil, context.Cause(ctx)
	}
}

func (g *Gate) forget(who string, c *caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.here--; c.here == 0 {
		delete(g.of, who)
	}
}
