package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Outsider is somebody who could read folders and may not any more: removed, or a right
// was withdrawn. All of it is the log's word.
type Outsider struct {
	ID      seal.ID
	Kind    trustv1.EntryKind
	Name    string // of a device and an agent with its owner's
	Short   string // without
	Removed bool
	Epoch   uint64 // change that shut him out
	At      time.Time
	Folders []OutsideFolder
	Apps    []Outside // live applications whose key he could hold, and that open more than he may read
}

// OutsideFolder is a folder that an outsider could read.
type OutsideFolder struct {
	UID seal.ID
	// Rekeyed is the change that gave the folder the first key that he does not know, and
	// Version that key's; 0: he knows the present one.
	Rekeyed uint64
	Version uint32
}

// since says since which change of the log a secret has to be to be unknown to him.
func (f OutsideFolder) since(o Outsider) uint64 { return max(f.Rekeyed, o.Epoch) }

// Knows lists the folders whose present key the outsider knows.
func (o Outsider) Knows() []seal.ID {
	var out []seal.ID
	for _, f := range o.Folders {
		if f.Rekeyed == 0 {
			out = append(out, f.UID)
		}
	}
	return out
}

// Outsiders replays the log for who was shut out of what, in the order of the log.
func (c *Client) Outsiders(ctx context.Context) ([]Outsider, error) {
	all, err := c.shutOut(ctx)
	return c.stillOutside(all), err
}

// shutOut replays the log for who was ever shut out of what.
func (c *Client) shutOut(ctx context.Context) ([]Outsider, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var changes [][]byte
	err := c.memory.work(func(t *memoryTx) error {
		return t.changes(0, func(_ uint64, signed []byte) error {
			changes = append(changes, slices.Clone(signed))
			return nil
		})
	})
	if err != nil {
		return nil, fail("read the log", err)
	}
	r := replay{log: trust.NewLog(c.facts.OrgID)}
	for _, signed := range changes {
		if err := r.add(signed, c.now()); err != nil {
			return nil, fail("read the log", err)
		}
	}
	return r.found, nil
}

// stillOutside leaves out what was granted again, and what is gone.
func (c *Client) stillOutside(all []Outsider) []Outsider {
	for i := range all {
		o := &all[i]
		o.Folders = slices.DeleteFunc(o.Folders, func(f OutsideFolder) bool { return c.log.Roles(o.ID, f.UID).Has(Read) })
		o.Apps = slices.DeleteFunc(o.Apps, func(app Outside) bool { _, live := c.log.Entry(app.ID); return !live || !c.opensMore(o.ID, app.ID) })
		for n := range o.Apps {
			o.Apps[n].Name = c.nameOf(o.Apps[n].ID)
		}
	}
	return slices.DeleteFunc(all, func(o Outsider) bool { return !o.Removed && len(o.Folders)+len(o.Apps) == 0 })
}

// knownOutside says whether somebody who may not read a folder knows its present key.
func (c *Client) knownOutside(ctx context.Context, folder seal.ID) (bool, error) {
	all, err := c.Outsiders(ctx)
	return slices.ContainsFunc(all, func(o Outsider) bool { return slices.Contains(o.Knows(), folder) }), err
}

// replay follows the log from its beginning.
type replay struct {
	log   *trust.Log
	found []Outsider
}

// holding is what a party can open.
type holding struct {
	folders []seal.ID
	apps    []seal.ID
}

