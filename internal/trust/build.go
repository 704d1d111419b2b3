package trust

import (
	"crypto/ed25519"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// NewChange prepares the change that follows the log's head. signer is the entry
// that will sign it, zero for the root. valid_until is extended to the policy's
// full age where the signer may do so, and repeated otherwise. The caller signs
// it with SignChange.
func (l *Log) NewChange(signer seal.ID, now time.Time, ops ...*trustv1.Op) *trustv1.Change {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := &l.s
	h := s.head()
	c := &trustv1.Change{
		V: Version, Epoch: uint64(len(s.digests)), Prev: h.Digest.Bytes(),
		Issued: max(now.UnixMilli(), s.issued), ValidUntil: s.validUntil, Ops: ops,
	}
	if signer.IsZero() || s.roles(signer, seal.ID{}).Has(Admin) {
		age := s.policy.MaxAge
		for _, op := range ops {
			if p := op.GetPolicy(); p != nil {
				age = policyOf(p).MaxAge
			}
		}
		c.ValidUntil = c.Issued + age.Milliseconds()
	}
	return c
}

// SignChange encodes and signs a change: with one key, or for an enrolment's
// successor with the enrolment key and then the new key. The digest is the new
// head.
func SignChange(org seal.Digest, c *trustv1.Change, keys ...ed25519.PrivateKey) (signed []byte, digest seal.Digest, err error) {
	if err := checkChange(c); err != nil {
		return nil, seal.Digest{}, err
	}
	if c.Epoch == 0 {
		org = seal.Digest{}
	}
	return signEnvelope(seal.KindLog, org, c, keys...)
}

// Founding is what a new organisation consists of. The caller makes ids and keys.
type Founding struct {
	Root         ed25519.PrivateKey // goes into the recovery kit and nowhere else
	RecoveryID   seal.ID
	RecoveryKeys []byte // encoded Keys (EncodeKeys)
	MemberID     seal.ID
	MemberName   string
	Device       *trustv1.Entry  // OwnerId is set to MemberID, Roles to all if zero
	Policy       *trustv1.Policy // nil: 180 days, members may add devices
}

// NewOrganisation makes changes 0 and 1, signed by the root. The first member
// gets every role on the zero folder.
func NewOrganisation(f Founding, now time.Time) (org seal.Digest, changes [][]byte, err error) {
	policy := f.Policy
	if policy == nil {
		policy = &trustv1.Policy{MaxAgeDays: DefaultAgeDays, SelfDevices: true}
	}
	device := proto.CloneOf(f.Device)
	device.Kind, device.OwnerId, device.V = trustv1.EntryKind_ENTRY_KIND_DEVICE, f.MemberID.Bytes(), Version
	if device.Roles == 0 {
		device.Roles = uint32(AllRoles)
	}
	zero := &trustv1.Change{
		V: Version, Prev: make([]byte, 32), Issued: now.UnixMilli(), ValidUntil: now.Add(policyOf(policy).MaxAge).UnixMilli(),
		Ops: []*trustv1.Op{RootOp(f.Root.Public().(ed25519.PublicKey)), {Op: &trustv1.Op_Policy{Policy: policy}}},
	}
	signedZero, org, err := SignChange(seal.Digest{}, zero, f.Root)
	if err != nil {
		return org, nil, err
	}
	l := NewLog(org)
	if _, err := l.Append(signedZero, now); err != nil {
		return org, nil, err
	}
	one := l.NewChange(seal.ID{}, now,
		PutOp(&trustv1.Entry{
			EntryId: f.RecoveryID.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_RECOVERY, Name: "recovery",
			KeysDigest: seal.Hash(f.RecoveryKeys).Bytes(), V: Version,
		}),
		PutOp(&trustv1.Entry{EntryId: f.MemberID.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: f.MemberName, V: Version}),
		GrantOp(seal.ID{}, f.MemberID, AllRoles),
		PutOp(device),
	)
	signedOne, _, err := SignChange(org, one, f.Root)
	if err != nil {
		return org, nil, err
	}
	// What does not replay here would bind nobody.
	if _, err := l.Append(signedOne, now); err != nil {
		return org, nil, err
	}
	return org, [][]byte{signedZero, signedOne}, nil
}

// PutOp puts an entry. Entry.Proto gives one that is live already.
func PutOp(e *trustv1.Entry) *trustv1.Op { return &trustv1.Op{Op: &trustv1.Op_Put{Put: e}} }

// RemoveOp removes an entry, and all that it owns.
func RemoveOp(id seal.ID) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Remove{Remove: &trustv1.Remove{EntryId: id.Bytes()}}}
}

