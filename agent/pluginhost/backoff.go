package pluginhost

import (
	"errors"
	"time"
)

const (
	backoffMin = 100 * time.Millisecond
	forgiven   = 10 * time.Minute // a crash so long ago counts no more
)

// failure is why a start is delayed.
type failure struct {
	n     int
	until time.Time
}

// again is after one more.
func (f failure) again(most time.Duration) failure {
	return failure{f.n + 1, time.Now().Add(min(backoffMin<<min(f.n, 16), most))}
}

// why a process ended that nobody stopped; err is of its start.
func (p *process) why(err error) error {
	switch {
	case p.overused != nil:
		return p.overused
	case err == nil:
		return errors.New(p.child.cmd.ProcessState.String())
	}
	return err
}

// backOff waits after crashes: 100 ms, then twice as long each time, at most Config.BackOff.
func (h *Host) backOff(key processKey) error {
	h.mu.Lock()
	wait := time.Until(h.failures[key].until)
	h.mu.Unlock()
	if wait <= 0 {
		return h.ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-h.ctx.Done():
		return h.ctx.Err()
	}
}

// forgive forgets crashes of long ago. With h.mu held.
func (h *Host) forgive(now time.Time) {
	for k, f := range h.failures {
		if now.Sub(f.until) > forgiven {
			delete(h.failures, k)
		}
	}
	if now.Sub(h.spareFailed.until) > forgiven {
		h.spareFailed = failure{}
	}
}
