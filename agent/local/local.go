// Package local does on the agent's own host what a script may have done there: it runs
// programs, reads and writes files, and keeps what the script puts away. Two lists must both
// have a program or a file: that of the script's manifest, which whoever signed for the script's use approved, and that of the local
// policy, which is the host administrator's and empty unless he fills it.
//
// A program gets its arguments as a list, through no shell; its secrets on standard input
// (arguments and the environment are there for others of the host to read, so the plugin
// takes none there); no environment but a PATH; a deadline; and an end, with all that it
// started. A file is read and written by a way without links, in folders which nobody can
// change who could not change the file, and is always the old one or the new one.
//
// The plugin that asks is not believed: what it asks for is checked here.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rotunda-pam/rotunda/agent/policy"
	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// The reasons of what is refused, or fails.
const (
	Policy   = "local.policy"   // the local policy does not allow it
	Manifest = "local.manifest" // the script's manifest does not ask for it
	Busy     = "local.busy"     // another request of the run is not answered yet
	Program  = "local.program"  // the program cannot be run, or must not: others can change it
	File     = "local.file"     // the file cannot be read or written, or must not: others can change its folder
	Link     = "local.link"     // a link is on the way to the file, or there is a second name of it
	Deadline = "local.deadline" // the program did not end in time
	Request  = "local.request"  // the request makes no sense
	Name     = "state.name"     // what is put away has no such name
	Full     = "state.full"     // it is more than a script may put away
	Broken   = "state.broken"   // what was put away does not open
	Nobody   = "state.nobody"   // nothing is put away where a script is run for no account
	Often    = "state.often"    // it is put away too often in one run
)

// Server answers the requests of one run of one script.
type Server struct {
	Policy   *policy.Policy      // nil: that of no file, which allows nothing
	Script   string              // its name, for the log
	Programs []string            // of its manifest, with the values of this use's parameters
	Files    []string            // likewise
	Keeps    bool                // its manifest names the module state
	State    State               // what it has put away
	Told     func(reason string) // of what it may not have; nil: only the log is
	Log      *slog.Logger        // nil: discarded

	wrong   error // why nothing can be asked
	busy    atomic.Bool
	refused atomic.Int32
	sets    atomic.Int32
}

// State is what a script has put away where a record names it.
type State interface {
	Get(name string) (value []byte, isSecret, known bool, err error)
	// Set puts a value away in a name's place; nil forgets it.
	Set(name string, value []byte, isSecret bool) error
}

// Handler makes a script's server for one run, with the parameters of its use.
func Handler(p *policy.Policy, log *slog.Logger) func(*script.Manifest, map[string]any, State, func(string)) func(context.Context, net.Conn) {
	return func(m *script.Manifest, values map[string]any, put State, told func(string)) func(context.Context, net.Conn) {
		s := &Server{Policy: p, Script: m.Name, Log: log, State: put, Told: told, Keeps: slices.Contains(m.Modules, "state")}
		var err error
		if s.Programs, err = m.Commands(values); err == nil {
			s.Files, err = m.Paths(values)
		}
		s.wrong = err
		return s.Serve
	}
}

// How long a request may take to come, and an answer to go.
const (
	frameTime  = 30 * time.Second
	maxTimeout = time.Hour
	maxTold    = 20  // refusals of one run that are logged
	maxSets    = 100 // times that a script puts something away in one run: each is written to the disk
)

// Serve answers the one request of a connection and closes it. A program is ended when ctx
// or the connection is; a file's writing is brought to its end, which takes no time.
func (s *Server) Serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(frameTime))
	var r pluginv1.LocalRequest
	body, err := pluginv1.ReadLocal(conn, &r)
	if err != nil && !errors.Is(err, pluginv1.ErrLocal) {
		return
	}
	defer clear(body)
	_ = conn.SetDeadline(time.Time{})
	var a pluginv1.LocalAnswer
	var out []byte
	if err == nil {
		ctx, cancel := context.WithCancel(ctx)
		watched := watch(conn, cancel)
		a, out, err = s.one(ctx, r, body)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-watched
		cancel()
	} else {
		err = refuse(sdk.ClassInvalid, Request, err)
	}
	if err != nil {
		a, out = pluginv1.LocalAnswer{Error: s.failed(err)}, nil
	}
	defer clear(out)
	_ = conn.SetWriteDeadline(time.Now().Add(frameTime))
	_ = pluginv1.WriteLocal(conn, a, out)
}