// GrantOp sets the roles of a member, pool or app on a folder (zero: all, and
// the organisation); no roles withdraw.
func GrantOp(folder, to seal.ID, roles Roles) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Grant{Grant: &trustv1.Grant{FolderUid: folder.Bytes(), To: to.Bytes(), Roles: uint32(roles)}}}
}

// FolderOp declares a version of a folder's key; version is the former plus one.
func FolderOp(org seal.Digest, folder seal.ID, version uint32, key seal.Key) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Folder{Folder: &trustv1.Folder{
		FolderUid: folder.Bytes(), KeyVersion: version, FolderCheck: seal.FolderCheck(org, key, folder, version).Bytes(),
	}}}
}

// NewFolderOps are the ops by which a member makes a folder of his own: the
// grant to himself first, then the key.
func NewFolderOps(org seal.Digest, folder, member seal.ID, key seal.Key) []*trustv1.Op {
	return []*trustv1.Op{
		GrantOp(folder, member, Read|Edit|Operate|Share),
		FolderOp(org, folder, 1, key),
	}
}

// FloorOp withdraws a record's statements below min_seq.
func FloorOp(r Ref, minSeq uint64) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Floor{Floor: &trustv1.Floor{FolderUid: r.Folder.Bytes(), RecordUid: r.Record.Bytes(), MinSeq: minSeq}}}
}

// PluginOp lets agents start a plugin binary.
func PluginOp(p Plugin) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Plugin{Plugin: &trustv1.Plugin{Name: p.Name, Version: p.Version, Os: p.OS, Arch: p.Arch, Sha256: p.SHA256.Bytes()}}}
}

// DropPluginOp ends PluginOp.
func DropPluginOp(sha256 seal.Digest) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_DropPlugin{DropPlugin: &trustv1.DropPlugin{Sha256: sha256.Bytes()}}}
}

// PolicyOp sets the organisation's policy; maxAgeDays is 1 to MaxAgeDays.
func PolicyOp(maxAgeDays uint32, selfDevices bool) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Policy{Policy: &trustv1.Policy{MaxAgeDays: maxAgeDays, SelfDevices: selfDevices}}}
}

// RootOp replaces the root's key.
func RootOp(pub ed25519.PublicKey) *trustv1.Op {
	return &trustv1.Op{Op: &trustv1.Op_Root{Root: &trustv1.Root{SignPub: pub}}}
}

// NewEnrolment is the entry of an enrolment whose token has that seed. target is
// device or agent, owner its member or pool, roles a device's mask (zero for an
// agent), notAfter at most MaxEnrolmentAge after the change's issued. The entry
// is put by an administrator, or by a member's device for himself.
func NewEnrolment(id seal.ID, seed seal.Key, target trustv1.EntryKind, owner seal.ID, name string, roles Roles, notAfter time.Time) *trustv1.Entry {
	return &trustv1.Entry{
		EntryId: id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_ENROLMENT, Name: name, OwnerId: owner.Bytes(),
		TargetKind: target, SignPub: seal.EnrolSignKey(seed).Public().(ed25519.PublicKey),
		V: Version, Roles: uint32(roles), NotAfter: notAfter.UnixMilli(),
	}
}

// Successor is the entry that consumes an enrolment: same id, owner, name and
// roles, with the new party's keys. A device's notAfter is at most MaxDeviceAge
// after the change's issued; an agent has none. The change holds this put alone
// and is signed with the enrolment key, then the new key.
func Successor(enrolment Entry, signPub ed25519.PublicKey, keys []byte, notAfter time.Time) *trustv1.Entry {
	d := seal.Hash(keys)
	e := &trustv1.Entry{
		EntryId: enrolment.ID.Bytes(), Kind: enrolment.TargetKind, Name: enrolment.Name, OwnerId: enrolment.Owner.Bytes(),
		SignPub: signPub, KeysDigest: d.Bytes(), V: Version, Roles: uint32(enrolment.Roles),
	}
	if enrolment.TargetKind == trustv1.EntryKind_ENTRY_KIND_DEVICE {
		e.NotAfter = notAfter.UnixMilli()
	}
	return e
}
