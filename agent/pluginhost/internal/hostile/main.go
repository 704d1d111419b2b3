// Command hostile stands for plugins that were not made with the SDK. Its own name
// says how it misbehaves.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

func main() {
	name := filepath.Base(os.Args[0])
	stderr := os.Stderr
	switch name {
	case "garbage":
		fmt.Print("\x00\x01\xff garbage | and | more | of | it | all\n")
		forever()
	case "flood": // a first line without end
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	case "mute":
		forever()
	case "exits":
		os.Exit(7)
	case "netrpc":
		fmt.Printf("1|%d|unix|%s/s|netrpc|\n", pluginv1.Protocol, os.Getenv("TMPDIR"))
		forever()
	case "elsewhere": // would have the agent connect to a socket of others
		fmt.Printf("1|%d|unix|%s|grpc|%s\n", pluginv1.Protocol, "/run/dbus/system_bus_socket", strings.Repeat("A", 64))
		forever()
	}
	version := pluginv1.Protocol
	if name == "future" {
		version = 99
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: map[int]goplugin.PluginSet{version: {"x": service{name: name, stderr: stderr}}},
		Logger:           hclog.NewNullLogger(),
		GRPCServer:       goplugin.DefaultGRPCServer,
	})
	if name == "orphan" {
		select {} // it has no intention of ending
	}
}

func forever() {
	for {
		time.Sleep(time.Hour) // select{} would end as a deadlock
	}
}

type service struct {
	goplugin.NetRPCUnsupportedPlugin
	pluginv1.UnimplementedMetaServer
	pluginv1.UnimplementedRotatorServer
	pluginv1.UnimplementedScriptsServer
	name   string
	stderr *os.File
}

func (s service) GRPCServer(_ *goplugin.GRPCBroker, g *grpc.Server) error {
	pluginv1.RegisterMetaServer(g, s)
	pluginv1.RegisterRotatorServer(g, s)
	pluginv1.RegisterScriptsServer(g, s)
	return nil
}

func (service) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func (s service) Describe(ctx context.Context, _ *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	m := &pluginv1.Manifest{Name: s.name, Version: "1", Kinds: []string{"password"}, Capabilities: []string{"rotator", "time-travel"}}
	switch s.name {
	case "greedy":
		m.Concurrency = 1 << 30
	case "answers":
		m.Kinds, m.Capabilities = nil, []string{pluginv1.CapAfter}
	case "split": // one script, and two plugins
		return &pluginv1.DescribeResponse{Plugins: []*pluginv1.Manifest{m, m}}, nil
	case "liar":
		m.Name = "somebody-else"
	case "huge":
		m.Forbid = strings.Repeat("x", 2<<20)
	case "headers":
		_ = grpc.SetHeader(ctx, metadata.Pairs("x", strings.Repeat("x", 1<<20)))
	}
	return &pluginv1.DescribeResponse{Plugins: []*pluginv1.Manifest{m}}, nil
}

func (s service) Open(context.Context, *pluginv1.OpenRequest) (*pluginv1.OpenResponse, error) {
	// Lines on which trusting parsers choke.
	fmt.Fprintln(s.stderr, `{"@message":1,"@level":{},"@timestamp":[],"@job":"x"}`)
	fmt.Fprintln(s.stderr, `{"@progress":{"a":1}}`)
	fmt.Fprintln(s.stderr, "{")
	fmt.Fprintln(s.stderr, strings.Repeat("y", 1<<20))
	for range 10000 {
		fmt.Fprintln(s.stderr, "flood")
	}
	return &pluginv1.OpenResponse{}, nil
}

func (s service) Apply(context.Context, *pluginv1.ApplyRequest) (*pluginv1.ApplyResponse, error) {
	return &pluginv1.ApplyResponse{Outcome: 77, Class: "\x1b[31m", Reason: strings.Repeat("r", 1000)}, nil
}

func (s service) Load(context.Context, *pluginv1.LoadRequest) (*pluginv1.LoadResponse, error) {
	return &pluginv1.LoadResponse{}, nil
}

func (s service) Run(_ context.Context, r *pluginv1.RunRequest) (*pluginv1.RunResponse, error) {
	secret := string(r.Secret.Secret)
	switch string(r.Account.Name) {
	case "long": // with the secret where it is cut
		return &pluginv1.RunResponse{Outcome: pluginv1.Outcome_OUTCOME_CHANGED, Output: strings.Repeat("x", pluginv1.MaxOutput-4) + secret + strings.Repeat("y", 1<<17)}, nil
	case "odd": // a character where it is cut
		return &pluginv1.RunResponse{Outcome: pluginv1.Outcome_OUTCOME_CHANGED, Output: "x" + strings.Repeat("é", pluginv1.MaxOutput)}, nil
	case "code":
		return &pluginv1.RunResponse{Outcome: pluginv1.Outcome_OUTCOME_UNCHANGED, Class: "policy", Reason: secret}, nil
	case "huge":
		return &pluginv1.RunResponse{Output: strings.Repeat("x", 2<<20)}, nil
	}
	return &pluginv1.RunResponse{Outcome: 77, Class: "\x1b[31m", Reason: strings.Repeat("r", 1000)}, nil
}
