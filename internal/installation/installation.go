// Package installation runs a whole Rotunda on loopback as its users do: the built
// programs as processes, with an organisation made by the command line. Demo,
// benchmark and end-to-end tests stand on it.
package installation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// startTime bounds the start of one program.
const startTime = 30 * time.Second

// Options of an installation.
type Options struct {
	Bin string    // folder of rotunda, rotunda-server, rotunda-agent, plugins/
	Dir string    // everything is kept below; must be reachable for other users (mode 0711)
	Log io.Writer // what the programs log; nil: files in Dir only
	Env []string  // added to the programs' environment
	Tap bool      // keep what passes between the server and everybody else

	// Curious is a server's program in place of Bin's, with fault points: one that writes
	// down what it decrypts. Bin itself may hold such a server.
	Curious string
	Listen  bool // keep what a server with fault points decrypts
}

// Installation is a running one. Close ends its processes.
type Installation struct {
	Options
	Server *Process
	Addr   string // host:port of the server

	tap    *tap
	listen string // where the server itself listens

	mu     sync.Mutex
	agents []*Agent
}

// Start starts a server, makes an organisation on it and unlocks the command
// line's device.
func Start(ctx context.Context, o Options) (*Installation, error) {
	i := &Installation{Options: o}
	for _, d := range []string{"server", "home", "log", "fault/server"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if o.Listen {
		if err := os.WriteFile(i.heard(), nil, 0o600); err != nil {
			return nil, err
		}
	}
	if o.Tap {
		var err error
		if i.tap, err = newTap(); err != nil {
			return nil, err
		}
	}
	if err := i.StartServer(ctx); err != nil {
		i.Close()
		return nil, err
	}
	if err := i.found(ctx); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// KitRecipient is whom the recovery kit is made for: nobody has the key. A kit for a
// passphrase takes a second of a processor, and of installations there are many.
const KitRecipient = "age1nqez3ta5k22xaq6nyumye2tnj2mgtu9mdrvdkva7e20wmedy74esdeprrc"

// Passphrase locks every device's store of an installation.
const Passphrase = "a passphrase for this loopback installation"

// found makes the organisation. The passphrases are throw-away, in files as in
// automation.
func (i *Installation) found(ctx context.Context) error {
	if err := os.WriteFile(i.passphrase(), []byte(Passphrase+"\n"), 0o600); err != nil {
		return err
	}
	_, err := i.CLI(ctx, nil, "org", "init", "--server", i.Addr, "--ca-file", filepath.Join(i.Dir, "server", "ca.crt"),
		"--name", "Ada", "--device", "laptop", "--kit", filepath.Join(i.Dir, "kit.age"), "--kit-recipient", KitRecipient,
		"--setup-code-file", filepath.Join(i.Dir, "server", "setup-code"), "--unlock-for", "12h")
	return err
}

func (i *Installation) passphrase() string { return filepath.Join(i.Dir, "passphrase") }

// StartServer starts the server, on the port that it had before.
func (i *Installation) StartServer(ctx context.Context) error {
	listen := i.listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	program := i.Curious
	if program == "" {
		program = filepath.Join(i.Bin, "rotunda-server")
	}
	p, err := i.process("server", []string{"ROTUNDA_FAULT_DIR=" + i.ServerFault()}, program, "serve",
		"--data", filepath.Join(i.Dir, "server"), "--listen", listen, "--name", "127.0.0.1", "--log-format", "json")
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	line, err := p.WaitLog(ready, 0, `"msg":"serving"`)
	if err != nil {
		return err
	}
	var said struct {
		Address struct {
			IP   string
			Port int
		} `json:"address"`
	}
	if err := json.Unmarshal([]byte(line), &said); err != nil || said.Address.Port == 0 {
		p.Kill()
		return fmt.Errorf("the server's address is not in %q: %w", line, err)
	}
	i.Server, i.listen = p, fmt.Sprintf("127.0.0.1:%d", said.Address.Port)
	i.Addr = i.listen
	if i.tap != nil {
		i.tap.mu.Lock()
		i.tap.target = i.listen
		i.tap.mu.Unlock()
		i.Addr = i.tap.listener.Addr().String()
	}
	return nil
}

// Database is the server's database file.
func (i *Installation) Database() string { return filepath.Join(i.Dir, "server", "rotunda.db") }

// ServerFault is the folder of the server's fault points, in builds that have them.
func (i *Installation) ServerFault() string { return filepath.Join(i.Dir, "fault", "server") }

// Wire is what has passed between the server and everybody else so far.
func (i *Installation) Wire() []byte {
	i.tap.mu.Lock()
	defer i.tap.mu.Unlock()
	return bytes.Clone(i.tap.seen.Bytes())
}

// Heard is what the server has decrypted so far: requests with their headers and bodies,
// the secrets-manager API's payloads, the channels' frames.
func (i *Installation) Heard() ([]byte, error) { return os.ReadFile(i.heard()) }

func (i *Installation) heard() string { return filepath.Join(i.ServerFault(), "heard") }

// Close ends every process, agents first.
func (i *Installation) Close() {
	i.mu.Lock()
	agents := i.agents
	i.agents = nil
	i.mu.Unlock()
	for _, a := range agents {
		if a.Process != nil { // else it was not started
			a.Stop()
		}
	}
	if i.Server != nil {
		i.Server.Stop()
	}
	if i.tap != nil {
		i.tap.close()
	}
}

// CLIError is a command that did not end with 0.
type CLIError struct {
	Args   []string
	Exit   int
	Stderr string
}

func (e *CLIError) Error() string {
	return fmt.Sprintf("rotunda %s: exit %d: %s", strings.Join(e.Args, " "), e.Exit, strings.TrimSpace(e.Stderr))
}

// CLIEnv is added to the environment of the command line.
func (i *Installation) CLIEnv() []string {
	home := filepath.Join(i.Dir, "home")
	return append([]string{"ROTUNDA_HOME=" + home, "XDG_RUNTIME_DIR=" + home, "ROTUNDA_PASSPHRASE_FILE=" + i.passphrase()}, i.Env...)
}

// CLI runs the command line and gives what it printed.
func (i *Installation) CLI(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(i.Bin, "rotunda"), args...)
	cmd.Env = append(os.Environ(), i.CLIEnv()...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.Bytes(), &CLIError{args, exit.ExitCode(), stderr.String()}
	}
	return stdout.Bytes(), err
}

// JSON runs the command line with --json and reads what it printed.
func (i *Installation) JSON(ctx context.Context, into any, stdin []byte, args ...string) error {
	out, err := i.CLI(ctx, stdin, append(args, "--json")...)
	if err != nil {
		return err
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("rotunda %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Agent is one agent of the installation.
type Agent struct {
	*Process
	i      *Installation
	Name   string
	Dir    string
	Fault  string   // folder of its fault points, in builds that have them
	Under  []string // a program, with arguments, that starts the agent's
	health string
}

// AddAgent makes a token, enrols an agent with it, and starts it.
func (i *Installation) AddAgent(ctx context.Context, name, pool string) (*Agent, error) {
	a, err := i.PrepareAgent(ctx, name, pool)
	if err != nil {
		return nil, err
	}
	if err := a.Enrol(ctx); err != nil {
		return nil, err
	}
	return a, a.Start(ctx)
}

// PrepareAgent makes an agent's token and its settings.
func (i *Installation) PrepareAgent(ctx context.Context, name, pool string) (*Agent, error) {
	a := &Agent{i: i, Name: name, Dir: filepath.Join(i.Dir, name), Fault: filepath.Join(i.Dir, "fault", name)}
	for _, d := range []string{a.Dir, a.Fault} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
	}
	// Plugins run as users of their own: they must be able to pass through.
	for d := i.Dir; d != filepath.Dir(d) && strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			return nil, err
		}
	}
	if _, err := i.CLI(ctx, nil, "agent", "token", name, "--pool", pool, "--unattended", "--out", a.token()); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	a.health = fmt.Sprintf("127.0.0.1:%d", port)
	config := fmt.Sprintf("data_dir = %q\nplugin_dir = %q\npolicy_file = %q\nhealth = %q\nlog_format = \"json\"\n",
		filepath.Join(a.Dir, "data"), filepath.Join(i.Bin, "plugins"), filepath.Join(a.Dir, "policy.toml"), a.health)
	return a, os.WriteFile(a.config(), []byte(config), 0o600)
}

// Enrol uses the agent's token.
func (a *Agent) Enrol(ctx context.Context) error {
	enrol := exec.CommandContext(ctx, filepath.Join(a.i.Bin, "rotunda-agent"), "enrol", "--config", a.config(), "--token-file", a.token())
	if out, err := enrol.CombinedOutput(); err != nil {
		return fmt.Errorf("enrol agent %s: %w: %s", a.Name, err, out)
	}
	os.Remove(a.token())
	a.i.mu.Lock()
	defer a.i.mu.Unlock()
	a.i.agents = append(a.i.agents, a)
	return nil
}

func (a *Agent) token() string { return filepath.Join(a.Dir, "token") }

func (a *Agent) config() string { return filepath.Join(a.Dir, "agent.toml") }

// Start starts the agent and waits until the router has let it in.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.Launch(); err != nil {
		return err
	}
	return a.WaitConnected(ctx)
}

