package sdk

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"google.golang.org/grpc"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// server is the plugin's side of the wire.
type server struct {
	pluginv1.UnimplementedMetaServer
	pluginv1.UnimplementedRotatorServer
	pluginv1.UnimplementedKeysServer
	pluginv1.UnimplementedDependentsServer
	pluginv1.UnimplementedProvisionServer
	pluginv1.UnimplementedScriptsServer
	load      func([]byte) (Plugin, error) // of a process that becomes what a script is; nil: it is what it is
	log       io.Writer
	progress  progress
	takeStdio sync.Once
	stderr    *os.File

	mu        sync.Mutex
	plugins   map[string]Plugin
	manifests []*pluginv1.Manifest
	loaded    bool // Load has been called
	sessions  map[uint64]*openSession
	calls     map[uint64]context.CancelFunc
	early     []uint64 // cancelled before they came, newest last
}

type openSession struct {
	Session
	secrets *scrub.Set
	readAs  bool // manifest.Readback
	retires bool // manifest.Overlap names a kind
	mints   []Kind
	shown   []func() // end the hiding of secrets that were minted, oldest first
}

// Bounds that an agent in its right mind never meets.
const (
	maxSessions = 1024
	maxEarly    = 64
)

func newServer(p []Plugin, m []*pluginv1.Manifest, stderr *os.File) *server {
	w := &syncWriter{w: stderr}
	s := &server{
		plugins: map[string]Plugin{}, manifests: m, stderr: stderr, log: w,
		progress: progress{w: w, c: make(chan step, 64)},
		sessions: map[uint64]*openSession{}, calls: map[uint64]context.CancelFunc{},
	}
	for _, one := range p {
		s.plugins[one.Manifest.Name] = one
	}
	return s
}

// intercept gives each call its deadline and makes it cancellable.
func (s *server) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	// go-plugin has put pipes in place of standard output and error by now. Whatever is
	// printed from here on goes to the log.
	s.takeStdio.Do(func() { os.Stdout, os.Stderr = s.stderr, s.stderr })
	r, ok := req.(interface{ GetCall() *pluginv1.Call })
	if !ok {
		return next(ctx, req)
	}
	ctx, cancel := within(ctx, r.GetCall())
	defer cancel()
	id := r.GetCall().GetId()
	s.mu.Lock()
	if i := slices.Index(s.early, id); i >= 0 {
		s.early = slices.Delete(s.early, i, i+1)
		cancel()
	}
	s.calls[id] = cancel
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
	}()
	if err := ctx.Err(); err != nil {
		return nil, toStatus(ctx, &Error{Class: ClassUnreachable, Reason: "deadline", NotSent: true, Err: err}, new(scrub.Set))
	}
	return next(ctx, req)
}

func (s *server) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	s.mu.Lock()
	manifests := s.manifests
	s.mu.Unlock()
	out := &pluginv1.DescribeResponse{}
	for _, m := range manifests {
		c := &pluginv1.Manifest{
			Name: m.Name, Version: m.Version, Kinds: m.Kinds, Self: m.Self, NoLogin: m.NoLogin,
			Concurrency: m.Concurrency, LoginTries: m.LoginTries, OldLives: m.OldLives, Settle: m.Settle, SettleIf: m.SettleIf,
			MaxLen: m.MaxLen, Forbid: m.Forbid, ConfigSchema: m.ConfigSchema, Overlap: m.Overlap, Minted: m.Minted, DependentSchema: m.DependentSchema,
			Capabilities: append(slices.Clone(m.Capabilities), grease()),
		}
		out.Plugins = append(out.Plugins, c)
	}
	return out, nil
}

func (s *server) Cancel(_ context.Context, r *pluginv1.CancelRequest) (*pluginv1.CancelResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[r.Call]; cancel != nil {
		cancel()
		return &pluginv1.CancelResponse{}, nil
	}
	if s.early = append(s.early, r.Call); len(s.early) > maxEarly {
		s.early = s.early[1:]
	}
	return &pluginv1.CancelResponse{}, nil
}

