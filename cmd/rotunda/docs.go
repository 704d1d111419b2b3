package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// docsCmd writes the reference that docs/cli.md is. A test holds that file
// against what this prints.
func (c *cli) docsCmd() *cobra.Command {
	var out string
	cmd := c.leaf("docs", "write the command reference as Markdown", func(context.Context, []string) error {
		page := reference(c.tree())
		if out == "" {
			_, err := c.p.stdout.Write(page)
			return err
		}
		if err := os.WriteFile(c.p.path(out), page, 0o644); err != nil {
			return failf(exitUsage, "file_unwritable", "cannot write %s: %w", out, err)
		}
		return nil
	})
	cmd.Hidden = true
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: standard output)")
	return cmd
}

// reference renders every visible command, the exit codes and the form of errors.
func reference(root *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# The command line\n\nMade from the program by `go run ./cmd/rotunda docs --out docs/cli.md`; do not edit.\n\n")
	fmt.Fprintf(&b, "%s\n\n", root.Long)
	writeExitCodes(&b)
	writeReasons(&b)
	fmt.Fprintf(&b, "## Every command's flags\n\n%s\n", flagTable(root.PersistentFlags()))
	for _, cmd := range visible(root) {
		if cmd == root {
			continue
		}
		writeCommand(&b, cmd)
	}
	return b.Bytes()
}

func writeExitCodes(w io.Writer) {
	fmt.Fprint(w, "## Exit codes\n\nAll programs use one table.\n\n| code | name | `rotunda` | `rotunda-server`, `rotunda-agent` |\n|---|---|---|---|\n")
	for _, row := range exitcode.Table() {
		fmt.Fprintf(w, "| %d | `%s` | %s | %s |\n", row.Code, row.Name, row.Meaning, row.Service)
	}
	fmt.Fprint(w, "\nAn error of `rotunda` is text on standard error: what failed, on what, its reason code in\nparentheses, below it what a program said that was run (in JSON: `output`), and `hint:`\nlines that say what to do. With `--json` it is one line:\n\n"+
		"```json\n{\"error\":{\"reason\":\"conflict\",\"message\":\"…\",\"hint\":\"…\",\"exit\":5}}\n```\n\n"+
		"Reasons are stable codes; messages are not, so match reasons and exit codes.\n\n"+
		"The errors of `rotunda-server` and `rotunda-agent` are text without a reason. The commands of `rotunda-agent plugin`\n"+
		"take `--json`, too: their result is JSON, and an error is such a line, whose reason is a check's or the name of the\n"+
		"exit code.\n\n")
}

// writeReasons lists the reason codes of checks that refused what was served; classes
// of other errors say what failed by themselves.
func writeReasons(w io.Writer) {
	fmt.Fprint(w, "## Reason codes of checks\n\nClients and agents check what the server shows them. These are the codes of what they refuse, in errors, events\n"+
		"and agents' logs.\n\n| reason | meaning | what to do |\n|---|---|---|\n")
	for _, r := range trust.Reasons() {
		fmt.Fprintf(w, "| `%s` | %s | %s |\n", r.Reason, r.Meaning, r.Do)
	}
	fmt.Fprintln(w)
}

func writeCommand(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, "## %s\n\n", cmd.CommandPath())
	fmt.Fprintf(w, "%s.\n\n", upperFirst(cmd.Short))
	if cmd.HasAvailableSubCommands() {
		if cmd.Long != "" {
			fmt.Fprintf(w, "%s\n\n", cmd.Long)
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(w, "- `%s`: %s\n", sub.UseLine(), sub.Short)
			}
		}
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintf(w, "```\n%s\n```\n\n", cmd.UseLine())
	if cmd.Long != "" {
		fmt.Fprintf(w, "%s\n\n", cmd.Long)
	}
	if t := flagTable(cmd.LocalNonPersistentFlags()); t != "" {
		fmt.Fprintf(w, "%s\n", t)
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "```sh\n%s\n```\n\n", strings.TrimPrefix(strings.ReplaceAll(cmd.Example, "\n  ", "\n"), "  "))
	}
}

func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if b.Len() == 0 {
			b.WriteString("| flag | meaning |\n|---|---|\n")
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", "\\|"))
	})
	return b.String()
}

// visible walks the commands that help shows, parents first.
func visible(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			list = append(list, visible(sub)...)
		}
	}
	return list
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
