package run

import (
	"context"
	"slices"
	"sync"
)

// Slots bounds the runs that work on targets: at most so many on one resource,
// at most so many in all. A run first waits in its resource's queue and only then
// in the common one, so that a resource can stand in the common queue with no
// more runs than it may do at once: one that hangs delays nobody else. In each queue
// people's runs go before those of schedules, of which thousands may wait.
type Slots struct {
	mu        sync.Mutex
	common    queue
	resources map[string]*queue
	limits    map[string]int // of the resources that runs have resolved
}

// maxLimits bounds what is remembered; beyond it is forgotten and learned again.
const maxLimits = 100_000

// NewSlots allows total runs at once.
func NewSlots(total int) *Slots {
	return &Slots{common: queue{limit: max(total, 1)}, resources: map[string]*queue{}, limits: map[string]int{}}
}

// Acquire waits for a slot on the resource, for a person's run or a schedule's. While
// Allow was not called for it, it has one. Call the returned function once, when the work
// on the target has ended.
func (s *Slots) Acquire(ctx context.Context, resource string, person bool) (release func(), err error) {
	return s.acquire(ctx, resource, person, false)
}

// AcquireAlone waits until nobody works on the resource, after those who waited before,
// and then has it alone.
func (s *Slots) AcquireAlone(ctx context.Context, resource string, person bool) (release func(), err error) {
	return s.acquire(ctx, resource, person, true)
}

func (s *Slots) acquire(ctx context.Context, resource string, person, alone bool) (release func(), err error) {
	s.mu.Lock()
	q := s.resources[resource]
	if q == nil {
		q = &queue{limit: max(s.limits[resource], 1)}
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
	if err := s.wait(ctx, q, person, alone); err != nil {
		leave()
		return nil, err
	}
	if err := s.wait(ctx, &s.common, person, false); err != nil {
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

// Allow says how many runs a resource takes at once, from now on. Those that are more
// than that already go on.
func (s *Slots) Allow(resource string, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit = max(limit, 1)
	if s.limits[resource] == limit {
		return
	}
	if len(s.limits) >= maxLimits {
		clear(s.limits)
	}
	s.limits[resource] = limit
	if q := s.resources[resource]; q != nil {
		q.limit = limit
		q.next()
	}
}

// queue is a counting semaphore that serves people first, and in order of arrival.
type queue struct {
	limit  int
	taken  int
	alone  bool // the one who has it lets nobody in beside him
	users  int
	people line
	others line
}

// line is who waits, first come first.
type line []turn

type turn struct {
	come  chan struct{}
	alone bool
}

// enter lets somebody in, if there is room. With the mutex held.
func (q *queue) enter(alone bool) bool {
	if q.alone || q.taken >= q.limit || alone && q.taken > 0 {
		return false
	}
	q.taken++
	q.alone = alone
	return true
}

// next lets in who waits, as far as there is room: nobody passes one who wants to be
// alone. With the mutex held.
func (q *queue) next() {
	for {
		l := &q.people
		if len(*l) == 0 {
			l = &q.others
		}
		if len(*l) == 0 || !q.enter((*l)[0].alone) {
			return
		}
		close((*l)[0].come)
		*l = (*l)[1:]
	}
}

func (s *Slots) wait(ctx context.Context, q *queue, person, alone bool) error {
	s.mu.Lock()
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return err
	}
	if len(q.people)+len(q.others) == 0 && q.enter(alone) {
		s.mu.Unlock()
		return nil
	}
	mine := turn{make(chan struct{}), alone}
	l := &q.others
	if person {
		l = &q.people
	}
	*l = append(*l, mine)
	q.next() // a person passes a schedule's run that waits to be alone
	s.mu.Unlock()
	select {
	case <-mine.come:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	if i := slices.Index(*l, mine); i >= 0 {
		*l = slices.Delete(*l, i, i+1)
		q.next() // who wanted to be alone holds the others up no more
		s.mu.Unlock()
		return ctx.Err()
	}
	s.mu.Unlock()
	s.free(q) // the turn came at the same moment: hand it on
	return ctx.Err()
}

func (s *Slots) free(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q.taken--
	q.alone = false
	q.next()
}
