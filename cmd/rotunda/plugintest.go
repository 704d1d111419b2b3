package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/conformance/obligation"
	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// testView is what became of one of the kit's tests.
type testView struct {
	Test    string   `json:"test"`   // with the names of the tests around it
	Result  string   `json:"result"` // pass, fail, skip; unfinished where the program was stopped
	Seconds float64  `json:"seconds"`
	Asks    string   `json:"asks,omitempty"`     // what it asks of a plugin
	Seen    []string `json:"seen,omitempty"`     // what it said
	LeftOut int      `json:"left_out,omitempty"` // how many of its parts were skipped, such as names
}

func (c *cli) pluginTestCmd() *cobra.Command {
	cmd := c.leaf("test [FOLDER]", "run the conformance kit on a plugin's source, and say what it asks where it fails", func(ctx context.Context, args []string) error {
		dir := c.p.dir
		if len(args) > 0 {
			dir = c.p.path(args[0])
		}
		return c.proves(ctx, dir)
	})
	return help(cmd, `Where it is stopped, by --timeout or a signal, the tests are stopped with it (on Windows,
the Go tools alone). The one that was running has not failed: its result is "unfinished",
and the exit code is 6 or 130.`, "")
}

// proves runs the kit in a folder and prints what became of each test.
func (c *cli) proves(ctx context.Context, dir string) error {
	k, err := c.runKit(ctx, dir)
	switch {
	case err != nil:
		return err
	case k.stopped != nil && len(k.tests) == 0:
		return unfinished(k.stopped, dir)
	case !k.built:
		return failf(exitFailed, "not_built", "the tests in %s do not build", dir).withOutput(k.output)
	case len(k.tests) == 0 && ofKitRE.MatchString(k.output):
		return failf(exitFailed, "not_begun", "the conformance kit in %s was called, and could not begin", dir).withOutput(k.output).
			withHint("it says why above: where the plugin does not start, its program ends before it answers, or the harness has another Name than the plugin's manifest")
	case len(k.tests) == 0:
		what := "do not run the conformance kit"
		if k.failed {
			what = "end before the conformance kit begins"
		}
		return failf(exitFailed, "no_kit", "the tests in %s %s", dir, what).withOutput(k.output).
			withHint("a plugin's test calls conformance.Run; `rotunda plugin new` writes one")
	}
	counts := map[string]int{}
	for _, v := range k.tests {
		counts[v.Result]++
	}
	err = c.emit(map[string]any{"tests": k.tests, "passed": counts["pass"], "failed": counts["fail"], "skipped": counts["skip"], "unfinished": counts["unfinished"]}, func(w io.Writer) {
		for _, v := range k.tests {
			showTest(w, v)
		}
		fmt.Fprintf(w, "%d passed, %d failed, %d left out", counts["pass"], counts["fail"], counts["skip"])
		if k.stopped != nil {
			fmt.Fprint(w, "; the others have not ended")
		}
		fmt.Fprintln(w)
	})
	switch {
	case err != nil:
		return err
	case k.stopped != nil:
		return unfinished(k.stopped, dir)
	case counts["fail"] > 0:
		return failf(exitFailed, "not_conforming", "%d of the kit's tests fail", counts["fail"]).
			withHint("what each asks, and why, is in docs/plugins/reference.md under \"What the kit asks\"; plugins/fault shows a plugin that fails it; " +
				"`go test -mod=mod -v -run TEST .` runs one alone")
	case k.failed:
		return failf(exitFailed, "not_conforming", "none of the kit's tests fails, but the tests in %s as a whole do", dir).withOutput(k.output)
	}
	return nil
}

// ofKitRE is a line that the kit itself has said, of a plugin that it could not begin with.
var ofKitRE = regexp.MustCompile(`(?m)^\s*conformance\.go:[0-9]+: `)

// unfinished says that the tests did not come to their end, which says nothing of the plugin.
func unfinished(stopped error, dir string) error {
	if errors.Is(stopped, context.DeadlineExceeded) {
		return failf(exitUnreachable, "deadline", "the tests in %s did not end in time", dir).withHint("give a longer --timeout")
	}
	return failf(exitInterrupted, "interrupted", "interrupted: the tests in %s have not ended", dir)
}

func showTest(w io.Writer, v testView) {
	switch v.Result {
	case "pass":
		if v.LeftOut > 0 {
			fmt.Fprintf(w, "ok        %s (parts left out: %d)\n", v.Test, v.LeftOut)
			return
		}
		fmt.Fprintf(w, "ok        %s\n", v.Test)
	case "skip":
		why := v.Seen
		if v.LeftOut > 0 { // each of which has said why
			why = why[max(0, len(why)-1):]
		}
		fmt.Fprintf(w, "left out  %s: %s\n", v.Test, terminal.Line(strings.Join(why, " ")))
	case "unfinished":
		fmt.Fprintf(w, "not ended %s\n", v.Test)
	default:
		fmt.Fprintf(w, "FAILED    %s\n          asked: %s\n", v.Test, v.Asks)
		for _, line := range v.Seen {
			fmt.Fprintf(w, "          seen:  %s\n", terminal.Line(line))
		}
	}
}

