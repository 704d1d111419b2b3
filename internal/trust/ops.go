package trust

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// op judges one op in the state that the former left, and applies it. One
// function for each row of the table of keys.md 3.1.
func (j *judge) op(op *trustv1.Op) error {
	switch op := op.Op.(type) {
	case *trustv1.Op_Put:
		return j.put(entryOf(op.Put))
	case *trustv1.Op_Remove:
		return j.remove(seal.ID(op.Remove.EntryId))
	case *trustv1.Op_Grant:
		return j.grant(Grant{seal.ID(op.Grant.FolderUid), seal.ID(op.Grant.To), Roles(op.Grant.Roles)})
	case *trustv1.Op_Folder:
		f := op.Folder
		return j.folder(FolderState{seal.ID(f.FolderUid), f.KeyVersion, seal.Digest(f.FolderCheck), j.c.Epoch})
	case *trustv1.Op_Floor:
		f := op.Floor
		return j.floor(Ref{seal.ID(f.FolderUid), seal.ID(f.RecordUid)}, f.MinSeq)
	case *trustv1.Op_Plugin:
		p := op.Plugin
		return j.plugin(Plugin{p.Name, p.Version, p.Os, p.Arch, seal.Digest(p.Sha256)})
	case *trustv1.Op_DropPlugin:
		return j.dropPlugin(seal.Digest(op.DropPlugin.Sha256))
	case *trustv1.Op_Policy:
		return j.policy(policyOf(op.Policy))
	case *trustv1.Op_Root:
		return j.root(op.Root.SignPub)
	}
	return fail(Malformed, "an op of no kind")
}

// put: an administrator; the root; a member's device for a further device of
// himself (policy self_devices), its mask within the signer's. The recovery entry:
// the root alone, since whoever replaces it reads every later folder key.
func (j *judge) put(e Entry) error {
	switch {
	case j.isRoot():
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY:
		return j.refuse("%s may not put the recovery entry: the recovery kit alone may", j.s.describe(j.signer))
	case j.isAdmin():
	case j.s.mayAddOwnDevice(j.signer, e):
	default:
		return j.refuse("%s may not put %s %q: that needs admin", j.s.describe(j.signer), kindName(e.Kind), e.Name)
	}
	if err := j.checkPut(e); err != nil {
		return err
	}
	if live, ok := j.s.entry(e.ID); ok && (live.Kind != e.Kind || live.Owner != e.Owner || live.TargetKind != e.TargetKind) {
		return j.refuse("a put over %s with another kind or owner", j.s.describe(e.ID))
	}
	j.apply(e)
	return nil
}

func (s *state) mayAddOwnDevice(by seal.ID, e Entry) bool {
	const device, enrolment = trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_ENROLMENT
	signer, ok := s.entry(by)
	return ok && s.policy.SelfDevices &&
		(e.Kind == device || e.Kind == enrolment && e.TargetKind == device) &&
		e.Owner == signer.Owner && signer.Roles.Has(e.Roles.full())
}

