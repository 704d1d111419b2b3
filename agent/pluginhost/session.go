package pluginhost

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// shared is one session of the plugin's, held by any number of Sessions.
type shared struct {
	p      *process
	id     uint64
	digest [32]byte
	grant  *grant
	forget func() // drops its secrets from the log filter

	opened chan struct{} // closed when Open has been answered
	err    error         // set before that

	// Guarded by h.mu.
	refs int
	used time.Time
	lost bool // of no more use: cut, crashed, past a deadline, forgotten; closed with its last Session
	solo bool // not to be shared
}

// maxIdleSessions bounds the open sessions of a process that nobody holds.
const maxIdleSessions = 4

// Session is a share in an administrative session. Its verbs may be used at once by
// many; they wait for a turn when the manifest's Concurrency is reached.
//
// A missing answer is Outcome Unknown together with an error; NotSent tells when
// nothing can have happened. After a deadline or a crash the session is of no more
// use: close it and open another.
type Session struct {
	s    *shared
	once sync.Once
}

// Describe gives the plugin's manifest, starting it if it was never seen.
func (h *Host) Describe(ctx context.Context, p Plugin) (Description, error) {
	h.mu.Lock()
	d, ok := h.manifests[p]
	h.mu.Unlock()
	if ok && h.cfg.Catalogue.allows(p) {
		return d, nil
	}
	proc, err := h.acquire(ctx, p, "")
	if err != nil {
		return Description{}, err
	}
	defer h.release(proc)
	return proc.manifest, nil
}

// Verify logs in afresh, in the resource's process. Any error means undecided.
func (h *Host) Verify(ctx context.Context, p Plugin, j VerifyJob) (sdk.VerifyResponse, error) {
	proc, err := h.acquire(ctx, p, j.Key)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	defer h.release(proc)
	if err := proc.rotates(); err != nil {
		return sdk.VerifyResponse{}, err
	}
	g, access, err := proc.access(j.Target)
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	defer g.locals.Wait()
	defer proc.out.follow(access.Job, nil)
	defer g.cut()
	req := &pluginv1.VerifyRequest{
		Plugin: proc.manifest.Name, Access: access, Pins: j.Pins, Resource: resource(j.Resource),
		Account: account(j.Account), Credential: credential(j.Credential),
	}
	var resp *pluginv1.VerifyResponse
	err = proc.call(ctx, g, []*pluginv1.Credential{req.Credential}, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = proc.rotator.Verify(ctx, req)
		return err
	})
	if err == nil && verdict(resp.GetVerdict()) == sdk.Undecided {
		err = g.unreached()
	}
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	return sdk.VerifyResponse{Verdict: verdict(resp.GetVerdict()), Reason: proc.code(resp.GetReason())}, nil
}

// rotates refuses what is of rotators alone.
func (p *process) rotates() error {
	if len(p.manifest.Kinds) == 0 {
		return p.fail(PluginManifest, errors.New("by its manifest it is no rotator"))
	}
	return nil
}

// access makes the dialer of one job.
func (p *process) access(t Target) (*grant, *pluginv1.Access, error) {
	dial := t.Dial
	if dial == nil {
		dial = p.h.cfg.Dial
	}
	g, err := p.dial.grant(t.Allow, p.h.cfg.Connections, dial, t.Local, t.Refused)
	if err != nil {
		return nil, nil, p.fail(BadRequest, err)
	}
	g.heeds(nil, t.Hold)
	a := &pluginv1.Access{Socket: p.socket, Token: g.token[:], Job: p.lastJob.Add(1)}
	p.out.follow(a.Job, t.Progress)
	return g, a, nil
}

// Open gives a session on the job's resource. Sessions of equal jobs, secrets
// included, are one session of the plugin's: it stays open between uses until its
// process is idle for too long or Forget is called. Self and Fresh jobs share nothing, nor do
// those that may ask something of the agent's own machine.
func (h *Host) Open(ctx context.Context, p Plugin, j Job) (*Session, error) {
	for {
		proc, err := h.acquire(ctx, p, j.Key)
		if err != nil {
			return nil, err
		}
		if err := proc.rotates(); err != nil {
			h.release(proc)
			return nil, err
		}
		s, first := h.share(proc, j)
		if first {
			s.open(ctx, j)
		} else {
			select {
			case <-s.opened:
			case <-ctx.Done():
				if !s.openedAfterAll(ctx) {
					h.drop(s)
					return nil, proc.fail(PluginBusy, ctx.Err())
				}
			}
		}
		if s.err == nil {
			held := &Session{s: s}
			s.grant.heeds(held, j.Hold)
			return held, nil
		}
		err = s.err
		h.drop(s)
		// The one who opened it may have had less time than we have.
		late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
		if first || !late || ctx.Err() != nil {
			return nil, err
		}
	}
}