// testEvent is a line of go test -json (go doc test2json).
type testEvent struct {
	Action, Test, Output, FailedBuild string
	Elapsed                           float64
}

// kitRun is what became of a plugin's tests.
type kitRun struct {
	tests   []testView // the kit's, in the order in which they ended
	output  string     // whatever else was printed
	built   bool       // there was something to run
	failed  bool       // the tests as a whole
	stopped error      // by the context, before their end
}

// runKit runs a plugin's tests. One of the kit's that did not end, since it hung or the
// process died, has failed, unless the context ended first.
func (c *cli) runKit(ctx context.Context, dir string) (*kitRun, error) {
	switch info, err := os.Stat(dir); {
	case err != nil:
		return nil, failf(exitNotFound, "file_missing", "cannot run the tests in %s: %w", dir, err)
	case !info.IsDir():
		return nil, usagef("%s is a file: give the plugin's folder", dir)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, failf(exitNotFound, "no_go", "plugins are tested by the Go tools, and there is no program go in the path").
			withHint("install Go 1.26 or later: https://go.dev/doc/install")
	}
	running := ctx
	if !signal.Ignored(syscall.SIGHUP) { // of a terminal that was closed, to which the tests do not belong
		var stop context.CancelFunc
		running, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
		defer stop()
	}
	cmd := exec.CommandContext(running, "go", "test", "-json", "-count=1", "-mod=mod", ".")
	cmd.Dir = dir
	killRest := asGroup(cmd)
	var own, rest strings.Builder // the Go tools', and whatever else is no test's of the kit
	cmd.Stderr = &own
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run the tests in %s: %w", dir, err)
	}
	k := &kitRun{}
	said := map[string][]string{}
	leftOut := map[string]int{} // parts of a test
	var begun []string          // and not ended
	crash := ""                 // what the process died of; the stacks come after it
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e testEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			rest.Write(append(lines.Bytes(), '\n'))
			continue
		}
		asks, ofKit := asksOf(e.Test)
		switch e.Action {
		case "start":
			k.built = true // unless its end says otherwise
		case "run":
			if ofKit {
				begun = append(begun, e.Test)
				c.note("running   %s", e.Test)
			}
		case "output", "build-output":
			seen, ok := ofTest(e.Output)
			died := crash == "" && e.Test != "" && (strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: "))
			switch owner := kitTest(e.Test); {
			case died:
				crash = seen
				rest.WriteString(e.Output)
			case e.Test == "" || ok && (owner == "" || crash != ""):
				rest.WriteString(e.Output)
			case ok:
				said[owner] = append(said[owner], seen)
			}
		case "pass", "fail", "skip":
			k.built = k.built && e.FailedBuild == ""
			switch {
			case ofKit && e.Action == "fail" && running.Err() != nil: // it was stopped
			case ofKit:
				begun = slices.DeleteFunc(begun, func(t string) bool { return t == e.Test })
				k.tests = append(k.tests, testView{e.Test, e.Action, e.Elapsed, asks, said[e.Test], leftOut[e.Test]})
			case e.Action == "skip":
				leftOut[kitTest(e.Test)]++
			}
		}
	}
	ended := cmd.Wait()
	if running.Err() != nil {
		if k.stopped = ctx.Err(); k.stopped == nil {
			k.stopped = running.Err()
		}
		killRest()
		for _, test := range begun {
			asks, _ := asksOf(test)
			k.tests = append(k.tests, testView{test, "unfinished", 0, asks, said[test], leftOut[test]})
		}
		return k, nil
	}
	for _, test := range begun {
		asks, _ := asksOf(test)
		k.tests = append(k.tests, testView{test, "fail", 0, asks, append(said[test], "it did not end"), leftOut[test]})
	}
	if last := len(k.tests) - 1; crash != "" && last >= 0 && k.tests[last].Result == "fail" {
		k.tests[last].Seen = append(k.tests[last].Seen, crash)
	}
	k.output, k.failed = own.String()+rest.String(), ended != nil || lines.Err() != nil
	return k, nil
}

// kitTest is the test of the kit that a test is, or is part of; empty where there is none.
func kitTest(test string) string {
	for test != "" {
		if _, ok := asksOf(test); ok {
			return test
		}
		test = test[:max(strings.LastIndex(test, "/"), 0)]
	}
	return ""
}

// asksOf is what a test of the kit asks; false where it is none of its.
func asksOf(test string) (string, bool) {
	_, name, below := strings.Cut(test, "/")
	if !below {
		return "", false
	}
	name = name[strings.LastIndex(name, "/")+1:]
	for _, o := range obligation.All {
		if o.Test == name {
			return o.Asks, true
		}
	}
	return "", false
}

// ofTest takes the frame off a line of a test's output.
func ofTest(line string) (string, bool) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
		return "", false
	}
	return line, true
}
