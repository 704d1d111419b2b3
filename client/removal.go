package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// resignBatch bounds the statements signed anew in one call: one change floors them all.
const resignBatch = 200

// Removal is what a removal would do. Nothing is signed before Remove.
type Removal struct {
	ID         seal.ID
	Kind       trustv1.EntryKind
	Name       string
	Statements []RemovalRecord // signed by the removed one and current
	Values     []RemovalRecord // attested by the removed one
	Candidates []RemovalRecord // outstanding, and by him or over a value of his: no agent takes them up afterwards
	Folders    []RemovalFolder // that he could read
	Apps       []Outside       // applications whose key he could hold
	Self       bool            // this device goes: nothing that it would sign anew would stand
}

// RemovalFolder is a folder that the one to be removed can read. Records and accounts
// are counted where the caller reads them, too; else it is unread.
type RemovalFolder struct {
	UID      seal.ID
	Name     string
	Records  int
	Accounts int
	Unread   bool
}

// Outside is something with its name.
type Outside struct {
	ID   seal.ID
	Name string
}

// RemovalRecord is a record that a removal touches, as it was seen: what is signed
// anew is this and nothing that came later.
type RemovalRecord struct {
	Ref   Ref
	Title string
	// Digest is the statement's, or of a value the data's.
	Digest seal.Digest
	Seq    uint64
	// Former is the last statement of somebody else who is live: what Changes compares
	// with. nil: there is none.
	Former *FormerStatement
	// Changes is what the removed one changed, line by line; without Former all that
	// the statement says. Where there is any, the person says yes to it by itself.
	Changes []string
	// Stops: this device may not sign it anew, or goes itself; agents stop using it.
	Stops bool
	// NotLinked: agents refuse it already, since its signer has no right on what it names.
	// It is not signed anew: that would give it the rights that it lacks.
	NotLinked bool
	// RunID is the run of a candidate.
	RunID seal.ID
}

// FormerStatement says which statement a later one is compared with.
type FormerStatement struct {
	Seq    uint64
	By     string
	Issued time.Time
}

// gone lists the signers that a removal takes out of the log.
func (c *Client) gone(id seal.ID) map[seal.ID]bool {
	gone := map[seal.ID]bool{id: true}
	for _, e := range c.log.Owned(id) {
		gone[e.ID] = true
	}
	return gone
}

