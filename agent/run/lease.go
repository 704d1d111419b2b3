package run

import (
	"context"
	"errors"
	"sync"
	"time"
)

// LeaseWork is how long an agent works on after it *sent* the last heartbeat that
// was acknowledged (or took the lease): two seconds less than the vault's term, so
// that it has closed its connections before another agent may begin.
const LeaseWork = 8 * time.Second

// ErrLeaseLost is the cause of a cancelled run whose lease can no longer be relied on.
var ErrLeaseLost = errors.New("the lease can no longer be relied on: no heartbeat was acknowledged in time")

// Leases watches the leases that this agent holds. Its owner calls Watch, which
// ends with its context.
type Leases struct {
	// Acked is when the last acknowledged heartbeat was sent; zero for never.
	acked func() time.Time
	// count tells the channel how many leases are held, for the heartbeat's rate.
	count func(int)
	now   func() time.Time

	mu   sync.Mutex
	held map[*Hold]struct{}
}

// Hold is one run's lease, from before it is taken to after it is given back.
type Hold struct {
	leases *Leases
	sent   time.Time // zero: not taken yet
	kept   time.Time // when the last heartbeat was sent that keeps leases
	broken time.Time // the last one that came too late after the one before
	lost   bool
	cancel context.CancelCauseFunc
}

// NewLeases makes the watch. acked tells when the last acknowledged heartbeat was
// sent, count is told how many leases are held.
func NewLeases(acked func() time.Time, count func(int), now func() time.Time) *Leases {
	return &Leases{acked: acked, count: count, now: now, held: map[*Hold]struct{}{}}
}

// Guard gives a context that ends, with ErrLeaseLost, when the lease that Taken
// announces can no longer be relied on. It counts as held from now on, so that
// heartbeats begin before the lease is asked for.
func (l *Leases) Guard(ctx context.Context) (context.Context, *Hold) {
	ctx, cancel := context.WithCancelCause(ctx)
	h := &Hold{leases: l, kept: l.now(), cancel: cancel}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[h] = struct{}{}
	l.count(len(l.held))
	return ctx, h
}

// Taken begins the watch: the request for the lease was sent at that time.
func (h *Hold) Taken(sent time.Time) {
	h.leases.mu.Lock()
	defer h.leases.mu.Unlock()
	h.sent = sent
	if sent.After(h.kept) {
		h.kept = sent
	}
}

// End stops the watch and ends the context.
func (h *Hold) End() {
	h.leases.mu.Lock()
	defer h.leases.mu.Unlock()
	delete(h.leases.held, h)
	h.leases.count(len(h.leases.held))
	h.cancel(context.Canceled)
}

// Watch looks at the clocks every half second, since no signal tells that a
// machine was suspended, and ends the runs whose time is up.
func (l *Leases) Watch(ctx context.Context) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			l.expire()
		}
	}
}

func (l *Leases) expire() {
	now, acked := l.now(), l.acked()
	l.mu.Lock()
	defer l.mu.Unlock()
	for h := range l.held {
		h.expire(now, acked)
	}
}

// expire ends the run where its time is up. With the mutex held. After an agent stood still
// a heartbeat may go through before anybody looks here: it keeps nothing that was over.
func (h *Hold) expire(now, acked time.Time) (lost bool) {
	if acked.After(h.kept) {
		if elapsed(h.kept, acked) >= LeaseWork {
			h.broken = acked
		}
		h.kept = acked
	}
	if h.lost || h.sent.IsZero() || !h.broken.After(h.sent) && elapsed(h.kept, now) < LeaseWork {
		return h.lost
	}
	h.lost = true
	h.cancel(ErrLeaseLost)
	return true
}

// Check looks at the clocks now, before the target is touched: a process that was stopped
// goes on before the watch has looked, and others may have had the account since.
func (h *Hold) Check() error {
	now, acked := h.leases.now(), h.leases.acked()
	h.leases.mu.Lock()
	defer h.leases.mu.Unlock()
	if h.expire(now, acked) {
		return ErrLeaseLost
	}
	return nil
}

// elapsed is the larger of the two clocks' differences: the monotonic clock stops
// in suspend, the wall clock may be set back.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}
