package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/client"
)

// commandSize is what a sealed command and its sealed reply have, each, on the wire:
// that is how large the messages of the bare echo are.
const commandSize = 2000

var inFlight = []int{1, 32}

// sample is what one side did in one round.
type sample struct {
	took      []time.Duration
	perSecond float64
}

// drive does something again and again for a time, n at once.
func drive(ctx context.Context, n int, span time.Duration, once func(context.Context) error) (sample, error) {
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	began := time.Now()
	var all sync.WaitGroup
	for w := range n {
		all.Go(func() {
			for time.Since(began) < span && errs[w] == nil {
				start := time.Now()
				errs[w] = once(ctx)
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	var s sample
	for w := range took {
		if errs[w] != nil {
			return s, errs[w] // one says it
		}
		s.took = append(s.took, took[w]...)
	}
	s.perSecond = float64(len(s.took)) / elapsed.Seconds()
	return s, nil
}

// commands measures sealed and signed commands to the whole agent, and the bare echo
// beside them, while the idle agents stand there.
func commands(ctx context.Context, o options, p *product, r *report) (err error) {
	echo, err := newBareEcho(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, echo.close()) }()
	ask := func(ctx context.Context) error {
		_, err := p.client.Info(ctx, p.agentID, client.RunOptions{Wait: time.Minute})
		return err
	}
	if err := ask(ctx); err != nil { // the first of everything is not measured
		return err
	}
	p.say("commands, with %d agents connected", o.agents)
	rows := make([]*commandRow, len(inFlight))
	for i, n := range inFlight {
		rows[i] = &commandRow{InFlight: n}
	}
	for round := range o.rounds {
		for _, row := range rows {
			sides := []func() error{
				func() error {
					pids := programs{"client": os.Getpid(), "server": echo.server.pid(), "agent": echo.agent.pid()}
					return pids.used(&row.echoCPU, func() error { return row.add(ctx, &row.floor, o.span, echo.once) })
				},
				func() error {
					pids := programs{"client": os.Getpid(), "server": p.rotunda.Server.Pid(), "agent": p.agent.Pid()}
					return pids.used(&row.cpu, func() error { return row.add(ctx, &row.product, o.span, ask) })
				},
			}
			if round%2 == 1 {
				slices.Reverse(sides)
			}
			for _, side := range sides {
				if err := side(); err != nil {
					return fmt.Errorf("%d in flight: %w", row.InFlight, err)
				}
			}
		}
	}
	for _, row := range rows {
		row.finish()
		p.say("%d in flight: %.2f ms, %.0f per second", row.InFlight, row.Product.P50MS, row.Product.PerSecond)
	}
	r.Commands = rows
	if r.Parts, err = measureParts(p.home); err != nil {
		return err
	}
	most := rows[len(rows)-1]
	r.Parts.CPUMS, r.Parts.EchoMS = perCommand(most.cpu, most.product), perCommand(most.echoCPU, most.floor)
	return nil
}

// programs are the processes of one side, by name.
type programs map[string]int

// used adds the processor time that they use meanwhile.
func (p programs) used(sum *map[string]time.Duration, f func() error) error {
	if *sum == nil {
		*sum = map[string]time.Duration{}
	}
	for name, pid := range p {
		(*sum)[name] -= cpuOf(pid)
	}
	err := f()
	for name, pid := range p {
		(*sum)[name] += cpuOf(pid)
	}
	return err
}

func perCommand(cpu map[string]time.Duration, rounds []sample) map[string]float64 {
	n := 0
	for _, s := range rounds {
		n += len(s.took)
	}
	out := map[string]float64{}
	for name, used := range cpu {
		out[name] = ms(used) / float64(max(1, n))
	}
	return out
}

// commandRow is one number in flight.
type commandRow struct {
	InFlight int     `json:"in_flight"`
	Floor    figures `json:"floor"`
	Product  figures `json:"product"`
	Ratio    float64 `json:"throughput_ratio"` // median of the rounds' ratios

	floor, product []sample
	cpu, echoCPU   map[string]time.Duration // by program
}

type figures struct {
	P50MS     float64 `json:"p50_ms"`
	P99MS     float64 `json:"p99_ms"`
	PerSecond float64 `json:"per_second"`
}

func (w *commandRow) add(ctx context.Context, to *[]sample, span time.Duration, once func(context.Context) error) error {
	s, err := drive(ctx, w.InFlight, span, once)
	*to = append(*to, s)
	return err
}

func (w *commandRow) finish() {
	w.Floor, w.Product = figuresOf(w.floor), figuresOf(w.product)
	var ratios []float64
	for i := range w.floor {
		ratios = append(ratios, w.product[i].perSecond/w.floor[i].perSecond)
	}
	w.Ratio = median(ratios)
}

func figuresOf(rounds []sample) figures {
	var all []time.Duration
	var rates []float64
	for _, s := range rounds {
		all, rates = append(all, s.took...), append(rates, s.perSecond)
	}
	return figures{ms(quantile(all, 0.5)), ms(quantile(all, 0.99)), median(rates)}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	if len(sorted) == 0 {
		return 0
	}
	if m := len(sorted) / 2; len(sorted)%2 == 1 {
		return sorted[m]
	} else {
		return (sorted[m-1] + sorted[m]) / 2
	}
}
