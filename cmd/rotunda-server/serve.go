package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/lean"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/socket"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/version"
	"github.com/rotunda-pam/rotunda/router"
	"github.com/rotunda-pam/rotunda/scheduler"
	"github.com/rotunda-pam/rotunda/vault/clientapi"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
	"github.com/rotunda-pam/rotunda/vault/work"
)

type settings struct {
	data, listen, baseURL string
	names                 []string
	logFormat, logLevel   string
	// connections and perAddress bound what is open at once.
	connections, perAddress int
	bodyTime                time.Duration // no flag: for tests
	bodies                  *bodies       // no flag: for tests
}

// stopping bounds how long a stop may take: agents are told when to come back,
// requests under way are finished.
const stopping = 20 * time.Second

func serve(ctx context.Context, s *settings, stderr io.Writer) (err error) {
	log, err := logger(s, stderr)
	if err != nil {
		return exitcode.With(exitcode.Usage, err)
	}
	if s.baseURL != "" && !strings.HasPrefix(s.baseURL, "https://") {
		return exitcode.With(exitcode.Usage, fmt.Errorf("--base-url %q: give an address that begins with https://", s.baseURL))
	}
	if s.connections < 1 || s.perAddress < 1 {
		return exitcode.With(exitcode.Usage, fmt.Errorf("--max-connections %d and --max-connections-per-address %d: give at least 1", s.connections, s.perAddress))
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return exitcode.With(exitcode.Usage, fmt.Errorf("data folder: %w: choose another with --data, or set its owner right", err))
	}
	unlock, err := lockFolder(s.data)
	if err != nil {
		return err
	}
	defer unlock()
	finished, err := finishRestore(s.data)
	if err != nil {
		return exitcode.With(exitcode.Usage, err)
	}
	if finished {
		log.Warn("a restore of this folder was broken off: it is finished now", "folder", s.data)
	}
	names := localNames(s.names)
	ca, err := openAuthority(s.data, names, store.Now())
	if err != nil {
		return exitcode.With(exitcode.Usage, err)
	}
	keys, err := openMachineKeys(s.data)
	if err != nil {
		return exitcode.With(exitcode.Usage, err)
	}
	made, err := openSetupCode(s.data)
	if err != nil {
		return exitcode.With(exitcode.Usage, fmt.Errorf("setup code: %w", err))
	}
	if made {
		log.Info("setup code made: whoever has it can make an organisation on this server", "file", filepath.Join(s.data, setupFile))
	}
	listener, err := net.Listen("tcp", s.listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return exitcode.With(exitcode.Conflict, fmt.Errorf("%w: stop the other program or choose another address with --listen", err))
	case err != nil:
		return exitcode.With(exitcode.Usage, fmt.Errorf("%w: give --listen an address of this host, such as :8443", err))
	}
	defer listener.Close()
	st, err := store.Open(ctx, filepath.Join(s.data, databaseFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	if err := tellRecovering(ctx, st, log); err != nil {
		return err
	}
	parts, err := assemble(ctx, st, s, ca, keys, names, listener.Addr(), log)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           dated(bodiesWithin(s.bodyTime, s.bodies.bounded(heard(parts.handler)))),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols: protocols(),
	}
	failed := make(chan error, 1) // of Serve; it is nobody's business after a stop
	scheduling, stopScheduling := context.WithCancel(context.Background())
	var running sync.WaitGroup
	connections := shakeHands(bound(listener, possible(s.connections, log), s.perAddress, log), ca.TLS(store.Now), handshakesAtOnce, log)
	running.Go(func() { failed <- srv.Serve(connections) })
	running.Go(func() { parts.scheduler.Run(scheduling) })
	running.Go(func() { lean.Stay(scheduling) })
	log.Info("serving", "address", listener.Addr(), "names", names, "ca", seal.Digest(ca.Pin()), "version", version.Version)
	select {
	case err = <-failed:
	case <-ctx.Done():
		log.Info("stopping")
	}
	// In the order in which work flows: no new runs, no channels, no requests.
	stop, cancel := context.WithTimeout(context.Background(), stopping)
	defer cancel()
	stopScheduling()
	err = errors.Join(err, parts.router.Shutdown(stop), srv.Shutdown(stop))
	running.Wait()
	return err
}

// tellRecovering says that nobody has ended the recovery from a restored backup yet.
func tellRecovering(ctx context.Context, st store.Store, log *slog.Logger) error {
	return st.Read(ctx, func(q *db.Queries) error {
		r, err := q.RecoveringSince(ctx)
		if err == nil && r.N > 0 {
			log.Warn("recovering from a restored backup: the log takes no new change until `rotunda org end-recovery`", "organisations", r.N, "since", time.UnixMilli(r.Since).UTC())
		}
		return err
	})
}

// lockName is the file whose lock a running server holds.
const lockName = "lock"

func folderInUse(dir string) error {
	return exitcode.With(exitcode.Conflict, fmt.Errorf("another server uses the folder %s: stop that one first, or give this one a folder of its own with --data", dir))
}

// dated tells in each answer the time that this server judges by: clients and agents
// compare their clocks with it.
func dated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", store.Now().UTC().Format(http.TimeFormat))
		h.ServeHTTP(w, r)
	})
}

