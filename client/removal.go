package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	Folders    []seal.ID       // that he could read
}

// RemovalRecord is a record that a removal touches.
type RemovalRecord struct {
	Ref   Ref
	Title string
	// Aims: the statement aims credentials at a target, or lets scripts in, and the
	// removed one signed it last: look at Changes before you sign it anew.
	Aims bool
	// Changes is what the statement says, in words.
	Changes []string
	// Stops: this device may not sign it anew; agents stop using it.
	Stops bool
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
	if gone := c.gone(id); gone[c.facts.Entry] && e.Kind == KindMember {
		return nil, invalid("remove "+e.Name, "you cannot remove yourself: another administrator can")
	}
	r := &Removal{ID: id, Kind: e.Kind, Name: e.Name}
	for _, f := range c.log.Folders() {
		if c.log.Roles(id, f.UID).Has(Read) {
			r.Folders = append(r.Folders, f.UID)
		}
	}
	if e.Kind == KindApp || e.Kind == KindEnrolment {
		return r, nil // they sign nothing
	}
	gone := c.gone(id)
	err := c.walk(ctx, seal.ID{}, nil, func(o *opened) bool {
		if o.checked != nil && gone[o.SignedBy] {
			r.Statements = append(r.Statements, RemovalRecord{Ref: o.Ref, Title: o.Title, Aims: aims(o.Statement), Changes: words(o.Statement), Stops: !c.maySign(o)})
		}
		if o.value != nil && o.State == InUse && gone[o.value.Result.Signer.ID] {
			r.Values = append(r.Values, RemovalRecord{Ref: o.Ref, Title: o.Title, Stops: !c.log.Roles(c.facts.Entry, o.Ref.Folder).Has(Edit)})
		}
		return true
	})
	return r, err
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
	for _, r := range trust.References(o.Statement) {
		if !c.log.Roles(c.facts.Entry, r.Ref.Folder).Has(r.Needs) || r.As == "script" && !c.log.Roles(c.facts.Entry, o.Ref.Folder).Has(ApproveScript) {
			return false
		}
	}
	return true
}

// aims reports whether a statement says where credentials or scripts go.
func aims(s *trustv1.Statement) bool {
	return s.GetResource() != nil || s.GetScript() != nil || len(s.GetAccount().GetScripts()) > 0 || len(s.GetAccount().GetDependents()) > 0
}

// words says what a statement aims at.
func words(s *trustv1.Statement) []string {
	var out []string
	if r := s.GetResource(); r != nil {
		out = append(out, fmt.Sprintf("plugin %s, host %s, port %d", r.Plugin, r.Host, r.Port))
		if r.Tls != nil {
			out = append(out, fmt.Sprintf("tls %s, %d pinned keys", r.Tls.Mode, len(r.Tls.SpkiSha256)))
		}
		if len(r.SshHostKeySha256) > 0 {
			out = append(out, fmt.Sprintf("%d ssh host keys", len(r.SshHostKeySha256)))
		}
	}
	if a := s.GetAccount(); a != nil {
		out = append(out, fmt.Sprintf("login %s", a.Login))
		if m := a.Mandate; m.GetEnabled() {
			out = append(out, fmt.Sprintf("scheduled runs until %s", when(m.ValidUntil).Format("2006-01-02")))
		}
	}
	for _, r := range trust.References(s) {
		out = append(out, fmt.Sprintf("%s %s", r.As, r.Ref))
	}
	return out
}

// Remove signs anew what the plan lists (except records in skip) and removes the entry.
func (c *Client) Remove(ctx context.Context, r *Removal, skip []Ref) error {
	op := "remove " + r.Name
	wanted := func(list []RemovalRecord) []Ref {
		var refs []Ref
		for _, x := range list {
			if !x.Stops && !slices.Contains(skip, x.Ref) {
				refs = append(refs, x.Ref)
			}
		}
		return refs
	}
	gone := c.gone(r.ID)
	self := gone[c.facts.Entry] // one's own device: nothing signed by it would stay
	if !self {
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
	if n := len(r.Folders); n > 0 && r.Kind != KindEnrolment {
		c.notice("known_values", "%s could read %d folders: rotate the accounts in them", r.Name, n)
	}
	return nil
}

// resign signs the same statements anew, with the next number, floored in one change.
func (c *Client) resign(ctx context.Context, op string, refs []Ref, gone map[seal.ID]bool) error {
	list, err := c.get(ctx, refs)
	if err != nil {
		return err
	}
	var drafts []draft
	for _, o := range list {
		if o.checked == nil || !gone[o.SignedBy] {
			continue // somebody has signed it meanwhile
		}
		drafts = append(drafts, newDraft(o))
	}
	if len(drafts) == 0 {
		return nil
	}
	return c.putDrafts(ctx, op, drafts, nil)
}

// reattest signs for the same values, so that they stay in use.
func (c *Client) reattest(ctx context.Context, op string, refs []Ref, gone map[seal.ID]bool) error {
	list, err := c.get(ctx, refs)
	if err != nil {
		return err
	}
	var ops []*clientv1.WriteOp
	for _, o := range list {
		if o.State != InUse || o.value == nil || !gone[o.value.Result.Signer.ID] {
			continue
		}
		if err := o.settled(op); err != nil {
			return err
		}
		put, err := c.attest(c.log, o, o.content.DataDigest, true)
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
