package pluginhost

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	manifest "github.com/rotunda-pam/rotunda/sdk/script"
)

// process is one plugin process. Its states are told by two channels: started
// closes when it is ready or has failed (err), gone when nothing of it is left.
type process struct {
	h       *Host
	plugin  Plugin
	key     processKey
	started chan struct{}
	gone    chan struct{}
	taken   chan struct{} // of a spare: closed when it becomes a script's

	// Set before started is closed.
	err      error
	manifest Description
	child    *child
	out      *output
	dial     *dialServer
	socket   string // the dialer's, as the plugin sees it
	conn     *grpc.ClientConn
	meta     pluginv1.MetaClient
	rotator  pluginv1.RotatorClient
	keys     pluginv1.KeysClient
	users    pluginv1.DependentsClient
	maker    pluginv1.ProvisionClient
	scripts  pluginv1.ScriptsClient
	turns    chan struct{} // manifest's Concurrency
	clean    []func()      // in reverse order
	stopOnce sync.Once
	death    *os.File // closing it ends the plugin
	lived    time.Time

	lastCall, lastJob atomic.Uint64

	// Guarded by h.mu.
	refs     int // sessions held, calls, and those who wait for the start
	busy     int // calls in flight
	idle     time.Time
	stopping bool
	leaving  bool // as soon as nobody uses it: another version is waited for
	sessions map[[32]byte]*shared
	expiring []expiry
	may      allowance
	overused error // why it was ended: it kept to no bound
}

type expiry struct {
	at     time.Time
	remove func()
}

func (h *Host) newProcess(key processKey) *process {
	return &process{
		h: h, plugin: key.plugin, key: key, started: make(chan struct{}), gone: make(chan struct{}), taken: make(chan struct{}),
		sessions: map[[32]byte]*shared{}, idle: time.Now(),
	}
}

// named is the log, with what the process is.
func (p *process) named() *slog.Logger {
	log := p.h.log.With("plugin", p.plugin.Name)
	if p.plugin.scripted() && p.manifest.Name != "" {
		name := p.manifest.Name
		if m, err := manifest.Parse([]byte(p.plugin.Script.Value())); err == nil { // a Lua script, which all have one manifest's name
			name = m.Name
		}
		log = log.With("script", name)
	}
	return log.With("resource", p.key.resource)
}

// rename has the process log as what it has become.
func (p *process) rename() {
	log := p.named()
	p.out.rename(log)
	p.dial.rename(log)
}

// start brings the process up to the answer to Describe.
func (p *process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.h.cfg.StartTimeout)
	defer cancel()
	if p.child == nil { // else it was the spare
		if err := p.begin(ctx); err != nil {
			return err
		}
	}
	if p.plugin.scripted() {
		if err := p.load(ctx); err != nil {
			return err
		}
	}
	return p.describe(ctx)
}

// begin starts the program, up to where it can be asked something.
func (p *process) begin(ctx context.Context) error {
	p.out = newOutput(p.named())
	binary, err := p.h.binary(p.plugin)
	if err != nil {
		return p.fail(PluginUnknown, err)
	}
	l, err := p.prepare(binary)
	if err != nil {
		return p.fail(PluginStart, err)
	}
	if err := p.handshake(ctx, l); err != nil {
		return err
	}
	if err := p.h.jail.tookEarly(l.child); err != nil {
		return p.fail(PluginStart, err)
	}
	return nil
}