// checkPut is what holds for a put whoever signs it.
func (j *judge) checkPut(e Entry) error {
	s := j.s
	if s.gone[e.ID] {
		return j.refuse("id %s was removed and never comes back", e.ID)
	}
	if other, ok := s.keys[keyID(e.SignPub)]; e.SignPub != nil && (ok && other != e.ID || bytes.Equal(e.SignPub, s.root)) {
		return fail(Malformed, "the signing key of %s %q is live in another entry", kindName(e.Kind), e.Name)
	}
	ownerKind := trustv1.EntryKind_ENTRY_KIND_UNSPECIFIED
	maxAge := time.Duration(0)
	switch {
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_DEVICE:
		ownerKind, maxAge = trustv1.EntryKind_ENTRY_KIND_MEMBER, MaxDeviceAge
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_AGENT:
		ownerKind = trustv1.EntryKind_ENTRY_KIND_POOL
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT && e.TargetKind == trustv1.EntryKind_ENTRY_KIND_DEVICE:
		ownerKind, maxAge = trustv1.EntryKind_ENTRY_KIND_MEMBER, MaxEnrolmentAge
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		ownerKind, maxAge = trustv1.EntryKind_ENTRY_KIND_POOL, MaxEnrolmentAge
	}
	if ownerKind != trustv1.EntryKind_ENTRY_KIND_UNSPECIFIED {
		if owner, ok := s.entry(e.Owner); !ok || owner.Kind != ownerKind {
			return fail(Malformed, "the owner of %s %q is not a live %s", kindName(e.Kind), e.Name, kindName(ownerKind))
		}
	}
	if maxAge > 0 {
		issued := time.UnixMilli(j.c.Issued)
		if !e.NotAfter.After(issued) || e.NotAfter.After(issued.Add(maxAge)) {
			return fail(Malformed, "not_after of %s %q lies not within %s of issued", kindName(e.Kind), e.Name, maxAge)
		}
	}
	if e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY && !s.recovery.IsZero() && s.recovery != e.ID {
		return fail(Malformed, "there is a recovery entry already; it is put anew under its own id")
	}
	return nil
}

func (j *judge) apply(e Entry) {
	s := j.s
	e.PutBy, e.Epoch = j.signer, j.c.Epoch
	if former, ok := s.entries[e.ID]; ok && former.SignPub != nil {
		drop(j, s.keys, keyID(former.SignPub))
	}
	j.replaces(e.ID)
	set(j, s.entries, e.ID, &e)
	if e.SignPub != nil {
		set(j, s.keys, keyID(e.SignPub), e.ID)
	}
	if e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY {
		j.setRecovery(e.ID)
	}
}

func (j *judge) setRecovery(id seal.ID) {
	former := j.s.recovery
	j.undos = append(j.undos, func() { j.s.recovery = former })
	j.s.recovery = id
}

// remove: an administrator; the root; a member's own device. The recovery entry:
// the root alone. What the entry owns goes with it, and the unused enrolments
// that a removed device signed are void.
func (j *judge) remove(id seal.ID) error {
	s := j.s
	e, ok := s.entry(id)
	if !ok {
		return fail(Malformed, "remove of %s, which is not live", id)
	}
	switch {
	case j.isRoot():
	case e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY:
		return j.refuse("%s may not remove the recovery entry: the recovery kit alone may", s.describe(j.signer))
	case j.isAdmin():
	case !j.member().IsZero() && e.Owner == j.member():
	default:
		return j.refuse("%s may not remove %s: that needs admin", s.describe(j.signer), s.describe(id))
	}
	j.void(id)
	return nil
}

// void ends an entry, what it owns, and the unused enrolments that it signed.
func (j *judge) void(id seal.ID) {
	s := j.s
	e := s.entries[id]
	j.replaces(id)
	drop(j, s.entries, id)
	set(j, s.gone, id, true)
	drop(j, s.grants, id)
	drop(j, s.shared, id)
	if e.SignPub != nil {
		drop(j, s.keys, keyID(e.SignPub))
	}
	if id == s.recovery {
		j.setRecovery(seal.ID{})
	}
	if e.Kind != trustv1.EntryKind_ENTRY_KIND_MEMBER && e.Kind != trustv1.EntryKind_ENTRY_KIND_POOL && e.Kind != trustv1.EntryKind_ENTRY_KIND_DEVICE {
		return // owns nothing and signs no enrolment
	}
	var follow []seal.ID
	for _, o := range s.entries {
		if o.Owner == id || o.PutBy == id && o.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
			follow = append(follow, o.ID)
		}
	}
	for _, o := range follow {
		if _, live := s.entries[o]; live {
			j.void(o)
		}
	}
}

