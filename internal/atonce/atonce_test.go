package atonce

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(2)
		enter := func(who string) (leave func()) {
			t.Helper()
			leave, err := g.Enter(t.Context(), who)
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		first, second := enter("a"), enter("a")
		other := enter("b") // others are let in
		in := make(chan func())
		go func() { in <- enter("a") }()
		synctest.Wait()
		select {
		case <-in:
			t.Error("a third was let in at once")
		default:
		}
		tired, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Enter(tired, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait any longer: %v", err)
		}
		first()
		third := <-in
		second()
		third()
		other()
		if len(g.of) != 0 {
			t.Errorf("%d callers are remembered", len(g.of))
		}
	})
}