// watch notices the connection's end. Nothing more is to come over it.
func watch(conn net.Conn, gone func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := conn.Read(make([]byte, 1))
		var e net.Error
		if !errors.As(err, &e) || !e.Timeout() {
			gone()
		}
	}()
	return done
}

func (s *Server) one(ctx context.Context, r pluginv1.LocalRequest, body []byte) (a pluginv1.LocalAnswer, out []byte, err error) {
	if !s.busy.CompareAndSwap(false, true) {
		return a, nil, refuse(sdk.ClassConflict, Busy, errors.New("another request of this run is not answered yet: a script asks for one thing at a time"))
	}
	defer s.busy.Store(false)
	switch {
	case s.wrong != nil:
		return a, nil, s.wrong
	case r.Exec != nil && r.Read == nil && r.Write == nil && r.State == nil:
		return s.exec(ctx, *r.Exec, body)
	case r.Read != nil && r.Exec == nil && r.Write == nil && r.State == nil && len(body) == 0:
		out, err = s.read(*r.Read)
		return a, out, err
	case r.Write != nil && r.Exec == nil && r.Read == nil && r.State == nil:
		a.Changed, err = s.write(ctx, *r.Write, body)
		return a, nil, err
	case r.State != nil && r.Exec == nil && r.Read == nil && r.Write == nil:
		return s.state(*r.State, body)
	}
	return a, nil, refuse(sdk.ClassInvalid, Request, errors.New("want one of exec, read, write and state"))
}

func (s *Server) exec(ctx context.Context, r pluginv1.LocalExec, stdin []byte) (a pluginv1.LocalAnswer, out []byte, err error) {
	size := 0
	for _, arg := range r.Args {
		if size += len(arg); strings.ContainsRune(arg, 0) {
			return a, nil, refuse(sdk.ClassInvalid, Program, errors.New("an argument holds a NUL: no program can be given one"))
		}
	}
	limit := time.Duration(r.Timeout) * time.Millisecond
	switch {
	case len(r.Args) > pluginv1.MaxArgs || size > pluginv1.MaxArgBytes:
		return a, nil, refuse(sdk.ClassInvalid, Program, fmt.Errorf("%d arguments of %d bytes; at most %d of %d are taken: hand long things over on standard input", len(r.Args), size, pluginv1.MaxArgs, pluginv1.MaxArgBytes))
	case r.Timeout <= 0 || r.Timeout > maxTimeout.Milliseconds():
		return a, nil, refuse(sdk.ClassInvalid, Program, errors.New("the time that a program has is between a millisecond and an hour"))
	}
	if err := s.allows(r.Program, Program, s.Programs, "programs", s.policy().Program); err != nil {
		return a, nil, err
	}
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e, err := run(ctx, r.Program, r.Args, stdin)
	if err != nil {
		return a, nil, err
	}
	s.log().Info("script ran a program", "script", s.Script, "program", r.Program, "arguments", len(r.Args), "exit", e.code, "signal", e.signal, "ended", e.ended, "seconds", time.Since(started).Seconds())
	if e.ended {
		return a, nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: Deadline, Err: fmt.Errorf("%s was ended, it had not come to its end within %s: what it was to do may be done, in part or not at all", r.Program, limit)}
	}
	a = pluginv1.LocalAnswer{Exit: e.code, Signal: e.signal, Stdout: len(e.stdout.b), Dropped: e.stdout.dropped + e.stderr.dropped}
	out = slices.Concat(e.stdout.b, e.stderr.b)
	clear(e.stdout.b)
	clear(e.stderr.b)
	return a, out, nil
}

func (s *Server) read(r pluginv1.LocalRead) ([]byte, error) {
	if r.Max <= 0 || r.Max > pluginv1.MaxLocalBody {
		return nil, refuse(sdk.ClassInvalid, File, fmt.Errorf("at most %d bytes of a file are read, and at least one", pluginv1.MaxLocalBody))
	}
	if err := s.allows(r.Path, File, s.Files, "files", s.policy().File); err != nil {
		return nil, err
	}
	b, err := readFile(r.Path, r.Max)
	if err == nil {
		s.log().Info("script read a file", "script", s.Script, "file", r.Path)
	}
	return b, err
}

