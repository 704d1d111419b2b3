package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// fast is how many resources the runs are spread over, so that none of them bounds them:
// as many as an agent has plugin processes for.
const fast = 16

// sample is what one set of due runs took.
type sample struct {
	took                  []time.Duration // from the due time to the committed, verified secret
	leased                []time.Duration // of that, until an agent took the run
	wall                  time.Duration   // until the last
	server, agent, plugin time.Duration   // processor time
}

// dueAtOnce: many accounts due at the same moment, on targets that cost nothing.
func dueAtOnce(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, fast, 16)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	t := figures("due", fmt.Sprintf("%s accounts due at once, on fast targets", thousands(o.due)))
	for _, agents := range []int{1, 2} {
		for len(w.agents) < agents {
			if err := w.addAgent(ctx); err != nil {
				return nil, err
			}
		}
		label := fmt.Sprintf("%d agent", agents)
		if agents > 1 {
			label += "s"
		}
		if err := w.warm(ctx, label); err != nil {
			return nil, err
		}
		bare, err := floor(ctx, w.targets, o.due)
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		s, err := w.runDue(ctx, o.due, label)
		if err != nil {
			return nil, err
		}
		for _, p := range []int{50, 99} {
			f, took := percentile(bare, p), percentile(s.took, p)
			aim := ""
			if p == 99 {
				aim = aimed("under 5 s", took < 5*time.Second)
			}
			t.add(fmt.Sprintf("%s: due to verified, p%d", label, p), f, took, took.Seconds()/f.Seconds(), aim)
		}
		perSecond := float64(o.due) / s.wall.Seconds()
		most := float64(o.due) / percentile(bare, 100).Seconds()
		t.add(label+": runs per second", most, perSecond, perSecond/most, "")
		n := time.Duration(o.due)
		t.note("%s: processor time of one run: server %s, agent %s, plugins %s. A run is taken up %s (p50) and %s (p99) after its due time; the rest is its own time.",
			label, span(s.server/n), span(s.agent/n), span(s.plugin/n), span(percentile(s.leased, 50)), span(percentile(s.leased, 99)))
		sum := s.server + s.agent + s.plugin
		t.note("%s: together %s of processor time, which %d processors give in no less than %s; what goes beyond that to %s is the disk's and the machine's other work (load %s).",
			label, span(sum), runtime.NumCPU(), span(sum/time.Duration(runtime.NumCPU())), span(s.wall), load())
	}
	t.note("Floor: the same changes on the targets' own line, 64 at once, without Rotunda: a line to set the password, a fresh connection to log in.")
	return []*table{t}, nil
}

// warm has every resource's plugin process started and its session opened.
func (w *world) warm(ctx context.Context, label string) error {
	return w.warmOn(ctx, w.resources, label)
}

func (w *world) warmOn(ctx context.Context, on []trust.Ref, label string) error {
	if _, err := w.runDueOn(ctx, on, 4*len(on)*len(w.agents), "warm-"+label); err != nil {
		return fmt.Errorf("first runs: %w", err)
	}
	return nil
}

// runDue makes n accounts that are due at the same moment and waits until all are done.
func (w *world) runDue(ctx context.Context, n int, label string) (sample, error) {
	return w.runDueOn(ctx, w.resources, n, label)
}

func (w *world) runDueOn(ctx context.Context, on []trust.Ref, n int, label string) (s sample, err error) {
	accounts, err := w.addAccounts(ctx, n, label, on, nil)
	if err != nil {
		return s, err
	}
	at := time.Now().Add(time.Duration(n)*500*time.Microsecond + 1500*time.Millisecond).Truncate(time.Millisecond)
	if err := w.due(ctx, accounts, func(int) time.Time { return at }); err != nil {
		return s, err
	}
	if time.Until(at) < 0 {
		return s, fmt.Errorf("%d accounts could not be scheduled before they were due", n)
	}
	time.Sleep(time.Until(at)) // their due time
	server, agents, plugins := w.cpu()
	runs, err := w.ended(ctx, accounts, at, nil)
	if err != nil {
		return s, err
	}
	after, agentsAfter, pluginsAfter := w.cpu()
	s.server, s.agent, s.plugin = after-server, agentsAfter-agents, pluginsAfter-plugins
	return s.of(accounts, runs, at)
}

// of takes the times of the runs of accounts that were due at the same moment.
func (s sample) of(accounts []account, runs map[seal.ID]*clientv1.RunView, at time.Time) (sample, error) {
	if err := wellDone(accounts, runs); err != nil {
		return s, err
	}
	for _, a := range accounts {
		r := runs[a.ref.Record]
		done := time.UnixMilli(r.Finished).Sub(at)
		s.took = append(s.took, done)
		s.leased = append(s.leased, time.UnixMilli(r.Started).Sub(at))
		s.wall = max(s.wall, done)
	}
	return s, nil
}

// cpu is the processor time of the server, of the agents, and of their plugins.
func (w *world) cpu() (server, agents, plugins time.Duration) {
	for _, a := range w.agents {
		agents += cpuOf(a.Pid())
		plugins += cpuOfAll(children(a.Pid()))
	}
	return cpuOf(w.Server.Pid()), agents, plugins
}
