// Command demo runs a whole Rotunda on loopback against a real PostgreSQL and a real
// sshd, and holds its claims against them. make demo builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/internal/targets"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	server := flag.String("server", ".demo/rotunda-server", "the server's program, built with fault points: it writes down what it decrypts")
	keep := flag.Bool("keep", false, "leave the folder of the installation for a look")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A demonstration that hangs shows nothing.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	d := &demo{out: os.Stdout, start: time.Now()}
	err := d.run(ctx, *bin, *server, *keep)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		fmt.Printf("demo: broke off, after %d of %d claims held\n", d.held, d.claims)
		os.Exit(1)
	}
	fmt.Printf("demo: %d of %d claims hold\n", d.held, d.claims)
	if d.held != d.claims {
		os.Exit(1)
	}
}

// run builds everything up, shows it, and takes it down again.
func (d *demo) run(ctx context.Context, bin, server string, keep bool) (err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if server, err = filepath.Abs(server); err != nil {
		return err
	}
	dir, remove, err := targets.WorkDir()
	if err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "rotunda-demo-"); err != nil {
		return errors.Join(err, remove())
	}
	if keep {
		d.say("the installation's folder stays: %s", d.dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() { err = errors.Join(err, d.down()) }()
	if err := d.up(ctx, bin, server, dir); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{d.onDemand, d.bySchedule, d.scripted, d.killed, d.whatTheServerHas} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}
