// Command rotunda-agent is the on-prem agent: it dials out, checks signed commands
// and mandates, and rotates credentials with its plugins.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "rotunda-agent:", err)
		os.Exit(1)
	}
}
