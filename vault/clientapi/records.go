package clientapi

import (
	"errors"
	"strconv"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// Bounds of a record, in bytes.
const (
	maxData       = ksm.MaxData
	maxDetail     = 1 << 20
	maxStatement  = trust.MaxSigned + 64 // sealed
	maxKind       = 64
	wrappedKeyLen = 60 // GCM of 32 bytes
)

// record is a record in the folder that its name says.
func (w *writer) record(r trust.Ref) (db.Record, error) {
	rec, err := w.q.RecordByUID(w.ctx, db.RecordByUIDParams{Org: w.org, RecordUid: r.Record[:]})
	if errors.Is(err, store.ErrNotFound) || err == nil && string(rec.FolderUid) != string(r.Folder[:]) {
		return rec, notFound("no record %s", r)
	}
	return rec, err
}

// settled refuses while an agent's candidate is outstanding: it was made from
// the record as it is, and may be the account's secret already.
func (w *writer) settled(r trust.Ref) error {
	st, err := w.q.StagedOf(w.ctx, db.StagedOfParams{Org: w.org, RecordUid: r.Record[:]})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case st.OwnerKind != work.OwnerAgent:
		return nil
	}
	return refuse(connect.CodeFailedPrecondition, ReasonOutstanding, trust.RunOutstanding.Hint(), "a candidate is outstanding for record %s", r)
}

func outOfSync(r trust.Ref, got, want int64) error {
	return refuse(connect.CodeAborted, ReasonOutOfSync, "fetch the record, change it, write it again",
		"record %s has revision %d, not %d", r, want, got)
}

func (w *writer) putRecord(r *clientv1.PutRecord) error {
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
	case len(r.GetData()) == 0 || len(r.GetData()) > maxData:
		return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "attach large contents as files", "record data of %d bytes, at most %d", len(r.GetData()), maxData)
	case len(r.GetKind()) > maxKind:
		return malformed("a record type of %d bytes, at most %d", len(r.GetKind()), maxKind)
	case len(r.GetRecordKey()) != 0 && len(r.GetRecordKey()) != wrappedKeyLen:
		return malformed("a wrapped record key of %d bytes, not %d", len(r.GetRecordKey()), wrappedKeyLen)
	case len(r.GetRecordKey()) != 0 && r.GetKeyVersion() != f.Version:
		return keyVersion(name.Folder, r.GetKeyVersion(), f.Version)
	case r.GetRevision() < 0:
		return malformed("revision %d", r.GetRevision())
	}
	if r.GetRevision() == 0 {
		err = w.createRecord(name, r)
	} else {
		err = w.replaceRecord(name, r)
	}
	if err != nil {
		return err
	}
	if err := w.setLinks(name, r.GetLinks()); err != nil {
		return err
	}
	w.revised(name, r.GetRevision()+1)
	return nil
}

func (w *writer) createRecord(name trust.Ref, r *clientv1.PutRecord) error {
	if len(r.GetRecordKey()) == 0 || r.GetKind() == "" {
		return malformed("a new record needs its type and its wrapped key")
	}
	digest := seal.Hash(r.GetData())
	err := w.q.CreateRecord(w.ctx, db.CreateRecordParams{
		Org: w.org, RecordUid: name.Record[:], FolderUid: name.Folder[:], Kind: r.GetKind(), RecordKey: r.GetRecordKey(),
		KeyVersion: int64(r.GetKeyVersion()), Data: r.GetData(), DataDigest: digest[:], Now: w.now.UnixMilli(),
	})
	if errors.Is(err, store.ErrExists) {
		return refuse(connect.CodeAlreadyExists, ReasonExists, "choose another uid", "there is a record %s already", name.Record)
	}
	if err != nil {
		return err
	}
	return w.tell(audit.Event{
		Name: audit.RecordCreated, Folder: name.Folder[:], Record: name.Record[:], Fields: map[string]string{"kind": r.GetKind()},
	})
}