// WaitConnected waits until the agent is well and the server shows it as connected, also
// where the server was started anew.
func (a *Agent) WaitConnected(ctx context.Context) error {
	if err := a.waitReady(ctx, func(ok bool, _ []byte) bool { return ok }); err != nil {
		return err
	}
	return a.WaitSeen(ctx)
}

// StartUnwell starts an agent that the router lets in, and whose health is not good: a
// clock that is off, say.
func (a *Agent) StartUnwell(ctx context.Context) error {
	if err := a.Launch(); err != nil {
		return err
	}
	if err := a.waitReady(ctx, func(_ bool, body []byte) bool { return bytes.Contains(body, []byte(`"authenticated":true`)) }); err != nil {
		return err
	}
	return a.WaitSeen(ctx)
}

// WaitSeen waits until the server shows the agent as connected: it writes presence
// down once a second at most.
func (a *Agent) WaitSeen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	err := a.i.Look(ctx, func(c *client.Client) error {
		for {
			agents, err := c.Agents(ctx, seal.ID{})
			if err != nil {
				return err
			}
			for _, l := range agents {
				if l.Name == a.Name && l.Connected {
					return nil
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond): // a server gives no signal of it
			}
		}
	})
	if err != nil {
		return fmt.Errorf("the server does not show agent %s as connected: %w", a.Name, err)
	}
	return nil
}