func (s *server) host(a *pluginv1.Access, pins map[string][]byte, secrets *scrub.Set) Host {
	return Host{
		Dialer:   dialer{a.GetSocket(), a.GetToken()},
		Log:      newLogger(s.log, a.GetJob(), secrets),
		Progress: s.progress.sender(a.GetJob(), secrets),
		Pins:     pins,
	}
}

func (s *server) plugin(name string) (Plugin, error) {
	s.mu.Lock()
	p, ok := s.plugins[name]
	s.mu.Unlock()
	if !ok {
		return p, toStatus(context.Background(), refuse(ClassUnsupported, "plugin.unknown"), new(scrub.Set))
	}
	return p, nil
}

// refuse is an error of this file's: nothing was sent.
func refuse(c Class, reason string) *Error { return &Error{Class: c, Reason: reason, NotSent: true} }

func (s *server) Open(ctx context.Context, r *pluginv1.OpenRequest) (*pluginv1.OpenResponse, error) {
	p, err := s.plugin(r.Plugin)
	if err != nil {
		return nil, err
	}
	secrets := new(scrub.Set)
	if p.Rotator == nil {
		return nil, toStatus(ctx, refuse(ClassUnsupported, "verb.open"), secrets)
	}
	secrets.Add(r.Admin.GetSecret())
	extra := map[string]Credential{}
	for name, c := range r.Extra {
		secrets.Add(c.GetSecret())
		extra[name] = credential(c)
	}
	session, err := p.Rotator.Open(ctx, OpenRequest{
		Host: s.host(r.Access, r.Pins, secrets), Resource: resource(r.Resource),
		Admin: credential(r.Admin), AdminAs: account(r.AdminAs), Extra: extra, Self: r.Self,
	})
	if err == nil && session == nil {
		err = refuse(ClassInternal, "session.nil")
	}
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	o := &openSession{Session: session, secrets: secrets, readAs: p.Manifest.Readback, retires: len(p.Manifest.Overlap) > 0, mints: p.Manifest.Minted}
	if err := s.keep(ctx, r.Session, o); err != nil {
		return nil, toStatus(ctx, errors.Join(err, session.Close()), secrets)
	}
	return &pluginv1.OpenResponse{}, nil
}

// keep takes a session in, if it has the declared verbs and is still wanted.
func (s *server) keep(ctx context.Context, id uint64, o *openSession) error {
	if _, ok := o.Session.(Retirer); o.retires && !ok {
		return refuse(ClassInternal, "manifest.retire")
	}
	if _, ok := o.Session.(Readback); o.readAs && !ok {
		return refuse(ClassInternal, "manifest.readback")
	}
	if _, ok := o.Session.(Minter); len(o.mints) > 0 && !ok {
		return refuse(ClassInternal, "manifest.minted")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return &Error{Class: ClassUnreachable, Reason: "deadline", NotSent: true, Err: ctx.Err()}
	}
	if s.sessions[id] != nil || len(s.sessions) >= maxSessions {
		return refuse(ClassInvalid, "session.id")
	}
	s.sessions[id] = o
	return nil
}

func (s *server) session(id uint64) (*openSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.sessions[id]; o != nil {
		return o, nil
	}
	return nil, toStatus(context.Background(), refuse(ClassInvalid, "session.closed"), new(scrub.Set))
}

// hide takes the secrets of one call out of logs and errors until it has returned.
// They are not wiped then: code that outlives its call must not find zeros where a
// new password was, and set those.
func (o *openSession) hide(c ...*pluginv1.Credential) (show func()) {
	var removes []func()
	for _, one := range c {
		removes = append(removes, o.secrets.Add(one.GetSecret()))
	}
	return func() {
		for _, remove := range removes {
			remove()
		}
	}
}

