package machineapi

import (
	"sync"
	"time"
)

// throttle is a token bucket for each client. Buckets that are full again are
// forgotten, so that memory follows those who ask, and bounded.
type throttle struct {
	rate  float64 // tokens a second; 0: one every toldEvery
	burst float64

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

const (
	maxBuckets = 100_000
	toldEvery  = 10 * time.Minute
)

func newThrottle(rate, burst int) *throttle {
	r := float64(rate)
	if rate == 0 {
		r = 1 / toldEvery.Seconds()
	}
	return &throttle{rate: r, burst: float64(burst), buckets: map[string]bucket{}}
}

// take takes a token, or says after how long one will be there.
func (t *throttle) take(who string, now time.Time) (wait time.Duration) {
	return t.takeAll(who, 1, now)
}

// takeAll takes n tokens, or none and says after how long they will be there.
func (t *throttle) takeAll(who string, n int, now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.buckets[who]
	if !ok {
		if len(t.buckets) >= maxBuckets {
			t.forget(now)
		}
		b = bucket{tokens: t.burst, at: now}
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(t.burst, b.tokens+passed.Seconds()*t.rate)
	}
	b.at = now
	if b.tokens < float64(n) {
		wait = time.Duration((float64(n) - b.tokens) / t.rate * float64(time.Second))
	} else {
		b.tokens -= float64(n)
	}
	t.buckets[who] = b
	return wait
}

// forget drops the buckets that are full again; where that is not enough, any:
// their owners begin anew with a full one.
func (t *throttle) forget(now time.Time) {
	for who, b := range t.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*t.rate >= t.burst {
			delete(t.buckets, who)
		}
	}
	for who := range t.buckets {
		if len(t.buckets) < maxBuckets {
			return
		}
		delete(t.buckets, who)
	}
}

// recent remembers the newest requests, to refuse the second copy of one. The
// protocol has no time in its requests, so a copy that comes after so many
// others is not recognised; what it could do is bounded by revisions, epochs
// and digests.
type recent struct {
	mu   sync.Mutex
	ring [][32]byte
	next int
	set  map[[32]byte]struct{}
}

const maxRecent = 1 << 17

func newRecent() *recent { return &recent{set: map[[32]byte]struct{}{}} }

// first notes a request and reports whether it is new.
func (r *recent) first(name [32]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.set[name]; ok {
		return false
	}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, name)
	} else {
		delete(r.set, r.ring[r.next])
		r.ring[r.next] = name
		r.next = (r.next + 1) % maxRecent
	}
	r.set[name] = struct{}{}
	return true
}