func (w *writer) replaceRecord(name trust.Ref, r *clientv1.PutRecord) error {
	old, err := w.record(name)
	if err != nil {
		return err
	}
	if old.Revision != r.GetRevision() {
		return outOfSync(name, r.GetRevision(), old.Revision)
	}
	if err := w.settled(name); err != nil {
		return err
	}
	err = w.q.KeepInHistory(w.ctx, db.KeepInHistoryParams{
		Org: w.org, RecordUid: old.RecordUid, Revision: old.Revision, RecordKey: old.RecordKey, KeyVersion: old.KeyVersion,
		Data: old.Data, Why: work.WhyReplaced, Result: old.Attestation, Time: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	digest := seal.Hash(r.GetData())
	next := db.ReplaceRecordParams{
		Org: w.org, RecordUid: old.RecordUid, Revision: old.Revision, Kind: old.Kind, RecordKey: old.RecordKey,
		KeyVersion: old.KeyVersion, Data: r.GetData(), DataDigest: digest[:], Now: w.now.UnixMilli(),
	}
	if r.GetKind() != "" {
		next.Kind = r.GetKind()
	}
	if len(r.GetRecordKey()) != 0 {
		next.RecordKey, next.KeyVersion = r.GetRecordKey(), int64(r.GetKeyVersion())
	}
	n, err := w.q.ReplaceRecord(w.ctx, next)
	if err != nil {
		return err
	}
	if n != 1 {
		return outOfSync(name, r.GetRevision(), 0)
	}
	return w.tell(audit.Event{
		Name: audit.RecordEdited, Folder: name.Folder[:], Record: name.Record[:],
		Fields: map[string]string{"revision": strconv.FormatInt(old.Revision+1, 10)},
	})
}

// setLinks keeps the clear hints; nil leaves the former ones.
func (w *writer) setLinks(name trust.Ref, l *clientv1.Links) error {
	if l == nil {
		return nil
	}
	p := db.SetRecordLinksParams{Org: w.org, RecordUid: name.Record[:]}
	if l.Resource != nil {
		r, err := ref(l.Resource)
		if err != nil {
			return err
		}
		p.ResourceUid, p.ResourceFolder = r.Record[:], r.Folder[:]
	}
	if l.AdminAccount != nil {
		r, err := ref(l.AdminAccount)
		if err != nil {
			return err
		}
		p.AdminUid, p.AdminFolder = r.Record[:], r.Folder[:]
	}
	if len(l.PoolId) != 0 {
		pool, err := id("pool", l.PoolId)
		if err != nil {
			return err
		}
		p.PoolID = pool[:]
	}
	return w.q.SetRecordLinks(w.ctx, p)
}

// revised answers the new revision and tells watching clients.
func (w *writer) revised(name trust.Ref, revision int64) {
	w.answer.Revisions = append(w.answer.Revisions, &clientv1.RecordRevision{RecordUid: name.Record.Bytes(), Revision: revision})
	w.changed(name, revision)
}

func (w *writer) changed(name trust.Ref, revision int64) {
	w.push(&clientv1.WatchResponse{What: &clientv1.WatchResponse_Record{Record: &clientv1.RecordChanged{Ref: name.Proto(), Revision: revision}}})
}

// deleteRecord deletes a record with all that hangs on it. Its lease's row
// stays: an epoch only grows.
func (w *writer) deleteRecord(r *clientv1.DeleteRecord) error {
	name, err := ref(r.GetRef())
	if err != nil {
		return err
	}
	if err := w.need(name.Folder, trust.Edit); err != nil {
		return err
	}
	old, err := w.record(name)
	if err != nil {
		return err
	}
	if old.Revision != r.GetRevision() {
		return outOfSync(name, r.GetRevision(), old.Revision)
	}
	if err := w.settled(name); err != nil {
		return err
	}
	uid := name.Record[:]
	runs, err := w.q.QueuedRunsOf(w.ctx, db.QueuedRunsOfParams{Org: w.org, AccountUid: uid})
	if err != nil {
		return err
	}
	for _, run := range runs {
		if err := w.s.Work.Drop(w.ctx, w.q, w.org, run, "record_deleted", w.entry[:]); err != nil {
			return err
		}
	}
	if _, err := w.q.DeleteRotation(w.ctx, db.DeleteRotationParams{Org: w.org, AccountUid: uid}); err != nil {
		return err
	}
	files, err := w.q.FilesOfRecords(w.ctx, db.FilesOfRecordsParams{Org: w.org, Uids: [][]byte{uid}})
	if err != nil {
		return err
	}
	w.s.RemoveFiles(w.q, w.org, files)
	err = errors.Join(
		w.q.DeleteStagedOf(w.ctx, db.DeleteStagedOfParams{Org: w.org, RecordUid: uid}),
		w.q.DeleteStatements(w.ctx, db.DeleteStatementsParams{Org: w.org, RecordUid: uid}),
		w.q.DeleteResultsOf(w.ctx, db.DeleteResultsOfParams{Org: w.org, SubjectUid: uid}),
		w.q.DeleteHistory(w.ctx, db.DeleteHistoryParams{Org: w.org, RecordUid: uid}),
		w.q.DeleteFilesOf(w.ctx, db.DeleteFilesOfParams{Org: w.org, RecordUid: uid}),
		w.q.DeleteRecordRow(w.ctx, db.DeleteRecordRowParams{Org: w.org, RecordUid: uid}),
	)
	if err != nil {
		return err
	}
	w.changed(name, 0)
	return w.tell(audit.Event{Name: audit.RecordDeleted, Folder: name.Folder[:], Record: uid})
}

// statementWritten is held against the log's floors when the call is done.
type statementWritten struct {
	ref      trust.Ref
	seq      uint64
	replaces bool
}

// putStatement compares and swaps: the new statement names the one that it
// follows. What it says is sealed; clients and agents judge that.
func (w *writer) putStatement(r *clientv1.PutStatement) error {
	name, err := ref(r.GetRef())
	if err != nil {
		return err
	}
	if err := w.need(name.Folder, trust.Edit); err != nil {
		return err
	}
	digest, err := seal.DigestFrom(r.GetDigest())
	if err != nil {
		return malformed("statement's digest: %v", err)
	}
	if n := len(r.GetBlob()); n == 0 || n > maxStatement {
		return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "a statement of %d bytes, at most %d", n, maxStatement)
	}
	if r.GetSeq() == 0 || r.GetSeq() > 1<<62 {
		return malformed("statement's seq %d", r.GetSeq())
	}
	rec, err := w.record(name)
	if err != nil {
		return err
	}
	var former []byte // digest
	if rec.StatementSeq > 0 {
		st, err := w.q.StatementBySeq(w.ctx, db.StatementBySeqParams{Org: w.org, RecordUid: rec.RecordUid, Seq: rec.StatementSeq})
		if err != nil {
			return err
		}
		former = st.Digest
	}
	if int64(r.GetSeq()) <= rec.StatementSeq || string(former) != string(r.GetPrev()) {
		return refuse(connect.CodeAborted, ReasonStatement, "fetch the record, merge, sign anew",
			"statement %d of record %s does not follow statement %d", r.GetSeq(), name, rec.StatementSeq)
	}
	err = w.q.AddStatement(w.ctx, db.AddStatementParams{
		Org: w.org, RecordUid: rec.RecordUid, Seq: int64(r.GetSeq()), FolderUid: rec.FolderUid, Digest: digest[:], Blob: r.GetBlob(), Time: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	err = w.q.SetRecordStatement(w.ctx, db.SetRecordStatementParams{StatementSeq: int64(r.GetSeq()), Org: w.org, RecordUid: rec.RecordUid})
	if err != nil {
		return err
	}
	if err := w.setLinks(name, r.GetLinks()); err != nil {
		return err
	}
	w.statements = append(w.statements, statementWritten{name, r.GetSeq(), rec.StatementSeq > 0})
	w.changed(name, rec.Revision)
	return w.tell(audit.Event{
		Name: audit.StatementSet, Folder: name.Folder[:], Record: name.Record[:],
		Fields: map[string]string{"seq": strconv.FormatUint(r.GetSeq(), 10)},
	})
}

// putResult stores what a person's device signs about a value: that it is his
// edit or that he adopts it, or that a candidate is abandoned.
func (w *writer) putResult(r *clientv1.PutResult) error {
	name, err := ref(r.GetAccount())
	if err != nil {
		return err
	}
	if err := w.need(name.Folder, trust.Edit); err != nil {
		return err
	}
	if len(r.GetDetail()) > maxDetail {
		return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "a detail of %d bytes, at most %d", len(r.GetDetail()), maxDetail)
	}
	res, err := trust.OpenResult(w.log, r.GetSigned())
	if err != nil {
		return err
	}
	switch {
	case res.Signer.ID != w.entry:
		return notAllowed("the result is signed by another device")
	case res.Account != name:
		return malformed("the result is about another record")
	case len(r.GetDetail()) != 0 && string(res.DetailDigest) != string(seal.Hash(r.GetDetail()).Bytes()):
		return malformed("the detail is not the one that the result names")
	}
	rec, err := w.record(name)
	if err != nil {
		return err
	}
	if err := trust.CheckWord(w.log, res, name, seal.ID{}); err != nil {
		return err
	}
	switch res.Phase {
	case trustv1.Phase_PHASE_ABANDONED:
		return w.s.Work.AbandonByDevice(w.ctx, w.q, w.org, res, r.GetDetail())
	case trustv1.Phase_PHASE_EDITED:
		return w.putEdit(name, rec, res, r)
	}
	return malformed("a person's result is an edit or an abandonment")
}

func (w *writer) putEdit(name trust.Ref, rec db.Record, res *trust.Result, r *clientv1.PutResult) error {
	if err := w.settled(name); err != nil {
		return err
	}
	known := len(rec.Attestation) > 0
	switch {
	case string(res.DataDigest) != string(rec.DataDigest):
		return refuse(connect.CodeAborted, ReasonValue, "fetch the record, then sign again", "the result is not about the present data of record %s", name)
	// Above what agents remember and this database has lost there may be a gap.
	case known && (res.ValueSeq <= uint64(rec.ValueSeq) || res.ValueSeq > uint64(rec.ValueSeq)+trust.MaxFloorRaise), res.ValueSeq == 0 || res.ValueSeq > 1<<62:
		return refuse(connect.CodeAborted, ReasonValue, "fetch the record, then sign again", "value %d of record %s does not follow value %d", res.ValueSeq, name, rec.ValueSeq)
	case known && len(res.Prev) > 0 && string(res.Prev) != string(rec.Attestation):
		return refuse(connect.CodeAborted, ReasonValue, "fetch the record, then sign again", "the result does not follow the one that attests record %s", name)
	}
	err := w.q.AddResult(w.ctx, db.AddResultParams{
		Org: w.org, Digest: res.Digest[:], SubjectUid: name.Record[:], RunID: res.RunId, Phase: int64(res.Phase), ByID: res.By,
		ValueSeq: int64(res.ValueSeq), DataDigest: res.DataDigest, Signed: r.GetSigned(), Detail: r.GetDetail(), Time: w.now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	err = w.q.SetRecordValue(w.ctx, db.SetRecordValueParams{
		ValueSeq: int64(res.ValueSeq), Attestation: res.Digest[:], Org: w.org, RecordUid: name.Record[:],
	})
	if err != nil {
		return err
	}
	w.changed(name, rec.Revision)
	if !r.GetAdoption() {
		return nil // the record's own event tells
	}
	return w.tell(audit.Event{
		Name: audit.RecordAdopted, Folder: name.Folder[:], Record: name.Record[:],
		Fields: map[string]string{"value_seq": strconv.FormatUint(res.ValueSeq, 10)},
	})
}
