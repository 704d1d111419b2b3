package machineapi

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const (
	wrappedKey = 60 // a key under another: nonce, 32 bytes, tag
	// openTransaction is how long a client's staged update keeps others from
	// writing; then the next writer moves it to the history.
	openTransaction = time.Hour
)

// editable reads a record that the application may change, and refuses where an
// agent's candidate is outstanding.
func (a *API) editable(ctx context.Context, q *db.Queries, r *request, uid []byte) (db.Record, db.Staged, error) {
	record, err := a.visible(ctx, q, r, uid, true)
	if err != nil {
		return db.Record{}, db.Staged{}, err
	}
	staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: r.client.Org, RecordUid: record.RecordUid})
	if err != nil && !isNotFound(err) {
		return record, staged, fmt.Errorf("read candidate: %w", err)
	}
	if err == nil && staged.OwnerKind == work.OwnerAgent {
		return record, staged, ksm.Refuse(ksm.CodeOutstanding, "an agent changes this account's secret now; try again later")
	}
	return record, staged, nil
}

// visible reads a record below a folder that is shared to the application.
func (a *API) visible(ctx context.Context, q *db.Queries, r *request, uid []byte, edit bool) (db.Record, error) {
	record, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: r.client.Org, RecordUid: uid})
	if isNotFound(err) || len(uid) == 0 {
		return db.Record{}, ksm.Refuse(ksm.CodeAccessDenied, "there is no such record among those shared to this application")
	}
	if err != nil {
		return db.Record{}, fmt.Errorf("read record: %w", err)
	}
	find := r.sharedFolder
	if edit {
		find = r.editFolder
	}
	f, err := find(ctx, q, record.FolderUid)
	if err != nil {
		return db.Record{}, err
	}
	if record.KeyVersion != f.version {
		return db.Record{}, ksm.Refuse(ksm.CodeOutOfSync, "the record waits for its folder's new key; try again later")
	}
	return record, nil
}

// updateSecret replaces a record's data, or stages the replacement.
func (a *API) updateSecret(ctx context.Context, r *request) (answer, error) {
	var in ksm.UpdateRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := checkData(in.Data); err != nil {
		return nil, err
	}
	switch in.TransactionType {
	case "", "general", "rotation":
	default:
		return nil, ksm.Refuse(ksm.CodeBadRequest, "the transaction type is neither general nor rotation")
	}
	return nil, a.Store.Write(ctx, func(q *db.Queries) error {
		record, staged, err := a.editable(ctx, q, r, in.RecordUID)
		if err != nil {
			return err
		}
		if in.TransactionType != "" && record.StatementSeq > 0 {
			return ksm.Refuse(ksm.CodeAccessDenied, "agents rotate this account: a client may not open a transaction on it")
		}
		if record.Revision != in.Revision {
			return ksm.Refuse(ksm.CodeOutOfSync, "the record is at revision %d, the update is of %d: read it again", record.Revision, in.Revision)
		}
		if err := a.giveWay(ctx, q, r, record, staged, in.TransactionType != ""); err != nil {
			return err
		}
		if in.TransactionType != "" {
			return a.stage(ctx, q, r, record, in.Data)
		}
		if err := a.replace(ctx, q, r, record, in.Data); err != nil {
			return err
		}
		return a.detach(ctx, q, r, record, in.LinksToRemove)
	})
}

func checkData(data []byte) error {
	switch {
	case len(data) == 0:
		return ksm.Refuse(ksm.CodeBadRequest, "there is no data")
	case len(data) > ksm.MaxData:
		return ksm.Refuse(ksm.CodeTooLarge, "the data has %d bytes, at most %d are kept", len(data), ksm.MaxData)
	}
	return nil
}

// giveWay clears a client's staged update before another write: its own where
// it stages anew, another's once its time is over. It goes to the history.
func (a *API) giveWay(ctx context.Context, q *db.Queries, r *request, record db.Record, staged db.Staged, staging bool) error {
	if staged.OwnerKind == "" {
		return nil
	}
	mine := string(staged.OwnerID) == string(r.client.ClientID)
	old := r.now.UnixMilli()-staged.Time >= openTransaction.Milliseconds()
	if !old && !(mine && staging) {
		return ksm.Refuse(ksm.CodeOutstanding, "a staged update of this record is open: finalize it or roll it back")
	}
	return a.rolledBack(ctx, q, r, record, staged)
}

