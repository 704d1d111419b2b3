package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
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
		views, output, err := c.runKit(ctx, dir)
		if err != nil {
			return err
		}
		if len(views) == 0 {
			return failf(exitFailed, "no_kit", "the tests in %s do not run the conformance kit, or do not build:\n%s", dir, terminal.Shown(output)).
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
		if err == nil && counts["fail"] > 0 {
			return failf(exitFailed, "not_conforming", "%d of the kit's tests fail", counts["fail"]).
				withHint("what each asks, and why, is in docs/plugins/reference.md under \"What the kit asks\"; plugins/fault shows a plugin that fails it")
		}
		return err
	})
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
// they ended, and whatever else was printed.
func (c *cli) runKit(ctx context.Context, dir string) (views []testView, output string, err error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, "", failf(exitNotFound, "no_go", "plugins are tested by the Go tools, and there is no program go in the path").
			withHint("install Go 1.26 or later: https://go.dev/doc/install")
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-mod=mod", ".")
	cmd.Dir = dir
	var rest strings.Builder
	cmd.Stderr = &rest
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", failf(exitNotFound, "file_missing", "cannot run the tests in %s: %w", dir, err)
	}
	said := map[string][]string{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e testEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			rest.Write(append(lines.Bytes(), '\n'))
			continue
		}
		switch e.Action {
		case "output", "build-output":
			if e.Test == "" {
				rest.WriteString(e.Output)
			} else if seen, ok := ofTest(e.Output); ok {
				said[e.Test] = append(said[e.Test], seen)
			}
		case "pass", "fail", "skip":
			if asks, ok := asksOf(e.Test); ok {
				views = append(views, testView{e.Test, e.Action, e.Elapsed, asks, said[e.Test]})
			}
		}
	}
	if err := errors.Join(lines.Err(), cmd.Wait(), ctx.Err()); err != nil && len(views) == 0 && ctx.Err() != nil {
		return nil, "", err
	}
	return views, rest.String(), nil
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
