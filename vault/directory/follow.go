package directory

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	channelv1 "github.com/rotunda-pam/rotunda/proto/rotunda/channel/v1"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// follow does what follows from a change that was appended: after is the log with
// it.
func (d *Directory) follow(ctx context.Context, q *db.Queries, org int64, after *trust.Log, a trust.Appended) error {
	actor := a.Signer.Bytes()
	if a.Signer.IsZero() {
		actor = nil
	}
	tell := func(e audit.Event) error {
		e.Org, e.Actor = org, actor
		return audit.Tell(ctx, q, d.bus, e)
	}
	var kinds []string
	for _, op := range a.Change.Ops {
		kind, e := describe(a.Former, op)
		kinds = append(kinds, kind)
		if e.Name == "" {
			continue
		}
		if err := tell(e); err != nil {
			return err
		}
	}
	removed := false
	for _, op := range a.Change.Ops {
		var err error
		switch op := op.Op.(type) {
		case *trustv1.Op_Remove:
			removed = true
		case *trustv1.Op_Put:
			err = replaced(ctx, q, org, a.Former, op.Put)
		case *trustv1.Op_Grant:
			err = withdrawn(ctx, q, org, after, op.Grant)
		}
		if err != nil {
			return err
		}
	}
	if removed {
		if err := forgetRemoved(ctx, q, org, a.Former, after); err != nil {
			return err
		}
	}
	if a.Signer.IsZero() && a.Epoch > 1 {
		if err := tell(audit.Event{Name: audit.RecoveryUsed, Fields: map[string]string{"epoch": strconv.FormatUint(a.Epoch, 10)}}); err != nil {
			return err
		}
	}
	return tell(audit.Event{Name: audit.LogAppended, Fields: map[string]string{
		"epoch": strconv.FormatUint(a.Epoch, 10), "ops": strings.Join(kinds, ","),
	}})
}