// grant: an administrator; the root; a member with Share on that folder, to
// members and apps, where the present and the new roles both lie within his own,
// never Admin or ApproveScript; a folder never named before: any member to
// himself, without those two. To a pool: Read only, by an administrator. To an
// app: Read and Edit; more than it has only by those who may hold its key. Else a
// member's folder would decide who they are.
func (j *judge) grant(g Grant) error {
	s := j.s
	to, ok := s.entry(g.To)
	if !ok {
		return fail(Malformed, "grant to %s, who is not live", g.To)
	}
	allowed := AllRoles
	switch to.Kind {
	case trustv1.EntryKind_ENTRY_KIND_MEMBER:
	case trustv1.EntryKind_ENTRY_KIND_POOL:
		allowed = Read
	case trustv1.EntryKind_ENTRY_KIND_APP:
		allowed = Read | Edit
	default:
		return fail(Malformed, "grant to %s; only members, pools and apps are granted roles", s.describe(to.ID))
	}
	if !g.Folder.IsZero() {
		allowed &^= Admin // it counts on the zero folder only
	}
	if g.Roles&^allowed != 0 {
		return fail(Malformed, "grant of %s to %s, which may have %s", g.Roles, s.describe(to.ID), allowed)
	}

	present := s.grants[g.To][g.Folder]
	own, touched := j.roles(g.Folder), present.full()|g.Roles.full()
	switch {
	case j.isRoot(), j.isAdmin():
	case touched&(Admin|ApproveScript) != 0 || to.Kind == trustv1.EntryKind_ENTRY_KIND_POOL:
		return j.refuse("%s may not grant %s to %s: that needs admin", s.describe(j.signer), g.Roles, s.describe(to.ID))
	case to.Kind == trustv1.EntryKind_ENTRY_KIND_APP && !present.Has(g.Roles) && !s.mayHoldApp(j.signer, g.To):
		return j.refuse("%s may not grant %s on folder %s to %s: that needs share on every folder that it was ever granted, or admin", s.describe(j.signer), g.Roles, g.Folder, s.describe(to.ID))
	case own.Has(Share) && own.Has(touched):
	case !g.Folder.IsZero() && !s.named[g.Folder] && g.To == j.member() && g.Roles != 0:
		j.granted[g.Folder] = true
	default:
		return j.refuse("%s may not change %s's %s to %s on folder %s: that needs share there, and each role that is given or taken, or admin", s.describe(j.signer), s.describe(to.ID), present, g.Roles, g.Folder)
	}

	j.name(g.Folder)
	if s.grants[g.To] == nil {
		set(j, s.grants, g.To, map[seal.ID]Roles{})
	}
	if g.Roles == 0 {
		drop(j, s.grants[g.To], g.Folder)
	} else {
		set(j, s.grants[g.To], g.Folder, g.Roles)
	}
	if to.Kind == trustv1.EntryKind_ENTRY_KIND_APP && g.Roles != 0 {
		if s.shared[g.To] == nil {
			set(j, s.shared, g.To, map[seal.ID]bool{})
		}
		set(j, s.shared[g.To], g.Folder, true)
	}
	return nil
}

// name remembers that an op named a folder: a name is nobody's for the taking twice.
func (j *judge) name(folder seal.ID) {
	if !folder.IsZero() && !j.s.named[folder] {
		set(j, j.s.named, folder, true)
	}
}

// folder: Share on that folder, or an administrator; a new folder: any member, in
// the change that grants it to him. Its key_version is the former plus one.
func (j *judge) folder(f FolderState) error {
	s := j.s
	switch {
	case j.isAdmin(), j.roles(f.UID).Has(Share), j.granted[f.UID]:
	default:
		return j.refuse("%s may not declare a key of folder %s: that needs share there, or admin", s.describe(j.signer), f.UID)
	}
	if former := s.folders[f.UID].Version; f.Version != former+1 {
		return fail(Malformed, "key version %d of folder %s follows %d", f.Version, f.UID, former)
	}
	j.name(f.UID)
	set(j, s.folders, f.UID, f)
	return nil
}

