package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// vaultLook is what doctor needs of the records that this person may read.
type vaultLook struct {
	folders map[seal.ID]bool
	all     map[client.Ref]*client.Record
	order   []*client.Record
}

func lookAtVault(ctx context.Context, cl *client.Client) (*vaultLook, error) {
	folders, err := cl.Folders(ctx)
	if err != nil {
		return nil, err
	}
	v := &vaultLook{folders: map[seal.ID]bool{}, all: map[client.Ref]*client.Record{}}
	for _, f := range folders {
		v.folders[f.UID] = !f.Missing
	}
	for r, err := range cl.Records(ctx, seal.ID{}) {
		if err != nil {
			return nil, err
		}
		v.all[r.Ref] = r
		v.order = append(v.order, r)
	}
	return v, nil
}

// examineRecords looks for records that agents refuse because of what they name.
func (c *cli) examineRecords(ctx context.Context, x *examination, cl *client.Client) {
	v, err := lookAtVault(ctx, cl)
	if err != nil {
		x.failed("records", err)
		return
	}
	v.refused(x)
	v.stripped(x)
	v.gone(x)
	v.unapproved(x)
	v.administrators(x)
	if err := v.rolledBack(ctx, x, cl); err != nil {
		x.failed("records", err)
		return
	}
	if err := v.helpless(ctx, x, cl); err != nil {
		x.failed("records", err)
		return
	}
	x.ok("records", "%d, and what they name is there", len(v.order))
}

// refused finds records whose statement or value does not count, such as those that
// somebody signed who was removed. Many of them have one cause: they are told together.
func (v *vaultLook) refused(x *examination) {
	type why struct {
		account bool
		state   client.ValueState
		reason  string
	}
	by := map[why][]string{}
	var found []why
	for _, r := range v.order {
		account := r.Type == client.TypeAccount
		if r.State == client.Kept || r.Statement != nil && r.State != client.Unattested && r.State != client.NotLinked || !account && !slices.Contains(resourceTypes[:], r.Type) {
			continue
		}
		w := why{account, r.State, r.Reason}
		if by[w] == nil {
			found = append(found, w)
		}
		by[w] = append(by[w], r.Title)
	}
	for _, w := range found {
		titles := by[w]
		slices.Sort(titles)
		is := "are"
		if len(titles) == 1 {
			is = "is"
		}
		who := "agents do not use it"
		if w.reason == client.PoolUnknown { // theirs knows the pool
			who = "it does not count here"
		}
		x.fail("records", countAgain(w.account, w.state, titles[0], w.reason), "%s %s %s: %s", few(titles), is, stateText(string(w.state), w.reason), who)
	}
}

// stripped finds records of a type that needs no statement, and that have had one: their
// type is whatever was written last, and the server has dropped what was signed.
func (v *vaultLook) stripped(x *examination) {
	var titles []string
	for _, r := range v.order {
		needs := r.Type == client.TypeAccount || r.Type == client.TypeScript || slices.Contains(resourceTypes[:], r.Type)
		if !needs && r.State == client.Unsigned && r.Reason == string(trust.RecordUnsigned) {
			titles = append(titles, r.Title)
		}
	}
	if len(titles) > 0 {
		slices.Sort(titles)
		x.fail("records", "do not use what it holds: `rotunda events` tells who wrote it; make it anew, then `rotunda record remove "+titles[0]+"`",
			"a statement was signed for %s, and the server has none: no honest one drops it", few(titles))
	}
}

// countAgain says how a record that agents refuse comes to count.
func countAgain(account bool, state client.ValueState, title, reason string) string {
	switch {
	case reason == client.PoolUnknown:
		return client.PoolUnknownMeans
	case state == client.Unattested:
		return "`rotunda record adopt " + title + "` makes the value count, once you have looked at it"
	case state == client.NotLinked:
		return "`rotunda record get " + title + "` says what it names without right; " + trust.NotLinked.Hint()
	case state != client.Unsigned:
		return trust.Reason(reason).Hint()
	case account:
		return "`rotunda record edit " + title + " --resource RESOURCE` signs it anew, with --scope, a policy and a schedule to be given again; then `rotunda record adopt " + title + "`"
	}
	return "`rotunda resource edit " + title + " --pool POOL --plugin PLUGIN --host HOST --port PORT` signs it anew, with --tls or --host-key, --admin and what else it had"
}

// gone finds references to records that are not there, in folders that are read here.
func (v *vaultLook) gone(x *examination) {
	type missing struct {
		as  string
		ref client.Ref
	}
	by := map[missing][]string{}
	var found []missing
	for _, r := range v.order {
		if r.Statement == nil {
			continue
		}
		for _, to := range trust.References(r.Statement) {
			m := missing{to.As, to.Ref}
			if v.all[to.Ref] != nil || !v.folders[to.Ref.Folder] || slices.Contains(by[m], r.Title) {
				continue
			}
			if by[m] == nil {
				found = append(found, m)
			}
			by[m] = append(by[m], r.Title)
		}
	}
	for _, m := range found {
		titles := by[m]
		slices.Sort(titles)
		x.fail("records", nameAnother(m.as, titles[0]), "the %s of %s is gone: there is no record %s", m.as, few(titles), m.ref)
	}
}