// prepare makes the folder, the dialer's socket and the death pipe.
func (p *process) prepare(binary string) (*launch, error) {
	uid, release, err := p.h.jail.user()
	if err != nil {
		return nil, err
	}
	p.clean = append(p.clean, release)
	id := make([]byte, 6)
	_, _ = rand.Read(id)
	dir := filepath.Join(p.h.cfg.Dir, folderPrefix+hex.EncodeToString(id))
	private, remove, err := p.h.jail.folder(dir, uid)
	if err != nil {
		return nil, err
	}
	p.clean = append(p.clean, remove)
	p.dial, err = newDialServer(filepath.Join(private.at, dialSocket), uid, maxProcessConns, p.out.logger())
	if err != nil {
		return nil, err
	}
	p.clean = append(p.clean, p.dial.close)
	p.socket = filepath.Join(dir, dialSocket)
	l := &launch{
		jail: p.h.jail, where: confinement{uid: uid, folder: private, binary: binary}, name: p.plugin.Name, out: p.out,
		env: []string{"TMPDIR=" + dir},
	}
	if runtime.GOOS == "windows" {
		l.env = append(l.env, "TMP="+dir, "TEMP="+dir, "SystemRoot="+os.Getenv("SystemRoot"))
		return l, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.death, l.death = w, r
	l.env = append(l.env, pluginv1.EnvDeath+"=3")
	p.clean = append(p.clean, func() { _ = w.Close() })
	return l, nil
}

// handshake starts the process and shakes hands by go-plugin. The agent's own
// checks of the binary stand in for go-plugin's SecureConfig, which hashes a path
// and then executes it again.
func (p *process) handshake(ctx context.Context, l *launch) error {
	cfg := &goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: map[int]goplugin.PluginSet{pluginv1.Protocol: {}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     p.h.cfg.StartTimeout,
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: l.where.folder.at},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			l.env = append(l.env, handshakeEnv(cmd.Env)...)
			return l, nil
		},
	}
	l.ctx = ctx
	addr, err := goplugin.NewClient(cfg).Start()
	if l.death != nil {
		_ = l.death.Close() // else the plugin could not see the agent's end close
	}
	if l.child == nil {
		return p.fail(PluginStart, err)
	}
	l.unwatch()
	p.child = l.child
	p.clean = append(p.clean, func() {
		l.child.kill()
		<-l.child.exited
		l.readers.Wait()
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return p.fail(PluginStart, fmt.Errorf("no handshake: %w", ctx.Err()))
	case l.crashed:
		return p.fail(PluginCrashed, errors.New("it ended before the handshake"))
	default:
		return p.fail(PluginProtocol, fmt.Errorf("it does not shake hands as a plugin of this agent's version does: %w", err))
	}
	if cfg.TLSConfig == nil || cfg.TLSConfig.RootCAs == nil {
		return p.fail(PluginProtocol, errors.New("it offers no certificate"))
	}
	p.conn, err = grpc.NewClient("passthrough:///plugin",
		grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLSConfig)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(pluginv1.MaxMessage), grpc.MaxCallSendMsgSize(pluginv1.MaxMessage)),
		grpc.WithMaxHeaderListSize(maxHeader), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithNoProxy(), grpc.WithIdleTimeout(0))
	if err != nil {
		return p.fail(PluginProtocol, err)
	}
	p.clean = append(p.clean, func() { _ = p.conn.Close() })
	p.meta, p.rotator = pluginv1.NewMetaClient(p.conn), pluginv1.NewRotatorClient(p.conn)
	p.keys = pluginv1.NewKeysClient(p.conn)
	p.users, p.maker = pluginv1.NewDependentsClient(p.conn), pluginv1.NewProvisionClient(p.conn)
	p.scripts = pluginv1.NewScriptsClient(p.conn)
	return nil
}

// list asks what plugins the process is: one that has no script yet is none.
func (p *process) list(ctx context.Context) ([]*pluginv1.Manifest, error) {
	r, err := p.meta.Describe(ctx, &pluginv1.DescribeRequest{Capabilities: []string{
		pluginv1.CapRotator, pluginv1.CapRetire, pluginv1.CapReadback, pluginv1.CapMint, pluginv1.CapDependents, pluginv1.CapProvision, pluginv1.CapAfter, pluginv1.CapGenerator, pluginv1.CapDiscoverer, pluginv1.Grease + hex.EncodeToString([]byte(rand.Text()[:4])),
	}})
	if err != nil {
		return nil, p.classify(err)
	}
	if len(r.Plugins) > maxPerProcess {
		return nil, p.fail(PluginManifest, fmt.Errorf("it lists %d plugins", len(r.Plugins)))
	}
	return r.Plugins, nil
}

func (p *process) describe(ctx context.Context) error {
	all, err := p.list(ctx)
	if err != nil {
		return err
	}
	if p.plugin.scripted() && len(all) != 1 {
		return p.fail(PluginManifest, fmt.Errorf("it lists %d plugins, and was told one script", len(all)))
	}
	for _, m := range all {
		if m.GetName() != p.plugin.Name && !p.plugin.scripted() { // which has a name of its own
			continue
		}
		if p.manifest, err = description(m); err != nil {
			return p.fail(PluginManifest, err)
		}
		p.turns = make(chan struct{}, p.manifest.Concurrency)
		p.lived = time.Now()
		if p.plugin.scripted() {
			p.rename()
		}
		return nil
	}
	return p.fail(PluginManifest, errors.New("it does not list that name"))
}

const (
	folderPrefix    = "p-"
	dialSocket      = "dial"
	maxHeader       = 64 << 10
	maxProcessConns = 256
	maxText         = 1 << 10
)

// fail makes an error of a call that did not reach the plugin's code.
func (p *process) fail(r Reason, err error) *Error {
	return &Error{Reason: r, Plugin: p.plugin.Name, NotSent: true, Err: scrubbed(p, err)}
}

// cleanup undoes what start did, as far as it came.
func (p *process) cleanup() {
	for i := len(p.clean) - 1; i >= 0; i-- {
		p.clean[i]()
	}
}

// stop ends the process: by the death pipe, and by force if that does not help.
func (p *process) stop(ctx context.Context) {
	p.stopOnce.Do(func() {
		if p.death == nil {
			p.child.kill()
			return
		}
		_ = p.death.Close()
		t := time.NewTimer(deafFor)
		defer t.Stop()
		select {
		case <-p.child.exited:
		case <-t.C:
		case <-ctx.Done():
		}
		p.child.kill()
	})
}

// ended tells a process that has ended from one that runs or starts: it stays listed
// for a moment.
func (p *process) ended() bool {
	select {
	case <-p.started:
		return p.err == nil && p.dead()
	default:
		return false
	}
}

func (p *process) dead() bool {
	select {
	case <-p.child.exited:
		return true
	default:
		return false
	}
}
