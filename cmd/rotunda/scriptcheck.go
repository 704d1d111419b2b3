package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// problemView is what is wrong with a script.
type problemView struct {
	Line   int    `json:"line,omitempty"`
	Text   string `json:"text"`
	Source string `json:"source,omitempty"` // the line itself
	Hint   string `json:"hint,omitempty"`
}

// checkedView is a script that was looked over.
type checkedView struct {
	File     string        `json:"file"`
	Script   *manifestView `json:"script,omitempty"` // none where the manifest is wrong
	Problems []problemView `json:"problems"`
}

func (c *cli) scriptCheckCmd() *cobra.Command {
	var lua string
	cmd := c.leaf("check FILE...", "look a script over, and print what it asks for", func(ctx context.Context, args []string) error {
		views, wrong := []checkedView{}, 0
		for _, file := range withoutTests(args) {
			v, err := c.checkScript(ctx, file, lua)
			if err != nil {
				return err
			}
			views, wrong = append(views, v), wrong+len(v.Problems)
		}
		err := c.emit(map[string]any{"scripts": views}, func(w io.Writer) {
			for n, v := range views {
				if n > 0 {
					fmt.Fprintln(w)
				}
				showChecked(w, v)
			}
		})
		if err == nil && wrong > 0 {
			err = failf(exitFindings, "script_problems", "%d problem%s in %s", wrong, plural(wrong), strings.Join(args, ", "))
		}
		return err
	})
	luaFlag(cmd, &lua)
	return help(cmd, `Reads the manifest, compiles the Lua, and looks for globals that are not there, modules
that are used and not asked for or the other way round, and secrets that are revealed
without a word why. Nothing of it is run but its top level, by the plugin that agents run
it by, and nothing is reached. Exit code 10 says that something is wrong.`, `rotunda script check restart-unit.lua`)
}

