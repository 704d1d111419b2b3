package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/conformance/obligation"
	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// testView is what became of one of the kit's tests.
type testView struct {
	Test    string   `json:"test"`   // with the names of the tests around it
	Result  string   `json:"result"` // pass, fail, skip
	Seconds float64  `json:"seconds"`
	Asks    string   `json:"asks,omitempty"` // what it asks of a plugin
	Seen    []string `json:"seen,omitempty"` // what it said
}

func (c *cli) pluginTestCmd() *cobra.Command {
	return c.leaf("test [FOLDER]", "run the conformance kit on a plugin's source, and say what it asks where it fails", func(ctx context.Context, args []string) error {
		dir := c.p.dir
		if len(args) > 0 {
			dir = c.p.path(args[0])
		}
		return c.proves(ctx, dir)
	})
}

// proves runs the kit in a folder and prints what became of each test.
func (c *cli) proves(ctx context.Context, dir string) error {
	views, output, failed, err := c.runKit(ctx, dir)
	if err != nil {
		return err
	}
	if len(views) == 0 {
		return failf(exitFailed, "no_kit", "the tests in %s do not build, end before the conformance kit begins, or do not run it:\n%s", dir, terminal.Shown(output)).
			withHint("a plugin's test calls conformance.Run; `rotunda plugin new` writes one")
	}
	counts := map[string]int{}
	for _, v := range views {
		counts[v.Result]++
	}
	err = c.emit(map[string]any{"tests": views, "passed": counts["pass"], "failed": counts["fail"], "skipped": counts["skip"]}, func(w io.Writer) {
		for _, v := range views {
			showTest(w, v)
		}
		fmt.Fprintf(w, "%d passed, %d failed, %d left out\n", counts["pass"], counts["fail"], counts["skip"])
	})
	switch {
	case err != nil:
		return err
	case counts["fail"] > 0:
		return failf(exitFailed, "not_conforming", "%d of the kit's tests fail", counts["fail"]).
			withHint("what each asks, and why, is in docs/plugins/reference.md under \"What the kit asks\"; plugins/fault shows a plugin that fails it; " +
				"`go test -mod=mod -v -run TEST .` runs one alone")
	case failed:
		return failf(exitFailed, "not_conforming", "none of the kit's tests fails, but the tests in %s as a whole do:\n%s", dir, terminal.Shown(output))
	}
	return nil
}

func showTest(w io.Writer, v testView) {
	switch v.Result {
	case "pass":
		fmt.Fprintf(w, "ok        %s\n", v.Test)
	case "skip":
		fmt.Fprintf(w, "left out  %s: %s\n", v.Test, terminal.Line(strings.Join(v.Seen, " ")))
	default:
		fmt.Fprintf(w, "FAILED    %s\n          asked: %s\n", v.Test, v.Asks)
		for _, line := range v.Seen {
			fmt.Fprintf(w, "          seen:  %s\n", terminal.Line(line))
		}
	}
}

// testEvent is a line of go test -json (go doc test2json).
type testEvent struct {
	Action, Test, Output string
	Elapsed              float64
}

// runKit runs a plugin's tests and gives the outcome of the kit's, in the order in which
// they ended, whatever else was printed, and whether the tests as a whole failed. One that
// did not end, since it hung or the process died, has failed.
func (c *cli) runKit(ctx context.Context, dir string) (views []testView, output string, failed bool, err error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, "", false, failf(exitNotFound, "no_go", "plugins are tested by the Go tools, and there is no program go in the path").
			withHint("install Go 1.26 or later: https://go.dev/doc/install")
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-mod=mod", ".")
	cmd.Dir = dir
	var rest strings.Builder
	cmd.Stderr = &rest
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", false, err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", false, failf(exitNotFound, "file_missing", "cannot run the tests in %s: %w", dir, err)
	}
	said := map[string][]string{}
	var begun []string // and not ended
	crash := ""        // what the process died of; the stacks come after it
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
			if ofKit {
				begun = slices.DeleteFunc(begun, func(t string) bool { return t == e.Test })
				views = append(views, testView{e.Test, e.Action, e.Elapsed, asks, said[e.Test]})
			}
		}
	}
	ended := cmd.Wait()
	if ctx.Err() != nil && len(views) == 0 {
		return nil, "", false, errors.Join(lines.Err(), ended, ctx.Err())
	}
	for _, test := range begun {
		asks, _ := asksOf(test)
		views = append(views, testView{test, "fail", 0, asks, append(said[test], "it did not end")})
	}
	if last := len(views) - 1; crash != "" && last >= 0 && views[last].Result == "fail" {
		views[last].Seen = append(views[last].Seen, crash)
	}
	return views, rest.String(), ended != nil || lines.Err() != nil, nil
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
