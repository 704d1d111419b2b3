package main

import (
	"bytes"
	"errors"
	"net"
	"sync"
)

// Telnet's commands (RFC 854, 855).
const (
	tnSE   = 240
	tnSB   = 250
	tnWILL = 251
	tnWONT = 252
	tnDO   = 253
	tnDONT = 254
	tnIAC  = 255
)

// maxOffers bounds what the other side may want to agree upon.
const maxOffers = 100

var errOffers = errors.New("telnet: the other side does not stop negotiating")

// telnetLine is a telnet connection as text. Whatever the other side offers or asks for is
// refused, so that both stay what every telnet is: a line of characters.
type telnetLine struct {
	net.Conn
	filter telnetFilter
	write  sync.Mutex // refusals and what is sent
}

// Read reads text, and answers offers on its way.
func (l *telnetLine) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		text, refusals := l.filter.take(b[:n])
		n = copy(b, text)
		if len(refusals) > 0 && err == nil {
			l.write.Lock()
			_, err = l.Conn.Write(refusals)
			l.write.Unlock()
		}
		if err == nil && l.filter.offers > maxOffers {
			err = errOffers
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends text.
func (l *telnetLine) Write(b []byte) (int, error) {
	l.write.Lock()
	defer l.write.Unlock()
	if _, err := l.Conn.Write(bytes.ReplaceAll(b, []byte{tnIAC}, []byte{tnIAC, tnIAC})); err != nil {
		return 0, err
	}
	return len(b), nil
}

// telnetFilter takes commands out of what comes; they may come in pieces.
type telnetFilter struct {
	state  byte // 0: text; else what came before
	verb   byte // of an offer
	offers int
}

const (
	tnCommand = 1 // after IAC
	tnOption  = 2 // after a verb
	tnInside  = 3 // in a subnegotiation
	tnLeaving = 4 // in one, after IAC
)

// take gives the text in b, in b's own memory, and the refusals to send.
func (f *telnetFilter) take(b []byte) (text, refusals []byte) {
	text = b[:0]
	for _, c := range b {
		switch f.state {
		case tnCommand:
			f.state = 0
			switch c {
			case tnIAC:
				text = append(text, c)
			case tnSB:
				f.state = tnInside
			case tnWILL, tnWONT, tnDO, tnDONT:
				f.state, f.verb = tnOption, c
			}
		case tnOption:
			f.state = 0
			f.offers++
			if f.offers > maxOffers {
				continue
			}
			switch f.verb { // WONT and DONT say what is so already: they get no answer
			case tnWILL:
				refusals = append(refusals, tnIAC, tnDONT, c)
			case tnDO:
				refusals = append(refusals, tnIAC, tnWONT, c)
			}
		case tnInside:
			if c == tnIAC {
				f.state = tnLeaving
			}
		case tnLeaving:
			f.state = tnInside
			if c == tnSE {
				f.state = 0
			}
		default:
			if c == tnIAC {
				f.state = tnCommand
			} else {
				text = append(text, c)
			}
		}
	}
	return text, refusals
}
