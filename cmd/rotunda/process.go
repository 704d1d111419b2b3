package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/rotunda-pam/rotunda/internal/durable"
	"github.com/rotunda-pam/rotunda/internal/fault"
)

// maxInputFile bounds every file and every standard input that is read whole.
const maxInputFile = 64 << 20

// process is all that a run of the program takes from its surroundings. main
// makes one from the operating system, a test makes another.
type process struct {
	args   []string // without the program's name
	getenv func(string) string

	stdin          io.Reader
	stdout, stderr io.Writer

	stdinTerminal  bool
	stdoutTerminal bool
	stderrTerminal bool
	hideInput      func() (restore func(), err error) // the terminal's echo is off until restore
	width          func() int                         // columns of the terminal; 0: unknown

	now func() time.Time

	dir      string // relative paths start here
	programs string // the folder of this program
	home     string // the user's configuration folder

	// notify delivers the signals that ask the program to stop; stop ends it.
	notify func(chan<- os.Signal) (stop func())

	goos, goarch string
}

func osProcess() *process {
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	home, err := os.UserConfigDir()
	if err != nil {
		home = dir
	}
	programs := ""
	if self, err := os.Executable(); err == nil {
		programs = filepath.Dir(self)
	}
	return &process{
		programs:       programs,
		args:           os.Args[1:],
		getenv:         os.Getenv,
		stdin:          os.Stdin,
		stdout:         os.Stdout,
		stderr:         os.Stderr,
		stdinTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		stdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		stderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		hideInput:      hideInput,
		width: func() int {
			w, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 0
			}
			return w
		},
		now:  fault.Now,
		dir:  dir,
		home: filepath.Join(home, "rotunda"),
		notify: func(c chan<- os.Signal) func() {
			signal.Notify(c, os.Interrupt, syscall.SIGTERM)
			return func() { signal.Stop(c) }
		},
		goos:   runtime.GOOS,
		goarch: runtime.GOARCH,
	}
}

// keepPipe has a write to a pipe that nobody reads fail, where it would end the program
// without a word: what was to be written is told of.
func (p *process) keepPipe() { signal.Ignore(syscall.SIGPIPE) }

// path makes a path that a person gave absolute.
func (p *process) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.dir, name)
}

// readFile reads a whole file of bounded size.
func (p *process) readFile(name string) ([]byte, error) {
	f, err := os.Open(p.path(name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, failf(exitNotFound, "file_missing", "no file %s", name)
		}
		return nil, failf(exitUsage, "file_unreadable", "cannot read %s: %w", name, err)
	}
	defer f.Close()
	return readBounded(f, name)
}

// readStdin reads standard input to its end.
func (c *cli) readStdin() ([]byte, error) {
	return unlessStopped(c, func() ([]byte, error) { return readBounded(c.p.stdin, "standard input") })
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxInputFile+1))
	if err != nil {
		return nil, failf(exitUsage, "file_unreadable", "read %s: %w", name, err)
	}
	if len(b) > maxInputFile {
		return nil, failf(exitUsage, "too_large", "%s is larger than %d MiB", name, maxInputFile>>20)
	}
	return b, nil
}

// newFile is a file that is being made: only its owner reads it, and an existing
// one is never overwritten, since what it holds may be the only copy of a key.
type newFile struct {
	name string
	f    *os.File
	kept bool
}

// reserve makes the file, empty, so that what is made for it has a place: a secret
// that is shown once must not be made before it can be kept. No name, no file.
func (p *process) reserve(name string) (*newFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(p.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, failf(exitConflict, "file_exists", "%s exists and is not overwritten", name).
				withHint("choose another name, or move the file away first")
		}
		return nil, failf(exitUsage, "file_unwritable", "cannot write %s: %w", name, err)
	}
	return &newFile{name: name, f: f}, nil
}

// keep writes the file's content, durably.
func (n *newFile) keep(data []byte) error {
	_, err := n.f.Write(data)
	if err == nil {
		err = n.f.Sync()
	}
	err = errors.Join(err, n.f.Close())
	if err == nil {
		err = durable.Folder(filepath.Dir(n.f.Name()))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", n.name, err)
	}
	n.kept = true
	return nil
}

// drop removes the file if nothing was kept in it. A nil file is none.
func (n *newFile) drop() {
	if n == nil || n.kept {
		return
	}
	_ = n.f.Close()
	_ = os.Remove(n.f.Name())
}
