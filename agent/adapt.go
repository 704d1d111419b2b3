package agent

import (
	"context"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// hostPlugins is the plugin host as a run sees it.
type hostPlugins struct {
	*pluginhost.Host
	catalogue *pluginhost.Catalogue
}

func (h hostPlugins) Find(name string) (pluginhost.Plugin, error) { return h.catalogue.Find(name) }

func (h hostPlugins) Open(ctx context.Context, p pluginhost.Plugin, j pluginhost.Job) (run.Session, error) {
	s, err := h.Host.Open(ctx, p, j)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// runVault is the vault as a run sees it.
type runVault struct{ *ksm.Client }

func (v runVault) Fetch(ctx context.Context, records ...seal.ID) (ksm.FetchAnswer, error) {
	r := ksm.FetchRequest{Ext: true}
	for _, id := range records {
		r.RequestedRecords = append(r.RequestedRecords, id.String())
	}
	return v.Client.Fetch(ctx, r)
}
