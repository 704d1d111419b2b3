// Command plugins measures each plugin, shut in as the agent shuts it in, beside the bare
// client library on the same server in the same run; and what a process and a call cost
// beside go-plugin alone. No vault is asked and nothing is journalled: `make
// bench-rotation` measures whole runs. make bench-plugins builds and runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/internal/targets"
)

// options of a measurement.
type options struct {
	bin      string
	plugins  []string
	rounds   int
	span     time.Duration // of each side of a row in one round
	accounts int
	starts   int
}

func main() {
	o := options{plugins: slices.Sorted(maps.Keys(floor.Starts))}
	flag.Func("plugin", "only these, e.g. ldap,postgres (default: all)", func(s string) error {
		o.plugins = strings.Split(s, ",")
		for _, p := range o.plugins {
			if floor.Starts[p] == nil {
				return fmt.Errorf("there is no floor for plugin %q", p)
			}
		}
		return nil
	})
	asJSON := flag.Bool("json", false, "print the figures as JSON")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; floor and product in turn in each")
	flag.DurationVar(&o.span, "span", 3*time.Second, "time for each side of a row in one round")
	flag.IntVar(&o.accounts, "accounts", 1000, "accounts on each server")
	flag.IntVar(&o.starts, "starts", 20, "starts of each process")
	flag.Parse()
	if o.rounds < 1 || o.span < time.Second/2 || o.accounts < most || o.starts < 1 {
		fmt.Fprintf(os.Stderr, "bench: at least one round, half a second a row, %d accounts and one start\n", most)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Figures of a machine that hangs are none.
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

var servers = map[string]targets.Server{
	"postgres": targets.PostgreSQL, "ssh": targets.OpenSSHD, "mysql": targets.MariaDB,
	"ldap": targets.OpenLDAP, "ad": targets.SambaAD, "redis": targets.Redis,
}

func measure(ctx context.Context, o options) (r *report, err error) {
	r = newReport(o)
	home, err := os.MkdirTemp("", "rbp") // short, since sockets live in it
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	if err := os.Chmod(home, 0o711); err != nil { // plugins run as users of their own, who must pass through
		return nil, err
	}
	for _, name := range o.plugins {
		if err := r.plugin(ctx, name, home); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, r.processes(ctx, home)
}

// plugin measures one plugin on a server of its own.
func (r *report) plugin(ctx context.Context, name, home string) (err error) {
	if err := targets.Install(ctx, func(string) {}, servers[name]); err != nil {
		return err
	}
	dir, remove, err := targets.WorkDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	t, err := floor.Starts[name](ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	r.Targets = append(r.Targets, t.Name())
	accounts, err := t.Accounts(ctx, r.o.accountsOf(name))
	if err != nil {
		return fmt.Errorf("make accounts: %w", err)
	}
	h, err := newHost(filepath.Join(home, name), filepath.Join(r.o.bin, "plugins"), name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := r.cold(ctx, name, h, t, accounts[0]); err != nil {
		return fmt.Errorf("cold: %w", err)
	}
	for _, n := range inFlight {
		if err := r.row(ctx, name, n, h, t, accounts); err != nil {
			return fmt.Errorf("%d in flight: %w", n, err)
		}
	}
	return nil
}

// accountsOf is how many a server gets: those of an sshd are this machine's own.
func (o options) accountsOf(plugin string) int {
	if plugin == "ssh" {
		return min(o.accounts, 2*most)
	}
	return o.accounts
}
