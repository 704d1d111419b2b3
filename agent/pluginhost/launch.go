package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	maxHandshake = 8 << 10
	bufferSize   = 64 << 10
	exitGrace    = time.Second // for output that is still in the pipes, and for an exit to be seen
)

// launch starts a process for go-plugin, which knows it as a runner. go-plugin sees
// the handshake line and nothing else that the process prints.
type launch struct {
	jail    *jail
	where   confinement
	name    string
	env     []string
	death   *os.File // the child's end of the death pipe; nil on Windows
	out     *output
	ctx     context.Context // its end kills the process, until unwatch is called
	readers sync.WaitGroup

	child   *child
	unwatch func() bool
	hello   *io.PipeReader
	silent  chan struct{} // closed when standard output gave its line or ended
	// crashed says that the process had ended by itself when go-plugin gave up.
	crashed bool
}

// Start makes the process. What it inherits: standard input from the null device, two
// pipes, and the death pipe.
func (l *launch) Start(context.Context) error {
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		_, _ = outR.Close(), outW.Close()
		return err
	}
	cmd := exec.Command(l.where.binary)
	cmd.Args = []string{l.name}
	cmd.Dir = "/"
	if runtime.GOOS == "windows" {
		cmd.Dir = l.where.folder.dir
	}
	cmd.Env = l.env
	cmd.Stdout, cmd.Stderr = outW, errW
	if l.death != nil {
		cmd.ExtraFiles = []*os.File{l.death}
	}
	l.child, err = l.jail.start(cmd, l.where)
	_, _ = outW.Close(), errW.Close() // else their end of file never comes
	if err != nil {
		_, _ = outR.Close(), errR.Close()
		return err
	}
	l.unwatch = context.AfterFunc(l.ctx, l.child.kill)
	l.silent = make(chan struct{})
	hello, helloW := io.Pipe()
	l.hello = hello
	l.readers.Go(func() {
		r := bufio.NewReaderSize(outR, bufferSize)
		line, err := firstLine(r, maxHandshake)
		close(l.silent)
		_, _ = helloW.Write(line)
		_ = helloW.Close()
		if err == nil || err == io.ErrShortBuffer {
			l.out.read(r)
		}
		_ = outR.Close()
	})
	l.readers.Go(func() {
		l.out.read(bufio.NewReaderSize(errR, bufferSize))
		_ = errR.Close()
	})
	go func() { // ends with the child
		<-l.child.exited
		done := make(chan struct{})
		go func() { l.readers.Wait(); close(done) }()
		t := time.NewTimer(exitGrace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C: // a child of the child holds the pipes
			_, _ = outR.Close(), errR.Close()
		}
		_ = hello.Close()
	}()
	return nil
}

// Kill is called by go-plugin when the handshake failed.
func (l *launch) Kill(context.Context) error {
	if l.child == nil {
		return nil
	}
	t := time.NewTimer(exitGrace)
	defer t.Stop()
	select {
	case <-l.silent: // it may be about to end
		select {
		case <-l.child.exited:
			l.crashed = true
		case <-t.C:
		}
	default:
	}
	l.child.kill()
	return nil
}

// Wait returns when the process has been reaped.
func (l *launch) Wait(context.Context) error { <-l.child.exited; return nil }

// Stdout is the handshake line.
func (l *launch) Stdout() io.ReadCloser { return l.hello }

// Stderr is kept from go-plugin: see output.
func (l *launch) Stderr() io.ReadCloser { return io.NopCloser(bytes.NewReader(nil)) }

// Name is the plugin's.
func (l *launch) Name() string { return l.name }

// ID is the process id.
func (l *launch) ID() string { return fmt.Sprint(l.child.cmd.Process.Pid) }

// Diagnose has nothing to add.
func (l *launch) Diagnose(context.Context) string { return "" }

// PluginToHost keeps a plugin from having the agent connect to anything but the
// socket in its private folder (on Windows, where go-plugin uses TCP: this machine).
func (l *launch) PluginToHost(network, address string) (string, string, error) {
	if runtime.GOOS == "windows" {
		host, _, err := net.SplitHostPort(address)
		if network != "tcp" || err != nil || host != "127.0.0.1" {
			return "", "", fmt.Errorf("it listens on %s %q, not on the loopback", network, address)
		}
		return network, address, nil
	}
	path := filepath.Join(l.where.folder.at, filepath.Base(address))
	info, err := os.Lstat(path)
	if network != "unix" || filepath.Dir(address) != l.where.folder.dir || err != nil || info.Mode().Type() != os.ModeSocket {
		return "", "", fmt.Errorf("it listens on %s %q, not on a socket in its folder", network, address)
	}
	return network, path, nil
}

// HostToPlugin is not used.
func (l *launch) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// handshakeEnv is what go-plugin wants a plugin to know. Its socket folder is left
// out: the plugin makes its socket in its TMPDIR, whose path is shorter.
func handshakeEnv(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "PLUGIN_UNIX_SOCKET_DIR=") {
			out = append(out, e)
		}
	}
	return out
}