func (r *replay) add(signed []byte, now time.Time) error {
	var envelope trustv1.Signed
	var change trustv1.Change
	if err := proto.Unmarshal(signed, &envelope); err != nil {
		return err
	}
	if err := proto.Unmarshal(envelope.Body, &change); err != nil {
		return err
	}
	var parties []Outsider
	var held []holding
	for _, id := range r.narrowed(&change) {
		if e, ok := r.log.Entry(id); ok && (e.Kind != KindEnrolment || e.Unattended) {
			parties = append(parties, Outsider{ID: id, Kind: e.Kind, Name: r.log.FullName(e), Short: e.Name, Epoch: change.Epoch, At: time.UnixMilli(change.Issued)})
			held = append(held, holds(r.log, e))
		}
	}
	if _, err := r.log.Append(signed, now); err != nil {
		return err
	}
	for _, op := range change.Ops {
		if f := op.GetFolder(); f.GetKeyVersion() > 1 {
			r.rekeyed(seal.ID(f.FolderUid), change.Epoch, f.KeyVersion)
		}
	}
	for i, o := range parties {
		after, live := r.log.Entry(o.ID)
		var still holding
		if live {
			still = holds(r.log, after)
		}
		o.Removed = !live
		for _, f := range held[i].folders {
			if !slices.Contains(still.folders, f) {
				o.Folders = append(o.Folders, OutsideFolder{UID: f})
			}
		}
		for _, app := range held[i].apps {
			if !slices.Contains(still.apps, app) {
				o.Apps = append(o.Apps, Outside{ID: app})
			}
		}
		if o.Removed || len(o.Folders)+len(o.Apps) > 0 {
			r.found = append(r.found, o)
		}
	}
	return nil
}

// rekeyed: whoever was outside before does not know this key of the folder.
func (r *replay) rekeyed(folder seal.ID, epoch uint64, version uint32) {
	for _, o := range r.found {
		for i, f := range o.Folders {
			if f.UID == folder && f.Rekeyed == 0 {
				o.Folders[i].Rekeyed, o.Folders[i].Version = epoch, version
			}
		}
	}
}

