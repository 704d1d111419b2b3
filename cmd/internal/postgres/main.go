// Command postgres starts a throw-away PostgreSQL for the manual's first pages: TLS
// and SCRAM on a free port of the loopback interface, in a folder of its own. It runs
// until it is told to stop, and leaves nothing behind but, among temporary files, what the next
// begins as a copy of. make postgres builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rotunda-pam/rotunda/internal/targets"
)

func main() {
	dir := flag.String("dir", "", "folder for the server; made, and removed at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) (err error) {
	if dir == "" {
		return errors.New("-dir is missing: name a folder for the server")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	say := func(s string) { fmt.Fprintln(os.Stderr, s) }
	if err := targets.Install(ctx, say, targets.PostgreSQL); err != nil && !errors.Is(err, targets.ErrUnavailable) {
		return err
	}
	pg, err := targets.StartPostgres(ctx, dir)
	if err != nil {
		return err
	}
	env := dir + ".env"
	defer func() { err = errors.Join(err, os.Remove(env), pg.Stop()) }()
	if err := describe(pg, dir, env); err != nil {
		return err
	}
	say("PostgreSQL runs on " + pg.Address + "; how to reach it is in " + env)
	<-ctx.Done()
	return nil
}

// describe writes how psql reaches the server, as a file to be sourced. It appears
// last and whole: whoever waits for it may log in.
func describe(pg *targets.PG, dir, env string) error {
	secret := pg.AdminPassword.Expose()
	defer clear(secret)
	line := append([]byte("*:*:*:*:"), secret...)
	defer clear(line)
	pass := filepath.Join(dir, "pgpass")
	if err := os.WriteFile(pass, append(line, '\n'), 0o600); err != nil {
		return err
	}
	var b strings.Builder
	for _, v := range [][2]string{
		{"PGHOST", pg.Host},
		{"PGPORT", strconv.Itoa(pg.Port)},
		{"PGUSER", pg.Admin},
		{"PGDATABASE", pg.Database},
		{"PGPASSFILE", pass},
		{"PGSSLMODE", "verify-ca"},
		{"PGSSLROOTCERT", filepath.Join(dir, "ca.pem")},
	} {
		fmt.Fprintf(&b, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	if err := os.WriteFile(env+".new", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(env+".new", env)
}
