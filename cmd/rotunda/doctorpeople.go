package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// examinePeople looks for what those know who may not know it any more: folder keys,
// secrets, keys of applications; and for agents that have not heard of a removal.
func (c *cli) examinePeople(ctx context.Context, x *examination, cl *client.Client) {
	outsiders, err := cl.Outsiders(ctx)
	if err != nil {
		x.failed("removals", err)
		return
	}
	if err := c.unheard(ctx, x, cl, outsiders); err != nil {
		x.failed("removals", err)
		return
	}
	if err := c.foldersKnown(ctx, x, cl, outsiders); err != nil {
		x.failed("removals", err)
		return
	}
	apps, err := cl.KnownApps(ctx)
	if err != nil {
		x.failed("removals", err)
		return
	}
	for _, k := range apps {
		x.warn("removals", "issue it anew: "+newApp(k.App.Name), "%s could hold the key of the application %s, under which its folders' keys are", few(c.knownTo(k)), k.App.Name)
	}
	exposed, unseen, err := cl.Exposed(ctx, outsiders)
	if err != nil {
		x.failed("removals", err)
		return
	}
	if n := len(unseen); n > 0 {
		x.warn("removals", lookedAtBy, "%d folder%s you cannot read: not looked at. Somebody who may not read %s could: %s", n, plural(n), themIt(n), few(uids(unseen)))
	}
	if len(exposed) > 0 {
		var titles []string
		var by []string
		do := "`rotunda rotate --exposed` rotates them; `rotunda rotate --exposed --json` lists them"
		for _, e := range exposed {
			titles = append(titles, e.Title)
			if e.Kept {
				do = keptHint + "; then `rotunda rotate --exposed` rotates them"
			}
			for _, o := range e.By {
				if !slices.Contains(by, c.who(o)) {
					by = append(by, c.who(o))
				}
			}
		}
		x.warn("removals", do, "%d account%s not rotated since %s could read %s: %s", len(titles), plural(len(titles)), few(by), themIt(len(titles)), few(titles))
	}
	x.ok("removals", "%d, and nobody who is out knows a key or an account's secret", len(outsiders))
}

// lookedAtBy is the advice about folders into which this device cannot look.
const lookedAtBy = "who reads them runs `rotunda doctor`, which shows what is not rotated there"

func uids(list []seal.ID) []string {
	out := []string{}
	for _, id := range list {
		out = append(out, id.String())
	}
	return out
}

// knownTo names those with whom an application's key is, who may not hold it.
func (c *cli) knownTo(k client.KnownApp) (names []string) {
	for _, o := range k.By {
		names = append(names, c.who(o))
	}
	for _, s := range k.Sealed {
		names = append(names, s.Name+" (whose copy the server keeps)")
	}
	return names
}

// who names somebody who was shut out, with when.
func (c *cli) who(o client.Outsider) string {
	what := "whose right was withdrawn"
	if o.Removed {
		what = "removed"
	}
	return fmt.Sprintf("%s (%s %s)", o.Name, what, c.ago(o.At))
}

func (c *cli) unheard(ctx context.Context, x *examination, cl *client.Client, outsiders []client.Outsider) error {
	list, err := cl.Unheard(ctx, outsiders)
	if err != nil {
		return err
	}
	of := map[string][]string{} // by agent: what it has not heard of
	var agents []string
	for _, u := range list {
		for _, a := range u.Agents {
			name := a.PoolName + " / " + a.Name + " (seen " + c.ago(a.Seen) + ")"
			if of[name] == nil {
				agents = append(agents, name)
			}
			of[name] = append(of[name], c.who(u.Outsider))
		}
	}
	status, err := cl.LogStatus(ctx)
	if err != nil {
		return err
	}
	for _, a := range status.Behind { // of a plugin that was withdrawn, or a grant
		name := a.PoolName + " / " + a.Name + " (seen " + c.ago(a.Seen) + ")"
		if of[name] == nil {
			agents, of[name] = append(agents, name), []string{"what was withdrawn last"}
		}
	}
	for _, name := range agents {
		x.warn("removals", treatAsLost, "agent %s has not confirmed the end of %s", name, few(of[name]))
	}
	return nil
}

func (c *cli) whoKnow(outsiders []client.Outsider, folder seal.ID) (names []string) {
	for _, o := range outsiders {
		if slices.Contains(o.Knows(), folder) {
			names = append(names, c.who(o))
		}
	}
	return names
}

func (c *cli) foldersKnown(ctx context.Context, x *examination, cl *client.Client, outsiders []client.Outsider) error {
	folders, err := cl.Folders(ctx)
	if err != nil {
		return err
	}
	read := map[seal.ID]bool{}
	for _, f := range folders {
		read[f.UID] = true
	}
	for _, uid := range knows(outsiders) {
		if !read[uid] {
			x.warn("removals", "who may share and edit it runs `rotunda folder rekey "+uid.String()+"`", "the key of a folder that you cannot read, %s, is known to %s", uid, few(c.whoKnow(outsiders, uid)))
		}
	}
	for _, f := range folders {
		by := c.whoKnow(outsiders, f.UID)
		switch do := "`rotunda folder rekey " + quoted(f.Name) + "`"; {
		case len(by) > 0:
			x.warn("removals", do, "the key of the folder %s is known to %s", f.Name, strings.TrimSpace(few(by)))
		case f.OldKeys > 0:
			x.warn("removals", do+" goes on", "%d record%s of the folder %s wait%s for keys of their own", f.OldKeys, plural(int(f.OldKeys)), f.Name, verbS(int(f.OldKeys)))
		}
	}
	return nil
}
