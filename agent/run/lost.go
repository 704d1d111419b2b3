package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// What a vault that was put back from a backup has lost, and this agent remembers
// (keys.md 5.5). Memory only merges upwards: nothing here makes the agent accept what is
// older than it knows.

// compare fetches records, to be held against this agent's memory. A folder whose key
// does not come, or does not hold, is passed over.
func (e *Engine) compare(ctx context.Context, refs []trust.Ref) (*servedRecords, error) {
	log, err := e.Directory.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]seal.ID, len(refs))
	for i, r := range refs {
		ids[i] = r.Record
	}
	got, err := e.Vault.Fetch(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	s := &servedRecords{e: e, log: log, keys: map[seal.ID]seal.Key{}, sealed: map[seal.ID][]byte{}, list: got.Records}
	for _, f := range got.Folders {
		if err := s.folder(f); err != nil {
			e.Log.Warn("a folder's key", "error", err)
		}
	}
	return s, nil
}

// find is a record as it was served.
func (s *servedRecords) find(ref trust.Ref) (ksm.ExtRecord, bool) {
	for _, w := range s.list {
		if isRecord(ref)(w) {
			return w, true
		}
	}
	return ksm.ExtRecord{}, false
}

// Restate sends back the newest statements that this agent has seen of records, where
// the vault serves older ones or none. It says how many the vault took.
func (e *Engine) Restate(ctx context.Context, refs []trust.Ref) (n int, err error) {
	served, err := e.compare(ctx, refs)
	if err != nil {
		return 0, err
	}
	for _, ref := range refs {
		r, err := e.lostStatement(served, ref)
		if err != nil {
			return n, err
		}
		if r == nil {
			continue
		}
		err = e.Vault.Restate(ctx, *r)
		refused := (*ksm.Error)(nil)
		switch {
		case err == nil:
			n++
		case errors.Is(err, &ksm.Error{Code: ksm.CodeNotLost}): // another agent was faster, or the recovery is over
		case errors.As(err, &refused) && refused.Code != ksm.CodeThrottled:
			e.Log.Warn("the vault did not take a statement back", "record", ref, "error", err)
		default:
			return n, err
		}
	}
	return n, nil
}

// lostStatement is what gives a record's statement back; nil where nothing is lost, or
// what this agent remembers does not hold any more.
func (e *Engine) lostStatement(served *servedRecords, ref trust.Ref) (*ksm.RestateRequest, error) {
	seen, err := e.Journal.Statement(ref)
	if err != nil {
		return nil, err
	}
	w, found := served.find(ref)
	key, readable := served.keys[ref.Folder]
	if !found || !readable || len(seen.Signed) == 0 || seen.Seq < served.log.Floor(ref) {
		return nil, nil
	}
	as := Served(ref, trustv1.RecordKind_RECORD_KIND_UNSPECIFIED, w)
	content, err := trust.OpenContent(served.log, key, as)
	if err != nil {
		return nil, nil // it is told of when the record is used
	}
	defer clear(content.Data)
	defer content.Key.Wipe()
	rec, err := trust.OpenRecord(served.log, e.Journal, key, as)
	switch trust.ReasonOf(err) {
	case trust.StatementRollback, trust.RecordUnsigned:
	case "":
		if err == nil {
			clear(rec.Data)
			rec.Key.Wipe()
		}
		return nil, err
	default:
		return nil, nil
	}
	st, err := trust.OpenStatement(served.log, seen.Signed)
	if err != nil || seal.Digest(st.KeyCheck) != seal.RecordKeyCheck(served.log.Org(), content.Key, ref.Record) {
		return nil, nil // its signer was removed, or the record has another key
	}
	r := &ksm.RestateRequest{
		Record: wireRef(ref), Seq: seen.Seq, Digest: seen.Digest.Bytes(), PoolID: st.GetResource().GetPoolId(),
		Blob: trust.SealStatement(served.log.Org(), content.Key, ref.Record, seen.Signed),
	}
	if at := st.GetAccount().GetResource(); at != nil {
		r.Resource = wireRef(mustRef(at))
	}
	if admin := st.GetResource().GetAdminAccount(); admin != nil {
		r.Admin = wireRef(mustRef(admin))
	}
	return r, nil
}

// Lost gives a run for each of the accounts of which this agent keeps something that
// the vault has lost: a value that it committed last, or a candidate.
func (e *Engine) Lost(ctx context.Context, accounts []trust.Ref) (jobs []Job, err error) {
	served, err := e.compare(ctx, accounts)
	if err != nil {
		return nil, err
	}
	for _, ref := range accounts {
		w, found := served.find(ref)
		if !found {
			continue
		}
		outstanding, committed, err := e.Journal.Kept(ref)
		if err != nil {
			return nil, err
		}
		seen, err := e.Journal.Value(ref)
		if err != nil {
			return nil, err
		}
		last, set := uint64(0), uint64(0)
		if r, err := trust.OpenResult(served.log, w.Attestation); err == nil {
			last = r.ValueSeq
			set, _ = r.SetBy()
		}
		// What the target refused is asked for by runs that somebody wants, and not by this: each
		// try is a failed login.
		refused := outstanding != nil && outstanding.Doubted && (committed == nil || committed.Refused)
		candidate := outstanding != nil && !refused && outstanding.Seq > set && (w.Staged == nil || seal.Hash(w.Staged.Data) != outstanding.Digest)
		value := committed != nil && !committed.Refused && committed.Seq == seen.Set && (last < seen.Seq || set < seen.Set)
		if !candidate && !value {
			continue
		}
		job := Job{ID: seal.NewID(), Account: ref, Recover: true}
		if s, err := e.Journal.Statement(ref); err == nil {
			if st, err := trust.OpenStatement(served.log, s.Signed); err == nil {
				job.Resource = mustRef(st.GetAccount().GetResource())
			}
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}
