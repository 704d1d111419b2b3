package work

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// maxStatement bounds a statement's blob.
const maxStatement = trust.MaxSigned + 64

// Restate takes back a record's statement that a restored database has lost; those
// before it stay. The vault cannot read it. What it can hold it against is the log:
// every statement that replaced another raised the record's floor to its own number,
// and somebody who may edit the record signed that.
func (w *Work) Restate(ctx context.Context, q *db.Queries, a Agent, r ksm.RestateRequest) error {
	ref, err := w.account(ctx, q, a, r.Record) // any record that the agent's pool reads
	if err != nil {
		return err
	}
	org, err := q.OrgByNumber(ctx, a.Org)
	if err != nil {
		return fmt.Errorf("read the organisation: %w", err)
	}
	digest, err := seal.DigestFrom(r.Digest)
	if err != nil {
		return ksm.Refuse(ksm.CodeBadRequest, "the statement's digest is malformed")
	}
	if n := len(r.Blob); n == 0 || n > maxStatement {
		return ksm.Refuse(ksm.CodeTooLarge, "a statement of %d bytes, at most %d", n, maxStatement)
	}
	record, err := w.record(ctx, q, a.Org, ref)
	if err != nil {
		return err
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return err
	}
	first := record.StatementSeq == 0 && r.Seq == 1
	if org.Recovering == 0 || int64(min(r.Seq, 1<<62)) <= record.StatementSeq || !first && r.Seq > log.Floor(ref) {
		return ksm.Refuse(ksm.CodeNotLost, "statement %d of record %s is not known to be lost: the record has statement %d, its floor is %d", r.Seq, ref, record.StatementSeq, log.Floor(ref))
	}
	links := db.SetRecordLinksParams{Org: a.Org, RecordUid: ref.Record[:]}
	if links.ResourceFolder, links.ResourceUid, err = link(r.Resource); err != nil {
		return err
	}
	if links.AdminFolder, links.AdminUid, err = link(r.Admin); err != nil {
		return err
	}
	if _, err := seal.IDFrom(r.PoolID); err != nil && len(r.PoolID) > 0 {
		return ksm.Refuse(ksm.CodeBadRequest, "the statement's pool is malformed")
	}
	links.PoolID = r.PoolID
	err = errors.Join(
		q.AddStatement(ctx, db.AddStatementParams{
			Org: a.Org, RecordUid: ref.Record[:], Seq: int64(r.Seq), FolderUid: ref.Folder[:], Digest: digest[:], Blob: r.Blob, Time: w.now().UnixMilli(),
		}),
		q.SetRecordStatement(ctx, db.SetRecordStatementParams{StatementSeq: int64(r.Seq), Org: a.Org, RecordUid: ref.Record[:]}),
		q.SetRecordLinks(ctx, links),
	)
	if err != nil {
		return fmt.Errorf("write statement: %w", err)
	}
	w.tellRecord(q, a.Org, ref.Folder[:], ref.Record[:], record.Revision)
	return w.tell(ctx, q, audit.Event{
		Org: a.Org, Name: audit.StatementRestated, Actor: a.ID[:], Folder: ref.Folder[:], Record: ref.Record[:],
		Fields: map[string]string{"seq": strconv.FormatUint(r.Seq, 10)},
	})
}

// link is a record that a statement names; empty for none.
func link(r ksm.Ref) (folder, record []byte, err error) {
	if len(r.Folder) == 0 && len(r.Record) == 0 {
		return nil, nil, nil
	}
	if len(r.Folder) != 16 || len(r.Record) != 16 {
		return nil, nil, ksm.Refuse(ksm.CodeBadRequest, "a link is malformed")
	}
	return r.Folder, r.Record, nil
}