func (s *server) Apply(ctx context.Context, r *pluginv1.ApplyRequest) (*pluginv1.ApplyResponse, error) {
	o, err := s.session(r.Session)
	if err != nil {
		return nil, err
	}
	defer o.hide(r.Candidate, r.Current)()
	a, err := o.Apply(ctx, ApplyRequest{Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current)})
	if err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	out := &pluginv1.ApplyResponse{Outcome: outcome(a.Outcome), Reason: reason(a.Reason)}
	if a.Class != "" {
		out.Class = class(a.Class)
	}
	return out, nil
}

func (s *server) Retire(ctx context.Context, r *pluginv1.RetireRequest) (*pluginv1.RetireResponse, error) {
	o, err := s.session(r.Session)
	if err != nil {
		return nil, err
	}
	v, ok := o.Session.(Retirer)
	if !ok || !o.retires {
		return nil, toStatus(ctx, refuse(ClassUnsupported, "verb.retire"), o.secrets)
	}
	defer o.hide(r.Keep, r.Old)()
	a, err := v.Retire(ctx, RetireRequest{Account: account(r.Account), Keep: credential(r.Keep), Old: credential(r.Old)})
	if err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	return &pluginv1.RetireResponse{Outcome: outcome(a.Outcome)}, nil
}

func (s *server) Readback(ctx context.Context, r *pluginv1.ReadbackRequest) (*pluginv1.ReadbackResponse, error) {
	o, err := s.session(r.Session)
	if err != nil {
		return nil, err
	}
	v, ok := o.Session.(Readback)
	if !ok || !o.readAs {
		return nil, toStatus(ctx, refuse(ClassUnsupported, "verb.readback"), o.secrets)
	}
	defer o.hide(r.Candidate, r.Current)()
	a, err := v.Readback(ctx, ApplyRequest{Account: account(r.Account), Candidate: credential(r.Candidate), Current: credential(r.Current)})
	if err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	return &pluginv1.ReadbackResponse{Verdict: verdict(a.Verdict), Reason: reason(a.Reason)}, nil
}

func (s *server) Verify(ctx context.Context, r *pluginv1.VerifyRequest) (*pluginv1.VerifyResponse, error) {
	p, err := s.plugin(r.Plugin)
	if err != nil {
		return nil, err
	}
	secrets := new(scrub.Set)
	if p.Rotator == nil {
		return nil, toStatus(ctx, refuse(ClassUnsupported, "verb.verify"), secrets)
	}
	secrets.Add(r.Credential.GetSecret())
	a, err := p.Rotator.Verify(ctx, VerifyRequest{
		Host: s.host(r.Access, r.Pins, secrets), Resource: resource(r.Resource),
		Account: account(r.Account), Credential: credential(r.Credential),
	})
	if err != nil {
		return nil, toStatus(ctx, err, secrets)
	}
	return &pluginv1.VerifyResponse{Verdict: verdict(a.Verdict), Reason: reason(a.Reason)}, nil
}

// Close ends a session once: who takes it out of the map calls the plugin's Close, and
// whoever comes later has nothing to do.
func (s *server) Close(ctx context.Context, r *pluginv1.CloseRequest) (*pluginv1.CloseResponse, error) {
	s.mu.Lock()
	o := s.sessions[r.Session]
	delete(s.sessions, r.Session)
	s.mu.Unlock()
	if o == nil {
		return &pluginv1.CloseResponse{}, nil
	}
	if err := o.Close(); err != nil {
		return nil, toStatus(ctx, err, o.secrets)
	}
	return &pluginv1.CloseResponse{}, nil
}

func outcome(o Outcome) pluginv1.Outcome {
	switch o {
	case Changed:
		return pluginv1.Outcome_OUTCOME_CHANGED
	case Unchanged:
		return pluginv1.Outcome_OUTCOME_UNCHANGED
	default:
		return pluginv1.Outcome_OUTCOME_UNSPECIFIED
	}
}

func verdict(v Verdict) pluginv1.Verdict {
	switch v {
	case Accepted:
		return pluginv1.Verdict_VERDICT_ACCEPTED
	case Rejected:
		return pluginv1.Verdict_VERDICT_REJECTED
	default:
		return pluginv1.Verdict_VERDICT_UNSPECIFIED
	}
}
