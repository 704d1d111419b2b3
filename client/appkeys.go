package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/seal"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// KnownApp is an application whose key is with somebody who may not read all that is, or
// was, under it: what its folders hold is open to him with the server's data.
type KnownApp struct {
	App    Outside
	By     []Outsider // could hold it, and may no more: the log's word
	Sealed []Outside  // devices for which the server keeps a copy, and which may not hold one
}

// KnownApps lists the applications that are to be issued anew.
func (c *Client) KnownApps(ctx context.Context) ([]KnownApp, error) {
	outsiders, err := c.Outsiders(ctx)
	if err != nil {
		return nil, err
	}
	sealed := map[seal.ID][]Outside{}
	err = c.listApps(ctx, func(v *clientv1.AppView) error {
		app := idOr(v.AppId)
		for _, h := range v.HolderIds {
			if id := idOr(h); c.opensMore(id, app) {
				sealed[app] = append(sealed[app], Outside{id, c.nameOf(id)})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []KnownApp
	for _, e := range c.log.Entries(KindApp) {
		k := KnownApp{App: Outside{e.ID, e.Name}}
		for _, o := range outsiders {
			if slices.ContainsFunc(o.Apps, func(app Outside) bool { return app.ID == e.ID }) {
				k.By = append(k.By, o)
			}
		}
		for _, s := range sealed[e.ID] {
			d, _ := c.log.Entry(s.ID)
			if !slices.ContainsFunc(k.By, func(o Outsider) bool { return o.ID == s.ID || o.ID == d.Owner }) {
				k.Sealed = append(k.Sealed, s)
			}
		}
		if len(k.By)+len(k.Sealed) > 0 {
			out = append(out, k)
		}
	}
	return out, nil
}

// opensMore reports whether an application's key would open something to a party that it
// may not read, now that it may not hold the key.
func (c *Client) opensMore(party, app seal.ID) bool {
	if _, live := c.log.Entry(party); !live {
		return true
	}
	return !c.log.MayHoldApp(party, app) &&
		slices.ContainsFunc(c.log.AppFolders(app), func(f seal.ID) bool { return !c.log.Roles(party, f).Has(Read) })
}

// noStrangers refuses to put a folder under an application's key that somebody knows, or
// may know, who may not read the folder. Administrators hold every application's key.
func (c *Client) noStrangers(ctx context.Context, op string, v *clientv1.AppView, folder seal.ID) error {
	app := idOr(v.AppId)
	if c.log.Roles(app, folder).Has(Read) {
		return nil // it is under it already
	}
	all, err := c.shutOut(ctx)
	if err != nil {
		return err
	}
	var names []string
	add := func(id seal.ID, name string) {
		may := c.log.Roles(id, folder).Has(Read) || c.log.Roles(id, seal.ID{}).Has(Admin)
		if !may && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, o := range all {
		if slices.ContainsFunc(o.Apps, func(a Outside) bool { return a.ID == app }) {
			add(o.ID, o.Name)
		}
	}
	for _, e := range c.log.Entries(KindDevice) {
		if c.log.MayHoldApp(e.ID, app) {
			add(e.ID, c.log.FullName(e))
		}
	}
	for _, h := range v.HolderIds {
		add(idOr(h), c.nameOf(idOr(h)))
	}
	if len(names) == 0 {
		return nil
	}
	if len(names) > maxNamed {
		names = append(names[:maxNamed], "…")
	}
	return &Error{
		Class: Conflict, Reason: "app_key_known", Op: op, Err: fmt.Errorf("the application's key is, or was, with %s, who may not read the folder", strings.Join(names, ", ")),
		Hint: "make another application for it (`rotunda app add`), or let them read the folder",
	}
}