func (s *Server) write(ctx context.Context, r pluginv1.LocalWrite, content []byte) (changed bool, err error) {
	if r.Mode != nil && *r.Mode&^0o775 != 0 {
		return false, refuse(sdk.ClassInvalid, File, fmt.Errorf("mode %04o: want permissions such as 0640, and none for everybody to write", *r.Mode))
	}
	if err := s.allows(r.Path, File, s.Files, "files", s.policy().File); err != nil {
		return false, err
	}
	if r.Backup { // a file of its own, which may stand where every file counts
		if err := s.policy().File(r.Path + backupName); err != nil {
			return false, refuse(sdk.ClassPermission, Policy, fmt.Errorf("the backup: %w", err))
		}
	}
	if ctx.Err() != nil {
		return false, refuse(sdk.ClassUnreachable, Deadline, errors.New("the run has ended"))
	}
	changed, err = writeFile(r.Path, content, r.Mode, r.Backup)
	if err == nil {
		s.log().Info("script wrote a file", "script", s.Script, "file", r.Path, "changed", changed)
	}
	return changed, err
}

func (s *Server) state(r pluginv1.LocalState, body []byte) (a pluginv1.LocalAnswer, out []byte, err error) {
	switch {
	case s.Keeps && s.State == nil:
		return a, nil, refuse(sdk.ClassUnsupported, Nobody, errors.New("nothing is put away here: the script is run for no account"))
	case !s.Keeps:
		return a, nil, refuse(sdk.ClassPermission, Manifest, errors.New("the script's manifest does not name the module state"))
	case !pluginv1.StateName(r.Name):
		return a, nil, refuse(sdk.ClassInvalid, Name, fmt.Errorf("%q: want a name of A-Z, a-z, 0-9, _, . and -, at most 64", r.Name))
	case r.Set && r.Forget, (r.Forget || !r.Set) && len(body) > 0:
		return a, nil, refuse(sdk.ClassInvalid, Request, errors.New("want one of get, set and forget"))
	case (r.Set || r.Forget) && s.sets.Add(1) > maxSets:
		return a, nil, refuse(sdk.ClassInvalid, Often, fmt.Errorf("a script puts something away at most %d times in one run", maxSets))
	case r.Forget:
		return a, nil, s.State.Set(r.Name, nil, false)
	case r.Set:
		return a, nil, s.State.Set(r.Name, append([]byte{}, body...), r.Secret)
	}
	out, a.Secret, a.Known, err = s.State.Get(r.Name)
	return a, out, err
}

// backupName comes after the file's own.
const backupName = ".bak"

// allows asks both lists.
func (s *Server) allows(path, reason string, manifest []string, key string, policy func(string) error) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || filepath.Dir(path) == path || strings.ContainsRune(path, 0) {
		return refuse(sdk.ClassInvalid, reason, fmt.Errorf("%q: want a whole path, without . and .. and doubled or closing slashes", path))
	}
	if !slices.Contains(manifest, path) {
		return refuse(sdk.ClassPermission, Manifest, fmt.Errorf("%s is not among the %s of the script's manifest: add it there, and have the script approved anew", path, key))
	}
	if err := policy(path); err != nil {
		return refuse(sdk.ClassPermission, Policy, err)
	}
	return nil
}

func (s *Server) policy() *policy.Policy {
	if s.Policy == nil {
		return new(policy.Policy)
	}
	return s.Policy
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// failed is an error for the wire. It is logged, too: what a script is refused on this host
// concerns the host's administrator.
func (s *Server) failed(err error) *pluginv1.LocalError {
	var e *sdk.Error
	if !errors.As(err, &e) {
		e = &sdk.Error{Class: sdk.ClassInternal, Reason: Request, Err: err}
	}
	out := &pluginv1.LocalError{Class: string(e.Class), Reason: e.Reason, NotSent: e.NotSent}
	if e.Err != nil {
		out.Text = strings.ToValidUTF8(e.Err.Error(), "?")
		out.Text = strings.ToValidUTF8(out.Text[:min(len(out.Text), 2<<10)], "")
	}
	if s.Told != nil && (e.Reason == Policy || e.Reason == Manifest) {
		s.Told(e.Reason)
	}
	if s.refused.Add(1) <= maxTold {
		s.log().Warn("script was refused something of this host, or it failed", "script", s.Script, "reason", e.Reason, "error", out.Text)
	}
	return out
}

// refuse is an error of what was not begun.
func refuse(class sdk.Class, reason string, err error) error {
	return &sdk.Error{Class: class, Reason: reason, NotSent: true, Err: err}
}
