// Command fuzz runs every fuzz test of the module, as many at a time as there are
// processors, and keeps the inputs that are
// worth it. make fuzz and make fuzz-minute run it.
//
// It compiles each package's fuzz tests once, whatever their number: go test -fuzz takes
// one of them at a time and links anew for each. What a run finds beyond the committed
// inputs goes into Go's build cache, as with go test -fuzz, and -keep chooses from there.
//
// Led by coverage, the engine needs everything compiled once more, which takes minutes.
// With -blind it changes the known inputs at random, and only the tests are compiled: the
// rest is what make build has compiled already.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	each := flag.Duration("each", 10*time.Second, "how long each target runs")
	all := flag.Duration("all", 0, "how long all targets run, added up, instead of -each")
	only := flag.String("only", "", "run only targets whose DIR.NAME matches this `expression`")
	keep := flag.Bool("keep", false, "run nothing: replace the committed inputs by those of the build cache that add coverage")
	blind := flag.Bool("blind", false, "not led by coverage, and with the committed inputs alone: quick to compile")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *each, *all, *only, *keep, *blind); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// target is one fuzz test.
type target struct {
	dir, name string
	binary    string // of its package
}

func run(ctx context.Context, each, all time.Duration, only string, keep, blind bool) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	targets, err := find(match)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("there is no fuzz test of that name")
	}
	work, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	cache := filepath.Join(work, "cache")
	if !blind {
		out, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
		if err != nil {
			return fmt.Errorf("go env: %w", err)
		}
		cache = filepath.Join(strings.TrimSpace(string(out)), "fuzz", module)
	}
	if err := build(ctx, targets, work, keep, blind); err != nil {
		return err
	}
	if keep {
		for _, t := range targets {
			if err := t.renew(ctx, filepath.Join(cache, t.dir, t.name)); err != nil {
				return fmt.Errorf("%s of %s: %w", t.name, t.dir, err)
			}
		}
		return nil
	}
	if all > 0 {
		each = max(all/time.Duration(len(targets)), time.Second/2)
	}
	var mu sync.Mutex
	var execs int64
	var failed []string
	spread(targets, func(t *target) {
		n, err := t.atLeastOnce(ctx, each, filepath.Join(cache, t.dir))
		mu.Lock()
		defer mu.Unlock()
		execs += n
		if err != nil && ctx.Err() == nil {
			fmt.Printf("%s of %s failed: %v\n", t.name, t.dir, err)
			what := t.name + " of " + t.dir
			if m := written.FindStringSubmatch(err.Error()); m != nil {
				what += ", whose input is " + filepath.Join(t.dir, m[1])
			}
			failed = append(failed, what)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	fmt.Printf("fuzz: %d targets, %d executions, %d failures\n", len(targets), execs, len(failed))
	if len(failed) > 0 {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	return nil
}

// spread does something with each of a list, as many at a time as there are processors.
func spread[T any](list []T, do func(T)) {
	next := make(chan T)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for item := range next {
				do(item)
			}
		})
	}
	for _, item := range list {
		next <- item
	}
	close(next)
	workers.Wait()
}

const module = "github.com/rotunda-pam/rotunda"

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(`)

// find lists the fuzz tests of the files that belong to the repository.
func find(match *regexp.Regexp) (list []*target, err error) {
	out, err := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	for _, file := range strings.Fields(string(out)) {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) { // deleted, and not committed yet
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range declared.FindAllSubmatch(text, -1) {
			t := &target{dir: filepath.Dir(file), name: string(m[1])}
			if match.MatchString(t.dir + "." + t.name) {
				list = append(list, t)
			}
		}
	}
	return list, nil
}

func binaryOf(into, dir string) string {
	return filepath.Join(into, strings.ReplaceAll(dir, "/", "-")+".test")
}

// build compiles the test of each package that has a target.
func build(ctx context.Context, targets []*target, into string, cover, blind bool) error {
	var dirs []string
	for _, t := range targets {
		t.binary = binaryOf(into, t.dir)
		if !slices.Contains(dirs, t.dir) {
			dirs = append(dirs, t.dir)
		}
	}
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w"}
	switch {
	case cover:
		args = append(args, "-cover")
	case blind: // as make build compiles
		args = append(args, "-trimpath", "-buildvcs=false")
	default:
		args = append(args, "-fuzz=Fuzz")
	}
	var mu sync.Mutex
	var failed error
	spread(dirs, func(dir string) {
		cmd := exec.CommandContext(ctx, "go", slices.Concat(args, []string{"-o", binaryOf(into, dir), "./" + dir})...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, fmt.Errorf("compile the fuzz tests of %s: %w", dir, err))
		}
	})
	return failed
}

var written = regexp.MustCompile(`Failing input written to (\S+)`)

var progress = regexp.MustCompile(`execs: (\d+)`)

// atLeastOnce runs a target for longer where the machine is so busy that it tried nothing but
// the known inputs.
func (t *target) atLeastOnce(ctx context.Context, each time.Duration, cache string) (execs int64, err error) {
	execs, err = t.fuzz(ctx, each, cache)
	for longer := 4 * each; execs == 0 && err == nil && longer < max(time.Minute, 5*each); longer *= 4 {
		execs, err = t.fuzz(ctx, longer, cache)
	}
	if execs == 0 && err == nil {
		err = errors.New("it ran not once")
	}
	return execs, err
}

// fuzz runs a target, and says how often it ran. A failing input is written below the
// package's testdata, and its name is in what is printed.
func (t *target) fuzz(ctx context.Context, d time.Duration, cache string) (execs int64, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // as Go's own
		return 0, err
	}
	cmd := exec.CommandContext(ctx, t.binary, "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.fuzztime="+d.String(), "-test.fuzzcachedir="+cache, "-test.fuzzminimizetime=2s", "-test.parallel=1", "-test.timeout=0")
	cmd.Dir = t.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	for _, m := range progress.FindAllSubmatch(out, -1) {
		execs, _ = strconv.ParseInt(string(m[1]), 10, 64) // the last one counts
	}
	// The engine takes the end of its own time for a failure where it comes at the wrong
	// moment; a failure of the target has an input, or names the known one.
	if err != nil && (!bytes.Contains(out, []byte("\n    context deadline exceeded\n")) || bytes.Contains(out, []byte("    --- FAIL: "))) {
		return execs, fmt.Errorf("%w\n%s", err, out)
	}
	fmt.Printf("%s %s: %d executions\n", t.dir, t.name, execs)
	return execs, nil
}
