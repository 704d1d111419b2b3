package pluginv1

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// The agent's own host. Where a job has it, a script's plugin asks the agent to run a
// program there, to read or write a file, or for what it has put away: it dials LocalNetwork and LocalAddress, once
// for each request:
//
//	plugin                                              agent
//	  | head len 4 | body len 4 | head JSON | body        |
//	  | ------------------------------------------------> |  checks, does it
//	  | <------------------------------------------------ |
//	  | head len 4 | body len 4 | head JSON | body        |
//
// Numbers are big-endian. A request's head is a LocalRequest, its body what the program
// reads or the file is to hold; an answer's head is a LocalAnswer, its body what the program
// printed or the file holds. Secrets are in bodies only. The plugin keeps its side open until
// the answer: its end ends the program.
const (
	MaxLocalHead = 256 << 10
	MaxLocalBody = 1 << 20   // also the most that a file is read to or written with
	MaxPrinted   = 64 << 10  // of each of a program's outputs; the rest is dropped
	MaxArgs      = 256       // arguments of a program
	MaxArgBytes  = 128 << 10 // of all of them together
)

// LocalRequest has exactly one of its parts.
type LocalRequest struct {
	Exec  *LocalExec  `json:"exec,omitempty"`
	Read  *LocalRead  `json:"read,omitempty"`
	Write *LocalWrite `json:"write,omitempty"`
	State *LocalState `json:"state,omitempty"`
}

// LocalExec runs a program. The body is its standard input.
type LocalExec struct {
	Program string   `json:"program"` // absolute
	Args    []string `json:"args"`    // without the program's name
	Timeout int64    `json:"timeout"` // milliseconds
}

// LocalRead reads a file.
type LocalRead struct {
	Path string `json:"path"`
	Max  int    `json:"max"` // bytes; a file with more is an error
}

// LocalWrite puts a file in a file's place. The body is what it holds.
type LocalWrite struct {
	Path   string  `json:"path"`
	Mode   *uint32 `json:"mode,omitempty"` // permissions; absent: as they are, and 0600 for a new file
	Backup bool    `json:"backup,omitempty"`
}

// StateName says whether a script can put something away by a name.
func StateName(name string) bool { return stateName.MatchString(name) }

var stateName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// LocalState gets what the script has put away by a name, puts it away or forgets it. The
// body is what is put away.
type LocalState struct {
	Name   string `json:"name"`
	Set    bool   `json:"set,omitempty"`
	Secret bool   `json:"secret,omitempty"` // with set: it is to be a secret again
	Forget bool   `json:"forget,omitempty"`
}

// LocalAnswer has an error or what was asked for.
type LocalAnswer struct {
	Error   *LocalError `json:"error,omitempty"`
	Exit    int         `json:"exit,omitempty"`    // of the program; -1: a signal ended it
	Signal  string      `json:"signal,omitempty"`  // its name
	Stdout  int         `json:"stdout,omitempty"`  // bytes of the body that are standard output; the rest is standard error
	Dropped int64       `json:"dropped,omitempty"` // bytes of either that are not in the body
	Changed bool        `json:"changed,omitempty"` // by Write: the file was not so before
	Known   bool        `json:"known,omitempty"`   // by State: something was put away; the body
	Secret  bool        `json:"secret,omitempty"`  // likewise: as a secret
}

// LocalError is an sdk.Error.
type LocalError struct {
	Class   string `json:"class"`
	Reason  string `json:"reason"`
	NotSent bool   `json:"not_sent,omitempty"`
	Text    string `json:"text,omitempty"`
}

// ErrLocal is any violation of these frames.
var ErrLocal = errors.New("malformed local frame")

const localSizes = 8

// WriteLocal writes a request or an answer.
func WriteLocal(w io.Writer, head any, body []byte) error {
	h, err := json.Marshal(head)
	if err != nil {
		return err
	}
	if len(h) > MaxLocalHead || len(body) > MaxLocalBody {
		return fmt.Errorf("%w: %d and %d bytes, at most %d and %d are taken", ErrLocal, len(h), len(body), MaxLocalHead, MaxLocalBody)
	}
	b := make([]byte, localSizes, localSizes+len(h))
	binary.BigEndian.PutUint32(b, uint32(len(h)))
	binary.BigEndian.PutUint32(b[4:], uint32(len(body)))
	if _, err := w.Write(append(b, h...)); err != nil {
		return err
	}
	if len(body) == 0 {
		return nil
	}
	_, err = w.Write(body)
	return err
}

// ReadLocal reads exactly one of them into head, and never beyond it. A name that head does
// not have is an error: what somebody asks for is not to be passed over.
func ReadLocal(r io.Reader, head any) (body []byte, err error) {
	var sizes [localSizes]byte
	if _, err := io.ReadFull(r, sizes[:]); err != nil {
		return nil, err
	}
	h, n := binary.BigEndian.Uint32(sizes[:]), binary.BigEndian.Uint32(sizes[4:])
	if h > MaxLocalHead || n > MaxLocalBody {
		return nil, ErrLocal
	}
	text := make([]byte, h)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, cutOff(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocal, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one head", ErrLocal)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		clear(body)
		return nil, cutOff(err)
	}
	return body, nil
}

// cutOff is the end of a frame within it.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
