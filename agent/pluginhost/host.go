package pluginhost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Host runs plugins. It is safe for concurrent use.
type Host struct {
	cfg    Config
	log    *slog.Logger
	jail   *jail
	ctx    context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup
	digest []byte // key of the digests of jobs

	binaries sync.Mutex // held while a private copy is made

	mu        sync.Mutex
	closing   bool
	free      int // processes that may still be started
	procs     map[processKey]*process
	waiting   []*waiter // for a process, in order of arrival
	failures  map[processKey]failure
	manifests map[Plugin]Description
	spare     *process // nil: there is none
	// spareFailed delays the next spare, after one that ended by itself.
	spareFailed failure
}

type processKey struct {
	plugin   Plugin
	resource string
}

// waiter gets a place among the processes, or false when the host closes.
type waiter struct{ place chan bool }

// defaultUsers are of those that systemd leaves to nobody: what runs under one of them is ended
// (https://systemd.io/UIDS-GIDS/).
var defaultUsers = UserIDs{60706, 61183}

const (
	maxDir   = 70
	binaries = "bin"
)

// New sweeps what an earlier host left in cfg.Dir and makes ready. No process is
// started before it is needed.
func New(cfg Config) (*Host, error) {
	if len(cfg.Dir) > maxDir || !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("plugin folder %q: want an absolute path of at most %d bytes, for the sockets in it", cfg.Dir, maxDir)
	}
	if cfg.Catalogue == nil {
		return nil, errors.New("plugin host: no catalogue")
	}
	cfg.Processes = orDefault(cfg.Processes, 16)
	cfg.Idle = orDefault(cfg.Idle, 5*time.Minute)
	cfg.BackOff = orDefault(cfg.BackOff, 30*time.Second)
	cfg.StartTimeout = orDefault(cfg.StartTimeout, 20*time.Second)
	cfg.Connections = orDefault(cfg.Connections, maxConcurrency)
	if cfg.Users == (UserIDs{}) {
		cfg.Users = defaultUsers
	}
	if cfg.bounds == (bounds{}) {
		cfg.bounds = defaultBounds()
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		cfg: cfg, log: cfg.Log, jail: newJail(cfg.Users, cfg.bounds), free: cfg.Processes,
		procs: map[processKey]*process{}, failures: map[processKey]failure{}, manifests: map[Plugin]Description{},
	}
	if err := h.makeFolder(); err != nil {
		return nil, err
	}
	h.digest = make([]byte, 32)
	_, _ = rand.Read(h.digest)
	h.ctx, h.end = context.WithCancel(context.Background())
	h.wg.Go(h.janitor)
	return h, nil
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// makeFolder sweeps and makes the folder. Only names of the host's own are swept.
func (h *Host) makeFolder() error {
	if err := os.MkdirAll(h.cfg.Dir, 0o711); err != nil {
		return err
	}
	files, err := os.ReadDir(h.cfg.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), folderPrefix) || f.Name() == binaries {
			if err := os.RemoveAll(filepath.Join(h.cfg.Dir, f.Name())); err != nil {
				return fmt.Errorf("sweep plugin folder: %w", err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(h.cfg.Dir, binaries), 0o711); err != nil {
		return err
	}
	if !h.jail.iso.User {
		return nil
	}
	for dir := h.cfg.Dir; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if dir == h.cfg.Dir && info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(dir, 0o711); err != nil {
				return err
			}
		} else if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("plugin folder %s: the plugins' users cannot pass through %s (mode %v): chmod o+x, or choose another", h.cfg.Dir, dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// binary gives the path of the private copy of p, making it at its first use. What
// may run is asked each time, since the log can take a plugin back.
func (h *Host) binary(p Plugin) (string, error) {
	h.binaries.Lock()
	defer h.binaries.Unlock()
	path := filepath.Join(h.cfg.Dir, binaries, p.String()+exe)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, h.cfg.Catalogue.copyTo(p, path)
}

// Isolation says what keeps plugins in on this system.
func (h *Host) Isolation() Isolation { return h.jail.iso }

// CheckUser says whether a plugin process can get a user of its own here and now.
func (h *Host) CheckUser() error {
	_, release, err := h.jail.user()
	if err != nil {
		return fmt.Errorf("no user for a plugin: %w; the service must be able to write there", err)
	}
	release()
	return nil
}

// acquire gives the process of a resource, starting it if need be, and counts the
// caller as one of its users until release.
func (h *Host) acquire(ctx context.Context, plugin Plugin, resource string) (*process, error) {
	fail := func(r Reason, err error) (*process, error) {
		return nil, &Error{Reason: r, Plugin: plugin.Name, NotSent: true, Err: err}
	}
	if !h.cfg.Catalogue.allows(plugin) {
		return fail(PluginUnknown, errors.New("its hash is neither built in nor in the log"))
	}
	key := processKey{plugin, resource}
	placed := false // a place is held that is not used yet
	for {
		h.mu.Lock()
		p := h.procs[key]
		switch {
		case h.closing:
			h.giveBack(placed)
			h.mu.Unlock()
			return fail(HostClosed, nil)
		case p != nil && !p.stopping && !p.ended():
			h.giveBack(placed)
			placed = false
			p.refs++
			h.mu.Unlock()
			select {
			case <-p.started:
			case <-ctx.Done():
				h.release(p)
				return fail(PluginBusy, ctx.Err())
			}
			if p.err != nil {
				h.release(p)
				return nil, p.err
			}
			return p, nil
		case p != nil: // on its way out
			h.mu.Unlock()
			select {
			case <-p.gone:
				continue
			case <-ctx.Done():
				h.mu.Lock()
				h.giveBack(placed)
				h.mu.Unlock()
				return fail(PluginBusy, ctx.Err())
			}
		case h.other(key) != nil:
			// Two versions do not serve one resource at once: what the other has under way ends
			// first. A run goes on with the version that it began with.
			other := h.other(key)
			other.leaving = true
			if other.refs == 0 {
				h.stop(other)
			}
			h.mu.Unlock()
			select {
			case <-other.gone:
				continue
			case <-ctx.Done():
				h.mu.Lock()
				h.giveBack(placed)
				h.mu.Unlock()
				return fail(PluginBusy, ctx.Err())
			}
		case placed || h.free > 0 && len(h.waiting) == 0:
			if !placed {
				h.free--
			}
			placed = false
			if p = h.takeSpare(key); p == nil {
				p = h.newProcess(key)
			}
			h.procs[key] = p
			h.wg.Go(func() { h.run(p) })
			h.mu.Unlock()
		default:
			w := &waiter{make(chan bool, 1)}
			h.waiting = append(h.waiting, w)
			h.makeRoom()
			h.mu.Unlock()
			select {
			case placed = <-w.place:
			case <-ctx.Done():
				h.leaveQueue(w)
				return fail(PluginBusy, ctx.Err())
			}
		}
	}
}

// other is a process of another version of the plugin, with the same script, for the same
// resource. With h.mu held.
func (h *Host) other(key processKey) *process {
	for k, p := range h.procs {
		if k.resource == key.resource && k.plugin.Name == key.plugin.Name && k.plugin.Script == key.plugin.Script && k.plugin != key.plugin {
			return p
		}
	}
	return nil
}

// Running counts the processes of each plugin, whatever their scripts.
func (h *Host) Running() map[Plugin]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[Plugin]int{}
	for k := range h.procs {
		all[k.plugin.binaryOnly()]++
	}
	return all
}

// giveBack passes a place on to the first who waits. With h.mu held.
func (h *Host) giveBack(placed bool) {
	switch {
	case !placed:
	case len(h.waiting) > 0:
		h.waiting[0].place <- true
		h.waiting = h.waiting[1:]
	default:
		h.free++
	}
}

func (h *Host) leaveQueue(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.waiting, w); i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
		return
	}
	h.giveBack(<-w.place)
}

