package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// shutOutView is what became of what somebody could read, after his removal.
type shutOutView struct {
	Done       string        `json:"done"`
	Folders    []rekeyView   `json:"folders"`
	Outcomes   []outcomeView `json:"outcomes"`
	Known      []string      `json:"known_folders"` // whose present key he knows
	Waiting    []waitingView `json:"waiting_folders"`
	NotRotated []exposedView `json:"not_rotated"`
	Unread     []string      `json:"not_looked_at"` // folders that this device cannot read
	Apps       []string      `json:"applications"`  // whose key he could hold
	Agents     []behindView  `json:"unconfirmed"`
}

// waitingView is a folder with a new key, and records that still have theirs of before.
type waitingView struct {
	Folder  string `json:"folder"`
	Records int    `json:"records"`
}

func newShutOut(name string) *shutOutView {
	return &shutOutView{Done: "removed " + name, Folders: []rekeyView{}, Outcomes: []outcomeView{}}
}

// over says whether nothing is left that the command could go on with.
func (v *shutOutView) over() bool {
	return len(v.Known)+len(v.Waiting)+len(v.NotRotated)+len(v.Unread) == 0
}

// exposedView is an account whose secret he may know.
type exposedView struct {
	Record string `json:"record"`
	Title  string `json:"title"`
}

// behindView is an agent that has not confirmed the removal.
type behindView struct {
	Pool string `json:"pool"`
	Name string `json:"name"`
	Seen string `json:"seen,omitempty"`
}

// goOn goes on with the removal of somebody who is out of the log already. Where nothing is
// left a name may be meant for somebody else: that he is not found stands.
func (c *cli) goOn(ctx context.Context, cl *client.Client, name string, flags removalFlags, notFound error, kinds []trustv1.EntryKind) error {
	o, ok, err := cl.Removed(ctx, name, kinds...)
	if err != nil || !ok {
		return errors.Join(notFound, err)
	}
	v := newShutOut(o.Name)
	if err := c.whatIsLeft(ctx, cl, o.ID, v); err != nil {
		return err
	}
	left := "this goes on with what is left"
	if v.over() {
		left = "nothing is left to re-key or to rotate"
	}
	c.note("%s was removed %s; %s", o.Name, c.ago(o.At), left)
	switch {
	case v.over() && name != o.ID.String():
		return notFound
	case v.over() || flags.plan:
		return c.emit(v, func(w io.Writer) { c.showShutOut(w, o.Name, v) })
	}
	if err := c.confirm(shutOutQuestion(v, flags)); err != nil {
		return err
	}
	return c.shutOut(ctx, cl, o.ID, o.Name, flags)
}

func shutOutQuestion(v *shutOutView, flags removalFlags) string {
	var do []string
	if n := len(v.Known) + len(v.Waiting); n > 0 && !flags.noRekey {
		do = append(do, fmt.Sprintf("give %d folder%s and what is in %s new keys", n, plural(n), themIt(n)))
	}
	if n := len(v.NotRotated); n > 0 && !flags.noRotate {
		do = append(do, fmt.Sprintf("rotate %d account%s", n, plural(n)))
	}
	return strings.Join(append(do, "go on")[:max(1, len(do))], ", ")
}