// PlanRemoval looks at what the removal of a member, device, agent, pool, app or
// enrolment voids.
func (c *Client) PlanRemoval(ctx context.Context, id seal.ID) (*Removal, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	e, ok := c.log.Entry(id)
	if !ok {
		return nil, notFound("remove "+id.String(), "the log holds no such entry")
	}
	gone := c.gone(id)
	if gone[c.facts.Entry] && e.Kind == KindMember {
		return nil, invalid("remove "+e.Name, "you cannot remove yourself: another administrator can")
	}
	r := &Removal{ID: id, Kind: e.Kind, Name: e.Name, Self: gone[c.facts.Entry]}
	if e.Kind == KindEnrolment && !e.Unattended {
		return r, nil // it signs nothing, and its token opens nothing before it has joined
	}
	names, err := c.folderNames(ctx)
	if err != nil {
		return nil, err
	}
	held := holds(c.log, e)
	at := map[seal.ID]int{}
	for i, uid := range held.folders {
		at[uid] = i
		reads, err := c.reads(ctx, uid)
		if err != nil {
			return nil, err
		}
		r.Folders = append(r.Folders, RemovalFolder{UID: uid, Name: orElse(names[uid], uid.String()), Unread: !reads})
	}
	for _, app := range held.apps {
		r.Apps = append(r.Apps, Outside{app, c.nameOf(app)})
	}
	titles := map[Ref]string{}
	var signed []*opened
	err = c.walk(ctx, seal.ID{}, nil, func(o *opened) bool {
		titles[o.Ref] = o.Title
		if i, ok := at[o.Ref.Folder]; ok {
			r.Folders[i].Records++
			if o.Type == TypeAccount {
				r.Folders[i].Accounts++
			}
		}
		if o.checked != nil && gone[o.SignedBy] {
			signed = append(signed, o)
		}
		his := o.value != nil && (o.inUse() || o.hidden()) && gone[o.value.Result.Signer.ID]
		if k := o.Candidate; k != nil && k.Owner == ownerAgent && (his || gone[k.by]) {
			// Nothing is attested anew beside it: settling it does that, too.
			r.Candidates = append(r.Candidates, RemovalRecord{Ref: o.Ref, Title: o.Title, RunID: k.RunID})
		} else if his {
			r.Values = append(r.Values, RemovalRecord{
				Ref: o.Ref, Title: o.Title, Digest: o.content.DataDigest, Seq: o.value.Seq, Stops: r.Self || o.PoolUnknown || !c.log.Roles(c.facts.Entry, o.Ref.Folder).Has(Edit),
			})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	title := func(t *trustv1.Ref) string {
		ref, err := refFrom(t)
		switch name := titles[ref]; {
		case err != nil || ref.IsZero():
			return ""
		case name != "":
			return fmt.Sprintf("%s (%s)", name, ref)
		}
		return ref.String()
	}
	newest, err := c.newestFormer(ctx, signed)
	if err != nil {
		return nil, err
	}
	for _, o := range signed {
		x, err := c.planStatement(ctx, o, newest[o.Ref], gone, title)
		if err != nil {
			return nil, err
		}
		r.Statements = append(r.Statements, x)
	}
	return r, nil
}

// planStatement compares a statement with the last one of somebody else.
func (c *Client) planStatement(ctx context.Context, o *opened, newest *clientv1.StatementView, gone map[seal.ID]bool, title func(*trustv1.Ref) string) (RemovalRecord, error) {
	x := RemovalRecord{Ref: o.Ref, Title: o.Title, Digest: o.StatementDigest, Seq: o.Statement.Seq, Stops: gone[c.facts.Entry] || !c.maySign(o), NotLinked: len(o.Unlinked) > 0}
	former, err := c.formerBy(ctx, o, newest, gone)
	if err != nil {
		return x, err
	}
	now := c.factsOf(o.Statement, title)
	if former == nil {
		x.Changes = difference(nil, now)
		return x, nil
	}
	x.Former = &FormerStatement{Seq: former.Seq, By: c.log.FullName(former.Signer), Issued: when(former.Issued)}
	x.Changes = difference(c.factsOf(former.Statement, title), now)
	if len(x.Changes) == 0 && !sameSubject(former.Statement, o.Statement) {
		x.Changes = []string{"something that this version has no words for"}
	}
	return x, nil
}

// maySign reports whether this device may sign what a record's statement says.
func (c *Client) maySign(o *opened) bool {
	need := Edit
	if o.Statement.GetResource() != nil || o.Statement.GetAccount().GetMandate().GetEnabled() {
		need |= Operate
	}
	if !c.log.Roles(c.facts.Entry, o.Ref.Folder).Has(need) {
		return false
	}
	return !slices.ContainsFunc(trust.References(o.Statement), func(r trust.Reference) bool {
		return !trust.MayName(c.log, c.facts.Entry, o.Ref.Folder, r)
	})
}

// Remove signs anew what the plan lists (except records in skip) and removes the entry.
func (c *Client) Remove(ctx context.Context, r *Removal, skip []Ref) error {
	op := "remove " + r.Name
	wanted := func(list []RemovalRecord) []RemovalRecord {
		return slices.DeleteFunc(slices.Clone(list), func(x RemovalRecord) bool { return x.Stops || x.NotLinked || slices.Contains(skip, x.Ref) })
	}
	gone := c.gone(r.ID)
	for part := range slices.Chunk(wanted(r.Statements), resignBatch) {
		if err := c.resign(ctx, op, part, gone); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(wanted(r.Values), resignBatch) {
		if err := c.reattest(ctx, op, part, gone); err != nil {
			return err
		}
	}
	_, err := c.change(ctx, changeSpec{
		op: op, removal: true,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			if _, ok := l.Entry(r.ID); !ok {
				return nil, notFound(op, "it was removed already")
			}
			return []*trustv1.Op{trust.RemoveOp(r.ID)}, nil
		},
	})
	if err != nil {
		return err
	}
	return nil
}

// again fetches what a plan lists, by the log of now: what was signed meanwhile names
// a newer one.
func (c *Client) again(ctx context.Context, seen []RemovalRecord) ([]*opened, map[Ref]RemovalRecord, error) {
	by := map[Ref]RemovalRecord{}
	refs := make([]Ref, 0, len(seen))
	for _, x := range seen {
		by[x.Ref] = x
		refs = append(refs, x.Ref)
	}
	if err := c.fetchLog(ctx); err != nil {
		return nil, nil, err
	}
	list, err := c.get(ctx, refs)
	return list, by, err
}

// unseen is the error of something that the one to be removed signed after the plan was
// made: whoever signs it anew has not looked at it.
func unseen(op string, o *opened, what string) error {
	return &Error{
		Class: Conflict, Reason: "plan_stale", Op: op, Err: fmt.Errorf("the %s of %q was signed again since you looked: it is not what you saw", what, o.Title),
		Hint: "nobody was removed: run the command again, and look at what it says now",
	}
}

// resign signs the same statements anew, with the next number, floored in one change.
func (c *Client) resign(ctx context.Context, op string, seen []RemovalRecord, gone map[seal.ID]bool) error {
	list, by, err := c.again(ctx, seen)
	if err != nil {
		return err
	}
	var drafts []draft
	for _, o := range list {
		if o.checked != nil && !gone[o.SignedBy] {
			continue // somebody else has signed it meanwhile
		}
		if o.checked == nil || o.StatementDigest != by[o.Ref].Digest {
			return unseen(op, o, "statement")
		}
		if err := o.linked(op); err != nil {
			return err // since the plan was made
		}
		drafts = append(drafts, newDraft(o))
	}
	if len(drafts) == 0 {
		return nil
	}
	return c.putDrafts(ctx, op, drafts, nil)
}

// reattest signs for the same values, so that they stay in use.
func (c *Client) reattest(ctx context.Context, op string, seen []RemovalRecord, gone map[seal.ID]bool) error {
	list, by, err := c.again(ctx, seen)
	if err != nil {
		return err
	}
	var ops []*clientv1.WriteOp
	for _, o := range list {
		if o.value != nil && !gone[o.value.Result.Signer.ID] {
			continue
		}
		if !o.inUse() || o.content.DataDigest != by[o.Ref].Digest {
			return unseen(op, o, "value")
		}
		if err := o.settled(op); err != nil {
			return err
		}
		put, err := c.attest(c.log, o, o.content.DataDigest, sameSecret(o), true)
		if err != nil {
			return fail(op, err)
		}
		ops = append(ops, put)
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = call(ctx, c, op, c.conn.Write, &clientv1.WriteRequest{Ops: ops})
	return err
}

// ---- plugins, policy ----

// ApprovePlugin lets agents start plugin files of these hashes.
func (c *Client) ApprovePlugin(ctx context.Context, plugins ...Plugin) error {
	if len(plugins) == 0 {
		return invalid("approve plugins", "name at least one")
	}
	_, err := c.change(ctx, changeSpec{op: "approve plugins", ops: func(*trust.Log) ([]*trustv1.Op, error) {
		var ops []*trustv1.Op
		for _, p := range plugins {
			ops = append(ops, trust.PluginOp(trust.Plugin(p)))
		}
		return ops, nil
	}})
	return err
}

// DropPlugin withdraws an approval.
func (c *Client) DropPlugin(ctx context.Context, sha256 seal.Digest) error {
	op := "drop the plugin " + sha256.String()
	_, err := c.change(ctx, changeSpec{op: op, removal: true, ops: func(l *trust.Log) ([]*trustv1.Op, error) {
		if _, ok := l.Plugin(sha256); !ok {
			return nil, notFound(op, "the log approves no such file")
		}
		return []*trustv1.Op{trust.DropPluginOp(sha256)}, nil
	}})
	return err
}

// Plugins lists approved plugin files.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []Plugin
	for _, p := range c.log.Plugins() {
		out = append(out, Plugin(p))
	}
	return out, nil
}

// Policy is the organisation's policy.
func (c *Client) Policy(ctx context.Context) (*trustv1.Policy, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	p := c.log.Policy()
	return &trustv1.Policy{MaxAgeDays: uint32(p.MaxAge.Hours() / 24), SelfDevices: p.SelfDevices}, nil
}

// SetPolicy changes the policy.
func (c *Client) SetPolicy(ctx context.Context, p *trustv1.Policy) error {
	if p == nil {
		return fail("set the policy", errors.New("no policy is given"))
	}
	p = proto.CloneOf(p)
	_, err := c.change(ctx, changeSpec{op: "set the policy", ops: func(*trust.Log) ([]*trustv1.Op, error) {
		return []*trustv1.Op{trust.PolicyOp(p.MaxAgeDays, p.SelfDevices)}, nil
	}})
	return err
}
