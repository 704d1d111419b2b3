package clientapi

import (
	"context"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const (
	wrappedCBCLen = 64 // a sub-folder's key under its root's
	// openTransaction is how long a machine client's staged update is left to it.
	openTransaction = time.Hour
)

// newKeys notes the folders to which a change gives another key: the same call has to
// bring all that is under the former one. A server that was restored takes back changes
// that it had lost, and what came with them is nobody's to bring again.
func (w *writer) newKeys(signed []byte) error {
	var envelope trustv1.Signed
	var change trustv1.Change
	if proto.Unmarshal(signed, &envelope) != nil || proto.Unmarshal(envelope.Body, &change) != nil {
		return nil // the log has taken it: it is well-formed
	}
	if !slices.ContainsFunc(change.Ops, func(op *trustv1.Op) bool { return op.GetFolder().GetKeyVersion() > 1 }) {
		return nil
	}
	if err := w.s.Directory.MayGrow(w.ctx, w.q, w.org); trust.ReasonOf(err) == trust.LogRecovering {
		return nil
	} else if err != nil {
		return err
	}
	for _, op := range change.Ops {
		if f := op.GetFolder(); f.GetKeyVersion() > 1 {
			w.rekeyed[seal.ID(f.FolderUid)] = false
		}
	}
	return nil
}

// rekeyFolder wraps what is under a folder's former key under the new one.
func (w *writer) rekeyFolder(r *clientv1.RekeyFolder) error {
	folder, err := id("folder uid", r.GetFolderUid())
	if err != nil {
		return err
	}
	f, ok := w.log.Folder(folder)
	if _, now := w.rekeyed[folder]; !ok || !now || r.GetKeyVersion() != f.Version {
		return refuse(connect.CodeFailedPrecondition, ReasonKeyVersion, "append the folder's new key in the same call", "this call gives folder %s no key of version %d", folder, r.GetKeyVersion())
	}
	// It overwrites what only those can check who hold the keys: that is an edit, too.
	if err := w.need(folder, trust.Share|trust.Edit); err != nil {
		return err
	}
	if n := len(r.GetData()); n == 0 || n > maxFolderData {
		return malformed("folder data of %d bytes, at most %d", n, maxFolderData)
	}
	err = w.q.PutFolder(w.ctx, db.PutFolderParams{Org: w.org, FolderUid: folder[:], Data: r.GetData(), Created: w.now.UnixMilli()})
	if err != nil {
		return err
	}
	for _, x := range r.GetRecords() {
		if err := w.rewrapRecord(folder, f.Version, x); err != nil {
			return err
		}
	}
	for _, x := range r.GetFolders() {
		if len(x.GetWrapped()) != wrappedCBCLen {
			return malformed("a sub-folder's key of %d bytes, not %d", len(x.GetWrapped()), wrappedCBCLen)
		}
		n, err := w.q.RewrapSubfolder(w.ctx, db.RewrapSubfolderParams{Wrapped: x.Wrapped, Org: w.org, FolderUid: x.Uid, RootUid: folder[:], Former: x.Former})
		if err != nil {
			return err
		}
		if n != 1 {
			return incomplete(folder, "its sub-folders have changed")
		}
	}
	subfolders, err := w.q.CountSubfoldersOf(w.ctx, db.CountSubfoldersOfParams{Org: w.org, RootUid: folder[:]})
	if err != nil {
		return err
	}
	if int(subfolders) != len(r.GetFolders()) {
		return incomplete(folder, "it has %d sub-folders, the call brings the keys of %d", subfolders, len(r.GetFolders()))
	}
	w.rekeyed[folder] = true
	// Whoever may read has the new one at the end of this call.
	return w.q.DeleteFormerFolderKeys(w.ctx, db.DeleteFormerFolderKeysParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(f.Version)})
}