// forgetRemoved ends what removed entries, and those that went with them, had on
// this server: sessions, credentials, sealed keys.
func forgetRemoved(ctx context.Context, q *db.Queries, org int64, former map[seal.ID]trust.Entry, after *trust.Log) error {
	for id := range former {
		if _, live := after.Entry(id); live {
			continue
		}
		if err := forget(ctx, q, org, id); err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
	return nil
}

func forget(ctx context.Context, q *db.Queries, org int64, id seal.ID) error {
	if err := q.EndSessionsOf(ctx, db.EndSessionsOfParams{Org: org, EntryID: id[:]}); err != nil {
		return err
	}
	if err := q.RevokeClientsOf(ctx, db.RevokeClientsOfParams{Org: org, OwnerID: id[:]}); err != nil {
		return err
	}
	if err := q.DeleteFolderKeysOf(ctx, db.DeleteFolderKeysOfParams{Org: org, RecipientID: id[:]}); err != nil {
		return err
	}
	if err := q.DeleteAppKeysOf(ctx, db.DeleteAppKeysOfParams{Org: org, RecipientID: id[:]}); err != nil {
		return err
	}
	return q.DeleteEnrolBlob(ctx, db.DeleteEnrolBlobParams{Org: org, EntryID: id[:]})
}

// replaced drops what was sealed to an entry's former keys.
func replaced(ctx context.Context, q *db.Queries, org int64, former map[seal.ID]trust.Entry, put *trustv1.Entry) error {
	old, ok := former[seal.ID(put.EntryId)]
	if !ok || old.KeysDigest.IsZero() || string(old.KeysDigest[:]) == string(put.KeysDigest) {
		return nil
	}
	if err := q.DeleteFolderKeysOf(ctx, db.DeleteFolderKeysOfParams{Org: org, RecipientID: put.EntryId}); err != nil {
		return err
	}
	return q.DeleteAppKeysOf(ctx, db.DeleteAppKeysOfParams{Org: org, RecipientID: put.EntryId})
}

// withdrawn takes a folder's wrapped key from an application that may no longer
// read it. What is sealed to devices and agents stays: they hold it anyway, and
// only a new key ends that.
func withdrawn(ctx context.Context, q *db.Queries, org int64, after *trust.Log, g *trustv1.Grant) error {
	to := seal.ID(g.To)
	e, ok := after.Entry(to)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_APP || after.Roles(to, seal.ID(g.FolderUid)).Has(trust.Read) {
		return nil
	}
	return q.DeleteAppFolder(ctx, db.DeleteAppFolderParams{Org: org, AppID: g.To, FolderUid: g.FolderUid})
}

// describe names an op and gives its event; an empty name: it has none.
func describe(former map[seal.ID]trust.Entry, op *trustv1.Op) (string, audit.Event) {
	switch op := op.Op.(type) {
	case *trustv1.Op_Put:
		return "put", describePut(former, op.Put)
	case *trustv1.Op_Remove:
		return "remove", describeRemove(former, seal.ID(op.Remove.EntryId))
	case *trustv1.Op_Grant:
		return "grant", describeGrant(op.Grant)
	case *trustv1.Op_Folder:
		if op.Folder.KeyVersion == 1 {
			return "folder", audit.Event{Name: audit.FolderCreated, Folder: op.Folder.FolderUid}
		}
		return "folder", audit.Event{Name: audit.FolderRekeyed, Folder: op.Folder.FolderUid, Fields: map[string]string{
			"key_version": strconv.FormatUint(uint64(op.Folder.KeyVersion), 10),
		}}
	case *trustv1.Op_Floor:
		return "floor", audit.Event{} // the statement's own event tells
	case *trustv1.Op_Plugin:
		p := op.Plugin
		return "plugin", audit.Event{Name: audit.PluginApproved, Fields: map[string]string{
			"name": p.Name, "version": p.Version, "os": p.Os, "arch": p.Arch, "sha256": hex.EncodeToString(p.Sha256),
		}}
	case *trustv1.Op_DropPlugin:
		return "drop_plugin", audit.Event{Name: audit.PluginDropped, Fields: map[string]string{"sha256": hex.EncodeToString(op.DropPlugin.Sha256)}}
	case *trustv1.Op_Policy:
		return "policy", audit.Event{Name: audit.PolicySet, Fields: map[string]string{
			"max_age_days": strconv.FormatUint(uint64(op.Policy.MaxAgeDays), 10), "self_devices": strconv.FormatBool(op.Policy.SelfDevices),
		}}
	case *trustv1.Op_Root:
		return "root", audit.Event{Name: audit.RootReplaced}
	}
	return "other", audit.Event{}
}

func describePut(former map[seal.ID]trust.Entry, put *trustv1.Entry) audit.Event {
	fields := map[string]string{"entry": text(put.EntryId), "name": put.Name}
	e := audit.Event{Fields: fields}
	old, there := former[seal.ID(put.EntryId)]
	if there && old.Kind == put.Kind {
		return audit.Event{} // renewed
	}
	switch put.Kind {
	case trustv1.EntryKind_ENTRY_KIND_MEMBER:
		e.Name = audit.MemberAdded
	case trustv1.EntryKind_ENTRY_KIND_POOL:
		e.Name = audit.PoolAdded
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
		e.Name = audit.DeviceEnrolled
		fields["owner"] = text(put.OwnerId)
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		e.Name = audit.AgentEnrolled
		fields["pool"] = text(put.OwnerId)
	case trustv1.EntryKind_ENTRY_KIND_APP:
		e.Name = audit.AppAdded
	case trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		e.Name = audit.EnrolmentIssued
		fields["kind"] = kindName(put.TargetKind)
		fields["not_after"] = strconv.FormatInt(put.NotAfter, 10)
	}
	return e
}

func describeRemove(former map[seal.ID]trust.Entry, id seal.ID) audit.Event {
	old := former[id]
	fields := map[string]string{"entry": id.String(), "name": old.Name}
	e := audit.Event{Fields: fields}
	switch old.Kind {
	case trustv1.EntryKind_ENTRY_KIND_MEMBER:
		e.Name = audit.MemberRemoved
	case trustv1.EntryKind_ENTRY_KIND_POOL:
		e.Name = audit.PoolRemoved
	case trustv1.EntryKind_ENTRY_KIND_DEVICE:
		e.Name = audit.DeviceRemoved
		fields["owner"] = old.Owner.String()
	case trustv1.EntryKind_ENTRY_KIND_AGENT:
		e.Name = audit.AgentRemoved
		fields["pool"] = old.Owner.String()
	case trustv1.EntryKind_ENTRY_KIND_APP:
		e.Name = audit.AppRemoved
	case trustv1.EntryKind_ENTRY_KIND_ENROLMENT:
		e.Name = audit.EnrolmentRemoved
	}
	return e
}

func describeGrant(g *trustv1.Grant) audit.Event {
	fields := map[string]string{"to": text(g.To)}
	e := audit.Event{Name: audit.GrantSet, Folder: g.FolderUid, Fields: fields}
	if seal.ID(g.FolderUid).IsZero() {
		e.Folder, fields["all"] = nil, "true"
	}
	if g.Roles == 0 {
		e.Name = audit.GrantWithdrawn
	} else {
		fields["roles"] = trust.Roles(g.Roles).String()
	}
	return e
}

func kindName(k trustv1.EntryKind) string {
	if k == trustv1.EntryKind_ENTRY_KIND_AGENT {
		return "agent"
	}
	return "device"
}

func text(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

// publish tells agents' channels and watching clients that the log has grown.
func (d *Directory) publish(org int64, head trust.Head) {
	payload, err := proto.Marshal(&channelv1.LogHead{Epoch: head.Epoch, Digest: head.Digest[:]})
	if err == nil {
		d.bus.Publish(bus.Log(org), payload)
	}
	payload, err = proto.Marshal(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Log{Log: true}})
	if err == nil {
		d.bus.Publish(bus.Push(org), payload)
	}
}