func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return p
}

type parts struct {
	handler   http.Handler
	router    *router.Router
	scheduler *scheduler.Scheduler
}

// assemble joins the server's parts: they share the store and the bus, and nothing
// else.
func assemble(ctx context.Context, st store.Store, s *settings, ca *authority, keys ksm.ServerKeys, names []string, at net.Addr, log *slog.Logger) (*parts, error) {
	b := bus.New()
	dir := directory.New(b, nil)
	// Before anybody is let in: whoever asks first would hold up all others for the seconds
	// that a long log takes.
	if err := st.Read(ctx, func(q *db.Queries) error { return dir.ReadAll(ctx, q) }); err != nil {
		log.Error("the log of an organisation cannot be used; the others are served", "error", err)
	}
	sched := scheduler.New(scheduler.Config{Store: st, Bus: b, Directory: dir, Log: log})
	w := &work.Work{Directory: dir, Bus: b, Finisher: sched}
	machines, err := machineapi.New(machineapi.Config{
		Store: st, Directory: dir, Work: w, Bus: b, Keys: keys, Host: names[0], BaseURL: s.base(names, at),
		Files: filepath.Join(s.data, filesFolder), Version: version.Version, Log: log,
	})
	if err != nil {
		return nil, err
	}
	hub, err := router.New(ctx, router.Config{
		Store: st, Bus: b, Node: "main", Hosts: names, Log: log,
		Refused: func(ctx context.Context, q *db.Queries, org int64, agent, command seal.ID, reason string) error {
			return w.CommandRefused(ctx, q, work.Agent{Org: org, ID: agent}, command[:], reason)
		},
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(clientapi.New(clientapi.Config{
		Store: st, Directory: dir, Work: w, Bus: b, Now: store.Now, Log: log, Version: version.Version,
		RemoveFiles: machines.RemoveFiles, SetupCode: func() []byte { return setupCode(s.data) }, Hosts: names,
	}))
	for _, p := range machines.Paths() {
		mux.Handle(p, machines)
	}
	mux.Handle("GET "+socket.Path, hub)
	mux.Handle("GET /healthz", &health{st: st, hub: hub})
	return &parts{mux, hub, sched}, nil
}

// filesBeside is how many open files are kept for other things than connections: the
// database, uploads.
const filesBeside = 200

// possible is how many connections may be open: each is an open file.
func possible(connections int, log *slog.Logger) int {
	n := max(1, openFiles()-filesBeside)
	if n >= connections {
		return connections
	}
	log.Info("open files bound the connections", "connections", n, "max_connections", connections, "do", raiseFiles)
	return n
}

func (s *settings) base(names []string, at net.Addr) string {
	if s.baseURL != "" {
		return s.baseURL
	}
	_, port, _ := net.SplitHostPort(at.String())
	return "https://" + net.JoinHostPort(names[0], port)
}

func logger(s *settings, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level is debug, info, warn or error, not %q", s.logLevel)
	}
	o := &slog.HandlerOptions{Level: level}
	switch s.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format is text or json, not %q", s.logFormat)
}
