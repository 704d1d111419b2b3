package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
)

// scheduled: what accounts cost that are scheduled and not due. The same installation
// grows from step to step.
func scheduled(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, fast, 16)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	sizes := []int{o.accounts / 100, o.accounts / 10, o.accounts}
	var steps []growth
	var made time.Duration
	for _, size := range sizes {
		now := 0
		if len(steps) > 0 {
			now = steps[len(steps)-1].accounts
		}
		began := time.Now()
		if _, err := w.addAccounts(ctx, size-now, "scheduled-"+strconv.Itoa(size), w.resources, monthly()); err != nil {
			return nil, err
		}
		made += time.Since(began)
		g, err := w.growth(ctx, o, size)
		if err != nil {
			return nil, fmt.Errorf("with %d accounts: %w", size, err)
		}
		steps = append(steps, g)
	}
	return []*table{growthTable(steps, made)}, nil
}

// growth is what was measured at one size.
type growth struct {
	accounts                int
	startServer, startAgent time.Duration
	tick                    time.Duration // the server's processor time in a second in which nothing is due
	tickAgent               time.Duration
	runServer, runAgent     time.Duration // processor time of a due run
	p50, p99                time.Duration // of the due runs
	memServer, memAgent     float64       // MiB at rest, after that
	database                float64       // MiB
	list, get, add, doctor  time.Duration // people's commands
	join, firstList         time.Duration // of a fresh device
	due                     int
}

// aBit is how many accounts are due in each step.
func (o options) aBit() int { return max(10, min(200, o.due/5)) }

func (w *world) growth(ctx context.Context, o options, size int) (g growth, err error) {
	g = growth{accounts: size, due: o.aBit()}
	if g.startServer, g.startAgent, err = w.restart(ctx); err != nil {
		return g, err
	}
	label := strconv.Itoa(size)
	if err := w.warm(ctx, label); err != nil {
		return g, err
	}
	// A tick: the scheduler looks at least once a second.
	server, agent, _ := w.cpu()
	began := time.Now()
	select {
	case <-time.After(o.idle):
	case <-ctx.Done():
		return g, context.Cause(ctx)
	}
	after, agentAfter, _ := w.cpu()
	seconds := time.Since(began).Seconds()
	g.tick = time.Duration(float64(after-server) / seconds)
	g.tickAgent = time.Duration(float64(agentAfter-agent) / seconds)

	s, err := w.runDue(ctx, g.due, "due-"+label)
	if err != nil {
		return g, err
	}
	n := time.Duration(g.due)
	g.runServer, g.runAgent = s.server/n, s.agent/n
	g.p50, g.p99 = percentile(s.took, 50), percentile(s.took, 99)
	g.memServer, _ = memory(w.Server.Pid())
	g.memAgent, _ = memory(w.agents[0].Pid())
	if info, err := os.Stat(w.Database()); err == nil {
		g.database = float64(info.Size()) / (1 << 20)
	}

	if g.list, err = w.command(ctx, "record", "list", "--folder", installation.Folder); err != nil {
		return g, err
	}
	if g.get, err = w.command(ctx, "record", "get", "target-0-admin"); err != nil {
		return g, err
	}
	began = time.Now()
	_, err = w.CLI(ctx, []byte("a first secret"), "record", "add", "added-"+label, "--folder", installation.Folder, "--resource", "target-0", "--login", "added-"+label, "--password-stdin")
	if err != nil {
		return g, err
	}
	g.add = time.Since(began)
	if g.doctor, err = w.command(ctx, "doctor"); err != nil {
		return g, err
	}
	g.join, g.firstList, err = w.freshDevice(ctx, "fresh-"+label)
	return g, err
}

// flat is the aim of what must not grow with what is not due, at any size, nor beside targets
// in trouble; the figures themselves differ by about a tenth from one run to the next.
const (
	flat      = "at most 1.25"
	flatBound = 1.25
)

func growthTable(steps []growth, made time.Duration) *table {
	last := steps[len(steps)-1]
	t := &table{Part: "scheduled", Title: thousands(last.accounts) + " accounts scheduled, and not due", Columns: []string{"metric"}}
	for _, g := range steps {
		t.Columns = append(t.Columns, thousands(g.accounts))
	}
	t.Columns = append(t.Columns, "ratio, largest of the later to first", "aim")
	add := func(metric, aim string, of func(growth) any) {
		row := []string{metric}
		for _, g := range steps {
			row = append(row, cell(of(g)))
		}
		ratio := "" // of nothing there is none
		if first := float(of(steps[0])); first > 0 {
			largest := 0.0
			for _, g := range steps[1:] {
				largest = max(largest, float(of(g)))
			}
			times := largest / first
			ratio = fmt.Sprintf("%.2f", times)
			aim = aimed(aim, aim != flat || times <= flatBound)
		}
		t.Rows = append(t.Rows, append(row, orDash(ratio), orDash(aim)))
	}
	add("server, processor time of a tick (a second, nothing due)", flat, func(g growth) any { return g.tick })
	add("agent, processor time of a second, nothing due", flat, func(g growth) any { return g.tickAgent })
	add(fmt.Sprintf("server, processor time of a due run (%d due at once)", last.due), flat, func(g growth) any { return g.runServer })
	add("agent, processor time of a due run", flat, func(g growth) any { return g.runAgent })
	add("due to verified, p50", flat, func(g growth) any { return g.p50 })
	add("due to verified, p99", flat, func(g growth) any { return g.p99 })
	add("server, memory, MiB", "", func(g growth) any { return g.memServer })
	add("agent, memory, MiB", "", func(g growth) any { return g.memAgent })
	add("database, MiB", "", func(g growth) any { return g.database })
	add("server, start to serving", "", func(g growth) any { return g.startServer })
	add("agent, start to taking commands", "", func(g growth) any { return g.startAgent })
	add("`rotunda record list`, the first page", flat, func(g growth) any { return g.list })
	add("`rotunda record get TITLE`", "", func(g growth) any { return g.get })
	add("`rotunda record add`", "", func(g growth) any { return g.add })
	add("`rotunda doctor`", "", func(g growth) any { return g.doctor })
	add("`rotunda join`, a fresh device", flat, func(g growth) any { return g.join })
	add("its first `rotunda record list`", flat, func(g growth) any { return g.firstList })
	t.note("The accounts were made through the people's API, %d to a call, in %s: the records' bodies encrypted, statements with mandates and values signed, all checked by the server. Not by the command line: that makes one at a time.", inCall, span(made))
	t.note("Floor: the smallest size, in the same run.")
	return t
}

func float(v any) float64 {
	switch v := v.(type) {
	case time.Duration:
		return v.Seconds()
	case float64:
		return v
	}
	return 0
}
