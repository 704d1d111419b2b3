// Command scripts measures what a Lua script costs, shut in as the agent shuts it in: from
// a call to its first line, a whole small script with one connection, a hundred in flight,
// and memory over many runs. Beside each stand a bare gopher-lua state in this process and,
// where it is installed, a start of lua5.1. make bench-scripts builds and runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options of a measurement.
type options struct {
	bin    string
	calls  int // timed one after the other
	flight int // scripts at once
	long   int // runs over which memory is watched
}

func main() {
	var o options
	asJSON := flag.Bool("json", false, "print the figures as JSON")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.IntVar(&o.calls, "calls", 500, "calls of each kind that are timed")
	flag.IntVar(&o.flight, "flight", 100, "scripts in flight at once")
	flag.IntVar(&o.long, "long", 100_000, "runs over which memory is watched")
	flag.Parse()
	if o.calls < 10 || o.flight < 1 || o.long < 100 {
		fmt.Fprintln(os.Stderr, "bench: at least ten calls, one in flight, a hundred long")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	r, err := measure(ctx, o)
	if err == nil && *asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(r)
	} else if err == nil {
		err = r.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, o options) (_ *report, err error) {
	h, err := newHost(o.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	r := &report{Calls: o.calls, Flight: o.flight, Long: o.long}
	for _, part := range []func(context.Context, *host, options) error{r.first, r.small, r.inFlight, r.memory} {
		if err := part(ctx, h, o); err != nil {
			return nil, err
		}
	}
	return r, nil
}