// narrowed lists the parties whose rights a change may lessen. A folder more for an
// application lessens who may hold its key; with a device go the tokens that it made.
func (r *replay) narrowed(change *trustv1.Change) []seal.ID {
	var ids []seal.ID
	also := func(kind trustv1.EntryKind) {
		for _, e := range r.log.Entries(kind) {
			ids = append(ids, e.ID)
		}
	}
	for _, op := range change.Ops {
		switch op := op.Op.(type) {
		case *trustv1.Op_Remove:
			ids = append(ids, idOr(op.Remove.EntryId))
			also(KindEnrolment)
		case *trustv1.Op_Grant:
			ids = append(ids, idOr(op.Grant.To))
			if to, ok := r.log.Entry(idOr(op.Grant.To)); ok && to.Kind == KindApp {
				also(KindMember)
			}
		case *trustv1.Op_Put:
			ids = append(ids, idOr(op.Put.EntryId))
		}
	}
	slices.SortFunc(ids, func(a, b seal.ID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// holds is what a party can open by a log. Who never had a device, or a pool that never
// had an agent, opens nothing. An unattended token carries the keys that its party may
// have: whoever has seen it opens them, though nobody has joined by it.
func holds(l *trust.Log, e trust.Entry) (h holding) {
	if e.Kind == KindMember || e.Kind == KindPool {
		armed := slices.ContainsFunc(l.Owned(e.ID), func(d trust.Entry) bool { return d.Kind != KindEnrolment || d.Unattended })
		if !armed {
			return h
		}
	}
	reader := e.ID
	if e.Kind == KindEnrolment {
		if reader = e.Owner; e.TargetKind == KindDevice && !e.Roles.Has(Read) {
			return h
		}
	}
	for _, f := range l.Folders() {
		if l.Roles(reader, f.UID).Has(Read) {
			h.folders = append(h.folders, f.UID)
		}
	}
	if e.Kind == KindMember || e.Kind == KindDevice {
		for _, app := range l.Entries(KindApp) {
			if l.MayHoldApp(e.ID, app.ID) {
				h.apps = append(h.apps, app.ID)
			}
		}
	}
	return h
}

// Removed finds somebody who was removed, by id or name: what his removal calls for can be
// gone on with. The newest of several is meant.
func (c *Client) Removed(ctx context.Context, nameOrID string, kinds ...trustv1.EntryKind) (Outsider, bool, error) {
	all, err := c.Outsiders(ctx)
	for _, o := range slices.Backward(all) {
		if o.Removed && slices.Contains(kinds, o.Kind) && (o.ID.String() == nameOrID || o.Name == nameOrID || o.Short == nameOrID) {
			return o, true, err
		}
	}
	return Outsider{}, false, err
}

// Exposed is an account whose secret somebody may know who may not read it any more.
type Exposed struct {
	Ref   Ref
	Title string
	By    []Outsider
	// Kept: the folder has a key that one of them does not know, and the record still has
	// its own of before. A new secret would be written under that one.
	Kept bool
}

// Exposed lists the accounts whose secret is older than what shut an outsider out: his
// removal or, where the folder was re-keyed after it, the folder's new key. A secret that
// was set between the two was written under a key that he knows. So is one that has a
// newer one beside it, and still opens the target, and every one under a record's key that
// was made before the folder's: by the server's word, as RekeyFolder. Of the folders in unseen this device can
// tell nothing: it may not read them, or has no key of them.
func (c *Client) Exposed(ctx context.Context, outsiders []Outsider) (list []Exposed, unseen []seal.ID, err error) {
	by := map[seal.ID][]Outsider{}
	var folders []seal.ID
	for _, o := range outsiders {
		for _, f := range o.Folders {
			if by[f.UID] == nil {
				folders = append(folders, f.UID)
			}
			by[f.UID] = append(by[f.UID], o)
		}
	}
	for _, folder := range folders {
		if reads, err := c.reads(ctx, folder); err != nil {
			return nil, nil, err
		} else if !reads {
			unseen = append(unseen, folder)
			continue
		}
		var failed error
		err := c.walk(ctx, folder, []string{TypeAccount}, func(o *opened) bool {
			x := Exposed{Ref: o.Ref, Title: o.Title}
			set, known := c.setAt(o)
			if stands, err := c.formerStands(ctx, o); err != nil {
				failed = err
				return false
			} else if stands {
				set = 0
			}
			for _, who := range by[folder] {
				i := slices.IndexFunc(who.Folders, func(f OutsideFolder) bool { return f.UID == folder })
				kept := o.view.MadeVersion > 0 && o.view.MadeVersion < who.Folders[i].Version // 0: a server that does not say
				if known && (kept || set < who.Folders[i].since(who)) {
					x.By, x.Kept = append(x.By, who), x.Kept || kept
				}
			}
			if len(x.By) > 0 {
				list = append(list, x)
			}
			return true
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, nil, err
		}
	}
	return list, unseen, nil
}

// reads reports whether this device can look into a folder.
func (c *Client) reads(ctx context.Context, folder seal.ID) (bool, error) {
	if !c.log.Roles(c.facts.Entry, folder).Has(Read) {
		return false, nil
	}
	_, _, err := c.folderKey(ctx, folder)
	if ClassOf(err) == Unreachable {
		return false, err
	}
	return err == nil, nil
}

// setAt is the log's epoch by which a secret was set; 0 where nobody attests it, or what
// is served does not open. An account without a secret has none to know.
func (c *Client) setAt(o *opened) (epoch uint64, secret bool) {
	if o.content == nil {
		return 0, true
	}
	if s, ok := o.Secret(); !ok || s.Len() == 0 {
		return 0, false
	}
	if o.inUse() && o.value != nil {
		_, epoch = o.value.Result.SetBy()
	}
	return epoch, true
}

// Unheard is a removal that agents have not confirmed: until they do, they may act on
// the word of the one removed.
type Unheard struct {
	Outsider Outsider
	Agents   []Agent
}

// Unheard lists removals with the agents whose newest log is from before them.
func (c *Client) Unheard(ctx context.Context, outsiders []Outsider) ([]Unheard, error) {
	agents, err := c.Agents(ctx, seal.ID{})
	if err != nil {
		return nil, err
	}
	var out []Unheard
	for _, o := range outsiders {
		if o.Kind == KindEnrolment {
			continue // it signed nothing that they would act on
		}
		u := Unheard{Outsider: o}
		for _, a := range agents {
			if a.LogEpoch < o.Epoch {
				u.Agents = append(u.Agents, a)
			}
		}
		if len(u.Agents) > 0 {
			out = append(out, u)
		}
	}
	return out, nil
}