// checkScript looks a script over: the manifest here, the Lua by the plugin that hosts it.
func (c *cli) checkScript(ctx context.Context, file, lua string) (checkedView, error) {
	v := checkedView{File: file, Problems: []problemView{}}
	text, err := c.scriptText(file)
	if err != nil {
		return v, err
	}
	m, err := script.Parse(text)
	if bad := (*script.Error)(nil); errors.As(err, &bad) {
		v.Problems = append(v.Problems, problemView{bad.Line, strings.TrimSpace(bad.Key + " " + bad.Text), sourceLine(text, bad.Line), bad.Hint})
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.Script = viewManifest(m, seal.Hash(text))
	program, err := c.luaProgram(lua)
	if err != nil {
		return v, err
	}
	var answer struct {
		Problems []problemView `json:"problems"`
	}
	if err := c.lua(ctx, program, nil, &answer, "check", file); err != nil {
		return v, err
	}
	v.Problems = append(v.Problems, answer.Problems...)
	return v, nil
}

// scriptText reads a script's file.
func (c *cli) scriptText(file string) ([]byte, error) {
	text, err := c.p.readFile(file)
	if err == nil && len(text) > script.MaxText {
		err = usagef("%s has %d bytes: a script has at most %d", file, len(text), script.MaxText)
	}
	return text, err
}

func sourceLine(text []byte, n int) string {
	lines := strings.Split(string(text), "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return strings.TrimRight(lines[n-1], "\r")
}

func showChecked(w io.Writer, v checkedView) {
	if v.Script != nil {
		showManifest(w, v.Script)
	}
	showProblems(w, v)
	if len(v.Problems) == 0 {
		printLine(w, "%s: nothing is wrong", v.File)
	}
}

// showProblems prints each with its line, as compilers do.
func showProblems(w io.Writer, v checkedView) {
	for _, p := range v.Problems {
		at := v.File
		if p.Line > 0 {
			at += fmt.Sprintf(":%d", p.Line)
		}
		printLine(w, "%s: %s", at, p.Text)
		if s := strings.TrimSpace(p.Source); s != "" {
			printLine(w, "    %s", s)
		}
		if p.Hint != "" {
			printLine(w, "    hint: %s", p.Hint)
		}
	}
}

// scriptTestView is what became of one script's tests.
type scriptTestView struct {
	File  string `json:"file"`
	Tests []struct {
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"`
		Line  int    `json:"line,omitempty"`
	} `json:"tests"`
	Error string `json:"error,omitempty"` // no test was run
}

// withoutTests leaves out the tests of scripts that are named, too: *.lua names both.
func withoutTests(files []string) []string {
	return slices.DeleteFunc(slices.Clone(files), func(file string) bool {
		name, is := strings.CutSuffix(file, "_test.lua")
		return is && slices.Contains(files, name+".lua")
	})
}

func (c *cli) scriptTestCmd() *cobra.Command {
	var lua string
	var kit bool
	cmd := c.leaf("test FILE...", "run scripts' tests: NAME_test.lua for NAME.lua", func(ctx context.Context, args []string) error {
		if kit {
			return c.scriptKit(ctx, args)
		}
		args = withoutTests(args)
		for _, file := range args {
			if _, err := c.scriptText(file); err != nil {
				return err
			}
			if beside := testBeside(file); beside != file {
				if _, err := c.scriptText(beside); err != nil {
					return failf(exitNotFound, "no_test", "%s has no test: there is no %s", file, beside).
						withHint("`rotunda script new` writes a script with one, to look at")
				}
			}
		}
		program, err := c.luaProgram(lua)
		if err != nil {
			return err
		}
		var views []scriptTestView
		if err := c.lua(ctx, program, nil, &views, append([]string{"test"}, args...)...); err != nil {
			return err
		}
		passed, failed := 0, 0
		for _, v := range views {
			if v.Error != "" {
				failed++
			}
			for _, t := range v.Tests {
				if t.OK {
					passed++
				} else {
					failed++
				}
			}
		}
		err = c.emit(map[string]any{"scripts": views, "passed": passed, "failed": failed}, func(w io.Writer) {
			for _, v := range views {
				c.showScriptTest(w, v)
			}
			fmt.Fprintf(w, "%d passed, %d failed\n", passed, failed)
		})
		if err == nil && failed > 0 {
			err = failf(exitFailed, "tests_failed", "%d test%s failed", failed, plural(failed))
		}
		return err
	})
	luaFlag(cmd, &lua)
	cmd.Flags().BoolVar(&kit, "kit", false, "run the conformance kit on a rotator instead: what every plugin must pass, by the Go module NAME_kit beside it")
	return help(cmd, `Each test runs in a state of its own, by the plugin that agents run scripts by. It reaches
nothing: what a script would reach is mocked by its test (docs/scripts/write.md).

With --kit the script runs on a target, which its kit starts, in the agent's own plugin host:
lines that are cut and hang, programs killed at every step, names and secrets of all kinds.
"rotunda script new rotator NAME --rotunda FOLDER" writes a kit; it needs Go.`, `rotunda script test restart-unit.lua
rotunda script test users.lua --kit
rotunda script test scripts/*_test.lua`)
}

// scriptKit runs the conformance kit on one rotator.
func (c *cli) scriptKit(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return usagef("--kit is for one script at a time")
	}
	text, err := c.scriptText(args[0])
	if err != nil {
		return err
	}
	if _, err := script.Parse(text); err != nil {
		return failf(exitFindings, "script_problems", "%s: %w", args[0], err).withHint("`rotunda script check %s`", args[0])
	}
	dir := kitBeside(args[0])
	if info, err := os.Stat(c.p.path(dir)); err != nil || !info.IsDir() {
		return failf(exitNotFound, "no_kit", "%s has no kit: there is no folder %s", args[0], dir).
			withHint("`rotunda script new rotator NAME --rotunda FOLDER` writes a rotator with one, to look at")
	}
	return c.proves(ctx, c.p.path(dir))
}

// testBeside is the test of a script, named by either.
func testBeside(file string) string {
	if strings.HasSuffix(file, "_test.lua") {
		return file
	}
	return strings.TrimSuffix(file, filepath.Ext(file)) + "_test.lua"
}

func (c *cli) showScriptTest(w io.Writer, v scriptTestView) {
	if v.Error != "" {
		printLine(w, "FAILED    %s: %s", v.File, v.Error)
	}
	for _, t := range v.Tests {
		if t.OK {
			printLine(w, "ok        %s: %s", v.File, t.Name)
			continue
		}
		printLine(w, "FAILED    %s: %s", v.File, t.Name)
		for line := range strings.Lines(t.Error) {
			printLine(w, "          %s", strings.TrimRight(line, "\n"))
		}
		if source := c.sourceOf(v.File, t.Error); source != "" {
			printLine(w, "          | %s", source)
		}
	}
}

var luaLineRE = regexp.MustCompile(`([A-Za-z0-9._-]+\.lua):(\d+)`)

// sourceOf is the line that an error names, of a file beside the script.
func (c *cli) sourceOf(file, text string) string {
	found := luaLineRE.FindStringSubmatch(text)
	if found == nil {
		return ""
	}
	b, err := c.scriptText(filepath.Join(filepath.Dir(file), found[1]))
	n, bad := strconv.Atoi(found[2])
	if err != nil || bad != nil {
		return ""
	}
	return strings.TrimSpace(sourceLine(b, n))
}

// manifestView is what a script says of itself.
type manifestView struct {
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	Kind       string          `json:"kind"`
	About      string          `json:"about"`
	SHA256     string          `json:"sha256"`
	Asks       []script.Ask    `json:"asks"`
	Parameters []parameterView `json:"parameters,omitempty"`
	Records    []furtherView   `json:"records,omitempty"`
}

// parameterView is a setting that a use of the script gives it.
type parameterView struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	About    string   `json:"about"`
	Required bool     `json:"required,omitempty"`
	Default  any      `json:"default,omitempty"`
	Values   []string `json:"values,omitempty"`
	Pattern  string   `json:"pattern,omitempty"`
}

