package machineapi

import (
	"encoding/binary"
	"strconv"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	th := newThrottle(2, 3)
	now := time.Unix(1000, 0)
	for i := range 3 {
		if wait := th.take("a", now); wait != 0 {
			t.Fatalf("request %d of the burst waits %s", i, wait)
		}
	}
	if wait := th.take("a", now); wait != 500*time.Millisecond {
		t.Errorf("after the burst: %s", wait)
	}
	if wait := th.take("b", now); wait != 0 {
		t.Errorf("another client: %s", wait)
	}
	if wait := th.take("a", now.Add(500*time.Millisecond)); wait != 0 {
		t.Errorf("when a token is there again: %s", wait)
	}
	if wait := th.take("a", now.Add(-time.Hour)); wait < 0 || wait > time.Second {
		t.Errorf("a clock that was set back: %s", wait)
	}
}

func TestThrottleIsBounded(t *testing.T) {
	th := newThrottle(1, 1)
	now := time.Unix(1000, 0)
	for i := range maxBuckets + 10 {
		th.take(strconv.Itoa(i), now)
	}
	if n := len(th.buckets); n > maxBuckets {
		t.Errorf("%d buckets", n)
	}
	th.take("late", now.Add(time.Hour)) // the others are full again
	if n := len(th.buckets); n > maxBuckets {
		t.Errorf("%d buckets", n)
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent()
	name := func(i int) (n [32]byte) {
		binary.BigEndian.PutUint64(n[:], uint64(i))
		return n
	}
	for i := range maxRecent + 5 {
		if !r.first(name(i)) {
			t.Fatalf("request %d was not new", i)
		}
	}
	if len(r.set) != maxRecent || len(r.ring) != maxRecent {
		t.Errorf("%d names, %d in the ring", len(r.set), len(r.ring))
	}
	if r.first(name(maxRecent)) {
		t.Error("a recent request was new again")
	}
	if !r.first(name(0)) {
		t.Error("the oldest is still remembered")
	}
}
