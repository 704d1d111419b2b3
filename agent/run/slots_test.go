package run

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
)

// A resource whose runs never end delays its own runs only.
func TestHungResourceDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewSlots(4)
		for range 100 {
			go func() {
				if release, err := s.Acquire(ctx, "hung", 2); err == nil {
					<-ctx.Done()
					release()
				}
			}()
		}
		synctest.Wait()
		done := 0
		for i := range 50 {
			release, err := s.Acquire(ctx, fmt.Sprintf("r%d", i), 1)
			if err != nil {
				t.Fatal(err)
			}
			release()
			done++
		}
		if done != 50 {
			t.Fatal(done)
		}
		cancel()
		synctest.Wait()
		if len(s.resources) != 0 || s.common.free != 4 {
			t.Fatalf("left over: %d resources, %d free", len(s.resources), s.common.free)
		}
	})
}

// A resource served by many waits in order and never runs more than its limit.
func TestResourceLimitAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(100)
		var order []int
		active, most := 0, 0
		gates := make([]chan struct{}, 10)
		for i := range gates {
			gates[i] = make(chan struct{})
			go func() {
				release, err := s.Acquire(t.Context(), "db", 3)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, i)
				active++
				most = max(most, active)
				<-gates[i]
				active--
				release()
			}()
			synctest.Wait()
		}
		for i := range gates {
			close(gates[i])
			synctest.Wait()
		}
		if most != 3 {
			t.Fatalf("%d at once", most)
		}
		for i, o := range order {
			if i != o {
				t.Fatalf("order %v", order)
			}
		}
	})
}

// A waiter that gives up leaves no hole in the queue.
func TestGivenUpWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(1)
		first, err := s.Acquire(t.Context(), "a", 1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := s.Acquire(ctx, "b", 1); gone <- err }()
		got := make(chan func(), 1)
		synctest.Wait()
		go func() {
			r, err := s.Acquire(t.Context(), "c", 1)
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; err == nil {
			t.Fatal("a cancelled waiter got a slot")
		}
		first()
		(<-got)()
		if s.common.free != 1 || len(s.resources) != 0 {
			t.Fatalf("left over: %d free, %d resources", s.common.free, len(s.resources))
		}
	})
}
