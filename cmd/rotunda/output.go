package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// output keeps the first error of what is written to it, and writes nothing after it.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

// emit prints a command's result: v as one line of JSON, or the text.
func (c *cli) emit(v any, text func(w io.Writer)) error {
	out := &output{w: c.p.stdout}
	if c.json {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil && out.err == nil {
			return fmt.Errorf("write the result: %w", err)
		}
	} else {
		text(out)
	}
	if out.err != nil {
		return outputLost(out.err)
	}
	return nil
}

// outputLost is a result that could not be written.
func outputLost(err error) *failure {
	return failf(exitInternal, "output_lost", "the result could not be written: %w", err).
		withHint("what the command changed stands: look at that before you give it again")
}

// secretLost is the only copy of a secret that could not be written: what it opens
// was made all the same, and undo is the command that ends it.
func secretLost(err error, what, undo string) *failure {
	return failf(exitInternal, "output_lost", "%s was made, and could not be written, and there is no other copy: %w", what, err).
		withHint("nobody can use it: `%s`, then make it anew", undo)
}

// note tells what goes on. It is not part of the result.
func (c *cli) note(format string, args ...any) {
	if c.quiet || c.json {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	printLine(c.p.stderr, format, args...)
}

// about tells what the next question is about: also with --json and --quiet, where it
// will be asked.
func (c *cli) about(format string, args ...any) {
	if !c.willAsk() {
		c.note(format, args...)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	printLine(c.p.stderr, format, args...)
}

// warn tells what a person must not miss, also with --json and --quiet.
func (c *cli) warn(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	printLine(c.p.stderr, "warning: "+format, args...)
}

// printLine prints one line, whatever is in it: names and texts come from other people,
// from targets and from the server. Text for people is printed by this, table and pairs
// alone; a value that is to be exact, and JSON, go as they are, and on a terminal through
// its Writer (see run).
func printLine(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, terminal.Line(fmt.Sprintf(format, args...)))
}

// table prints rows under a heading, columns aligned.
func table(w io.Writer, heading []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.ToUpper(strings.Join(heading, "\t")))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = terminal.Line(cell)
			if cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	tw.Flush()
}

// pairs prints a name and a value a line; empty values are left out. A value without a name
// goes on with the one before it (see lines).
func pairs(w io.Writer, list ...string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i+1] == "" {
			continue
		}
		name := list[i]
		if name != "" {
			name += ":"
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, terminal.Line(list[i+1]))
	}
	tw.Flush()
}

// lines are pairs of a text that has more than one line, such as a script's log. A line that
// looks like another pair is still seen to be none: it has no name before it.
func lines(name, text string) (list []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			list = append(list, name, line)
			name = ""
		}
	}
	return list
}

// timeText is how people read a moment, in local time.
const timeText = "2006-01-02 15:04:05"

// when prints a moment for a person; the zero time is never.
func (c *cli) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(timeText)
}

// ago prints how long before now a moment was, in its largest unit.
func (c *cli) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := c.p.now().Sub(t)
	if d < 0 {
		return "in " + roughly(-d)
	}
	return roughly(d) + " ago"
}

// roughly prints a duration in its largest unit: how long ago something was. What is
// set or signed is printed in full (package span).
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// local is a moment of JSON as a person reads it.
func local(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.Local().Format(timeText)
}

// stamp is a moment in JSON: RFC 3339 in UTC, nothing for the zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
