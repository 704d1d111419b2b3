package pool

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

// phone counts calls, and hang-ups.
type phone struct {
	mu          sync.Mutex
	dialled, up int
	fail        error
}

func (p *phone) pool(size int) *Pool[int] {
	return New(size, func(context.Context) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.fail != nil {
			return 0, p.fail
		}
		p.dialled++
		p.up++
		return p.dialled, nil
	}, func(int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.up--
	})
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var p phone
	pool := p.pool(2)
	for i := range 5 {
		c, used, err := pool.Take(t.Context())
		if err != nil || c != 1 || used != (i > 0) {
			t.Fatalf("call %d: connection %d, used %v, %v", i, c, used, err)
		}
		pool.Give(c, true)
	}
	c, _, _ := pool.Take(t.Context())
	pool.Give(c, false)
	if c, used, _ := pool.Take(t.Context()); c != 2 || used {
		t.Errorf("after one that is not reusable: connection %d, used %v", c, used)
	}
	if p.up != 1 {
		t.Errorf("%d connections are open, want 1", p.up)
	}
}

// Who asks for an idle connection gets no new one, and waits for none.
func TestIdleDialsNobody(t *testing.T) {
	var p phone
	pool := p.pool(2)
	if c, ok := pool.Idle(); ok {
		t.Errorf("of an empty pool: connection %d", c)
	}
	first, _, _ := pool.Take(t.Context())
	second, _, _ := pool.Take(t.Context())
	if c, ok := pool.Idle(); ok {
		t.Errorf("while all are used: connection %d", c)
	}
	pool.Give(second, true)
	if c, ok := pool.Idle(); !ok || c != second {
		t.Errorf("connection %d, %v, want %d", c, ok, second)
	}
	pool.Give(second, true)
	pool.Give(first, true)
	pool.Close()
	if c, ok := pool.Idle(); ok || p.dialled != 2 || p.up != 0 {
		t.Errorf("after the end: connection %d, %v; %d were dialled, %d are open", c, ok, p.dialled, p.up)
	}
}

func TestNoMoreThanItsSize(t *testing.T) {
	var p phone
	pool := p.pool(3)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c, _, err := pool.Take(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			pool.Give(c, true)
		})
	}
	all.Wait()
	if p.dialled > 3 {
		t.Errorf("%d connections were opened, want at most 3", p.dialled)
	}
	a, _, _ := pool.Take(t.Context())
	b, _, _ := pool.Take(t.Context())
	c, _, _ := pool.Take(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() {
		_, _, err := pool.Take(ctx)
		waits <- err
	}()
	cancel()
	mustBe(t, <-waits, sdk.ClassUnreachable, "deadline")
	for _, one := range []int{a, b, c} {
		pool.Give(one, true)
	}
}

func TestRefusedCallsGiveTheirPlaceBack(t *testing.T) {
	p := phone{fail: errors.New("engaged")}
	pool := p.pool(1)
	for range 3 {
		if _, _, err := pool.Take(t.Context()); !errors.Is(err, p.fail) {
			t.Fatal(err)
		}
	}
}

func TestClosed(t *testing.T) {
	var p phone
	pool := p.pool(2)
	a, _, _ := pool.Take(t.Context())
	b, _, _ := pool.Take(t.Context())
	pool.Give(a, true)
	pool.Close()
	pool.Close()
	if p.up != 1 {
		t.Errorf("%d connections are open, want the one in use", p.up)
	}
	pool.Give(b, true)
	if p.up != 0 {
		t.Errorf("%d connections are open, want none", p.up)
	}
	_, _, err := pool.Take(t.Context())
	mustBe(t, err, sdk.ClassInternal, "session.closed")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = p.pool(1).Take(ctx)
	mustBe(t, err, sdk.ClassUnreachable, "deadline")
}

func mustBe(t *testing.T, err error, class sdk.Class, reason string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != class || e.Reason != reason || !e.NotSent {
		t.Errorf("error %v, want class %s, reason %s, nothing sent", err, class, reason)
	}
}