// openedAfterAll waits a moment more for whoever opens the session where a deadline is
// over: his was the same, mostly, and he has learnt why the target gave no answer.
func (s *shared) openedAfterAll(ctx context.Context) bool {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return false
	}
	t := time.NewTimer(2 * deafFor)
	defer t.Stop()
	select {
	case <-s.opened:
		return true
	case <-t.C:
		return false
	}
}

// share finds the session of an equal job, or makes the one that the caller opens.
// It takes over the caller's hold on the process.
func (h *Host) share(p *process, j Job) (s *shared, first bool) {
	digest := h.digestOf(j)
	h.mu.Lock()
	defer h.mu.Unlock()
	solo := j.Self || j.Fresh || j.Local != nil
	if s := p.sessions[digest]; s != nil && !s.lost && !solo {
		s.refs++
		return s, false
	}
	s = &shared{p: p, digest: digest, opened: make(chan struct{}), refs: 1, solo: solo}
	if !s.solo {
		if old := p.sessions[digest]; old != nil {
			old.lost = true
		}
		p.sessions[digest] = s
	}
	return s, true
}

// digestOf tells jobs apart, under a key that never leaves this process.
func (h *Host) digestOf(j Job) [32]byte {
	req := openRequest("", j)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	wipe(openSecrets(req)...)
	m := hmac.New(sha256.New, h.digest)
	if err != nil { // not UTF-8 somewhere: the call will say so; share with nobody
		m.Write([]byte(err.Error()))
	}
	m.Write(b)
	clear(b)
	allow := slices.Clone(j.Allow)
	slices.Sort(allow)
	m.Write([]byte{0})
	m.Write(j.Way[:])
	m.Write([]byte(strings.Join(allow, "\n")))
	return [32]byte(m.Sum(nil))
}

func (s *shared) open(ctx context.Context, j Job) {
	defer close(s.opened)
	p := s.p
	g, access, err := p.access(j.Target)
	if err != nil {
		s.err = err
		return
	}
	s.grant, s.id = g, access.Job
	req := openRequest(p.manifest.Name, j)
	req.Session, req.Access = s.id, access
	secrets := openSecrets(req)
	s.forget = p.hide(secrets)
	s.err = p.call(ctx, g, secrets, func(ctx context.Context, c *pluginv1.Call) error {
		req.Call = c
		_, err := p.rotator.Open(ctx, req)
		return err
	})
	g.leaves(nil) // from now on each who shares the session is asked
	if s.err != nil {
		g.cut()
	}
}

// drop gives a share back. A session that nobody holds stays open for the next, if
// it is of use; of those that stay, the one used longest ago makes room.
func (h *Host) drop(s *shared) {
	h.mu.Lock()
	s.refs--
	s.used = time.Now()
	var closing []*shared
	if s.refs == 0 && (s.lost || s.solo || s.err != nil) {
		if s.p.sessions[s.digest] == s {
			delete(s.p.sessions, s.digest)
		}
		closing = append(closing, s)
	}
	var idle []*shared
	for _, o := range s.p.sessions {
		if o.refs == 0 {
			idle = append(idle, o)
		}
	}
	slices.SortFunc(idle, func(a, b *shared) int { return a.used.Compare(b.used) })
	for _, o := range idle[:max(0, len(idle)-maxIdleSessions)] {
		delete(s.p.sessions, o.digest)
		closing = append(closing, o)
	}
	h.mu.Unlock()
	for _, o := range closing {
		o.close()
	}
	h.release(s.p)
}

// close ends the session in the plugin, which gets a moment for good manners, and
// then its connections.
func (s *shared) close() {
	if s.grant == nil {
		return
	}
	if s.err == nil && !s.p.dead() {
		ctx, cancel := context.WithTimeout(context.Background(), deafFor)
		_, _ = s.p.rotator.Close(ctx, &pluginv1.CloseRequest{Session: s.id})
		cancel()
	}
	s.grant.cut()
	s.p.out.follow(s.id, nil)
	s.forget()
}

// closeSessions ends the idle sessions of a process that stops.
func (p *process) closeSessions() {
	p.h.mu.Lock()
	var all []*shared
	for d, s := range p.sessions {
		s.lost = true
		if s.refs == 0 {
			delete(p.sessions, d)
			all = append(all, s)
		}
	}
	p.h.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(s.close)
	}
	wg.Wait()
}

