//go:build unix

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// environment is all that a program gets of one.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

const (
	endGrace  = 2 * time.Second // from the polite signal to the other
	reapGrace = 3 * time.Second // from there to what is left being left
)

// end is how a program ended.
type end struct {
	code           int    // -1 where a signal ended it
	signal         string // its name
	ended          bool   // by us: the time was over, or nobody waited any more
	stdout, stderr kept
}

// kept is the beginning of an output.
type kept struct {
	b       []byte
	dropped int64
}

func (k *kept) Write(p []byte) (int, error) {
	n := min(len(p), pluginv1.MaxPrinted-len(k.b))
	k.b = append(k.b, p[:n]...)
	k.dropped += int64(len(p) - n)
	return len(p), nil
}

// run runs a program until it ends or ctx does, and ends what it left running.
func run(ctx context.Context, path string, args []string, stdin []byte) (*end, error) {
	file, real, err := findProgram(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	e := new(end)
	cmd := exec.CommandContext(ctx, "")
	cmd.Dir, cmd.Env = "/", environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &e.stdout, &e.stderr
	cmd.WaitDelay = endGrace + reapGrace
	if err := start(cmd, file, real, append([]string{path}, args...), e); err != nil {
		return nil, err
	}
	return e, nil
}

// status is an exit status as end has it.
func (e *end) status(s syscall.WaitStatus) {
	e.code = s.ExitStatus()
	if s.Signaled() {
		e.code, e.signal = -1, unix.SignalName(s.Signal())
	}
}

// notStarted is an error of what never ran.
func notStarted(path string, why error) error {
	return refuse(sdk.ClassInternal, Program, fmt.Errorf("%s was not started: %w", path, why))
}

// whyNot says what the kernel meant.
func whyNot(err error) string {
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return "it is no program of this system: a script begins with #! and its interpreter"
	case errors.Is(err, unix.ENOENT):
		return "its interpreter is not there: look at the line after #!"
	}
	return err.Error()
}