// rolledBack moves a client's staged update to the history.
func (a *API) rolledBack(ctx context.Context, q *db.Queries, r *request, record db.Record, staged db.Staged) error {
	err := q.KeepInHistory(ctx, db.KeepInHistoryParams{
		Org: record.Org, RecordUid: record.RecordUid, Revision: staged.BaseRevision, RecordKey: record.RecordKey, KeyVersion: record.KeyVersion,
		Data: staged.Data, Why: work.WhyRolledBack, Time: r.now.UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if err := q.DeleteStagedOf(ctx, db.DeleteStagedOfParams{Org: record.Org, RecordUid: record.RecordUid}); err != nil {
		return fmt.Errorf("remove staged update: %w", err)
	}
	return nil
}

func (a *API) stage(ctx context.Context, q *db.Queries, r *request, record db.Record, data []byte) error {
	digest := seal.Hash(data)
	err := q.AddStaged(ctx, db.AddStagedParams{
		Org: record.Org, RecordUid: record.RecordUid, OwnerKind: work.OwnerClient, OwnerID: r.client.ClientID,
		BaseRevision: record.Revision, Data: data, DataDigest: digest[:], Time: r.now.UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("write staged update: %w", err)
	}
	return nil
}

// replace makes data the record's. The former data goes to the history, and a
// statement's account has a value that nobody attests: agents do not use it
// before a person has adopted it.
func (a *API) replace(ctx context.Context, q *db.Queries, r *request, record db.Record, data []byte) error {
	now := r.now.UnixMilli()
	err := q.KeepInHistory(ctx, db.KeepInHistoryParams{
		Org: record.Org, RecordUid: record.RecordUid, Revision: record.Revision, RecordKey: record.RecordKey, KeyVersion: record.KeyVersion,
		Data: record.Data, Why: work.WhyReplaced, Result: record.Attestation, Time: now,
	})
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	digest := seal.Hash(data)
	n, err := q.ReplaceRecord(ctx, db.ReplaceRecordParams{
		Kind: record.Kind, RecordKey: record.RecordKey, KeyVersion: record.KeyVersion, Data: data, DataDigest: digest[:],
		Now: now, Org: record.Org, RecordUid: record.RecordUid, Revision: record.Revision,
	})
	if err != nil || n != 1 {
		return fmt.Errorf("write record: %d rows: %w", n, err)
	}
	a.tellRecord(q, record, record.Revision+1)
	return a.tell(ctx, q, audit.Event{
		Org: record.Org, Name: audit.RecordEdited, Actor: r.owner[:], Folder: record.FolderUid, Record: record.RecordUid,
		Fields: map[string]string{"revision": strconv.FormatInt(record.Revision+1, 10), "client": r.client.Name},
	})
}

// tellRecord tells watching clients that a record changed, once that is durable.
func (a *API) tellRecord(q *db.Queries, record db.Record, revision int64) {
	payload, err := proto.Marshal(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Record{Record: &clientv1.RecordChanged{
		Ref:      &trustv1.Ref{FolderUid: record.FolderUid, RecordUid: record.RecordUid},
		Revision: revision,
	}}})
	if err != nil { // never: the message is plain
		return
	}
	q.AfterCommit(func() { a.Bus.Publish(bus.Push(record.Org), payload) })
}

// finalize makes a client's own staged update current. Anybody else's call, and
// one without a staged update, does nothing and is answered alike.
func (a *API) finalize(ctx context.Context, r *request) (answer, error) {
	return nil, a.settle(ctx, r, func(q *db.Queries, record db.Record, staged db.Staged) error {
		if record.Revision != staged.BaseRevision {
			return ksm.Refuse(ksm.CodeOutOfSync, "the record is at revision %d, the staged update is of %d: roll it back, read the record again", record.Revision, staged.BaseRevision)
		}
		if err := q.DeleteStagedOf(ctx, db.DeleteStagedOfParams{Org: record.Org, RecordUid: record.RecordUid}); err != nil {
			return fmt.Errorf("remove staged update: %w", err)
		}
		return a.replace(ctx, q, r, record, staged.Data)
	})
}

// rollback moves a client's own staged update to the history.
func (a *API) rollback(ctx context.Context, r *request) (answer, error) {
	return nil, a.settle(ctx, r, func(q *db.Queries, record db.Record, staged db.Staged) error {
		return a.rolledBack(ctx, q, r, record, staged)
	})
}

func (a *API) settle(ctx context.Context, r *request, do func(*db.Queries, db.Record, db.Staged) error) error {
	var in ksm.SettleUpdate
	if err := decode(r, &in); err != nil {
		return err
	}
	return a.Store.Write(ctx, func(q *db.Queries) error {
		record, err := a.visible(ctx, q, r, in.RecordUID, true)
		if err != nil {
			return err
		}
		staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: r.client.Org, RecordUid: record.RecordUid})
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read staged update: %w", err)
		}
		if staged.OwnerKind != work.OwnerClient || string(staged.OwnerID) != string(r.client.ClientID) {
			return nil
		}
		return do(q, record, staged)
	})
}

