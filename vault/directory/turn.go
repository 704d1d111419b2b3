package directory

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
)

// Bounds of the queue of those who want to append.
const (
	TurnTime       = 2 * time.Second // a turn ends by itself after this
	turnsPerMember = 4               // that one member may wait for
	turnsWaiting   = 10_000          // of one organisation
)

var (
	// ErrTurns: too many wait already.
	ErrTurns = errors.New("too many wait to append to the log: try again in a moment")
	// ErrNotYourTurn: somebody else may append now.
	ErrNotYourTurn = errors.New("another party has the turn to append to the log: take a turn, then sign and append")
)

// Turn is the right to append, before which nobody else may. Signing before
// one's turn is in vain whenever another append comes first.
type Turn [16]byte

// turns is one organisation's queue. Removals go first: they take rights away
// from somebody who may be using them.
type turns struct {
	mu       sync.Mutex
	time     time.Duration
	holder   *waiter
	removals []*waiter
	others   []*waiter
}

type waiter struct {
	member [16]byte
	turn   Turn
	come   chan struct{} // closed when the turn has come
	end    *time.Timer   // ends the turn
}

// take waits for a turn. member is who the quota counts against.
func (t *turns) take(ctx context.Context, member [16]byte, removal bool) (Turn, error) {
	w := &waiter{member: member, come: make(chan struct{})}
	if _, err := rand.Read(w.turn[:]); err != nil {
		return Turn{}, fmt.Errorf("take a turn: %w", err)
	}
	t.mu.Lock()
	mine := 0
	for _, list := range [][]*waiter{t.removals, t.others} {
		for _, o := range list {
			if o.member == member {
				mine++
			}
		}
	}
	if len(t.removals)+len(t.others) >= turnsWaiting || mine >= turnsPerMember {
		t.mu.Unlock()
		return Turn{}, ErrTurns
	}
	if removal {
		t.removals = append(t.removals, w)
	} else {
		t.others = append(t.others, w)
	}
	t.next()
	t.mu.Unlock()

	select {
	case <-w.come:
		return w.turn, nil
	case <-ctx.Done():
		t.leave(w)
		return Turn{}, fmt.Errorf("wait for a turn to append: %w", context.Cause(ctx))
	}
}

// next gives the turn to whoever is first, where nobody has it.
func (t *turns) next() {
	if t.holder != nil {
		return
	}
	switch {
	case len(t.removals) > 0:
		t.holder, t.removals = t.removals[0], t.removals[1:]
	case len(t.others) > 0:
		t.holder, t.others = t.others[0], t.others[1:]
	default:
		return
	}
	w := t.holder
	w.end = time.AfterFunc(t.time, func() { t.leave(w) })
	close(w.come)
}

// leave takes a waiter out, also one that has the turn.
func (t *turns) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	without := func(list []*waiter) []*waiter {
		for i, o := range list {
			if o == w {
				return append(list[:i:i], list[i+1:]...)
			}
		}
		return list
	}
	t.removals, t.others = without(t.removals), without(t.others)
	if t.holder == w {
		w.end.Stop()
		t.holder = nil
		t.next()
	}
}

func (t *turns) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.removals) + len(t.others)
}

// check reports whether a party may append now: it has the turn, or nobody has.
func (t *turns) check(turn []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != nil && !t.holder.is(turn) {
		return ErrNotYourTurn
	}
	return nil
}

// done ends a turn early.
func (t *turns) done(turn []byte) {
	t.mu.Lock()
	w := t.holder
	t.mu.Unlock()
	if w != nil && w.is(turn) {
		t.leave(w)
	}
}

func (w *waiter) is(turn []byte) bool { return subtle.ConstantTimeCompare(w.turn[:], turn) == 1 }

// TakeTurn waits until a party may append, removals first. member is whom the
// bound on waiting turns counts against. The turn ends with EndTurn or after
// TurnTime. Turns are a courtesy within one server node: what decides is that a
// change names the head that it follows.
func (d *Directory) TakeTurn(ctx context.Context, org int64, member seal.ID, removal bool) (Turn, error) {
	return d.turns(org).take(ctx, member, removal)
}

// MayAppend is ErrNotYourTurn while another party has the turn.
func (d *Directory) MayAppend(org int64, turn []byte) error { return d.turns(org).check(turn) }

// Waiting is how many wait for their turn.
func (d *Directory) Waiting(org int64) int { return d.turns(org).waiting() }

// EndTurn gives a turn back.
func (d *Directory) EndTurn(org int64, turn []byte) { d.turns(org).done(turn) }

func (d *Directory) turns(org int64) *turns {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.wait[org]
	if t == nil {
		t = &turns{time: TurnTime}
		d.wait[org] = t
	}
	return t
}
