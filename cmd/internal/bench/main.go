// Command bench measures a whole PostgreSQL rotation, lease to report, by the built
// programs, and beside each figure what the bare client library reaches with the same
// work on the same server in the same run. make bench builds and runs it.
//
// The floor is what nobody can go below: an administrator's session that is open
// already, ALTER ROLE with a computed verifier, and then a fresh TLS login with the new
// password, or the stored verifier read back. Floor and product take turns, so that
// whatever else the machine does falls on both.
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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// options of a measurement.
type options struct {
	bin      string
	rounds   int
	span     time.Duration // of the floor in one round; the product gets as many runs as take about as long
	inFlight []int
	verify   []string
}

func main() {
	o := options{inFlight: []int{1, 8, 32}, verify: []string{"login", "readback"}}
	flag.Func("in-flight", "only this many at once, e.g. 8,32 (default 1,8,32)", o.readInFlight)
	flag.Func("verify", "only this proof: login or readback (default both)", o.readVerify)
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
	ctx, cancel := context.WithTimeout(ctx, 290*time.Second)
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

func (o *options) readInFlight(s string) error {
	o.inFlight = nil
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 || n > trust.MaxConcurrency {
			return fmt.Errorf("%q is no number from 1 to %d", f, trust.MaxConcurrency)
		}
		o.inFlight = append(o.inFlight, n)
	}
	return nil
}

func (o *options) readVerify(s string) error {
	if s != "login" && s != "readback" {
		return errors.New("it is login or readback")
	}
	o.verify = []string{s}
	return nil
}

// measure builds everything up, measures, and takes it down again.
func measure(ctx context.Context, o options) (r *report, err error) {
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	if err := targets.Install(ctx, func(string) {}); err != nil && !errors.Is(err, targets.ErrUnavailable) {
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
	// As a server that keeps what it was told: what a test leaves out counts here.
	pg, err := targets.StartPostgres(ctx, filepath.Join(dir, "pg"),
		"fsync=on", "log_statement=none", "log_connections=off", "max_connections=300", "shared_buffers=128MB")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	most := 0
	for _, n := range o.inFlight {
		most = max(most, o.runs(n))
	}
	f, err := newFloor(ctx, pg, most)
	if err != nil {
		return nil, fmt.Errorf("prepare the floor: %w", err)
	}
	defer f.close()
	p := &product{pg: pg, accounts: map[string][]client.Ref{}}
	defer p.close()
	if err := p.up(ctx, o, home, most); err != nil {
		return nil, fmt.Errorf("prepare the product: %w", err)
	}
	if r, err = newReport(ctx, o, f); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		for _, verify := range o.verify {
			for _, n := range o.inFlight {
				if err := r.round(ctx, f, p, round, verify, n); err != nil {
					return nil, fmt.Errorf("%s, %d in flight: %w", verify, n, err)
				}
			}
		}
	}
	return r, r.finish()
}

// runs is how many runs one round gives the product at so many in flight.
func (o options) runs(inFlight int) int {
	perSecond := 25 // one at a time
	if inFlight > 1 {
		perSecond = 40
	}
	return max(3*inFlight, int(o.span.Seconds()*float64(perSecond))+inFlight)
}

// sample is one rotation, or the runs of one round.
type sample struct {
	took      []time.Duration // of each rotation
	perSecond float64
	cpu       map[string]time.Duration // of one rotation, by program; nil: not known here
	commits   float64                  // durable writes of the server's database, of one rotation
	writes    float64                  // changes in them
	journal   float64                  // durable writes of the agent's journal
	steps     map[string]time.Duration // of one rotation
}
