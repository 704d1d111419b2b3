// Command rotation measures a whole rotation, lease to report, by the built programs, and
// beside each figure what the bare client library reaches with the same work on the same
// server in the same run. make bench-rotation builds and runs it.
//
// The floor is what nobody can go below: an administrator's session that is open
// already, the change, and then a fresh login with the new secret, or what the server
// stores read back. Floor and product take turns, so that whatever else the machine does
// falls on both.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// options of a measurement.
type options struct {
	bin    string
	rounds int
	span   time.Duration // of the floor in one round; the product gets as many runs as take about as long
	works  []work
}

func main() {
	o := options{works: works}
	flag.Func("work", "only these, e.g. postgres-login,ssh-password (default: all)", o.readWorks)
	flag.Func("in-flight", "only this many at once, e.g. 8,32", o.readInFlight)
	asJSON := flag.Bool("json", false, "print the figures as JSON")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; each measures every row once, floor and product in turn")
	flag.DurationVar(&o.span, "span", 4*time.Second, "time for the floor of one row in one round")
	flag.Parse()
	if o.rounds < 1 || o.span < time.Second {
		fmt.Fprintln(os.Stderr, "bench: at least one round, of at least a second a row")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Figures of a machine that hangs are none.
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	r, err := measure(ctx, o)
	if ctx.Err() != nil {
		err = fmt.Errorf("nothing was measured to its end: %w", context.Cause(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(r)
	} else {
		err = r.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *options) readWorks(s string) error {
	o.works = nil
	for name := range strings.SplitSeq(s, ",") {
		i := slices.IndexFunc(works, func(w work) bool { return w.name == name })
		if i < 0 {
			return fmt.Errorf("there is no work %q", name)
		}
		o.works = append(o.works, works[i])
	}
	return nil
}

// readInFlight comes after -work on the command line.
func (o *options) readInFlight(s string) error {
	var numbers []int
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 || n > trust.MaxConcurrency {
			return fmt.Errorf("%q is no number from 1 to %d", f, trust.MaxConcurrency)
		}
		numbers = append(numbers, n)
	}
	o.works = slices.Clone(o.works)
	for i := range o.works {
		o.works[i].inFlight = numbers
	}
	return nil
}

// measure builds everything up, measures, and takes it down again.
func measure(ctx context.Context, o options) (r *report, err error) {
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	if err := targets.Install(ctx, func(string) {}, targets.PostgreSQL, targets.OpenSSHD); err != nil && !errors.Is(err, targets.ErrUnavailable) {
		return nil, err
	}
	dir, remove, err := targets.WorkDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	home, err := os.MkdirTemp("", "rotunda-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	p := &installed{accounts: map[string][]client.Ref{}}
	defer p.close()
	if err := p.up(ctx, o, home); err != nil {
		return nil, fmt.Errorf("prepare the product: %w", err)
	}
	r = newReport(o)
	running := map[string]floor.Target{}
	for _, w := range o.works {
		t := running[w.target]
		if t == nil {
			if t, err = floor.Starts[w.target](ctx, dir); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, t.Close()) }()
			running[w.target] = t
			r.Targets = append(r.Targets, t.Name())
		}
		if err := r.work(ctx, w, t, p); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return r, r.finish()
}

// sample is one rotation, or the runs of one round.
type sample struct {
	took      []time.Duration // of each rotation
	perSecond float64
	cpu       map[string]time.Duration // of one rotation, by program; nil: not known here
	commits   float64                  // durable writes of the server's database, of one rotation
	writes    float64                  // changes in them
	journal   float64                  // durable writes of the agent's journal
	requests  float64                  // of the agent to the server
	written   [2]float64               // bytes that server and agent gave to the disk
	steps     map[string]time.Duration // of one rotation
}