// makeRoom stops idle processes, the one that was idle longest first, for those who
// wait. With h.mu held.
func (h *Host) makeRoom() {
	need := len(h.waiting)
	var idle []*process
	for _, p := range h.procs {
		switch {
		case p.stopping:
			need--
		case p.refs == 0:
			idle = append(idle, p)
		}
	}
	slices.SortFunc(idle, func(a, b *process) int { return a.idle.Compare(b.idle) })
	for _, p := range idle[:max(0, min(need, len(idle)))] {
		h.stop(p)
	}
}

// stop ends a process that has started. With h.mu held.
func (h *Host) stop(p *process) {
	if p.stopping {
		return
	}
	p.stopping = true
	h.wg.Go(func() {
		<-p.started
		if p.err != nil {
			return
		}
		p.closeSessions()
		p.stop(context.Background())
	})
}

func (h *Host) release(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.refs--
	p.idle = time.Now()
	switch {
	case p.refs > 0:
	case h.closing || p.leaving:
		h.stop(p)
	case len(h.waiting) > 0:
		h.makeRoom()
	}
}

// inCall keeps the process alive while the host closes.
func (h *Host) inCall(p *process) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.busy++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if p.busy--; p.busy == 0 && h.closing {
			h.stop(p)
		}
	}
}

