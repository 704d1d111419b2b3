package pluginhost

import (
	"context"
	"maps"
	"slices"
	"time"
)

// The spare: a process of the plugin that runs scripts, started before there is a script
// for it, so that a script need not wait for a program to start. It is none of a resource's:
// it has no place among the processes until it is taken.
//
//	ExpectScript, or a script's start --> starting --> ready --a script's start--> that script's process
//	                                                         --idle, host closes--> ended
//	                                         it ends by itself: the next at the next script's start

// ExpectScript has a process ready for a script that is going to be run.
func (h *Host) ExpectScript() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.makeSpare()
}

// makeSpare starts a spare process, unless there is one, or it is too early for another
// after a crash. With h.mu held.
func (h *Host) makeSpare() {
	if h.cfg.Spare == (Plugin{}) || h.spare != nil || h.closing || time.Now().Before(h.spareFailed.until) || !h.cfg.Catalogue.allows(h.cfg.Spare) {
		return
	}
	p := h.newProcess(processKey{plugin: h.cfg.Spare})
	h.spare = p
	h.wg.Go(func() { h.runSpare(p) })
}

// takeSpare makes the spare the process of a script, if it is ready. A script that crashed
// lately waits for its own start, and leaves the spare to others. With h.mu held.
func (h *Host) takeSpare(key processKey) *process {
	p := h.spare
	if p == nil || !key.plugin.scripted() || key.plugin.binaryOnly() != p.plugin || p.stopping || time.Now().Before(h.failures[key].until) {
		return nil
	}
	select {
	case <-p.started:
	default:
		return nil
	}
	if p.err != nil || p.dead() {
		return nil
	}
	h.spare, h.spareFailed = nil, failure{}
	close(p.taken)
	p.plugin, p.key, p.started, p.idle = key.plugin, key, make(chan struct{}), time.Now()
	p.rename()
	return p
}

// runSpare is a spare's life until it is taken, or to its last trace.
func (h *Host) runSpare(p *process) {
	err := p.startSpare(h.ctx)
	h.mu.Lock()
	p.err, p.idle = err, time.Now()
	h.mu.Unlock()
	close(p.started)
	if err == nil {
		select {
		case <-p.child.exited:
		case <-p.taken:
		}
	}
	h.mu.Lock()
	if h.spare != p { // it was taken
		h.mu.Unlock()
		return
	}
	h.spare = nil
	if crashed := !p.stopping; crashed {
		err = p.why(err)
		h.spareFailed = h.spareFailed.again(h.cfg.BackOff)
		p.named().Warn("spare plugin process ended", "error", err)
	}
	p.stopping = true
	h.mu.Unlock()
	p.cleanup()
	close(p.gone)
}

// startSpare brings the process to where only the script is missing. It is asked once what
// it is: that makes the connection, too.
func (p *process) startSpare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.h.cfg.StartTimeout)
	defer cancel()
	if err := p.begin(ctx); err != nil {
		return err
	}
	_, err := p.list(ctx)
	return err
}

// all is every process, the spare one, too. With h.mu held.
func (h *Host) all() []*process {
	all := slices.Collect(maps.Values(h.procs))
	if h.spare != nil {
		all = append(all, h.spare)
	}
	return all
}
