package run

import (
	"context"
	"sync"
)

// Slots bounds the runs that work on targets: at most so many on one resource,
// at most so many in all. A run first waits in its resource's queue and only then
// in the common one, so that a resource can stand in the common queue with no
// more runs than it may do at once: one that hangs delays nobody else.
type Slots struct {
	mu        sync.Mutex
	common    queue
	resources map[string]*queue
}

// NewSlots allows total runs at once.
func NewSlots(total int) *Slots {
	return &Slots{common: queue{free: max(total, 1)}, resources: map[string]*queue{}}
}

// Acquire waits for a slot on the resource. The limit of the first run that finds
// the resource idle holds until the resource is idle again. Call the returned
// function once, when the work on the target has ended.
func (s *Slots) Acquire(ctx context.Context, resource string, limit int) (release func(), err error) {
	s.mu.Lock()
	q := s.resources[resource]
	if q == nil {
		q = &queue{free: max(limit, 1)}
		s.resources[resource] = q
	}
	q.users++
	s.mu.Unlock()

	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(s.resources, resource)
		}
	}
	if err := s.wait(ctx, q); err != nil {
		leave()
		return nil, err
	}
	if err := s.wait(ctx, &s.common); err != nil {
		s.free(q)
		leave()
		return nil, err
	}
	return sync.OnceFunc(func() {
		s.free(&s.common)
		s.free(q)
		leave()
	}), nil
}

// queue is a counting semaphore that serves in order of arrival.
type queue struct {
	free    int
	users   int
	waiting []chan struct{}
}

func (s *Slots) wait(ctx context.Context, q *queue) error {
	s.mu.Lock()
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return err
	}
	if q.free > 0 {
		q.free--
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for i, w := range q.waiting {
		if w == turn {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			s.mu.Unlock()
			return ctx.Err()
		}
	}
	s.mu.Unlock()
	s.free(q) // the turn came at the same moment: hand it on
	return ctx.Err()
}

func (s *Slots) free(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(q.waiting) > 0 {
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
		return
	}
	q.free++
}
