// Command agents measures how a server grows with its agents: what an idle one costs,
// how long a command travels while they all stand there, and how they come back after
// the server was killed. Beside each figure stands what bare sockets of the same library
// reach with the same work in the same run. make bench-agents builds and runs it.
//
// Real are the server, one agent, the command line, and every command: the built
// programs and the client library. Simulated are the idle agents: some thousand of the
// agent's own channel clients (agent/channel) in one process, each with its own keys,
// its entry in the log and its connection. They have no journal and no plugins, which a
// server cannot see.
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

type options struct {
	bin    string
	agents int
	rounds int           // of commands; each measures every row once, floor and product in turn
	span   time.Duration // of one row on one side in one round
	beats  bool          // wait until every idle agent has sent its second heartbeat
}

func main() {
	if role := os.Getenv(roleVar); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	o := options{beats: true}
	asJSON := flag.Bool("json", false, "print the figures as JSON")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.IntVar(&o.agents, "agents", 10_000, "idle agents")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of commands")
	flag.DurationVar(&o.span, "span", 3*time.Second, "time of one row of commands, on each side, in one round")
	flag.Parse()
	if o.agents < 1 || o.agents > maxAgents || o.rounds < 1 || o.span <= 0 {
		fmt.Fprintf(os.Stderr, "agents: 1 to %d agents, at least one round of some time\n", maxAgents)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Figures of a machine that hangs are none.
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("ten minutes were not enough"))
	defer cancel()
	began := time.Now()
	r, err := measure(ctx, o, func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...)
	})
	if ctx.Err() != nil {
		err = fmt.Errorf("nothing was measured to its end: %w", context.Cause(ctx))
	}
	if err == nil && *asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(r)
	} else if err == nil {
		err = r.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
}

// maxAgents is what a few loopback addresses hold below the server's bound for each.
const maxAgents = 40_000

// measure builds everything up, measures, and takes it down again. say tells what goes on.
func measure(ctx context.Context, o options, say func(string, ...any)) (r *report, err error) {
	if err := raiseFiles(o.agents); err != nil {
		return nil, err
	}
	r = newReport(o)
	say("bare sockets: %d are dialled", o.agents)
	if r.Floor.Crowd, err = bareCrowd(ctx, o); err != nil {
		return nil, fmt.Errorf("bare sockets: %w", err)
	}
	p := &product{o: o, say: say}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.up(ctx); err != nil {
		return nil, fmt.Errorf("prepare the product: %w", err)
	}
	r.Enrolled = p.enrolled
	if err := p.idle(ctx, r); err != nil {
		return nil, fmt.Errorf("idle agents: %w", err)
	}
	if err := commands(ctx, o, p, r); err != nil {
		return nil, fmt.Errorf("commands: %w", err)
	}
	for _, how := range []string{"killed", "stopped"} {
		if err := p.restart(ctx, r, how); err != nil {
			return nil, fmt.Errorf("the server is %s and started again: %w", how, err)
		}
	}
	if err := p.leave(ctx, r); err != nil {
		return nil, fmt.Errorf("the agents leave: %w", err)
	}
	return r, nil
}
