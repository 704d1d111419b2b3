package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Kinds of entries, for Find.
const (
	KindMember    = trustv1.EntryKind_ENTRY_KIND_MEMBER
	KindPool      = trustv1.EntryKind_ENTRY_KIND_POOL
	KindDevice    = trustv1.EntryKind_ENTRY_KIND_DEVICE
	KindAgent     = trustv1.EntryKind_ENTRY_KIND_AGENT
	KindApp       = trustv1.EntryKind_ENTRY_KIND_APP
	KindEnrolment = trustv1.EntryKind_ENTRY_KIND_ENROLMENT
)

// maxBlobKeys bounds the folder keys that travel with an unattended token.
const maxBlobKeys = 5000

func (c *Client) member(e trust.Entry) Member {
	m := Member{ID: e.ID, Name: e.Name, Roles: c.log.Roles(e.ID, seal.ID{})}
	for _, d := range c.log.Owned(e.ID) {
		switch d.Kind {
		case KindDevice:
			m.Devices = append(m.Devices, c.deviceOf(d))
		case KindEnrolment:
			m.Pending = len(m.Devices) == 0
		}
	}
	m.Pending = m.Pending && len(m.Devices) == 0
	return m
}

func (c *Client) deviceOf(e trust.Entry) Device {
	return Device{ID: e.ID, Member: e.Owner, Name: e.Name, Roles: e.Roles, NotAfter: e.NotAfter, Current: e.ID == c.facts.Entry}
}

// Members lists people.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []Member
	for _, e := range c.log.Entries(KindMember) {
		out = append(out, c.member(e))
	}
	return out, nil
}

// Pending lists enrolments that wait.
func (c *Client) Pending(ctx context.Context) ([]PendingToken, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []PendingToken
	for _, e := range c.log.Entries(KindEnrolment) {
		out = append(out, PendingToken{ID: e.ID, Name: e.Name, Kind: e.TargetKind, Owner: e.Owner, NotAfter: e.NotAfter})
	}
	return out, nil
}

