// Command accounts measures how the built programs grow: with accounts that are
// scheduled, with those that are due at once, with a long log, and beside targets that
// hang. Each figure stands beside its floor, measured in the same run, or beside the same
// figure of a smaller installation. make bench-accounts builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a measurement.
type options struct {
	bin       string
	parts     []string
	accounts  int           // scheduled and not due, at most
	due       int           // at once
	overdue   int           // after the server was down
	changes   int           // of the log
	resources int           // on one agent, one of which hangs
	idle      time.Duration // that ticks are counted in
	seconds   int           // of the stream of runs beside the target that hangs
}

// part is one thing that is measured.
type part struct {
	name    string
	measure func(context.Context, options) ([]*table, error)
}

var parts = []part{
	{"scheduled", scheduled},
	{"due", dueAtOnce},
	{"overdue", overdue},
	{"log", longLog},
	{"hung", hung},
}

func main() {
	var o options
	var only string
	asJSON := flag.Bool("json", false, "print the figures as JSON")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&only, "part", "", "only these parts, of "+strings.Join(names(), ","))
	flag.IntVar(&o.accounts, "accounts", 100_000, "accounts that are scheduled and not due")
	flag.IntVar(&o.due, "due", 1000, "accounts that are due at once")
	flag.IntVar(&o.overdue, "overdue", 10_000, "accounts that are overdue after the server was down")
	flag.IntVar(&o.changes, "changes", 20_000, "changes of the log")
	flag.IntVar(&o.resources, "resources", 100, "resources on one agent, one of which hangs")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "time for which ticks are counted")
	flag.IntVar(&o.seconds, "seconds", 30, "seconds of runs beside the target that hangs")
	flag.Parse()
	o.parts = names()
	if only != "" {
		o.parts = strings.Split(only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := measure(ctx, o)
	if err == nil && *asJSON {
		err = r.json(os.Stdout)
	} else if err == nil {
		err = r.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "accounts:", err)
		os.Exit(1)
	}
}

func names() (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

// partTime bounds one part: figures of a machine that hangs are none.
const partTime = 10 * time.Minute

func measure(ctx context.Context, o options) (r *report, err error) {
	for _, name := range o.parts {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("there is no part %q: they are %s", name, strings.Join(names(), ", "))
		}
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	if o.accounts < 10 || o.due < 10 || o.overdue < 10 || o.changes < 100 || o.resources < 3 || o.seconds < 1 {
		return nil, errors.New("too few for a figure: at least 10 accounts, 100 changes, 3 resources and a second")
	}
	r = newReport()
	for _, p := range parts {
		if !slices.Contains(o.parts, p.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s…\n", p.name)
		tables, err := within(ctx, o, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, time.Since(began).Round(time.Second))
		r.Tables = append(r.Tables, tables...)
	}
	r.Load += " to " + load()
	return r, nil
}

func within(ctx context.Context, o options, p part) ([]*table, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, partTime, fmt.Errorf("not done within %s", partTime))
	defer cancel()
	return p.measure(ctx, o)
}
