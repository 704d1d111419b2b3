package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

// calls is how many are timed of each process that is started: of floor and product in turn.
const calls = 500

type empty struct{ plugin.NetRPCUnsupportedPlugin }

func (empty) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (empty) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

// processes measures what a process and a call cost, with a plugin that does nothing
// beside one that is none.
func (r *report) processes(ctx context.Context, home string) error {
	for _, name := range []string{"bare", "nothing"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", filepath.Join(home, "built", name), "./cmd/internal/bench/plugins/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s: run it in the repository", err, out)
		}
	}
	p := &r.Process
	for i := range r.o.starts {
		if err := p.bare(ctx, filepath.Join(home, "built", "bare"), i == 0); err != nil {
			return fmt.Errorf("go-plugin alone: %w", err)
		}
		if err := p.nothing(ctx, home, i); err != nil {
			return fmt.Errorf("a plugin that does nothing: %w", err)
		}
	}
	p.finish()
	return nil
}

// bare starts a process of go-plugin's alone, as it stands.
func (p *process) bare(ctx context.Context, binary string, first bool) error {
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "BENCH", MagicCookieValue: "bare"},
		Plugins:          plugin.PluginSet{"nothing": empty{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Cmd:              exec.CommandContext(ctx, binary), AutoMTLS: true, Logger: hclog.NewNullLogger(),
	})
	defer client.Kill()
	start := time.Now()
	c, err := client.Client()
	if err != nil {
		return err
	}
	if err := c.Ping(); err != nil {
		return err
	}
	p.bareStarts = append(p.bareStarts, time.Since(start))
	if first {
		p.BareKB = resident(client.ReattachConfig().Pid)
	}
	for range calls {
		start := time.Now()
		if err := c.Ping(); err != nil {
			return err
		}
		p.bareCalls = append(p.bareCalls, time.Since(start))
	}
	return nil
}

// nothing starts a plugin as an agent does, up to its first answer: once as the first that the
// agent starts of it, for which its program is checked and copied, and once more for another
// resource, as every later one is started.
func (p *process) nothing(ctx context.Context, home string, i int) (err error) {
	h, err := newHost(filepath.Join(home, "n"+strconv.Itoa(i)), filepath.Join(home, "built"), "nothing")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	start := time.Now()
	if _, err := h.Describe(ctx, h.plugin); err != nil {
		return err
	}
	p.firstStarts = append(p.firstStarts, time.Since(start))
	start = time.Now()
	s, err := h.Open(ctx, h.plugin, pluginhost.Job{Target: pluginhost.Target{Key: "target", Resource: sdk.Resource{Address: "127.0.0.1:1"}}})
	if err != nil {
		return err
	}
	defer s.Close()
	p.starts = append(p.starts, time.Since(start))
	if i == 0 {
		p.KB = h.resident()
	}
	for range calls {
		start := time.Now()
		if out, err := s.Apply(ctx, sdk.ApplyRequest{}); err != nil || out.Outcome != sdk.Changed {
			return fmt.Errorf("apply: %w", err)
		}
		p.calls = append(p.calls, time.Since(start))
	}
	return nil
}

// resident is the memory of the host's plugin: the one child of this process that has its
// name.
func (h *host) resident() float64 {
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		f := fields(b)
		if strings.HasPrefix(f["Name"], h.plugin.Name+"@") && f["PPid"] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(f["Pid"])
			return resident(pid)
		}
	}
	return 0
}

// resident is a process's memory in kB, which Linux tells.
func resident(pid int) float64 {
	if runtime.GOOS != "linux" {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	kb, _ := strconv.ParseFloat(strings.TrimSuffix(fields(b)["VmRSS"], " kB"), 64)
	return kb
}

func fields(status []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}