func (w *writer) rewrapRecord(folder seal.ID, version uint32, x *clientv1.Rewrapped) error {
	if len(x.GetWrapped()) != wrappedKeyLen {
		return malformed("a wrapped record key of %d bytes, not %d", len(x.GetWrapped()), wrappedKeyLen)
	}
	current, err := w.q.RewrapRecord(w.ctx, db.RewrapRecordParams{
		Wrapped: x.Wrapped, KeyVersion: int64(version), Org: w.org, FolderUid: folder[:], RecordUid: x.Uid, Former: x.Former,
	})
	if err != nil {
		return err
	}
	if current == 0 { // a former key's: the record has to be this folder's all the same
		name, err := ref(&trustv1.Ref{FolderUid: folder[:], RecordUid: x.GetUid()})
		if err != nil {
			return err
		}
		if _, err := w.record(name); connect.CodeOf(err) == connect.CodeNotFound {
			return incomplete(folder, "record %s is there no more", name.Record)
		} else if err != nil {
			return err
		}
	}
	former, err := w.q.RewrapHistory(w.ctx, db.RewrapHistoryParams{Wrapped: x.Wrapped, KeyVersion: int64(version), Org: w.org, RecordUid: x.Uid, Former: x.Former})
	if err != nil {
		return err
	}
	if current+former == 0 {
		return incomplete(folder, "a record's key has changed")
	}
	return nil
}

func incomplete(folder seal.ID, format string, args ...any) error {
	return refuse(connect.CodeAborted, ReasonRekey, "list what is under the folder's key again, then sign anew", "the new key of folder "+folder.String()+": "+format, args...)
}

// allRekeyed refuses a call that gives a folder a new key and leaves something under the
// former one, or somebody without it who is entitled to it.
func (w *writer) allRekeyed() error {
	for folder, done := range w.rekeyed {
		if !done {
			return incomplete(folder, "the call does not bring what is under the former one")
		}
		f, _ := w.log.Folder(folder)
		records, err := w.q.CountRecordsNotUnder(w.ctx, db.CountRecordsNotUnderParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(f.Version)})
		if err != nil {
			return err
		}
		history, err := w.q.CountHistoryNotUnder(w.ctx, db.CountHistoryNotUnderParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(f.Version)})
		if err != nil {
			return err
		}
		if records+history > 0 {
			return incomplete(folder, "the keys of %d records and %d former values are left out", records, history)
		}
		if err := w.allHold(folder, f.Version); err != nil {
			return err
		}
	}
	return nil
}

// allHold refuses a new folder key that is not sealed to everybody who may read.
func (w *writer) allHold(folder seal.ID, version uint32) error {
	have, err := w.q.FolderKeyRecipients(w.ctx, db.FolderKeyRecipientsParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(version)})
	if err != nil {
		return err
	}
	holds := make(map[string]bool, len(have))
	for _, h := range have {
		holds[string(h)] = true
	}
	for _, e := range w.log.Readers(folder) {
		// Who is about to expire may have expired by the caller's clock.
		if !holds[string(e.ID[:])] && !e.Expired(w.now.Add(trust.Skew)) {
			return refuse(connect.CodeAborted, ReasonReader, "have it connect once, so that the server has its keys, or remove it (`rotunda device remove`, `rotunda agent remove`): after a restore, agents and devices that were enrolled since the backup first",
				"the new key of folder %s: it is not sealed to %s, who may read", folder, w.log.FullName(e))
		}
	}
	apps, err := w.q.AppFoldersNotUnder(w.ctx, db.AppFoldersNotUnderParams{Org: w.org, FolderUid: folder[:], KeyVersion: int64(version)})
	if err != nil {
		return err
	}
	for _, app := range apps {
		if e, live := w.log.Entry(seal.ID(app)); live && w.log.Roles(e.ID, folder).Has(trust.Read) {
			return incomplete(folder, "it is not wrapped for the application %s, which may read", e.Name)
		}
	}
	return nil
}

