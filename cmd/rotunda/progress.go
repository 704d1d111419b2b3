package main

import (
	"fmt"
	"time"
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
	if m.c.p.stderrTerminal {
		fmt.Fprintf(m.c.p.stderr, "\r%s %d", m.what, n)
		return
	}
	fmt.Fprintf(m.c.p.stderr, "%s %d\n", m.what, n)
}

func (m *meter) every() time.Duration {
	if m.c.p.stderrTerminal {
		return 100 * time.Millisecond
	}
	return time.Second
}

// end leaves the line.
func (m *meter) end() {
	if m.c.p.stderrTerminal && !m.c.quiet && !m.c.json && m.n > 0 {
		fmt.Fprintf(m.c.p.stderr, "\r%s %d\n", m.what, m.n)
	}
}
