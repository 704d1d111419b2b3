package main

import (
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/internal/terminal"
)

// meter shows how far long work is: one line that is written anew on a
// terminal, a line a second elsewhere, nothing with --quiet or --json.
type meter struct {
	c    *cli
	what string
	last time.Time
	n    int
}

func (c *cli) meter(what string) *meter { return &meter{c: c, what: what, last: c.p.now()} }

// at tells how many are done.
func (m *meter) at(n int) {
	m.n = n
	now := m.c.p.now()
	if m.c.quiet || m.c.json || now.Sub(m.last) < m.every() {
		return
	}
	m.last = now
	if t, ok := m.c.p.stderr.(*terminal.Writer); ok {
		t.Again(m.line())
		return
	}
	printLine(m.c.p.stderr, "%s", m.line())
}

func (m *meter) line() string { return fmt.Sprintf("%s %d", m.what, m.n) }

func (m *meter) every() time.Duration {
	if _, ok := m.c.p.stderr.(*terminal.Writer); ok {
		return 100 * time.Millisecond
	}
	return time.Second
}

// end leaves the line.
func (m *meter) end() {
	if t, ok := m.c.p.stderr.(*terminal.Writer); ok && !m.c.quiet && !m.c.json && m.n > 0 {
		t.Again(m.line())
		fmt.Fprintln(t)
	}
}
