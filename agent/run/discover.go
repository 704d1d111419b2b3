package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Discover finds out what accounts a target has, by the script that the resource's statement
// names for it, and changes nothing.
func (e *Engine) Discover(ctx context.Context, c *trust.Command) (*trustv1.DiscoverReply, error) {
	found, err := e.resource(ctx, c)
	if err != nil {
		return nil, err
	}
	h := found.script
	if h == nil {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "discoverer.none", NotSent: true, Err: errors.New("the resource names no script that finds accounts")}
	}
	if h.err != nil {
		return nil, h.err
	}
	p, m, err := e.host(ctx, h)
	if err != nil {
		return nil, err
	}
	if !m.Discoverer {
		return nil, &sdk.Error{Class: sdk.ClassUnsupported, Reason: "script.plugin", NotSent: true, Err: fmt.Errorf("the plugin %s finds no accounts", p.Name)}
	}
	j, release, err := e.administer(ctx, found)
	if err != nil {
		return nil, err
	}
	defer release()
	j.Resource.Config, j.Extra = h.use.Parameters, nil // approved was the administrator's login alone
	call, cancel := context.WithTimeout(ctx, e.Limits.Apply)
	defer cancel()
	accounts, more, err := e.Plugins.Discover(call, p, j)
	h.failed(err)
	if err != nil {
		return nil, withoutOwnWords(fmt.Errorf("%s: %w", h, err))
	}
	reply := &trustv1.DiscoverReply{More: more}
	for _, a := range accounts {
		reply.Accounts = append(reply.Accounts, &trustv1.FoundAccount{Login: a.Login, Scope: a.Scope, Facts: a.Facts})
	}
	return reply, nil
}
