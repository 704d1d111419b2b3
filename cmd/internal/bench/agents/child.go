package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// roleVar tells a process of this program that it is a part of the measurement.
const roleVar = "ROTUNDA_BENCH_ROLE"

// play is a child's life: it reads its configuration, answers questions, a line each,
// and ends with its input.
func play(role string) error {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	switch role {
	case "crowd":
		return playCrowd(in, out)
	case "bare server":
		return playBareServer(in, out)
	case "bare crowd":
		return playBareCrowd(in, out)
	case "bare agent":
		return playBareAgent(in)
	}
	return errors.New("there is no such role")
}

// child is a process of this program in a role of its own: its memory and its
// processor time are not the measuring one's.
type child struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

func start(role string, config any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{role: role, cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), roleVar+"="+role)
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(c.in).Encode(config); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", role, err), c.close())
	}
	return c, nil
}

// ask sends a word and reads the answer. A child that does not answer while ctx lasts
// is ended.
func (c *child) ask(ctx context.Context, word string, answer any) error {
	stop := context.AfterFunc(ctx, func() { c.cmd.Process.Kill() })
	defer stop()
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	if err := c.out.Decode(answer); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s, asked to %s: %w", c.role, word, err)
	}
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// close ends the child by its input's end.
func (c *child) close() error {
	c.in.Close()
	late := time.AfterFunc(20*time.Second, func() { c.cmd.Process.Kill() })
	defer late.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	return nil
}

// config reads a child's configuration, its first line.
func config(in *bufio.Reader, into any) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return json.Unmarshal(line, into)
}

// word reads the next question; io.EOF: there are no more.
func word(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// raiseFiles lets this process and its children open a socket for each agent.
func raiseFiles(agents int) error {
	need := uint64(agents) + 500
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return err
	}
	if now.Cur >= need {
		return nil
	}
	want := syscall.Rlimit{Cur: need, Max: max(now.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("%d agents need %d open files, and this user may have %d: ulimit -n %d, or -agents %d: %w", agents, need, now.Max, need, max(1, int(now.Max)-500), err)
	}
	return nil
}

// perSource is how many connections come from one loopback address: below the server's
// bound for each.
const perSource = 2500

// source is where the connection of agent i comes from.
func source(i int) *net.Dialer {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/perSource))}
	return &net.Dialer{LocalAddr: at, KeepAlive: 30 * time.Second}
}