// outside is what the log says of one who was shut out, and the accounts whose secret he
// may know; unseen are his folders into which this device cannot look.
func (c *cli) outside(ctx context.Context, cl *client.Client, id seal.ID) (mine []client.Outsider, exposed []client.Exposed, unseen []seal.ID, err error) {
	all, err := cl.Outsiders(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	mine = slices.DeleteFunc(all, func(o client.Outsider) bool { return o.ID != id })
	exposed, unseen, err = cl.Exposed(ctx, mine)
	return mine, exposed, unseen, err
}

// knows lists the folders whose present key they know, each once.
func knows(list []client.Outsider) (folders []seal.ID) {
	for _, o := range list {
		for _, f := range o.Knows() {
			if !slices.Contains(folders, f) {
				folders = append(folders, f)
			}
		}
	}
	return folders
}

// couldRead says whether one of them could read a folder.
func couldRead(list []client.Outsider, folder seal.ID) bool {
	return slices.ContainsFunc(list, func(o client.Outsider) bool {
		return slices.ContainsFunc(o.Folders, func(f client.OutsideFolder) bool { return f.UID == folder })
	})
}

// shutOut ends what somebody who was removed knows: new keys first, so that the secrets
// that come next are written under keys that he has not. What goes wrong with one thing
// stops no other; all of it is found again, from the log and at the server.
func (c *cli) shutOut(ctx context.Context, cl *client.Client, id seal.ID, name string, flags removalFlags) error {
	v := newShutOut(name)
	var failed error
	if !flags.noRekey {
		failed = c.rekeyAll(ctx, cl, id, v)
	}
	if !flags.noRotate && ctx.Err() == nil {
		failed = errors.Join(failed, c.rotateExposed(ctx, cl, id, v, flags.noWait))
	}
	// Also after an interrupt: it is what the person has to know.
	if err := c.whatIsLeft(context.WithoutCancel(ctx), cl, id, v); err != nil {
		return errors.Join(failed, err)
	}
	err := c.emit(v, func(w io.Writer) { c.showShutOut(w, name, v) })
	switch {
	case failed != nil || err != nil || flags.noRotate:
	case len(v.Unread) > 0:
		n := len(v.Unread)
		err = failf(exitFindings, "not_looked_at", "%d folder%s you cannot read: not looked at", n, plural(n)).withHint(lookedAtBy)
	case len(v.NotRotated) > 0 && !flags.noWait:
		n, how := len(v.NotRotated), "the same command goes on"
		if flags.noRekey && len(v.Known)+len(v.Waiting) > 0 {
			how += ", without --no-rekey where records wait for keys of their own"
		}
		err = failf(exitFindings, "not_rotated", "%d account%s that %s could read %s not rotated yet", n, plural(n), name, isAre(n)).withHint("%s", how)
	}
	return errors.Join(failed, err)
}

// toRekey lists the folders whose present key one who was shut out knows, and those of his in
// which records wait for keys of their own. An error leaves out the second.
func toRekey(ctx context.Context, cl *client.Client, mine []client.Outsider) (known, waiting []client.Folder, err error) {
	folders, err := cl.Folders(ctx)
	for _, uid := range knows(mine) {
		f := client.Folder{UID: uid, Name: uid.String()} // this device cannot read it
		if i := slices.IndexFunc(folders, func(f client.Folder) bool { return f.UID == uid }); i >= 0 {
			f = folders[i]
		}
		known = append(known, f)
	}
	for _, f := range folders {
		if f.OldKeys > 0 && couldRead(mine, f.UID) && !slices.ContainsFunc(known, func(k client.Folder) bool { return k.UID == f.UID }) {
			waiting = append(waiting, f)
		}
	}
	return known, waiting, err
}

// rekeyAll re-keys the folders that are left; the error is the first one's.
func (c *cli) rekeyAll(ctx context.Context, cl *client.Client, id seal.ID, v *shutOutView) error {
	all, err := cl.Outsiders(ctx)
	if err != nil {
		return err
	}
	known, waiting, first := toRekey(ctx, cl, slices.DeleteFunc(all, func(o client.Outsider) bool { return o.ID != id }))
	for _, f := range slices.Concat(known, waiting) {
		r, err := c.rekey(ctx, cl, f.UID, client.RekeyOptions{})
		view := viewRekey(r)
		if err != nil {
			view.Error = classify(err).Error()
		}
		v.Folders = append(v.Folders, view)
		if first == nil {
			first = errors.Join(err, leftBehind(r))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return first
}

// rotateExposed signs a command for each account whose secret he may know, as "rotunda
// rotate" does: a person's command needs no mandate, and no schedule is moved. The
// administrators of resources come last: the others' runs log in as them.
func (c *cli) rotateExposed(ctx context.Context, cl *client.Client, id seal.ID, v *shutOutView, noWait bool) error {
	_, exposed, _, err := c.outside(ctx, cl, id)
	if err != nil {
		return err
	}
	admins, err := administrators(ctx, cl)
	if err != nil {
		return err
	}
	var waves [2][]*client.Record
	for _, x := range exposed {
		switch {
		case x.Kept: // a new secret would be written under the key that he knows
		case admins[x.Ref]:
			waves[1] = append(waves[1], &client.Record{Ref: x.Ref, Title: x.Title})
		default:
			waves[0] = append(waves[0], &client.Record{Ref: x.Ref, Title: x.Title})
		}
	}
	f := c.follow(slices.Concat(waves[0], waves[1]))
	var failed error
	for n, wave := range waves {
		if n > 0 && noWait && len(waves[0]) > 0 {
			break // the first ones are not over: these stay on the list
		}
		var refs []client.Ref
		for _, r := range wave {
			refs = append(refs, r.Ref)
		}
		if len(refs) == 0 {
			continue
		}
		outcomes, err := cl.Rotate(ctx, refs, client.RunOptions{Progress: f.progress, NoWait: noWait})
		for _, o := range outcomes {
			v.Outcomes = append(v.Outcomes, viewOutcome(o, f.names[o.Account]))
		}
		failed = errors.Join(failed, f.worst(outcomes, noWait), err)
	}
	return failed
}

// administrators are the accounts as which agents log in to resources.
func administrators(ctx context.Context, cl *client.Client) (map[client.Ref]bool, error) {
	out := map[client.Ref]bool{}
	for r, err := range cl.Records(ctx, seal.ID{}, resourceTypes[:]...) {
		if err != nil {
			return nil, err
		}
		if ref := refOf(r.Statement.GetResource().GetAdminAccount()); !ref.IsZero() {
			out[ref] = true
		}
	}
	return out, nil
}

// whatIsLeft looks again, by the log and the results as they are now.
func (c *cli) whatIsLeft(ctx context.Context, cl *client.Client, id seal.ID, v *shutOutView) error {
	mine, exposed, unseen, err := c.outside(ctx, cl, id)
	if err != nil {
		return err
	}
	v.Known, v.Waiting, v.NotRotated, v.Unread, v.Apps, v.Agents = []string{}, []waitingView{}, []exposedView{}, uids(unseen), []string{}, []behindView{}
	known, waiting, err := toRekey(ctx, cl, mine)
	if err != nil {
		return err
	}
	for _, f := range known {
		v.Known = append(v.Known, f.Name)
	}
	for _, f := range waiting {
		v.Waiting = append(v.Waiting, waitingView{f.Name, int(f.OldKeys)})
	}
	for _, x := range exposed {
		v.NotRotated = append(v.NotRotated, exposedView{x.Ref.String(), x.Title})
	}
	for _, o := range mine {
		for _, app := range o.Apps {
			if !slices.Contains(v.Apps, app.Name) {
				v.Apps = append(v.Apps, app.Name)
			}
		}
	}
	unheard, err := cl.Unheard(ctx, slices.DeleteFunc(mine, func(o client.Outsider) bool { return !o.Removed }))
	if err != nil {
		return err
	}
	for _, u := range unheard {
		for _, a := range u.Agents {
			v.Agents = append(v.Agents, behindView{a.PoolName, a.Name, stamp(a.Seen)})
		}
	}
	return nil
}

// treatAsLost is the advice about agents that have not heard of a removal.
const treatAsLost = "until it has, it may act on what the one removed signs. It asks within the hour, or at once when a run or `rotunda resource test` has it work; if it stays away, treat it as lost (`rotunda agent remove`)"

// newApp is how an application is issued anew.
func newApp(name string) string {
	return fmt.Sprintf("`rotunda app remove %[1]s`, `rotunda app add %[1]s`, grant its folders to it, `rotunda app config %[1]s CLIENT` for each of its clients, then `rotunda folder rekey` for those folders", quoted(name))
}

// quoted is a name as a shell takes it.
func quoted(name string) string {
	if strings.ContainsAny(name, " \t'\"\\$`*?;&|<>()") {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

func (c *cli) showShutOut(w io.Writer, name string, v *shutOutView) {
	for _, f := range v.Folders {
		showRekey(w, f)
	}
	if len(v.Outcomes) > 0 {
		showOutcomes(w, v.Outcomes)
	}
	for _, f := range v.Known {
		printLine(w, "%s knows the key of the folder %s: `rotunda folder rekey %s` ends that", name, f, quoted(f))
	}
	for _, f := range v.Waiting {
		printLine(w, "%d record%s of the folder %s wait%s for keys of their own, and may have ones that %s knows: `rotunda folder rekey %s` goes on", f.Records, plural(f.Records), f.Folder, verbS(f.Records), name, quoted(f.Folder))
	}
	if n := len(v.Unread); n > 0 {
		printLine(w, "%d folder%s you cannot read: not looked at (%s); %s", n, plural(n), strings.Join(v.Unread, ", "), lookedAtBy)
	}
	for _, app := range v.Apps {
		printLine(w, "the application %s: he could hold its key, under which its folders' keys are: issue it anew: %s", app, newApp(app))
	}
	for _, a := range v.Agents {
		seen := "never seen"
		if a.Seen != "" {
			seen = "seen " + local(a.Seen)
		}
		printLine(w, "agent %s / %s (%s) has not confirmed the removal: %s", a.Pool, a.Name, seen, treatAsLost)
	}
	if n := len(v.NotRotated); n > 0 {
		printLine(w, "%d account%s that %s could read %s not rotated yet; `rotunda rotate --exposed` rotates %s, `rotunda doctor` shows them until they are:", n, plural(n), name, isAre(n), themIt(n))
		for _, x := range v.NotRotated {
			printLine(w, "  %s (%s)", x.Title, x.Record)
		}
	}
	c.note("%s", v.Done)
}