// Forget closes the idle sessions of a resource, and those in use when they are
// closed: call it when its administrator's secret changes.
func (h *Host) Forget(key string) {
	h.mu.Lock()
	var procs []*process
	for k, p := range h.procs {
		if k.resource == key && !p.stopping {
			p.refs++
			procs = append(procs, p)
		}
	}
	h.mu.Unlock()
	for _, p := range procs {
		<-p.started
		if p.err == nil {
			p.closeSessions()
		}
		h.release(p)
	}
}

// verb makes a call in the session; a deadline or a crash ends it for everybody.
func (s *Session) verb(ctx context.Context, secrets []*pluginv1.Credential, invoke func(context.Context, *pluginv1.Call) error) error {
	err := s.s.p.call(ctx, s.s.grant, secrets, invoke)
	if s.s.grant.ctx.Err() != nil || s.s.p.dead() {
		s.lose()
	}
	return err
}

func (s *Session) lose() {
	s.s.p.h.mu.Lock()
	defer s.s.p.h.mu.Unlock()
	s.s.lost = true
	if s.s.p.sessions[s.s.digest] == s.s {
		delete(s.s.p.sessions, s.s.digest)
	}
}

// Apply as sdk.Session.
func (s *Session) Apply(ctx context.Context, r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
	req := &pluginv1.ApplyRequest{
		Session: s.s.id, Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current),
	}
	var resp *pluginv1.ApplyResponse
	err := s.verb(ctx, []*pluginv1.Credential{req.Candidate, req.Current}, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = s.s.p.rotator.Apply(ctx, req)
		return err
	})
	if err != nil {
		return sdk.ApplyResponse{}, err
	}
	return sdk.ApplyResponse{Outcome: outcome(resp.GetOutcome()), Class: class(resp.GetClass()), Reason: s.s.p.code(resp.GetReason())}, nil
}

// Retire as sdk.Retirer.
func (s *Session) Retire(ctx context.Context, r sdk.RetireRequest) (sdk.RetireResponse, error) {
	if len(s.s.p.manifest.Overlap) == 0 {
		return sdk.RetireResponse{}, s.s.p.fail(PluginManifest, errors.New("its manifest declares no overlap"))
	}
	req := &pluginv1.RetireRequest{
		Session: s.s.id, Account: account(r.Account), Keep: credential(r.Keep), Old: credential(r.Old),
	}
	var resp *pluginv1.RetireResponse
	err := s.verb(ctx, []*pluginv1.Credential{req.Keep, req.Old}, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = s.s.p.rotator.Retire(ctx, req)
		return err
	})
	if err != nil {
		return sdk.RetireResponse{}, err
	}
	return sdk.RetireResponse{Outcome: outcome(resp.GetOutcome())}, nil
}

// Readback as sdk.Readback.
func (s *Session) Readback(ctx context.Context, r sdk.ApplyRequest) (sdk.VerifyResponse, error) {
	if !s.s.p.manifest.Readback {
		return sdk.VerifyResponse{}, s.s.p.fail(PluginManifest, errors.New("its manifest declares no readback"))
	}
	req := &pluginv1.ReadbackRequest{
		Session: s.s.id, Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current),
	}
	var resp *pluginv1.ReadbackResponse
	err := s.verb(ctx, []*pluginv1.Credential{req.Candidate, req.Current}, func(ctx context.Context, c *pluginv1.Call) (err error) {
		req.Call = c
		resp, err = s.s.p.rotator.Readback(ctx, req)
		return err
	})
	if err != nil {
		return sdk.VerifyResponse{}, err
	}
	return sdk.VerifyResponse{Verdict: verdict(resp.GetVerdict()), Reason: s.s.p.code(resp.GetReason())}, nil
}

// Cut closes the session's connections to the target now: the agent's lease has run
// out. The session is of no more use to anybody.
func (s *Session) Cut() {
	s.s.grant.cut()
	s.lose()
}

// CloseAgain tells the plugin once more that a closed session is over. Agents never do; the
// conformance kit sees by it that nothing comes of it.
func (s *Session) CloseAgain(ctx context.Context) error {
	_, err := s.s.p.rotator.Close(ctx, &pluginv1.CloseRequest{Session: s.s.id})
	return err
}

// Close gives the share back. It may be called twice.
func (s *Session) Close() {
	s.once.Do(func() {
		s.s.grant.leaves(s)
		s.s.p.h.drop(s.s)
	})
}
