package clientapi

import (
	"container/list"
	"crypto/rand"
	"sync"
	"time"
)

const (
	challengeTime = time.Minute
	challengesMax = 1 << 16 // the oldest makes room
	countersMax   = 1 << 14
)

// challenges are the ones given out and not yet answered. They live in this
// node's memory: a challenge is answered over the connection it came by.
type challenges struct {
	mu    sync.Mutex
	order list.List // of challenge, oldest first
	known map[[32]byte]*list.Element
}

type challenge struct {
	bytes [32]byte
	given time.Time
}

func (c *challenges) give(now time.Time) ([32]byte, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return b, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[[32]byte]*list.Element)
	}
	for e := c.order.Front(); e != nil; e = c.order.Front() {
		old := e.Value.(challenge)
		if len(c.known) < challengesMax && now.Sub(old.given) <= challengeTime {
			break
		}
		c.order.Remove(e)
		delete(c.known, old.bytes)
	}
	c.known[b] = c.order.PushBack(challenge{b, now})
	return b, nil
}

// take reports whether a challenge is good, and ends it.
func (c *challenges) take(b [32]byte, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[b]
	if !ok {
		return false
	}
	c.order.Remove(e)
	delete(c.known, b)
	return now.Sub(e.Value.(challenge).given) <= challengeTime
}

// limiter counts per key within a minute. It is modest on purpose: keys are
// strong, so guessing is hopeless; it keeps noise and cost down.
type limiter struct {
	mu    sync.Mutex
	began time.Time
	count map[string]int
}

// allow counts one more and reports whether it is within the bound.
func (l *limiter) allow(key string, bound int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.began) >= time.Minute || l.count == nil {
		l.began, l.count = now, make(map[string]int)
	}
	if len(l.count) >= countersMax {
		key = "the rest" // of many keys: they share one count
	}
	l.count[key]++
	return l.count[key] <= bound
}

// forgive takes one back: an attempt that succeeded is no noise. A program that runs
// the command line in a loop signs in each time.
func (l *limiter) forgive(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if l.count[key] > 0 {
			l.count[key]--
		}
	}
}
