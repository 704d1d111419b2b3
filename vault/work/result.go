package work

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Bounds in bytes.
const (
	maxResult = 32 << 10
	maxDetail = 256 << 10
	// maxAuthority holds a Signed{Command} or Signed{Result}, sealed.
	maxAuthority = 128 << 10
)

// account checks that the caller is a live agent whose pool may read the
// account's folder.
func (w *Work) account(ctx context.Context, q *db.Queries, a Agent, ref ksm.Ref) (trust.Ref, error) {
	account, err := trust.RefFrom(&trustv1.Ref{FolderUid: ref.Folder, RecordUid: ref.Record})
	if err != nil {
		return account, ksm.Refuse(ksm.CodeBadRequest, "the account: %s", err)
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return account, err
	}
	return account, mayRead(log, a, account.Folder)
}

func mayRead(log *trust.Log, a Agent, folder seal.ID) error {
	e, ok := log.Entry(a.ID)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT {
		return ksm.Refuse(ksm.CodeAccessDenied, "agent %s is not in the log", a.ID)
	}
	if !log.Roles(a.ID, folder).Has(trust.Read) {
		return ksm.Refuse(ksm.CodeAccessDenied, "the agent's pool may not read folder %s", folder)
	}
	return nil
}

// WrongPool is the refusal of an agent that would drive an account of another
// pool than its own.
type WrongPool struct {
	Account trust.Ref
	refusal *ksm.Error
}

func (e *WrongPool) Error() string { return e.refusal.Error() }
func (e *WrongPool) Unwrap() error { return e.refusal }

// ofPool refuses an agent of another pool than the account's: nobody lets its
// word count, so what it stages only stands in the way of those whose word does.
// Where the records do not say the pool, it is the one that the run was made for.
func (w *Work) ofPool(ctx context.Context, q *db.Queries, a Agent, account trust.Ref, made []byte) error {
	pool, err := w.poolOf(ctx, q, a.Org, account)
	if err != nil {
		return err
	}
	if len(pool) == 0 {
		pool = made
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return err
	}
	if e, ok := log.Entry(a.ID); ok && string(e.Owner[:]) == string(pool) {
		return nil
	}
	return &WrongPool{account, ksm.Refuse(ksm.CodeAccessDenied, "account %s is of another pool than agent %s", account, a.ID)}
}

// poolOf is the pool that an account's resource names, by the links that its
// statements' signers keep in clear beside them; nil where they name none.
func (w *Work) poolOf(ctx context.Context, q *db.Queries, org int64, account trust.Ref) ([]byte, error) {
	of := func(folder, uid []byte) (db.Record, error) {
		r, err := q.RecordByUID(ctx, db.RecordByUIDParams{Org: org, RecordUid: uid})
		if errors.Is(err, store.ErrNotFound) || err == nil && string(r.FolderUid) != string(folder) {
			return db.Record{}, nil
		}
		if err != nil {
			return db.Record{}, fmt.Errorf("read record: %w", err)
		}
		return r, nil
	}
	record, err := of(account.Folder[:], account.Record[:])
	if err != nil || len(record.ResourceUid) == 0 {
		return nil, err
	}
	resource, err := of(record.ResourceFolder, record.ResourceUid)
	return resource.PoolID, err
}

// call is what a result has to agree with.
type call struct {
	phase   trustv1.Phase
	account trust.Ref
	runID   []byte
	epoch   uint64
	digest  []byte // of the data; nil: none
	detail  []byte
}

// result opens an agent's signed result and holds it against the call that
// carries it: a result that says something else would be believed by nobody
// later, so it is refused now.
func (w *Work) result(ctx context.Context, q *db.Queries, a Agent, signed []byte, c call) (*trust.Result, error) {
	if len(signed) > maxResult || len(c.detail) > maxDetail {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "a result has at most %d bytes, its detail %d", maxResult, maxDetail)
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return nil, err
	}
	r, err := trust.OpenResult(log, signed)
	if err != nil {
		return nil, ksm.Refuse(ksm.CodeBadRequest, "the signed result: %s", err)
	}
	said := func(what string) error {
		return ksm.Refuse(ksm.CodeBadRequest, "the signed result names another %s than the call", what)
	}
	switch {
	case r.Signer.ID != a.ID || string(r.By) != string(a.ID[:]):
		return nil, said("agent")
	case r.Phase != c.phase:
		return nil, said("phase")
	case c.account != (trust.Ref{}) && r.Account != c.account:
		return nil, said("account")
	case c.runID != nil && string(r.RunId) != string(c.runID):
		return nil, said("run")
	case c.epoch != 0 && r.LeaseEpoch != c.epoch:
		return nil, said("lease epoch")
	case c.digest != nil && string(r.DataDigest) != string(c.digest):
		return nil, said("data digest")
	case !detailFits(r.DetailDigest, c.detail):
		return nil, said("detail")
	}
	// The head that the agent signed with is the newest it has confirmed.
	return r, q.AgentConfirmed(ctx, db.AgentConfirmedParams{LogEpoch: int64(r.LogEpoch), Org: a.Org, AgentID: a.ID[:]})
}

func detailFits(digest, detail []byte) bool {
	if len(detail) == 0 {
		return true // it may have been left out, not altered
	}
	d := seal.Hash(detail)
	return string(digest) == string(d[:])
}

// known reports whether a signed result of a phase, about this account and data,
// is stored already: then the call that carries it is a repeat, whose first
// answer was lost.
func (w *Work) known(ctx context.Context, q *db.Queries, a Agent, signed []byte, c call) (bool, error) {
	if len(signed) > maxResult {
		return false, ksm.Refuse(ksm.CodeTooLarge, "a result has at most %d bytes", maxResult)
	}
	log, err := w.Directory.View(ctx, q, a.Org)
	if err != nil {
		return false, err
	}
	digest, err := trust.ResultDigest(log.Org(), signed)
	if err != nil {
		return false, ksm.Refuse(ksm.CodeBadRequest, "the signed result: %s", err)
	}
	// As a rule it is new: then there is nothing to verify yet.
	n, err := q.HasResult(ctx, db.HasResultParams{Org: a.Org, Digest: digest[:]})
	if err != nil {
		return false, fmt.Errorf("look for result: %w", err)
	}
	if n == 0 {
		return false, nil
	}
	r, err := trust.OpenResult(log, signed)
	if err != nil {
		return false, ksm.Refuse(ksm.CodeBadRequest, "the signed result: %s", err)
	}
	// Where they differ the checks of result say what is wrong.
	return r.Phase == c.phase && r.Account == c.account && (c.digest == nil || string(r.DataDigest) == string(c.digest)), nil
}

func (w *Work) keep(ctx context.Context, q *db.Queries, org int64, r *trust.Result, subject, detail []byte) error {
	err := q.AddResult(ctx, db.AddResultParams{
		Org: org, Digest: r.Digest[:], SubjectUid: subject, RunID: r.RunId, Phase: int64(r.Phase), ByID: r.By,
		ValueSeq: int64(r.ValueSeq), DataDigest: r.DataDigest, Signed: r.Signed, Detail: detail, Time: w.now().UnixMilli(),
	})
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
