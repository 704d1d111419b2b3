package main

import (
	"bytes"
	"fmt"
)

// recording is a conversation with a device as it once was, for a script's test: what the
// device said and what was sent, by turns. It holds the script to it: what is sent must be
// the next that was sent then, and the device says no more than it said.
type recording struct {
	d     *dialogue
	turns [][]byte // the device's first
	next  int
	wrong error // the first that was sent beside it
}

// recorded reads a recording and makes a dialogue of it.
func (a *args) recorded(n int) (*dialogue, *recording) {
	turns, _ := a.list(n)
	if len(turns) == 0 {
		a.bad(n, "want a list of texts: what the device says first, what is sent then, and so on by turns")
	}
	r := &recording{turns: turns}
	r.d = &dialogue{w: r, newline: "\r", end: func() {}, cut: func() {}, gone: make(chan struct{})}
	r.says()
	return r.d, r
}

// says has the device say its turn.
func (r *recording) says() {
	if r.next < len(r.turns) {
		r.d.unread = r.d.cleaner.add(r.d.unread, r.turns[r.next])
		r.next++
	}
	// Nothing follows the device's last words: it has hung up.
	r.d.ended = r.next >= len(r.turns)
}

// Write takes what the script sends, a line at a time.
func (r *recording) Write(b []byte) (int, error) {
	line := bytes.TrimRight(b, "\r\n")
	switch {
	case r.wrong != nil:
		return 0, r.wrong
	case r.next >= len(r.turns):
		r.wrong = fmt.Errorf("dialogue: the script sends %q where the recording is at its end", line)
		return 0, r.wrong
	case !bytes.Equal(line, r.turns[r.next]):
		r.wrong = fmt.Errorf("dialogue: the script sends %q where the recording has %q", line, r.turns[r.next])
		return 0, r.wrong
	}
	r.next++
	r.says()
	return len(b), nil
}

// played is what is wrong with how the recordings were played: with what was sent, and, where
// the test went well otherwise, with what was not.
func (t *tests) played(well bool) error {
	for _, r := range t.recordings {
		if r.wrong != nil {
			return r.wrong
		}
		if well && r.next < len(r.turns) {
			return fmt.Errorf("dialogue: the recording goes on (%d texts are left): the script has not sent %q", len(r.turns)-r.next, r.turns[r.next])
		}
	}
	return nil
}
