package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

// Standard output belongs to the handshake. What a library prints there while the
// program is being initialised goes to the log instead.
var handshake = os.Stdout

func init() {
	if startedByAgent() {
		os.Stdout = os.Stderr
	}
}

func startedByAgent() bool { return os.Getenv(pluginv1.CookieKey) == pluginv1.CookieValue }

// Serve is the whole main function of a plugin. It returns when the agent ends the
// process, and panics when manifest and interfaces disagree.
//
// Started by hand, the program prints its manifests as JSON when its argument is
// "manifest", and otherwise says what it is and ends with status 1.
func Serve(p ...Plugin) {
	manifests := make([]*pluginv1.Manifest, len(p))
	for i, one := range p {
		m, err := describe(one)
		if err != nil {
			panic(fmt.Sprintf("sdk.Serve: plugin %q: %v", one.Manifest.Name, err))
		}
		if slices.ContainsFunc(manifests[:i], func(o *pluginv1.Manifest) bool { return o.Name == m.Name }) {
			panic(fmt.Sprintf("sdk.Serve: plugin %q twice", m.Name))
		}
		manifests[i] = m
	}
	if len(p) == 0 {
		panic("sdk.Serve: no plugin")
	}
	if !startedByAgent() {
		byHand(p)
		return
	}
	serve(p, manifests, nil)
}

// ServeScripts is the main function of a plugin that runs scripts: each of its processes
// becomes, by what load makes of the text that the agent has for it, one plugin. Load is
// called once, and what it refuses is an error of class invalid, reason script.
func ServeScripts(load func(text []byte) (Plugin, error)) {
	if !startedByAgent() {
		fmt.Fprintln(os.Stderr, "this is a rotunda plugin that runs scripts: the agent starts it")
		os.Exit(1)
	}
	serve(nil, nil, load)
}

func serve(p []Plugin, manifests []*pluginv1.Manifest, load func([]byte) (Plugin, error)) {
	stderr := os.Stderr
	watchDeath()
	harden()
	os.Stdout = handshake
	s := newServer(p, manifests, stderr)
	s.load = load
	go s.progress.write()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: map[int]goplugin.PluginSet{pluginv1.Protocol: {"rotunda": service{s: s}}},
		Logger:           hclog.NewNullLogger(),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o,
				grpc.MaxRecvMsgSize(pluginv1.MaxMessage), grpc.MaxSendMsgSize(pluginv1.MaxMessage),
				grpc.UnaryInterceptor(s.intercept))...)
		},
	})
}

func byHand(p []Plugin) {
	if len(os.Args) != 2 || os.Args[1] != "manifest" {
		fmt.Fprintln(os.Stderr, "this is a rotunda plugin: the agent starts it; its argument \"manifest\" describes it")
		os.Exit(1)
	}
	type described struct {
		Manifest
		Config    json.RawMessage `json:",omitempty"`
		Dependent json.RawMessage `json:",omitempty"`
	}
	var out []described
	for _, one := range p {
		schema, _ := ConfigSchema(one.Manifest.Config) // checked by describe
		dependent, _ := ConfigSchema(one.Manifest.Dependent)
		out = append(out, described{one.Manifest, schema, dependent})
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func describe(p Plugin) (*pluginv1.Manifest, error) {
	m := p.Manifest
	switch {
	case !nameRE.MatchString(m.Name):
		return nil, fmt.Errorf("name must match %s", nameRE)
	case m.Version == "":
		return nil, fmt.Errorf("has no version")
	case p.Rotator == nil && p.Dependents == nil && p.After == nil && p.Generator == nil && p.Discoverer == nil:
		return nil, fmt.Errorf("has no Rotator")
	case p.Rotator != nil && len(m.Kinds) == 0:
		return nil, fmt.Errorf("has no kinds")
	case p.Rotator == nil && (len(m.Kinds) > 0 || m.Readback || m.Provision):
		return nil, fmt.Errorf("has no Rotator, and says that it rotates")
	case m.Concurrency < 0 || m.LoginTries < 0 || m.OldLives < 0 || m.Settle < 0 || m.MaxLen < 0:
		return nil, fmt.Errorf("has a negative number")
	case m.Dependents != (p.Dependents != nil):
		return nil, fmt.Errorf("says dependents: %t, and has the opposite", m.Dependents)
	case m.Provision != (p.Provision != nil):
		return nil, fmt.Errorf("says provision: %t, and has the opposite", m.Provision)
	case m.After != (p.After != nil):
		return nil, fmt.Errorf("says after: %t, and has the opposite", m.After)
	case m.Generator != (p.Generator != nil):
		return nil, fmt.Errorf("says generator: %t, and has the opposite", m.Generator)
	case m.Discoverer != (p.Discoverer != nil):
		return nil, fmt.Errorf("says discoverer: %t, and has the opposite", m.Discoverer)
	case m.Dependent != nil && !m.Dependents:
		return nil, fmt.Errorf("has settings for dependents, and no dependents")
	}
	for _, k := range m.Overlap {
		if !slices.Contains(m.Kinds, k) {
			return nil, fmt.Errorf("overlap of %q, which is not among its kinds", k)
		}
	}
	for _, k := range m.Minted {
		if !slices.Contains(m.Overlap, k) {
			return nil, fmt.Errorf("the target makes %q, which is not among the kinds that overlap", k)
		}
	}
	schema, err := ConfigSchema(m.Config)
	if err != nil {
		return nil, err
	}
	if m.SettleIf != "" && !isSwitch(m.Config, m.SettleIf) {
		return nil, fmt.Errorf("settles if %q, which is no boolean among its settings, or is one that is on by itself", m.SettleIf)
	}
	dependent, err := ConfigSchema(m.Dependent)
	if err != nil {
		return nil, err
	}
	return manifestToWire(m, schema, dependent), nil
}

// service registers the server with go-plugin.
type service struct {
	goplugin.NetRPCUnsupportedPlugin
	s *server
}

func (v service) GRPCServer(_ *goplugin.GRPCBroker, g *grpc.Server) error {
	pluginv1.RegisterMetaServer(g, v.s)
	pluginv1.RegisterRotatorServer(g, v.s)
	pluginv1.RegisterKeysServer(g, v.s)
	pluginv1.RegisterDependentsServer(g, v.s)
	pluginv1.RegisterProvisionServer(g, v.s)
	pluginv1.RegisterScriptsServer(g, v.s)
	return nil
}

func (service) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("a plugin is not a host")
}