// furtherView is a further record that a use of the script names.
type furtherView struct {
	Name  string `json:"name"`
	As    string `json:"as"`
	About string `json:"about"`
}

func viewManifest(m *script.Manifest, sum seal.Digest) *manifestView {
	v := &manifestView{Name: m.Name, Version: m.Version, Kind: string(m.Kind), About: m.About, SHA256: sum.String(), Asks: m.Asks()}
	if v.Asks == nil {
		v.Asks = []script.Ask{}
	}
	for _, p := range m.Parameters {
		v.Parameters = append(v.Parameters, parameterView{p.Name, string(p.Type), p.About, p.Required, p.Default, p.Values, p.Pattern})
	}
	for _, r := range m.Records {
		v.Records = append(v.Records, furtherView{r.Name, r.As, r.About})
	}
	return v
}

// showManifest prints it, with names and values of its record before it.
func showManifest(w io.Writer, v *manifestView, before ...string) {
	pairs(w, append(before, "script", v.Name+" "+v.Version, "kind", v.Kind, "about", v.About, "sha256", v.SHA256)...)
	for n, a := range v.Asks {
		if n == 0 {
			printLine(w, "asks for:")
		}
		printLine(w, "  %s", askText(a))
	}
	for n, p := range v.Parameters {
		if n == 0 {
			printLine(w, "parameters:")
		}
		printLine(w, "  %s (%s)  %s", p.Name, p.kind(), p.About)
	}
	for n, r := range v.Records {
		if n == 0 {
			printLine(w, "further records:")
		}
		printLine(w, "  %s (%s)  %s", r.Name, r.As, r.About)
	}
}

// kind is what the parameter may be, in a few words.
func (p parameterView) kind() string {
	text := p.Type
	if len(p.Values) > 0 {
		text = strings.Join(p.Values, " or ")
	}
	if p.Pattern != "" {
		text += " like " + p.Pattern
	}
	if p.Required {
		return text + ", required"
	}
	b, _ := json.Marshal(p.Default) // a default of a manifest is JSON's
	return text + ", else " + string(b)
}

func askText(a script.Ask) string {
	if a.Why == "" {
		return a.What
	}
	return a.What + ": " + a.Why
}
