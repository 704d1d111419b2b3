// Command servers tells which servers of the tests' second tier this machine has. With
// -get it installs and builds the others, which takes long and is done once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/rotunda-pam/rotunda/internal/targets"
)

func main() {
	get := flag.Bool("get", false, "install and build those that this machine does not have")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *get); err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, get bool) error {
	for _, s := range targets.SecondTier {
		if get {
			// What this machine cannot have is left out by the tests, with the same reason.
			err := targets.Install(ctx, func(what string) { fmt.Println(what) }, s)
			if err != nil && !errors.Is(err, targets.ErrUnavailable) {
				return fmt.Errorf("get %s: %w", s, err)
			}
		}
		if targets.Installed(s) {
			fmt.Println("second tier:", s, "is here")
		} else {
			fmt.Println("second tier:", s, "is not here; make test-all gets it, once")
		}
	}
	return nil
}
