package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// Bounds of a dialogue.
const (
	maxUnread   = 64 << 10 // of what the device says and nobody expected yet
	maxLine     = 1024     // bytes that are sent at once: terminals cut longer lines
	maxPatterns = 16
	maxExpected = 1000 // steps of a pattern
)

// dialogue is a conversation with a device that has only a terminal. A goroutine reads
// ahead, as far as somebody takes what it reads; all else is done by whoever calls.
type dialogue struct {
	w       io.Writer
	end     func() // says goodbye
	cut     func() // ends the connection, whoever is waiting
	newline string

	chunks chan []byte
	gone   chan struct{} // closed by close
	once   sync.Once
	err    error // why chunks was closed

	cleaner terminal
	unread  []byte
	ended   bool
	sent    [][]byte // secrets, which a device may echo
}

func newDialogue(r io.Reader, w io.Writer, end, cut func(), newline string) *dialogue {
	d := &dialogue{w: w, end: end, cut: cut, newline: newline, chunks: make(chan []byte), gone: make(chan struct{})}
	go d.read(r)
	return d
}

func (d *dialogue) read(r io.Reader) {
	defer close(d.chunks)
	for {
		b := make([]byte, 4096)
		n, err := r.Read(b)
		if n > 0 {
			select {
			case d.chunks <- b[:n]:
			case <-d.gone:
				return
			}
		}
		if err != nil {
			d.err = err
			return
		}
	}
}

func (d *dialogue) close() {
	d.once.Do(func() {
		close(d.gone)
		deaf := time.AfterFunc(hangUp, d.cut)
		defer deaf.Stop()
		d.end()
	})
}

// say sends a line.
func (d *dialogue) say(ctx context.Context, line []byte, newline string, isSecret bool) *sdk.Error {
	select {
	case <-d.gone:
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dialogue.closed", NotSent: true, Err: errClosed}
	default:
	}
	if isSecret && len(line) >= scrub.MinLen {
		d.sent = append(d.sent, bytes.Clone(line))
	}
	stop := context.AfterFunc(ctx, d.cut)
	_, err := d.w.Write(append(bytes.Clone(line), newline...))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		failed := unreached(ctx, err)
		failed.NotSent = false
		return failed
	}
	return nil
}

// found is what a pattern matched.
type found struct {
	index    int      // of the pattern, from 1
	captures [][]byte // the whole match first; nil: a group that took no part
	before   []byte
}

// expect waits until one of the patterns matches what the device said since the last match,
// and takes it away up to the end of the match. Where several match, the first counts.
func (d *dialogue) expect(ctx context.Context, patterns []*regexp.Regexp) (found, *sdk.Error) {
	for {
		for n, p := range patterns {
			at := p.FindSubmatchIndex(d.unread)
			if at == nil {
				continue
			}
			f := found{index: n + 1, before: d.hide(d.unread[:at[0]])}
			for i := 0; i < len(at); i += 2 {
				var c []byte
				if at[i] >= 0 {
					c = d.hide(d.unread[at[i]:at[i+1]])
				}
				f.captures = append(f.captures, c)
			}
			d.unread = bytes.Clone(d.unread[at[1]:])
			return f, nil
		}
		fail := func(reason string, err error) (found, *sdk.Error) {
			return found{}, &sdk.Error{Class: sdk.ClassUnreachable, Reason: reason, Err: err}
		}
		switch {
		case d.ended:
			return fail("dialogue.closed", errors.New("the device ended the dialogue"+d.last()))
		case len(d.unread) >= maxUnread:
			return fail("dialogue.too_much", errors.New("the device says more than anybody expects"+d.last()))
		}
		if !d.hear(ctx) {
			return fail("dialogue.timeout", errors.New("the device says nothing that was expected"+d.last()))
		}
	}
}

// hear takes what the device says next. Much of it is taken together, so that a device
// that says one byte at a time does not have every pattern tried for each.
func (d *dialogue) hear(ctx context.Context) bool {
	if d.chunks == nil { // a recording: nothing comes by itself
		return false
	}
	take := func(b []byte, ok bool) {
		d.ended = !ok
		d.unread = d.cleaner.add(d.unread, b)
	}
	select {
	case b, ok := <-d.chunks:
		take(b, ok)
	case <-d.gone:
		d.ended = true
		return true
	case <-ctx.Done():
		return false
	}
	if len(d.unread) < 4096 {
		return true
	}
	pause := time.NewTimer(5 * time.Millisecond)
	defer pause.Stop()
	for !d.ended && len(d.unread) < maxUnread {
		select {
		case b, ok := <-d.chunks:
			take(b, ok)
		case <-pause.C:
			return true
		}
	}
	return true
}

// hide takes the secrets that were sent out of what the device says.
func (d *dialogue) hide(b []byte) []byte {
	b = bytes.Clone(b)
	for _, s := range d.sent {
		b = bytes.ReplaceAll(b, s, []byte(placeholder))
	}
	return b
}

// last is the end of what was not expected, for an error.
func (d *dialogue) last() string {
	b := d.hide(d.unread)
	if len(b) == 0 {
		return ", and nothing before"
	}
	return "; the last was: " + string(bytes.ToValidUTF8(b[max(0, len(b)-200):], []byte("?")))
}

// terminal takes out of what a device sends what is not text: escape sequences, carriage
// returns and other control characters. A sequence may come in pieces.
type terminal struct{ in byte }

// States of a terminal: outside of a sequence it is zero.
const (
	escape        = 1 // after ESC
	control       = 2 // CSI, which ends with a letter or the like
	command       = 3 // OSC and its kin, which end with BEL or ESC \
	commandEscape = 4
	intermediate  = 5 // ESC with a space, a bracket and so on: one more byte
)

func (t *terminal) add(to, b []byte) []byte {
	for _, c := range b {
		switch t.in {
		case escape:
			switch {
			case c == '[':
				t.in = control
			case c == ']' || c == 'P' || c == '^' || c == '_' || c == 'X':
				t.in = command
			case c >= 0x20 && c <= 0x2f:
				t.in = intermediate
			case c != 0x1b:
				t.in = 0
			}
		case control:
			if c >= 0x40 && c <= 0x7e {
				t.in = 0
			} else if c == 0x1b {
				t.in = escape
			}
		case command:
			if c == 0x07 {
				t.in = 0
			} else if c == 0x1b {
				t.in = commandEscape
			}
		case commandEscape:
			t.in = command
			if c == '\\' {
				t.in = 0
			}
		case intermediate:
			if c < 0x20 || c > 0x2f {
				t.in = 0
			}
		default:
			switch {
			case c == 0x1b:
				t.in = escape
			case c == '\n' || c == '\t' || c >= 0x20 && c != 0x7f:
				to = append(to, c)
			}
		}
	}
	return to
}