// floor: Edit on that folder, or an administrator. It only rises, by at most
// MaxFloorRaise.
func (j *judge) floor(r Ref, minSeq uint64) error {
	s := j.s
	if !j.isAdmin() && !j.roles(r.Folder).Has(Edit) {
		return j.refuse("%s may not set a floor in folder %s: that needs edit there, or admin", s.describe(j.signer), r.Folder)
	}
	former := s.floors.of(r)
	if minSeq < former || minSeq-former > MaxFloorRaise {
		return fail(Malformed, "floor of %s from %d to %d; it rises, by at most %d", r, former, minSeq, MaxFloorRaise)
	}
	j.name(r.Folder)
	set(j, s.floors.newer, r, minSeq)
	return nil
}

// plugin, drop_plugin, policy: an administrator.

func (j *judge) plugin(p Plugin) error {
	if !j.isAdmin() {
		return j.refuse("%s may not approve plugins: that needs admin", j.s.describe(j.signer))
	}
	set(j, j.s.plugins, p.SHA256, p)
	return nil
}

func (j *judge) dropPlugin(sha256 seal.Digest) error {
	if !j.isAdmin() {
		return j.refuse("%s may not drop plugins: that needs admin", j.s.describe(j.signer))
	}
	if _, ok := j.s.plugins[sha256]; !ok {
		return fail(Malformed, "drop of plugin %s, which is not approved", sha256)
	}
	drop(j, j.s.plugins, sha256)
	return nil
}

func (j *judge) policy(p Policy) error {
	if !j.isAdmin() {
		return j.refuse("%s may not set the policy: that needs admin", j.s.describe(j.signer))
	}
	former := j.s.policy
	j.undos = append(j.undos, func() { j.s.policy = former })
	j.s.policy = p
	return nil
}

// root: the root. The ops behind it in the same change have no signer any more.
func (j *judge) root(pub ed25519.PublicKey) error {
	s := j.s
	if !j.isRoot() {
		return j.refuse("%s may not replace the root: the recovery kit alone may", s.describe(j.signer))
	}
	if _, live := s.keys[keyID(pub)]; live {
		return fail(Malformed, "the new root key is live in an entry")
	}
	former := s.root
	j.undos = append(j.undos, func() { s.root = former })
	s.root = pub
	return nil
}

func policyOf(p *trustv1.Policy) Policy {
	return Policy{time.Duration(p.MaxAgeDays) * 24 * time.Hour, p.SelfDevices}
}

// entryOf reads an entry that checkEntry passed.
func entryOf(p *trustv1.Entry) Entry {
	e := Entry{ID: seal.ID(p.EntryId), Kind: p.Kind, Name: p.Name, TargetKind: p.TargetKind, V: p.V, Roles: Roles(p.Roles), Unattended: p.Unattended}
	if len(p.OwnerId) > 0 {
		e.Owner = seal.ID(p.OwnerId)
	}
	if len(p.SignPub) > 0 {
		e.SignPub = slices.Clone(p.SignPub)
	}
	if len(p.KeysDigest) > 0 {
		e.KeysDigest = seal.Digest(p.KeysDigest)
	}
	if len(p.AppCheck) > 0 {
		e.AppCheck = seal.Digest(p.AppCheck)
	}
	if p.NotAfter != 0 {
		e.NotAfter = time.UnixMilli(p.NotAfter)
	}
	return e
}

// Proto is the entry as a put carries it: to renew it, or to replace its keys.
func (e Entry) Proto() *trustv1.Entry {
	p := &trustv1.Entry{EntryId: e.ID.Bytes(), Kind: e.Kind, Name: e.Name, TargetKind: e.TargetKind, SignPub: e.SignPub, V: e.V, Roles: uint32(e.Roles), Unattended: e.Unattended}
	if !e.Owner.IsZero() {
		p.OwnerId = e.Owner.Bytes()
	}
	if !e.KeysDigest.IsZero() {
		p.KeysDigest = e.KeysDigest.Bytes()
	}
	if !e.AppCheck.IsZero() {
		p.AppCheck = e.AppCheck.Bytes()
	}
	if !e.NotAfter.IsZero() {
		p.NotAfter = e.NotAfter.UnixMilli()
	}
	return p
}
