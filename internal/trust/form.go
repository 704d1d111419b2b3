package trust

import (
	"crypto/ed25519"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// checkChange holds a change's fields to their lengths and bounds. Whatever it
// passes may be converted to fixed-size types without a further look.
func checkChange(c *trustv1.Change) error {
	f := &form{what: "change"}
	f.version(c.V)
	f.must(c.Epoch < 1<<62, "epoch %d", c.Epoch)
	f.size("prev", c.Prev, len(seal.Digest{}))
	if c.Epoch == 0 {
		f.must(string(c.Prev) == string(make([]byte, 32)), "change 0 has a prev")
	}
	f.time("issued", c.Issued)
	f.time("valid_until", c.ValidUntil)
	f.count("ops", len(c.Ops), MaxOps)
	for _, op := range c.Ops {
		checkOp(f, op)
	}
	return f.done()
}

func checkOp(f *form, op *trustv1.Op) {
	switch op := op.GetOp().(type) {
	case *trustv1.Op_Put:
		checkEntry(f, op.Put)
	case *trustv1.Op_Remove:
		f.id("entry_id", op.Remove.GetEntryId())
	case *trustv1.Op_Grant:
		f.size("folder_uid", op.Grant.GetFolderUid(), len(seal.ID{}))
		f.id("to", op.Grant.GetTo())
		checkRoles(f, op.Grant.GetRoles())
	case *trustv1.Op_Folder:
		f.id("folder_uid", op.Folder.GetFolderUid())
		f.must(op.Folder.GetKeyVersion() > 0, "key_version is zero")
		f.size("folder_check", op.Folder.GetFolderCheck(), len(seal.Digest{}))
	case *trustv1.Op_Floor:
		f.id("folder_uid", op.Floor.GetFolderUid())
		f.id("record_uid", op.Floor.GetRecordUid())
	case *trustv1.Op_Plugin:
		f.text("plugin name", op.Plugin.GetName(), 64)
		f.text("plugin version", op.Plugin.GetVersion(), 64)
		f.text("plugin os", op.Plugin.GetOs(), 32)
		f.text("plugin arch", op.Plugin.GetArch(), 32)
		f.size("plugin sha256", op.Plugin.GetSha256(), len(seal.Digest{}))
	case *trustv1.Op_DropPlugin:
		f.size("plugin sha256", op.DropPlugin.GetSha256(), len(seal.Digest{}))
	case *trustv1.Op_Policy:
		days := op.Policy.GetMaxAgeDays()
		f.must(days >= 1 && days <= MaxAgeDays, "max_age_days is %d, want 1 to %d", days, MaxAgeDays)
	case *trustv1.Op_Root:
		checkSignPub(f, op.Root.GetSignPub())
	default:
		f.fail("an op of no kind")
	}
}

func checkSignPub(f *form, pub []byte) {
	f.size("sign_pub", pub, ed25519.PublicKeySize)
	if err := seal.CheckSignPub(pub); err != nil {
		f.fail("%v", err)
	}
}

// checkRoles: a role that this version does not know may be a restriction.
func checkRoles(f *form, roles uint32) {
	if rest := Roles(roles) &^ AllRoles; rest != 0 && f.err == nil {
		f.err = fail(UnknownField, "%s: roles %s", f.what, rest)
	}
}

// checkEntry holds an entry's fields to its kind: what a kind needs is there, and
// nothing else is.
func checkEntry(f *form, e *trustv1.Entry) {
	f.id("entry_id", e.GetEntryId())
	f.text("name", e.GetName(), MaxName)
	checkRoles(f, e.GetRoles())
	var owner, sign, keys, app, notAfter, roles, target bool
	switch e.GetKind() {
	case trustv1.EntryKind_ENTRY_KIND_MEMBER, trustv1.EntryKind_ENTRY_KIND_POOL:
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
		owner, sign, keys, notAfter, roles = true, true, true, true, true
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		owner, sign, keys = true, true, true
	case trustv1.EntryKind_ENTRY_KIND_APP:
		app = true
	case trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		owner, sign, notAfter, target = true, true, true, true
		roles = e.TargetKind == trustv1.EntryKind_ENTRY_KIND_DEVICE
	case trustv1.EntryKind_ENTRY_KIND_RECOVERY:
		keys = true
	default:
		f.fail("an entry of no kind")
		return
	}
	if owner {
		f.id("owner_id", e.OwnerId)
	} else {
		f.size("owner_id", e.OwnerId, 0)
	}
	if sign {
		checkSignPub(f, e.SignPub)
	} else {
		f.size("sign_pub", e.SignPub, 0)
	}
	if keys {
		f.size("keys_digest", e.KeysDigest, len(seal.Digest{}))
	} else {
		f.size("keys_digest", e.KeysDigest, 0)
	}
	if app {
		f.size("app_check", e.AppCheck, len(seal.Digest{}))
	} else {
		f.size("app_check", e.AppCheck, 0)
	}
	if notAfter {
		f.time("not_after", e.NotAfter)
	} else {
		f.must(e.NotAfter == 0, "not_after is set")
	}
	f.must(target || !e.Unattended, "unattended is set")
	f.must(roles || e.Roles == 0, "roles are set")
	if target {
		f.must(e.TargetKind == trustv1.EntryKind_ENTRY_KIND_DEVICE || e.TargetKind == trustv1.EntryKind_ENTRY_KIND_AGENT, "target_kind is neither device nor agent")
	} else {
		f.must(e.TargetKind == trustv1.EntryKind_ENTRY_KIND_UNSPECIFIED, "target_kind is set")
	}
	f.must(!sign || e.V > 0, "v is zero")
}
