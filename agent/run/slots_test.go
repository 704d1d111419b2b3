package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// A resource whose runs never end delays its own runs only.
func TestHungResourceDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewSlots(4)
		s.Allow("hung", 2)
		for range 100 {
			go func() {
				if release, err := s.Acquire(ctx, "hung", false); err == nil {
					<-ctx.Done()
					release()
				}
			}()
		}
		synctest.Wait()
		done := 0
		for i := range 50 {
			release, err := s.Acquire(ctx, fmt.Sprintf("r%d", i), false)
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
		if len(s.resources) != 0 || s.common.taken != 0 {
			t.Fatalf("left over: %d resources, %d taken", len(s.resources), s.common.taken)
		}
	})
}

// A resource served by many waits in order and never runs more than its limit.
func TestResourceLimitAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(100)
		s.Allow("db", 3)
		var order []int
		active, most := 0, 0
		gates := make([]chan struct{}, 10)
		for i := range gates {
			gates[i] = make(chan struct{})
			go func() {
				release, err := s.Acquire(t.Context(), "db", false)
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
		first, err := s.Acquire(t.Context(), "a", false)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := s.Acquire(ctx, "b", false); gone <- err }()
		got := make(chan func(), 1)
		synctest.Wait()
		go func() {
			r, err := s.Acquire(t.Context(), "c", false)
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
		if s.common.taken != 0 || len(s.resources) != 0 {
			t.Fatalf("left over: %d taken, %d resources", s.common.taken, len(s.resources))
		}
	})
}

// Until its limit is known a resource has one run; a limit that grows lets in who
// waits, one that shrinks waits for those who are too many.
func TestLimitIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(100)
		var mu sync.Mutex
		var in []func()
		for range 6 {
			go func() {
				release, err := s.Acquire(t.Context(), "db", false)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				in = append(in, release)
			}()
		}
		expect := func(n int) {
			t.Helper()
			synctest.Wait()
			if len(in) != n {
				t.Fatalf("%d runs were let in, want %d", len(in), n)
			}
		}
		expect(1)
		s.Allow("db", 3)
		expect(3)
		s.Allow("db", 2)
		in[0]()
		expect(3)
		in[1]()
		expect(4)
		s.Allow("db", 6)
		expect(6)
		for _, release := range in[2:] {
			release()
		}
		if release, err := s.Acquire(t.Context(), "db", false); err != nil || s.resources["db"].limit != 6 {
			t.Fatalf("the limit was forgotten: %v", err)
		} else {
			release()
		}
	})
}

// Thousands of a schedule's runs may wait: a person's goes before them, on its resource
// and among all of the agent's, and after other people's.
func TestPeopleGoFirst(t *testing.T) {
	for _, tc := range []struct {
		name  string
		total int
		limit int
	}{{"on the resource", 100, 1}, {"on the agent", 1, 100}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSlots(tc.total)
				s.Allow("db", tc.limit)
				var order []string
				release, err := s.Acquire(t.Context(), "db", false)
				if err != nil {
					t.Fatal(err)
				}
				for _, who := range []string{"schedule 1", "schedule 2", "person 1", "person 2"} {
					go func() {
						release, err := s.Acquire(t.Context(), "db", who[0] == 'p')
						if err != nil {
							t.Error(err)
							return
						}
						order = append(order, who)
						release()
					}()
					synctest.Wait()
				}
				release()
				synctest.Wait()
				if got := fmt.Sprint(order); got != "[person 1 person 2 schedule 1 schedule 2]" {
					t.Fatal(got)
				}
			})
		})
	}
}

// A run that waits for its turn when the agent begins to drain is not begun; one that
// has begun goes on.
func TestDrainEndsTheWait(t *testing.T) {
	w := newWorld(t, false)
	open, drain := context.WithCancel(t.Context())
	w.engine.Open = open
	release, err := w.engine.Slots.Acquire(t.Context(), w.res.String(), false)
	must(t, err)
	ended := make(chan error, 1)
	job := Job{ID: seal.NewID(), Account: w.account}
	job.Resource = w.res
	go func() { _, err := w.engine.Do(t.Context(), job); ended <- err }()
	w.waiting(w.res)
	drain()
	if err := <-ended; !errors.Is(err, ErrNotBegun) {
		t.Errorf("the run that waited: %v", err)
	}
	release()
	if _, err := w.engine.Do(t.Context(), job); !errors.Is(err, ErrNotBegun) {
		t.Errorf("a run that comes later: %v", err)
	}
	if n := len(w.target.applied); n > 0 {
		t.Errorf("the target saw %d changes", n)
	}
}

// Who wants to be alone comes after those that were there, and before those that came
// later; and one who gives up holds nobody up.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(100)
		s.Allow("db", 3)
		var mu sync.Mutex
		var order []string
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, s)
		}
		begin := func(ctx context.Context, name string, acquire func(context.Context, string, bool) (func(), error)) (end chan struct{}) {
			end = make(chan struct{})
			go func() {
				release, err := acquire(ctx, "db", false)
				if err != nil {
					note(name + " gave up")
					return
				}
				note(name)
				<-end
				release()
			}()
			synctest.Wait()
			return end
		}
		first := begin(t.Context(), "first", s.Acquire)
		second := begin(t.Context(), "second", s.Acquire)
		alone := begin(t.Context(), "alone", s.AcquireAlone)
		third := begin(t.Context(), "third", s.Acquire)
		close(first)
		synctest.Wait()
		close(second)
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[first second alone]" {
			t.Errorf("%s, want the one alone once the two are done", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		begin(ctx, "impatient", s.AcquireAlone)
		fourth := begin(t.Context(), "fourth", s.Acquire)
		close(alone)
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[first second alone third]" {
			t.Errorf("%s: the fourth came after one who waits to be alone", got)
		}
		cancel()
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[first second alone third impatient gave up fourth]" && got != "[first second alone third fourth impatient gave up]" {
			t.Errorf("%s", got)
		}
		close(third)
		close(fourth)
		synctest.Wait()
		if len(s.resources) != 0 || s.common.taken != 0 {
			t.Errorf("left over: %d resources, %d taken", len(s.resources), s.common.taken)
		}
	})
}