// Launch starts the agent's process.
func (a *Agent) Launch() (err error) {
	argv := append(slices.Clone(a.Under), filepath.Join(a.i.Bin, "rotunda-agent"), "run", "--config", a.config())
	a.Process, err = a.i.process(a.Name, []string{"ROTUNDA_FAULT_DIR=" + a.Fault}, argv[0], argv[1:]...)
	return err
}

// Health asks the agent how it fares.
func (a *Agent) Health(ctx context.Context) (ok bool, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.health+"/healthz", nil)
	if err != nil {
		return false, nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil, err
	}
	defer r.Body.Close()
	body, err = io.ReadAll(io.LimitReader(r.Body, 64<<10))
	return r.StatusCode == http.StatusOK, body, err
}

func (a *Agent) waitReady(ctx context.Context, enough func(ok bool, body []byte) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var last []byte
	for {
		ok, body, _ := a.Health(ctx)
		if enough(ok, body) {
			return nil
		}
		if body != nil {
			last = body
		}
		select {
		case <-a.Done():
			return fmt.Errorf("agent %s ended: %s", a.Name, a.Tail())
		case <-ctx.Done():
			return fmt.Errorf("agent %s is not ready: %s: %s", a.Name, last, a.Tail())
		case <-time.After(20 * time.Millisecond): // an HTTP endpoint gives no signal
		}
	}
}

// Process is one program of the installation.
type Process struct {
	cmd  *exec.Cmd
	name string
	done chan struct{}
	err  error

	mu    sync.Mutex
	lines []string
	gone  int // lines that were too many to be kept
	wake  chan struct{}
}

func (i *Installation) process(name string, env []string, program string, args ...string) (*Process, error) {
	logFile, err := os.OpenFile(filepath.Join(i.Dir, "log", name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(program, args...), name: name, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	p.cmd.Env = append(append(os.Environ(), i.Env...), env...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		logFile.Close()
		return nil, err
	}
	go func() {
		defer logFile.Close()
		out := io.Writer(logFile)
		if i.Log != nil {
			out = io.MultiWriter(logFile, i.Log)
		}
		p.read(r, out)
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// maxLines bounds the log lines that are kept in memory.
const maxLines = 2000

func (p *Process) read(r io.ReadCloser, log io.Writer) {
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fmt.Fprintln(log, s.Text())
		p.mu.Lock()
		p.lines = append(p.lines, s.Text())
		if over := len(p.lines) - maxLines; over > 0 {
			p.lines, p.gone = p.lines[over:], p.gone+over
		}
		p.mu.Unlock()
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// Mark is how many lines the process has logged so far.
func (p *Process) Mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone + len(p.lines)
}

// WaitLog waits for a line that holds all of the words, from a mark on. One caller at
// a time may wait.
func (p *Process) WaitLog(ctx context.Context, from int, words ...string) (string, error) {
	for ended := false; ; {
		p.mu.Lock()
		lines := p.lines[min(max(0, from-p.gone), len(p.lines)):]
		p.mu.Unlock()
		for _, l := range lines {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) }) {
				return l, nil
			}
		}
		if ended {
			return "", fmt.Errorf("%s ended before it logged %q: %s", p.name, words, p.Tail())
		}
		select {
		case <-p.wake:
		case <-p.done:
			ended = true
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not log %q: %s", p.name, words, p.Tail())
		}
	}
}

// Log is what the process has logged, newest last.
func (p *Process) Log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// Tail is the end of the log.
func (p *Process) Tail() string {
	l := p.Log()
	return strings.Join(l[max(0, len(l)-15):], "\n")
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits for the process's end and gives its exit code, -1 after a signal.
func (p *Process) Exit() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process by SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, and kills it after 30 s.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(startTime):
		p.Kill()
	}
}