// unapproved finds scripts whose file is not the one that was approved where they are used:
// nothing runs there.
func (v *vaultLook) unapproved(x *examination) {
	by := map[client.Ref][]string{}
	for _, r := range v.order {
		for _, u := range client.UsesIn(r.Statement) {
			at := refOf(u.Script)
			script := v.all[at]
			if script == nil {
				continue // which is told of already
			}
			s := script.Statement.GetScript()
			if s != nil && !bytes.Equal(s.Sha256, u.Sha256) && !slices.Contains(by[at], r.Title) {
				by[at] = append(by[at], r.Title)
			}
		}
	}
	for _, r := range v.order {
		if titles := by[r.Ref]; len(titles) > 0 {
			slices.Sort(titles)
			x.fail("records", "`rotunda script approve "+r.Title+"` lets it run, once you have looked at it",
				"%s has another file than was approved in %s: nothing runs there", r.Title, few(titles))
		}
	}
}

// nameAnother says how a record names another one in some part.
func nameAnother(as, title string) string {
	switch as {
	case "administrator":
		return "`rotunda resource edit " + title + " --admin ACCOUNT` names another"
	case "extra":
		return "`rotunda resource edit " + title + " --extra NAME=ACCOUNT` names another"
	case "via":
		return "`rotunda resource edit " + title + " --via RESOURCE` names another"
	case "resource":
		return "`rotunda record edit " + title + " --resource RESOURCE` names another"
	case "pair":
		return "`rotunda record edit " + title + " --pair none` ends the pair"
	}
	return "sign a statement of " + title + " that names what is there"
}

// few names the first of a list.
func few(titles []string) string {
	if more := len(titles) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(titles[:maxNamed], ", "), more)
	}
	return strings.Join(titles, ", ")
}

// administrators finds those that agents do not use as they are.
func (v *vaultLook) administrators(x *examination) {
	for _, r := range v.order {
		admin := v.all[refOf(r.Statement.GetResource().GetAdminAccount())]
		if admin == nil || admin.State == client.Unattested || admin.State == client.NotLinked || admin.Statement == nil { // told of already
			continue
		}
		switch s, _ := admin.Secret(); {
		case admin.State == client.EditedOutside, admin.State == client.Unconfirmed:
			x.fail("records", "`rotunda record adopt "+admin.Title+"` makes the value count, once you have looked at it",
				"%s, the administrator of %s, is %s: agents do not use it", admin.Title, r.Title, stateText(string(admin.State), admin.Reason))
		case admin.State != client.InUse:
			x.fail("records", "`rotunda record get "+admin.Title+"` says more; `rotunda resource edit "+r.Title+" --admin ACCOUNT` names another",
				"%s, the administrator of %s, is %s: agents do not use it", admin.Title, r.Title, stateText(string(admin.State), admin.Reason))
		case s.Len() == 0:
			x.fail("records", "`rotunda record edit "+admin.Title+" --new-secret` stores it",
				"%s, the administrator of %s, has no secret to log in with", admin.Title, r.Title)
		}
	}
}

// rolledBack finds accounts whose value the server has lost, and nobody has healed: this
// device knows a newer one, or an agent's newest word on it is that it does.
func (v *vaultLook) rolledBack(ctx context.Context, x *examination, cl *client.Client) error {
	runs, _, err := cl.Runs(ctx, client.RunFilter{State: "failed", Limit: maxPage})
	if err != nil {
		return err
	}
	told := map[client.Ref]time.Time{}
	for _, r := range runs { // newest first
		if _, known := told[r.Account]; !known && r.Reason == string(trust.ValueRollback) {
			told[r.Account] = r.Finished
		}
	}
	var titles []string
	for _, r := range v.order {
		at, lost := told[r.Ref]
		since := time.UnixMilli(r.Attested.GetTime())
		if lost && at.After(since) || r.State == client.RolledBack && r.Reason == string(trust.ValueRollback) {
			titles = append(titles, r.Title)
		}
	}
	if len(titles) > 0 {
		slices.Sort(titles)
		x.fail("records", "`rotunda rotate "+titles[0]+"` by the agent that committed the newer value brings it back; where none has it, set the secret at the target and here: `rotunda record edit "+titles[0]+" --new-secret`",
			"the value served of %s is older than one that is known: agents do not use it", few(titles))
	}
	return nil
}

// helpless finds accounts that nobody can change: without a secret of their own, or
// without the right to change it, where the resource has no administrator.
func (v *vaultLook) helpless(ctx context.Context, x *examination, cl *client.Client) error {
	refused, err := refusedThemselves(ctx, cl)
	if err != nil {
		return err
	}
	by := map[client.Ref][]string{}
	for _, r := range v.order {
		a := r.Statement.GetAccount()
		at := v.all[refOf(a.GetResource())]
		if a == nil || at == nil || at.Statement.GetResource() == nil || at.Statement.GetResource().AdminAccount != nil {
			continue
		}
		if s, _ := r.Secret(); s.Len() == 0 || refused[r.Ref] {
			by[at.Ref] = append(by[at.Ref], r.Title)
		}
	}
	for _, r := range v.order {
		if titles := by[r.Ref]; len(titles) > 0 {
			x.fail("records", nameAnother("administrator", r.Title), "%s has no administrator, and without one nobody can set the secret of %s", r.Title, few(titles))
		}
	}
	return nil
}

// refusedThemselves are the accounts whose runs failed since their plugin does not let
// accounts change their own secrets.
func refusedThemselves(ctx context.Context, cl *client.Client) (map[client.Ref]bool, error) {
	runs, _, err := cl.Runs(ctx, client.RunFilter{State: "failed", Limit: maxPage})
	if err != nil {
		return nil, err
	}
	out := map[client.Ref]bool{}
	for _, r := range runs {
		if r.Reason == "self" {
			out[r.Account] = true
		}
	}
	return out, nil
}

// refOf is a reference of a statement that holds; the zero Ref for none.
func refOf(r *trustv1.Ref) client.Ref {
	if r == nil {
		return client.Ref{}
	}
	ref, err := trust.RefFrom(r)
	if err != nil {
		return client.Ref{}
	}
	return ref
}