// run is a process's life, from its start to its last trace.
func (h *Host) run(p *process) {
	err := h.backOff(p.key)
	if err != nil {
		err = p.fail(HostClosed, err)
	} else {
		err = p.start(h.ctx)
	}
	h.mu.Lock()
	p.err = err
	if err == nil {
		h.remember(p)
	}
	close(p.started)
	if p.plugin.scripted() { // not before: it would share the processor with the script's start
		h.makeSpare()
	}
	h.mu.Unlock()
	if err == nil {
		<-p.child.exited
	}
	h.mu.Lock()
	delete(h.procs, p.key)
	if crashed := !p.stopping; crashed {
		if refused := (*sdk.Error)(nil); !p.plugin.scripted() || !errors.As(err, &refused) { // a script with a mistake is no crash
			h.failures[p.key] = h.failures[p.key].again(h.cfg.BackOff)
		}
		p.named().Warn("plugin process ended", "error", p.why(err))
	} else {
		delete(h.failures, p.key)
	}
	p.stopping = true
	for _, s := range p.sessions {
		s.lost = true
	}
	h.mu.Unlock()
	p.cleanup()
	h.mu.Lock()
	h.giveBack(true)
	h.mu.Unlock()
	close(p.gone)
}

// janitor stops idle processes, of plugins that may not start any more at once, and forgets
// old secrets.
func (h *Host) janitor() {
	t := time.NewTicker(min(max(h.cfg.Idle/4, 100*time.Millisecond), time.Second))
	defer t.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case now := <-t.C:
			h.mu.Lock()
			for _, p := range h.all() {
				if p.refs == 0 && (now.Sub(p.idle) > h.cfg.Idle || !h.cfg.Catalogue.allows(p.plugin)) {
					h.stop(p)
				}
				h.endGreedy(p, now)
				p.expire(now)
			}
			h.forgive(now)
			h.mu.Unlock()
		}
	}
}

// endGreedy ends a process that uses more than it may. With h.mu held.
func (h *Host) endGreedy(p *process, now time.Time) {
	select {
	case <-p.started:
	default:
		return
	}
	if p.err != nil || p.overused != nil || p.dead() {
		return
	}
	if used, ok := h.jail.used(p.child); ok && p.may.exceeded(used, now, h.cfg.bounds) {
		p.overused = errProcessor
	} else if h.jail.taken(p.child) > h.cfg.bounds.memory {
		p.overused = errMemory
	}
	if p.overused != nil {
		p.child.kill()
	}
}

// expire drops secrets from the log filter. With h.mu held.
func (p *process) expire(now time.Time) {
	n := 0
	for n < len(p.expiring) && p.expiring[n].at.Before(now) {
		p.expiring[n].remove()
		n++
	}
	p.expiring = p.expiring[n:]
}

// Close ends every process and waits for them: those in use when their calls have
// returned, or when ctx ends.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closing = true
	for _, w := range h.waiting {
		w.place <- false
	}
	h.waiting = nil
	for _, p := range h.all() {
		if p.busy == 0 {
			h.stop(p)
		}
	}
	h.mu.Unlock()
	h.end()
	stop := context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range h.all() {
			p.stopping = true
			select {
			case <-p.started:
				if p.err == nil {
					p.child.kill()
				}
			default: // h.ctx has ended, and with it the start
			}
		}
	})
	defer stop()
	h.wg.Wait()
	return os.RemoveAll(filepath.Join(h.cfg.Dir, binaries))
}
