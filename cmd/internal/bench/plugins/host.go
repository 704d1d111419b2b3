package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/sdk"
)

// host runs one plugin as an agent does.
type host struct {
	*pluginhost.Host
	plugin   pluginhost.Plugin
	manifest sdk.Manifest
}

// newHost takes a plugin's binary from a folder of the Makefile's, in which its hash is
// part of the name, or which holds nothing else.
func newHost(dir, from, name string) (*host, error) {
	files, err := filepath.Glob(filepath.Join(from, name+"@*"))
	if err != nil || len(files) == 0 {
		files = []string{filepath.Join(from, name)}
	}
	binary, err := os.ReadFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("%w: run make build", err)
	}
	h := &host{plugin: pluginhost.Plugin{Name: name, SHA256: sha256.Sum256(binary)}}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, h.plugin.String()), binary, 0o600); err != nil {
		return nil, err
	}
	catalogue, err := pluginhost.NewCatalogue(dir, []string{h.plugin.String()}, nil)
	if err != nil {
		return nil, err
	}
	h.Host, err = pluginhost.New(pluginhost.Config{Dir: filepath.Join(dir, "run"), Catalogue: catalogue})
	return h, err
}

func (h *host) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return h.Close(ctx)
}

func target(e floor.Endpoint) pluginhost.Target {
	var pins []byte
	for _, p := range e.Pins {
		pins = append(pins, p[:]...)
	}
	return pluginhost.Target{
		Key: "target", Resource: e.Resource, Allow: []string{e.Resource.Address}, Pins: map[string][]byte{e.Resource.Address: pins},
	}
}

// open logs the administrator in.
func (h *host) open(ctx context.Context, e floor.Endpoint) (*pluginhost.Session, error) {
	d, err := h.Describe(ctx, h.plugin)
	if err != nil {
		return nil, err
	}
	h.manifest = d.Manifest
	return h.Open(ctx, h.plugin, pluginhost.Job{Target: target(e), Admin: e.Admin, AdminAs: e.AdminAs})
}

// rotate is what a run has a plugin do: the change, a fresh login, and where two secrets
// work until then, the former one's end.
func (h *host) rotate(ctx context.Context, s *pluginhost.Session, e floor.Endpoint, a *floor.Account) error {
	former := sdk.Credential{Kind: sdk.Password, Secret: a.Secret}
	a.Secret = floor.Password()
	next := sdk.Credential{Kind: sdk.Password, Secret: a.Secret}
	changed, err := s.Apply(ctx, sdk.ApplyRequest{Account: a.Account, Candidate: next, Current: former})
	if err != nil || changed.Outcome != sdk.Changed {
		return fmt.Errorf("apply: outcome %d, %s: %w", changed.Outcome, changed.Reason, err)
	}
	seen, err := h.Verify(ctx, h.plugin, pluginhost.VerifyJob{Target: target(e), Account: a.Account, Credential: next})
	if err != nil || seen.Verdict != sdk.Accepted {
		return fmt.Errorf("verify: verdict %d, %s: %w", seen.Verdict, seen.Reason, err)
	}
	if len(h.manifest.Overlap) == 0 {
		return nil
	}
	ended, err := s.Retire(ctx, sdk.RetireRequest{Account: a.Account, Keep: next, Old: former})
	if err != nil || ended.Outcome != sdk.Changed {
		return fmt.Errorf("retire: outcome %d: %w", ended.Outcome, err)
	}
	return nil
}