// rekeyRecord gives a record another key. A run that is under way holds the former one:
// it ends first.
func (w *writer) rekeyRecord(r *clientv1.RekeyRecord) error {
	name, err := ref(r.GetRef())
	if err != nil {
		return err
	}
	if err := w.need(name.Folder, trust.Edit); err != nil {
		return err
	}
	f, ok := w.log.Folder(name.Folder)
	switch {
	case !ok:
		return notFound("the log knows no folder %s", name.Folder)
	case r.GetKeyVersion() != f.Version:
		return keyVersion(name.Folder, r.GetKeyVersion(), f.Version)
	case len(r.GetRecordKey()) != wrappedKeyLen:
		return malformed("a wrapped record key of %d bytes, not %d", len(r.GetRecordKey()), wrappedKeyLen)
	case len(r.GetData()) == 0 || len(r.GetData()) > maxData:
		return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "attach large contents as files", "record data of %d bytes, at most %d", len(r.GetData()), maxData)
	}
	old, err := w.record(name)
	if err != nil {
		return err
	}
	if old.Revision != r.GetRevision() {
		return outOfSync(name, r.GetRevision(), old.Revision)
	}
	if err := w.idle(name, old); err != nil {
		return err
	}
	err = w.q.KeepInHistory(w.ctx, db.KeepInHistoryParams{
		Org: w.org, RecordUid: old.RecordUid, Revision: old.Revision, RecordKey: old.RecordKey, KeyVersion: old.KeyVersion,
		Data: old.Data, Why: work.WhyRekeyed, Result: old.Attestation, Time: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	digest := seal.Hash(r.GetData())
	n, err := w.q.RekeyRecord(w.ctx, db.RekeyRecordParams{
		Org: w.org, RecordUid: old.RecordUid, Revision: old.Revision, RecordKey: r.GetRecordKey(), KeyVersion: int64(f.Version),
		Data: r.GetData(), DataDigest: digest[:], Now: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	if n != 1 {
		return outOfSync(name, r.GetRevision(), 0)
	}
	if err := w.rekeyFiles(name, r.GetFiles()); err != nil {
		return err
	}
	if err := w.rewrapFormer(name, int64(f.Version), r.GetFormer()); err != nil {
		return err
	}
	w.revised(name, old.Revision+1)
	return w.tell(audit.Event{
		Name: audit.RecordRekeyed, Folder: name.Folder[:], Record: name.Record[:],
		Fields: map[string]string{"key_version": strconv.FormatUint(uint64(f.Version), 10)},
	})
}

// idle refuses while something that was made under the record's key is on its way.
func (w *writer) idle(name trust.Ref, old db.Record) error {
	if err := w.settled(name); err != nil {
		return err
	}
	runs, err := w.q.CountRunsUnderWay(w.ctx, db.CountRunsUnderWayParams{Org: w.org, AccountUid: name.Record[:]})
	if err != nil {
		return err
	}
	if runs > 0 {
		return refuse(connect.CodeFailedPrecondition, ReasonOutstanding, trust.RunOutstanding.Hint(), "a run of record %s is under way", name)
	}
	staged, err := w.q.StagedByUID(w.ctx, db.StagedByUIDParams{Org: w.org, Uids: [][]byte{name.Record[:]}})
	if err != nil || len(staged) == 0 {
		return err
	}
	if w.now.Sub(time.UnixMilli(staged[0].Time)) < openTransaction {
		return refuse(connect.CodeFailedPrecondition, ReasonOutstanding, "it ends within an hour", "a machine client's update of record %s is open", name)
	}
	err = w.q.KeepInHistory(w.ctx, db.KeepInHistoryParams{
		Org: w.org, RecordUid: old.RecordUid, Revision: staged[0].BaseRevision, RecordKey: old.RecordKey, KeyVersion: old.KeyVersion,
		Data: staged[0].Data, Why: work.WhyRolledBack, Time: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	return w.q.DeleteStagedOf(w.ctx, db.DeleteStagedOfParams{Org: w.org, RecordUid: old.RecordUid})
}

func (w *writer) rekeyFiles(name trust.Ref, keys []*clientv1.FileKey) error {
	files, err := w.q.FilesOfRecords(w.ctx, db.FilesOfRecordsParams{Org: w.org, Uids: [][]byte{name.Record[:]}})
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, k := range keys {
		if len(k.GetFileKey()) != wrappedKeyLen {
			return malformed("a file's key of %d bytes, not %d", len(k.GetFileKey()), wrappedKeyLen)
		}
		n, err := w.q.SetFileKey(w.ctx, db.SetFileKeyParams{FileKey: k.FileKey, Org: w.org, RecordUid: name.Record[:], FileUid: k.FileUid})
		if err != nil {
			return err
		}
		done[string(k.FileUid)] = n == 1
	}
	for _, f := range files {
		if !done[string(f.FileUid)] {
			return refuse(connect.CodeAborted, ReasonOutOfSync, "fetch the record again", "record %s has a file whose key the call does not bring", name)
		}
	}
	return nil
}

// rewrapFormer brings the keys of a record's former values under the record's new key. So
// a folder's next key has one key of each record to take over, however long its history.
func (w *writer) rewrapFormer(name trust.Ref, version int64, keys []*clientv1.FormerKey) error {
	for _, k := range keys {
		if len(k.GetWrapped()) != wrappedKeyLen {
			return malformed("a former value's key of %d bytes, not %d", len(k.GetWrapped()), wrappedKeyLen)
		}
		err := w.q.RewrapFormer(w.ctx, db.RewrapFormerParams{Wrapped: k.Wrapped, KeyVersion: -version, Org: w.org, RecordUid: name.Record[:], Former: k.Former})
		if err != nil {
			return err
		}
	}
	left, err := w.q.CountFormerNotUnder(w.ctx, db.CountFormerNotUnderParams{Org: w.org, RecordUid: name.Record[:], KeyVersion: -version})
	if err != nil {
		return err
	}
	if left > 0 {
		return refuse(connect.CodeAborted, ReasonOutOfSync, "fetch the record again", "the keys of %d former values of record %s are left out", left, name)
	}
	return nil
}

// ListWrapped: see the service's definition. The token is the uid of the last record.
func (s *service) ListWrapped(ctx context.Context, r *connect.Request[clientv1.ListWrappedRequest]) (*connect.Response[clientv1.ListWrappedResponse], error) {
	from, err := after(r.Msg.Page, 16)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ListWrappedResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		folder, p, err := s.sharedFolder(ctx, q, r.Msg.FolderUid)
		if err != nil {
			return err
		}
		if from == nil {
			subfolders, err := q.SubfolderKeysOf(ctx, db.SubfolderKeysOfParams{Org: p.org, RootUid: folder[:]})
			if err != nil {
				return err
			}
			for _, f := range subfolders {
				answer.Folders = append(answer.Folders, &clientv1.Wrapped{Uid: f.FolderUid, Wrapped: f.FolderKey})
			}
			from = []byte{}
		}
		rows, err := q.KeysInFolder(ctx, db.KeysInFolderParams{Org: p.org, FolderUid: folder[:], After: from, Rows: int64(size(r.Msg.Page))})
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			answer.Records = append(answer.Records, &clientv1.Wrapped{Uid: row.RecordUid, Wrapped: row.RecordKey})
		}
		last := rows[len(rows)-1].RecordUid
		former, err := q.FormerKeysInFolder(ctx, db.FormerKeysInFolderParams{Org: p.org, FolderUid: folder[:], After: from, Last: last})
		if err != nil {
			return err
		}
		for _, row := range former {
			answer.Records = append(answer.Records, &clientv1.Wrapped{Uid: row.RecordUid, Wrapped: row.RecordKey})
		}
		if len(rows) == size(r.Msg.Page) {
			answer.Next = token(last)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// sharedFolder is a folder that the caller may read.
func (s *service) sharedFolder(ctx context.Context, q *db.Queries, uid []byte) (seal.ID, *party, error) {
	folder, err := id("folder uid", uid)
	if err != nil {
		return folder, nil, err
	}
	p, err := s.party(ctx, q)
	if err != nil {
		return folder, nil, err
	}
	if _, ok := p.log.Folder(folder); !ok {
		return folder, nil, notFound("the log knows no folder %s", folder)
	}
	return folder, p, p.need(folder, trust.Read)
}

// ListOldKeys: see the service's definition. The token is the uid of the last record.
func (s *service) ListOldKeys(ctx context.Context, r *connect.Request[clientv1.ListOldKeysRequest]) (*connect.Response[clientv1.ListOldKeysResponse], error) {
	from, err := after(r.Msg.Page, 16)
	if err != nil {
		return nil, err
	}
	if from == nil {
		from = []byte{}
	}
	answer := &clientv1.ListOldKeysResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		folder, p, err := s.sharedFolder(ctx, q, r.Msg.FolderUid)
		if err != nil {
			return err
		}
		f, _ := p.log.Folder(folder)
		limit := min(size(r.Msg.Page), rowsAtOnce)
		rows, err := q.SizesOfOldKeys(ctx, db.SizesOfOldKeysParams{
			Org: p.org, FolderUid: folder[:], After: from, KeyVersion: int64(f.Version), Rows: int64(limit),
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		var uids [][]byte
		for _, row := range rows {
			uids = append(uids, row.RecordUid)
		}
		beside, err := sizesBeside(ctx, q, p.org, uids)
		if err != nil {
			return err
		}
		full, bytes := len(rows) == limit, int64(0)
		for i, row := range rows {
			if bytes += row.Size + beside[string(row.RecordUid)]; bytes > pageBytes && i > 0 {
				uids, full = uids[:i], true
				break
			}
		}
		if full {
			answer.Next = token(uids[len(uids)-1])
		}
		answer.Records, err = oldKeys(ctx, q, p.org, uids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

func oldKeys(ctx context.Context, q *db.Queries, org int64, uids [][]byte) ([]*clientv1.OldKey, error) {
	rows, err := records(ctx, q, org, uids)
	if err != nil {
		return nil, err
	}
	views, err := recordViews(ctx, q, org, rows)
	if err != nil {
		return nil, err
	}
	files, err := q.FilesOfRecords(ctx, db.FilesOfRecordsParams{Org: org, Uids: uids})
	if err != nil {
		return nil, err
	}
	of := map[string][]*clientv1.FileKey{}
	for _, f := range files {
		of[string(f.RecordUid)] = append(of[string(f.RecordUid)], &clientv1.FileKey{FileUid: f.FileUid, FileKey: f.FileKey})
	}
	out := make([]*clientv1.OldKey, len(views))
	for i, v := range views {
		runs, err := q.CountRunsUnderWay(ctx, db.CountRunsUnderWayParams{Org: org, AccountUid: v.Ref.RecordUid})
		if err != nil {
			return nil, err
		}
		out[i] = &clientv1.OldKey{Record: v, Files: of[string(v.Ref.RecordUid)], Busy: runs > 0}
		former, err := q.FormerKeysOf(ctx, db.FormerKeysOfParams{Org: org, RecordUid: v.Ref.RecordUid})
		if err != nil {
			return nil, err
		}
		for _, k := range former {
			out[i].Former = append(out[i].Former, &clientv1.FormerKey{Former: k.RecordKey, UnderRecord: k.KeyVersion < 0})
		}
	}
	return out, nil
}

// oldKeysIn counts a folder's records whose key was made under a former key of it.
func oldKeysIn(ctx context.Context, q *db.Queries, org int64, f trust.FolderState) (int64, error) {
	if f.Version == 1 {
		return 0, nil
	}
	return q.CountOldKeysIn(ctx, db.CountOldKeysInParams{Org: org, FolderUid: f.UID[:], MadeVersion: int64(f.Version)})
}