// createSecret makes a record. The record's key sealed to the application's
// owner is not kept: whoever lies about that owner must not profit later.
func (a *API) createSecret(ctx context.Context, r *request) (answer, error) {
	var in ksm.CreateRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := checkData(in.Data); err != nil {
		return nil, err
	}
	if len(in.RecordUID) == 0 || len(in.FolderUID) == 0 || len(in.FolderKey) != wrappedKey {
		return nil, ksm.Refuse(ksm.CodeBadRequest, "a new record needs a uid, a folder, and its key wrapped under the folder's")
	}
	return nil, a.Store.Write(ctx, func(q *db.Queries) error {
		f, err := r.editFolder(ctx, q, in.FolderUID)
		if err != nil {
			return err
		}
		if len(in.SubFolderUID) > 0 && string(in.SubFolderUID) != string(in.FolderUID) {
			sub, err := q.SubfolderByUID(ctx, db.SubfolderByUIDParams{Org: r.client.Org, FolderUid: in.SubFolderUID})
			if isNotFound(err) || err == nil && string(sub.RootUid) != string(f.uid) {
				return ksm.Refuse(ksm.CodeBadRequest, "the folder has no such sub-folder")
			}
			if err != nil {
				return fmt.Errorf("read folder: %w", err)
			}
		}
		digest := seal.Hash(in.Data)
		err = q.CreateRecord(ctx, db.CreateRecordParams{
			Org: r.client.Org, RecordUid: in.RecordUID, FolderUid: f.uid, RecordKey: in.FolderKey, KeyVersion: f.version,
			Data: in.Data, DataDigest: digest[:], Now: r.now.UnixMilli(),
		})
		if errors.Is(err, store.ErrExists) {
			return ksm.Refuse(ksm.CodeBadRequest, "a record with this uid exists already")
		}
		if err != nil {
			return fmt.Errorf("write record: %w", err)
		}
		if len(in.SubFolderUID) > 0 && string(in.SubFolderUID) != string(in.FolderUID) {
			err := q.SetSubfolder(ctx, db.SetSubfolderParams{SubFolderUid: in.SubFolderUID, Org: r.client.Org, RecordUid: in.RecordUID})
			if err != nil {
				return fmt.Errorf("write record: %w", err)
			}
		}
		a.tellRecord(q, db.Record{Org: r.client.Org, FolderUid: f.uid, RecordUid: in.RecordUID}, 1)
		return a.tell(ctx, q, audit.Event{
			Org: r.client.Org, Name: audit.RecordCreated, Actor: r.owner[:], Folder: f.uid, Record: in.RecordUID,
			Fields: map[string]string{"client": r.client.Name},
		})
	})
}

// deleteSecret deletes records, each with an outcome of its own.
func (a *API) deleteSecret(ctx context.Context, r *request) (answer, error) {
	var in ksm.DeleteRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.RecordUIDs) > maxRequested {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "more than %d records to delete", maxRequested)
	}
	var out ksm.DeletedRecords
	err := a.Store.Write(ctx, func(q *db.Queries) error {
		out = ksm.DeletedRecords{Records: []ksm.DeletedRecord{}}
		for _, uid := range in.RecordUIDs {
			d := ksm.DeletedRecord{RecordUID: ksm.URL(uid), ResponseCode: ksm.CodeOK}
			record, err := a.visible(ctx, q, r, uid, true)
			if err == nil {
				err = a.deleteRecord(ctx, q, r, record)
			}
			if refused, ok := errors.AsType[*ksm.Error](err); ok {
				d.ResponseCode, d.ErrorMessage = refused.Code, refused.Message
			} else if err != nil {
				return err
			}
			out.Records = append(out.Records, d)
		}
		return nil
	})
	return out, err
}

// deleteRecord deletes a record and all that belongs to it. An application may
// not delete one that has a statement.
func (a *API) deleteRecord(ctx context.Context, q *db.Queries, r *request, record db.Record) error {
	if record.StatementSeq > 0 {
		return ksm.Refuse(ksm.CodeAccessDenied, "a person manages this record: an application may not delete it")
	}
	files, err := q.FilesOfRecords(ctx, db.FilesOfRecordsParams{Org: record.Org, Uids: [][]byte{record.RecordUid}})
	if err != nil {
		return fmt.Errorf("read files: %w", err)
	}
	a.RemoveFiles(q, record.Org, files)
	org, uid := record.Org, record.RecordUid
	for _, err := range []error{
		q.DeleteFilesOf(ctx, db.DeleteFilesOfParams{Org: org, RecordUid: uid}),
		q.DeleteStagedOf(ctx, db.DeleteStagedOfParams{Org: org, RecordUid: uid}),
		q.DeleteHistory(ctx, db.DeleteHistoryParams{Org: org, RecordUid: uid}),
		q.DeleteResultsOf(ctx, db.DeleteResultsOfParams{Org: org, SubjectUid: uid}),
		q.DeleteRecordRow(ctx, db.DeleteRecordRowParams{Org: org, RecordUid: uid}),
	} {
		if err != nil {
			return fmt.Errorf("delete record: %w", err)
		}
	}
	a.tellRecord(q, record, 0)
	return a.tell(ctx, q, audit.Event{
		Org: org, Name: audit.RecordDeleted, Actor: r.owner[:], Folder: record.FolderUid, Record: uid,
		Fields: map[string]string{"client": r.client.Name},
	})
}
