// Package bustest is the suite that every bus passes.
package bustest

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
)

// patience bounds a wait for something that must come; it is never waited out
// by a bus that works.
const patience = 10 * time.Second

// Run proves a bus. Each subtest gets a fresh one from open.
func Run(t *testing.T, open func(t *testing.T) bus.Bus) {
	t.Run("every subscriber of a topic gets every payload in order", func(t *testing.T) {
		b := open(t)
		one, two := b.Subscribe("t"), b.Subscribe("t")
		defer one.Close()
		defer two.Close()
		for i := range 10 {
			b.Publish("t", []byte{byte(i)})
		}
		for _, s := range []bus.Subscription{one, two} {
			for i := range 10 {
				if got := receive(t, s); !bytes.Equal(got, []byte{byte(i)}) {
					t.Fatalf("payload %d: got %v", i, got)
				}
			}
			if s.Overflowed() {
				t.Error("told of an overflow that was none")
			}
		}
	})

	t.Run("an empty payload arrives as one", func(t *testing.T) {
		b := open(t)
		s := b.Subscribe("t")
		defer s.Close()
		b.Publish("t", nil)
		if got := receive(t, s); len(got) != 0 {
			t.Fatalf("got %v", got)
		}
	})

	t.Run("other topics stay apart", func(t *testing.T) {
		b := open(t)
		a, other := b.Subscribe(bus.Agent(1, [16]byte{1})), b.Subscribe(bus.Agent(1, [16]byte{2}))
		defer a.Close()
		defer other.Close()
		b.Publish(bus.Agent(2, [16]byte{1}), []byte("another organisation"))
		b.Publish(bus.Agent(1, [16]byte{1}), []byte("mine"))
		b.Publish(bus.Agent(1, [16]byte{2}), []byte("theirs"))
		if got := receive(t, a); string(got) != "mine" {
			t.Errorf("got %q", got)
		}
		if got := receive(t, other); string(got) != "theirs" {
			t.Errorf("got %q", got)
		}
	})

	t.Run("a slow subscriber loses the oldest, is told once, and delays nobody", func(t *testing.T) {
		b := open(t)
		slow, quick := b.Subscribe("t"), b.Subscribe("t")
		defer slow.Close()
		defer quick.Close()
		const n = 10_000
		for i := range n {
			b.Publish("t", fmt.Appendf(nil, "%d", i))
			if i%8 == 7 {
				for range 8 {
					receive(t, quick)
				}
			}
		}
		last, got := "", 0
		for last != fmt.Sprint(n-1) {
			last = string(receive(t, slow))
			got++
		}
		if got == n {
			t.Fatal("the slow subscriber's queue had no bound")
		}
		if !slow.Overflowed() {
			t.Error("the slow subscriber was not told")
		}
		if slow.Overflowed() {
			t.Error("the slow subscriber was told twice")
		}
		if quick.Overflowed() {
			t.Error("the quick subscriber lost something")
		}
	})

	t.Run("close ends the channel, may be repeated, and publishing goes on", func(t *testing.T) {
		b := open(t)
		s, stays := b.Subscribe("t"), b.Subscribe("t")
		defer stays.Close()
		s.Close()
		s.Close()
		select {
		case _, open := <-s.C():
			if open {
				t.Fatal("a payload from nowhere")
			}
		case <-time.After(patience):
			t.Fatal("the channel stayed open")
		}
		b.Publish("t", []byte("x"))
		if got := receive(t, stays); string(got) != "x" {
			t.Fatalf("got %q", got)
		}
	})

	t.Run("publishers, subscribers and closers at once", func(t *testing.T) {
		b := open(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 500 {
					b.Publish("t", []byte("x"))
				}
			})
			wg.Go(func() {
				for range 100 {
					s := b.Subscribe("t")
					select {
					case <-s.C():
					default:
					}
					s.Close()
				}
			})
		}
		wg.Wait()
	})
}

func receive(t *testing.T, s bus.Subscription) []byte {
	t.Helper()
	select {
	case p, open := <-s.C():
		if !open {
			t.Fatal("the subscription is closed")
		}
		return p
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return nil
}
