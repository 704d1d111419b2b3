package bus

import "sync"

// waiting bounds what one subscriber may leave unread. An idle agent's
// subscription costs its channel's buffer, so it is small.
const waiting = 16

// New makes a bus within this process.
func New() Bus { return &local{topics: make(map[string]map[*subscription]struct{})} }

type local struct {
	mu     sync.RWMutex
	topics map[string]map[*subscription]struct{}
}

func (b *local) Publish(topic string, payload []byte) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.topics[topic] {
		s.put(payload)
	}
}

func (b *local) Subscribe(topic string) Subscription {
	s := &subscription{bus: b, topic: topic, c: make(chan []byte, waiting)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[topic] == nil {
		b.topics[topic] = make(map[*subscription]struct{})
	}
	b.topics[topic][s] = struct{}{}
	return s
}

type subscription struct {
	bus   *local
	topic string
	c     chan []byte

	mu         sync.Mutex // one publisher at a time, and never after Close
	closed     bool
	overflowed bool
}

func (s *subscription) put(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		select {
		case s.c <- payload:
			return
		default:
		}
		// Full. The reader may empty it between the two selects, so the drop
		// must not block either.
		select {
		case <-s.c:
			s.overflowed = true
		default:
		}
	}
}

func (s *subscription) C() <-chan []byte { return s.c }

func (s *subscription) Overflowed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.overflowed
	s.overflowed = false
	return was
}

func (s *subscription) Close() {
	s.bus.mu.Lock()
	delete(s.bus.topics[s.topic], s)
	if len(s.bus.topics[s.topic]) == 0 {
		delete(s.bus.topics, s.topic)
	}
	s.bus.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.c)
	}
}