// Pools lists pools.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var out []Pool
	for _, e := range c.log.Entries(KindPool) {
		p := Pool{ID: e.ID, Name: e.Name}
		for _, a := range c.log.Owned(e.ID) {
			if a.Kind == KindAgent {
				p.Agents++
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func putPool(id seal.ID, name string) *trustv1.Op {
	return trust.PutOp(&trustv1.Entry{EntryId: id.Bytes(), Kind: KindPool, Name: name, V: trust.Version})
}

// Agents lists agents with presence; pool zero: all.
func (c *Client) Agents(ctx context.Context, pool seal.ID) ([]Agent, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	q := &clientv1.ListAgentsRequest{}
	if !pool.IsZero() {
		q.PoolId = pool.Bytes()
	}
	list, err := call(ctx, c, "list agents", c.conn.ListAgents, q)
	if err != nil {
		return nil, err
	}
	views := map[seal.ID]*clientv1.AgentView{}
	for _, v := range list.Agents {
		views[idOr(v.AgentId)] = v
	}
	var out []Agent
	for _, e := range c.log.Entries(KindAgent) {
		if !pool.IsZero() && e.Owner != pool {
			continue
		}
		v := views[e.ID]
		out = append(out, Agent{
			ID: e.ID, Pool: e.Owner, PoolName: c.nameOf(e.Owner), Name: e.Name,
			Connected: v.GetConnected(), Seen: when(v.GetSeen()), Version: v.GetVersion(), OS: v.GetOs(), Arch: v.GetArch(),
			Leases: int(v.GetLeases()), LogEpoch: v.GetLogEpoch(),
		})
	}
	return out, nil
}

// Find finds a live entry of one of the kinds by id (base64url) or by name; a
// name that two entries bear is a Conflict that lists them.
func (c *Client) Find(ctx context.Context, nameOrID string, kinds ...trustv1.EntryKind) (*trustv1.Entry, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	op := "find " + nameOrID
	var found []trust.Entry
	for _, e := range c.log.Entries(kinds...) {
		if e.ID.String() == nameOrID {
			return e.Proto(), nil
		}
		if e.Name == nameOrID {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return nil, notFound(op, "the log holds no %s of this name or id", kindWords(kinds))
	case 1:
		return found[0].Proto(), nil
	}
	return nil, ambiguous(op, len(found), func(n int) string { return found[n].ID.String() })
}

// Names are those of the live entries of these kinds.
func (c *Client) Names(ctx context.Context, kinds ...trustv1.EntryKind) ([]string, error) {
	if err := c.fresh(ctx); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range c.log.Entries(kinds...) {
		names = append(names, e.Name)
	}
	return names, nil
}

func kindWords(kinds []trustv1.EntryKind) string {
	if len(kinds) == 0 {
		return "entry"
	}
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = strings.ToLower(strings.TrimPrefix(k.String(), "ENTRY_KIND_"))
	}
	return strings.Join(words, " or ")
}

// ---- tokens ----

// MemberSpec is a new member.
type MemberSpec struct {
	Name       string
	Roles      Roles         // on every folder and the organisation; usually none
	Device     string        // name of the first device
	ValidFor   time.Duration // of the token, 0: 24 h; at most 7 days
	Unattended bool          // folder keys travel in a blob under the token: see the warning in the manual
}

// DeviceSpec is a further device.
type DeviceSpec struct {
	Member     seal.ID // zero: the caller
	Name       string
	Roles      Roles // mask; zero: all that the signer may give
	ValidFor   time.Duration
	Unattended bool
}

// AgentSpec is a new agent.
type AgentSpec struct {
	Pool       string // name; made when there is none
	Name       string
	ValidFor   time.Duration
	Unattended bool
}

// NewToken is what an enrolment hands out.
type NewToken struct {
	ID       seal.ID
	Text     sdk.Secret
	NotAfter time.Time
	Member   seal.ID // of AddMember and AddDevice
}

// AddMember puts a member and makes the token for the first device.
func (c *Client) AddMember(ctx context.Context, s MemberSpec) (NewToken, error) {
	op := "add the member " + s.Name
	member := seal.NewID()
	t, err := c.token(ctx, op, tokenSpec{
		kind: KindDevice, name: s.Device, owner: member, roles: trust.AllRoles, validFor: s.ValidFor, unattended: s.Unattended,
		before: func(l *trust.Log) (seal.ID, []*trustv1.Op, error) {
			ops := []*trustv1.Op{trust.PutOp(&trustv1.Entry{EntryId: member.Bytes(), Kind: KindMember, Name: s.Name, V: trust.Version})}
			if s.Roles != 0 {
				ops = append(ops, trust.GrantOp(seal.ID{}, member, s.Roles))
			}
			return member, ops, nameFree(l, op, KindMember, seal.ID{}, s.Name, c.now())
		},
	})
	t.Member = member
	return t, err
}

// AddDevice makes a token for a further device: the caller's own, or, by an
// administrator, of the member given.
func (c *Client) AddDevice(ctx context.Context, s DeviceSpec) (NewToken, error) {
	op := "add the device " + s.Name
	if err := c.fresh(ctx); err != nil {
		return NewToken{}, err
	}
	me, err := c.me()
	if err != nil {
		return NewToken{}, err
	}
	if s.Member.IsZero() {
		s.Member = me.Owner
	}
	if s.Roles == 0 {
		s.Roles = trust.AllRoles
		if s.Member == me.Owner {
			s.Roles = me.Roles
		}
	}
	t, err := c.token(ctx, op, tokenSpec{
		kind: KindDevice, name: s.Name, owner: s.Member, roles: s.Roles, validFor: s.ValidFor, unattended: s.Unattended,
	})
	t.Member = s.Member
	return t, err
}

// AddAgent makes a token for an agent, and its pool when there is none of that name.
func (c *Client) AddAgent(ctx context.Context, s AgentSpec) (NewToken, error) {
	op := fmt.Sprintf("add the agent %s to the pool %s", s.Name, s.Pool)
	if s.Pool == "" {
		return NewToken{}, invalid(op, "an agent belongs to a pool: name it")
	}
	fresh := seal.NewID()
	return c.token(ctx, op, tokenSpec{
		kind: KindAgent, name: s.Name, validFor: s.ValidFor, unattended: s.Unattended,
		before: func(l *trust.Log) (seal.ID, []*trustv1.Op, error) {
			for _, e := range l.Entries(KindPool) {
				if e.Name == s.Pool || e.ID.String() == s.Pool {
					return e.ID, nil, nil
				}
			}
			return fresh, []*trustv1.Op{putPool(fresh, s.Pool)}, nil
		},
	})
}

type tokenSpec struct {
	kind       trustv1.EntryKind
	name       string
	owner      seal.ID
	roles      Roles
	validFor   time.Duration
	unattended bool
	// before makes the ops that come first, and tells the owner; nil: none.
	before func(*trust.Log) (seal.ID, []*trustv1.Op, error)
}

// token puts an enrolment and makes its token, whose digest is that of the very
// change that puts it.
func (c *Client) token(ctx context.Context, op string, s tokenSpec) (NewToken, error) {
	if s.validFor == 0 {
		s.validFor = trust.DefaultEnrolmentAge
	}
	if s.validFor < time.Minute || s.validFor > trust.MaxEnrolmentAge {
		return NewToken{}, invalid(op, "a token is good for a minute to %d days", trust.MaxEnrolmentAge/(24*time.Hour))
	}
	if s.name == "" || len(s.name) > trust.MaxName {
		return NewToken{}, invalid(op, "the %s needs a name of 1 to %d bytes", kindWords([]trustv1.EntryKind{s.kind}), trust.MaxName)
	}
	t, err := enrol.NewToken(c.facts.Server, c.facts.CAPin)
	if err != nil {
		return NewToken{}, fail(op, err)
	}
	raw := t.Seed.Expose()
	defer clear(raw)
	seed, err := seal.KeyFrom(raw)
	if err != nil {
		return NewToken{}, fail(op, err)
	}
	defer seed.Wipe()
	id := seal.NewID()
	notAfter := c.now().Add(s.validFor)
	var head seal.Digest
	_, err = c.change(ctx, changeSpec{
		op: op,
		ops: func(l *trust.Log) ([]*trustv1.Op, error) {
			var ops []*trustv1.Op
			if s.before != nil {
				var err error
				if s.owner, ops, err = s.before(l); err != nil {
					return nil, err
				}
			}
			if err := nameFree(l, op, s.kind, s.owner, s.name, c.now()); err != nil {
				return nil, err
			}
			put := trust.NewEnrolment(id, seed, s.kind, s.owner, s.name, s.roles, notAfter)
			put.Unattended = s.unattended
			return append(ops, trust.PutOp(put)), nil
		},
		with: func(after *trust.Log) ([]*clientv1.WriteOp, error) {
			head = after.Head().Digest
			if !s.unattended {
				return nil, nil
			}
			return c.blob(ctx, after, seed, id, s)
		},
	})
	if err != nil {
		return NewToken{}, err
	}
	t.Head = head
	return NewToken{ID: id, Text: t.Text(), NotAfter: notAfter}, nil
}

// blob seals the folder keys that a token's party may have under its seed.
func (c *Client) blob(ctx context.Context, after *trust.Log, seed seal.Key, id seal.ID, s tokenSpec) ([]*clientv1.WriteOp, error) {
	var b enrol.Blob
	defer b.Wipe()
	for _, f := range after.Folders() {
		if !after.Roles(s.owner, f.UID).Has(Read) || s.kind == KindDevice && !s.roles.Has(Read) {
			continue
		}
		if len(b.Keys) == maxBlobKeys {
			c.notice("blob_full", "the token carries the keys of the first %d folders; the others are sealed once its party has joined", maxBlobKeys)
			break
		}
		key, version, err := c.folderKey(ctx, f.UID)
		if err != nil {
			c.notice("folder_key_missing", "the token does not carry the key of the folder %s: %v", f.UID, err)
			continue
		}
		b.Keys = append(b.Keys, enrol.BlobKey{Folder: f.UID, Version: version, Key: key.Expose()})
	}
	sealed, err := enrol.SealBlob(c.facts.OrgID, seed, id, b)
	if err != nil {
		return nil, err
	}
	return []*clientv1.WriteOp{{Op: &clientv1.WriteOp_PutEnrolBlob{PutEnrolBlob: &clientv1.PutEnrolBlob{EntryId: id.Bytes(), Blob: sealed}}}}, nil
}

// WaitEnrolled returns when the token's party has joined and holds the folder
// keys that it may have (this client seals them). An error of reason
// enrolment_ended tells that the token ran out or was withdrawn.
func (c *Client) WaitEnrolled(ctx context.Context, id seal.ID) error {
	const op = "wait for the new party"
	w := c.watch(ctx, nil, "log")
	defer w.close()
	woken := w.waker(seal.ID{})
	for {
		if err := c.fetchLog(ctx); err != nil && ClassOf(err) != Unreachable {
			return err
		}
		e, ok := c.log.Entry(id)
		switch {
		case ok && e.Kind != KindEnrolment:
			return c.fillMissing(ctx)
		case !ok, e.Expired(c.now()):
			return &Error{
				Class: Failed, Reason: "enrolment_ended", Op: op, Err: fmt.Errorf("the token ran out, or was withdrawn"),
				Hint: "make a new one",
			}
		}
		select {
		case <-woken:
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return &Error{
				Class: Unreachable, Reason: "not_yet_enrolled", Op: op, Err: context.Cause(ctx),
				Hint: "the token stays good until " + e.NotAfter.Format(time.RFC3339) + "; its party gets its keys when you use your client again",
			}
		}
	}
}
