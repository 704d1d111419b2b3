package machineapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// Bounds of the agents' operations.
const (
	maxChanges   = 1000    // of the log in one answer, or sent back in one request
	maxLogBytes  = 8 << 20 // of changes in one answer
	maxKeysAsked = 1000
	appendAtOnce = 50 // changes sent back that one transaction takes
)

// agentOp reads an agent operation's payload, whose op has to be the path's:
// the signature covers the payload only.
func agentOp[R any](r *request, head func(*R) *ksm.AgentHead) (*R, work.Agent, error) {
	var in R
	if err := decode(r, &in); err != nil {
		return nil, work.Agent{}, err
	}
	if op := head(&in).Op; op != r.op {
		return nil, work.Agent{}, ksm.Refuse(ksm.CodeBadRequest, "the payload is of operation %q, the path of %s", op, r.op)
	}
	return &in, work.Agent{Org: r.client.Org, ID: r.owner}, nil
}

func (a *API) agentLog(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.LogRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	limit := in.Limit
	if limit <= 0 || limit > maxChanges {
		limit = maxChanges
	}
	if err := a.large(ctx, r); err != nil {
		return nil, err
	}
	var out ksm.LogAnswer
	// By asking for what comes after it, the agent says what it has.
	confirmed, recovering := false, false
	err = a.Store.Read(ctx, func(q *db.Queries) error {
		head, err := q.OrgByNumber(ctx, agent.Org)
		if err != nil {
			return fmt.Errorf("read the log's head: %w", err)
		}
		recovering = head.Recovering != 0
		seen, err := q.PresenceOf(ctx, db.PresenceOfParams{Org: agent.Org, Ids: [][]byte{agent.ID[:]}})
		if err != nil {
			return fmt.Errorf("read presence: %w", err)
		}
		confirmed = len(seen) == 1 && in.From > 0 && in.From <= uint64(head.Epoch)+1 && uint64(seen[0].LogEpoch) < in.From-1
		out = ksm.LogAnswer{Epoch: uint64(head.Epoch), Digest: head.Head}
		if in.From > uint64(head.Epoch) {
			return nil
		}
		sizes, err := q.SizesOfChanges(ctx, db.SizesOfChangesParams{Org: agent.Org, Epoch: int64(in.From), N: int64(limit)})
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		size := int64(0)
		for i, c := range sizes {
			if size += c.Size; size > maxLogBytes && i > 0 {
				limit = i
				break
			}
		}
		changes, err := q.ChangesFrom(ctx, db.ChangesFromParams{Org: agent.Org, Epoch: int64(in.From), N: int64(limit)})
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		for _, c := range changes {
			out.Changes = append(out.Changes, c.Signed)
		}
		return nil
	})
	if err == nil && confirmed {
		err = a.Store.Write(ctx, func(q *db.Queries) error {
			return q.AgentConfirmed(ctx, db.AgentConfirmedParams{LogEpoch: int64(in.From - 1), Org: agent.Org, AgentID: agent.ID[:]})
		})
	}
	if err == nil && recovering {
		err = a.Store.Write(ctx, func(q *db.Queries) error { return a.Directory.Report(ctx, q, agent.Org, agent.ID, in.From) })
	}
	return out, err
}

// agentRestate takes back statements that a restored database has lost.
func (a *API) agentRestate(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.RestateRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	return nil, a.Store.Write(ctx, func(q *db.Queries) error { return a.Work.Restate(ctx, q, agent, *in) })
}

func (a *API) agentAppend(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.AppendRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	if len(in.Changes) > maxChanges {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "%d changes in one request, at most %d", len(in.Changes), maxChanges)
	}
	// What is known costs the writer nothing, and the rest holds up no heartbeat.
	log := r.log
	for batch := range slices.Chunk(slices.DeleteFunc(in.Changes, log.Has), appendAtOnce) {
		err = a.Store.Write(ctx, func(q *db.Queries) error {
			var err error
			log, err = a.Directory.Append(ctx, q, agent.Org, batch...)
			return err
		})
		if err != nil {
			break
		}
	}
	if reason := trust.ReasonOf(err); reason != "" {
		if noted := a.Directory.NoteRefusal(ctx, a.Store, agent.Org, agent.ID, err); noted != nil {
			return nil, fmt.Errorf("note the refusal: %w", noted)
		}
		return nil, ksm.Refuse(string(reason), "the change is refused: %s", err)
	}
	if err != nil {
		return nil, fmt.Errorf("append to the log: %w", err)
	}
	h := log.Head()
	return ksm.LogAnswer{Epoch: h.Epoch, Digest: h.Digest[:]}, nil
}

func (a *API) agentKeys(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.KeysRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	if len(in.EntryIDs) > maxKeysAsked {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "keys of %d entries asked for, at most %d", len(in.EntryIDs), maxKeysAsked)
	}
	out := ksm.KeysAnswer{Keys: make([][]byte, len(in.EntryIDs))}
	if len(in.EntryIDs) == 0 {
		return out, nil
	}
	err = a.Store.Read(ctx, func(q *db.Queries) error {
		rows, err := q.EntryKeysOf(ctx, db.EntryKeysOfParams{Org: agent.Org, Ids: in.EntryIDs})
		if err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
		keys := make(map[string][]byte, len(rows))
		for _, row := range rows {
			keys[string(row.EntryID)] = row.Keys
		}
		for i, id := range in.EntryIDs {
			out.Keys[i] = keys[string(id)]
		}
		return nil
	})
	return out, err
}

func (a *API) agentLease(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.LeaseRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	var out ksm.LeaseAnswer
	err = a.drive(ctx, r, func(q *db.Queries) error {
		var err error
		out, err = a.Work.Lease(ctx, q, agent, *in)
		return err
	})
	if err != nil || !in.Fetch || out.Busy || out.Closed {
		return out, err
	}
	var fetched ksm.FetchAnswer
	err = a.large(ctx, r)
	if err == nil {
		fetched, err = a.fetch(ctx, r.log, agent, map[string][]byte{string(in.Account.Record): nil})
	}
	if err != nil {
		// The lease is taken: how the fetch fails is told to whoever asks for it alone.
		a.log.Warn("a lease goes out without its records", "error", err)
		return out, nil
	}
	out.Fetched = &fetched
	return out, nil
}

func (a *API) agentStage(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.StageRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	return nil, a.drive(ctx, r, func(q *db.Queries) error { return a.Work.Stage(ctx, q, agent, *in) })
}

// drive writes what an agent does about an account. That it was another pool's
// is told: an honest agent does not try.
func (a *API) drive(ctx context.Context, r *request, do func(q *db.Queries) error) error {
	err := a.Store.Write(ctx, do)
	wrong, ok := errors.AsType[*work.WrongPool](err)
	if !ok || a.told.take(string(r.client.ClientID), r.now) > 0 {
		return err
	}
	noted := a.Store.Write(ctx, func(q *db.Queries) error {
		return a.tell(ctx, q, audit.Event{
			Org: r.client.Org, Name: audit.AgentRefused, Actor: r.client.OwnerID, Reason: string(trust.WrongPool),
			Folder: wrong.Account.Folder[:], Record: wrong.Account.Record[:], Fields: map[string]string{"address": r.address},
		})
	})
	if noted != nil {
		return errors.Join(err, fmt.Errorf("note the refusal: %w", noted))
	}
	return err
}

// settle makes the handler of commit or abandon.
func settle(do func(*work.Work, context.Context, *db.Queries, work.Agent, ksm.SettleRequest) error) handler {
	return func(a *API, ctx context.Context, r *request) (answer, error) {
		in, agent, err := agentOp(r, func(r *ksm.SettleRequest) *ksm.AgentHead { return &r.AgentHead })
		if err != nil {
			return nil, err
		}
		return nil, a.drive(ctx, r, func(q *db.Queries) error { return do(a.Work, ctx, q, agent, *in) })
	}
}

func (a *API) agentReport(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.ReportRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	if wait := a.reports.takeAll(string(r.client.ClientID), len(in.Refusals), r.now); wait > 0 {
		e := ksm.Refuse(ksm.CodeThrottled, "too many refusals are reported")
		e.RetryAfter = wait
		return nil, e
	}
	return nil, a.drive(ctx, r, func(q *db.Queries) error { return a.Work.Report(ctx, q, agent, *in) })
}

// Bounds of one fetch.
const (
	maxFetched = 256 // records, with those that links lead to
	maxLinks   = 3   // account, resource, administrator
	// maxFetchSize bounds the bytes of all that is answered. One account always fits, with
	// those that its links lead to: each has up to 4.4 MiB of data, candidate, former
	// value, statement and results.
	maxFetchSize = 16 << 20
)

// agentFetch brings the records asked for and those that their clear links lead
// to, as far as the agent's pool may read them. What it may not read is left
// out, not told.
func (a *API) agentFetch(ctx context.Context, r *request) (answer, error) {
	in, agent, err := agentOp(r, func(r *ksm.FetchRequest) *ksm.AgentHead { return &r.AgentHead })
	if err != nil {
		return nil, err
	}
	wanted := make(map[string][]byte)
	for _, s := range in.RequestedRecords {
		uid, err := ksm.Decode(s)
		if err != nil || len(uid) != 16 {
			return nil, ksm.Refuse(ksm.CodeBadRequest, "a requested record's uid is malformed")
		}
		wanted[string(uid)] = nil
	}
	if len(wanted) > maxFetched {
		return nil, ksm.Refuse(ksm.CodeTooLarge, "%d records asked for, at most %d", len(wanted), maxFetched)
	}
	if err := a.large(ctx, r); err != nil {
		return nil, err
	}
	return a.fetch(ctx, r.log, agent, wanted)
}

// fetch reads records and those that they lead to. Wanted is record uids with the
// folder that a link names; nil: any.
func (a *API) fetch(ctx context.Context, log *trust.Log, agent work.Agent, wanted map[string][]byte) (out ksm.FetchAnswer, err error) {
	err = a.Store.Read(ctx, func(q *db.Queries) error {
		size := fetched(0)
		records, err := a.linked(ctx, q, log, agent, wanted, &size)
		if err != nil {
			return err
		}
		out.Records, err = extend(ctx, q, agent.Org, records, &size)
		if err != nil {
			return err
		}
		out.Folders, err = folderKeys(ctx, q, log, agent, records)
		return err
	})
	return out, err
}

// fetched counts the bytes of an answer.
type fetched int64

// add refuses what is too much for one answer.
func (f *fetched) add(n int64) error {
	if *f += fetched(n); *f > maxFetchSize {
		return ksm.Refuse(ksm.CodeTooLarge, "more than %d bytes: ask for fewer records", maxFetchSize)
	}
	return nil
}

// linked reads records and, link by link, those they lead to. It counts them, and what
// extend puts beside them but for former values and results, before it reads them.
func (a *API) linked(ctx context.Context, q *db.Queries, log *trust.Log, agent work.Agent, wanted map[string][]byte, size *fetched) ([]db.Record, error) {
	var found []db.Record
	have := make(map[string]bool)
	for range maxLinks {
		uids, err := a.readable(ctx, q, log, agent, wanted, size)
		if err != nil {
			return nil, err
		}
		if len(uids) == 0 {
			break
		}
		if len(found)+len(uids) > maxFetched {
			return nil, ksm.Refuse(ksm.CodeTooLarge, "more than %d records: ask for fewer", maxFetched)
		}
		rows, err := q.RecordsByUID(ctx, db.RecordsByUIDParams{Org: agent.Org, Uids: uids})
		if err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
		next := make(map[string][]byte)
		for _, row := range rows {
			have[string(row.RecordUid)] = true
			found = append(found, row)
			for _, link := range [][2][]byte{{row.ResourceFolder, row.ResourceUid}, {row.AdminFolder, row.AdminUid}} {
				if len(link[1]) == 16 && !have[string(link[1])] {
					next[string(link[1])] = link[0]
				}
			}
		}
		for uid := range next {
			if have[uid] {
				delete(next, uid)
			}
		}
		wanted = next
	}
	return found, nil
}

// readable gives those of the wanted records that the agent may read, and counts them.
func (a *API) readable(ctx context.Context, q *db.Queries, log *trust.Log, agent work.Agent, wanted map[string][]byte, size *fetched) (found [][]byte, err error) {
	var uids [][]byte
	for uid := range wanted {
		uids = append(uids, []byte(uid))
	}
	if len(uids) == 0 {
		return nil, nil
	}
	rows, err := q.SizesOf(ctx, db.SizesOfParams{Org: agent.Org, Uids: uids})
	if err != nil {
		return nil, fmt.Errorf("count records: %w", err)
	}
	for _, row := range rows {
		folder := wanted[string(row.RecordUid)]
		if folder != nil && string(folder) != string(row.FolderUid) || !log.Roles(agent.ID, seal.ID(row.FolderUid)).Has(trust.Read) {
			continue
		}
		if err := size.add(row.Size); err != nil {
			return nil, err
		}
		found = append(found, row.RecordUid)
	}
	if len(found) == 0 {
		return nil, nil
	}
	beside, err := q.SizesBeside(ctx, db.SizesBesideParams{Org: agent.Org, Uids: found})
	if err != nil {
		return nil, fmt.Errorf("count what is beside records: %w", err)
	}
	for _, row := range beside {
		if err := size.add(row.Size); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// extend puts beside each record what an agent needs to check and to use it.
func extend(ctx context.Context, q *db.Queries, org int64, records []db.Record, size *fetched) ([]ksm.ExtRecord, error) {
	if len(records) == 0 {
		return nil, nil
	}
	var uids, digests [][]byte
	for _, r := range records {
		uids = append(uids, r.RecordUid)
		if len(r.Attestation) > 0 {
			digests = append(digests, r.Attestation)
		}
	}
	statements, err := q.StatementsOf(ctx, db.StatementsOfParams{Org: org, Uids: uids})
	if err != nil {
		return nil, fmt.Errorf("read statements: %w", err)
	}
	staged, err := q.StagedByUID(ctx, db.StagedByUIDParams{Org: org, Uids: uids})
	if err != nil {
		return nil, fmt.Errorf("read candidates: %w", err)
	}
	signed := make(map[string][]byte)
	if len(digests) > 0 {
		results, err := q.ResultsByDigest(ctx, db.ResultsByDigestParams{Org: org, Digests: digests})
		if err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		for _, r := range results {
			signed[string(r.Digest)] = r.Signed
		}
	}
	blobs := make(map[string][]byte, len(statements))
	for _, s := range statements {
		blobs[string(s.RecordUid)] = s.Blob
	}
	restored := int64(0) // while a restored server recovers
	if len(staged) > 0 {
		o, err := q.OrgByNumber(ctx, org)
		if err != nil {
			return nil, fmt.Errorf("read the organisation: %w", err)
		}
		if o.Recovering != 0 {
			restored = o.Restored
		}
	}
	candidates := make(map[string]*ksm.ExtStaged, len(staged))
	for _, s := range staged {
		candidates[string(s.RecordUid)] = &ksm.ExtStaged{
			Owner: s.OwnerKind, RunID: s.RunID, Time: s.Time, Data: s.Data, Result: s.Result, Authority: s.Authority, Held: s.Time < restored,
		}
	}
	var out []ksm.ExtRecord
	for _, r := range records {
		e := ksm.ExtRecord{
			Ref: ksm.Ref{Folder: r.FolderUid, Record: r.RecordUid}, Kind: r.Kind, RecordKey: r.RecordKey, KeyVersion: uint32(r.KeyVersion),
			Data: r.Data, Revision: r.Revision, Statement: blobs[string(r.RecordUid)], Attestation: signed[string(r.Attestation)],
			Staged: candidates[string(r.RecordUid)],
		}
		e.Recent, err = q.RecentResults(ctx, db.RecentResultsParams{Org: org, SubjectUid: r.RecordUid})
		if err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		if err := replaced(ctx, q, org, &e); err != nil {
			return nil, err
		}
		for _, signed := range e.Recent {
			err = errors.Join(err, size.add(int64(len(signed))))
		}
		if err = errors.Join(err, size.add(int64(len(e.HistoryData)))); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// replaced adds the value before the one that an agent's commit set last, whatever edits
// came after it, with the words that prove it and the run's last one, which says whether
// the former secret was ended: with many edits or attempts since, they are not among the
// newest results any more.
func replaced(ctx context.Context, q *db.Queries, org int64, e *ksm.ExtRecord) error {
	former, err := q.ReplacedByRun(ctx, db.ReplacedByRunParams{Org: org, RecordUid: e.Ref.Record})
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	if len(former) == 0 {
		return nil
	}
	e.HistoryKey, e.HistoryData = former[0].RecordKey, former[0].Data
	words, err := q.ResultsOfReplacing(ctx, db.ResultsOfReplacingParams{
		Org: org, Former: former[0].Result, RunID: former[0].RunID, SubjectUid: e.Ref.Record,
		Committed: int64(trustv1.Phase_PHASE_COMMITTED), Finished: int64(trustv1.Phase_PHASE_FINISHED),
	})
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	for _, word := range words {
		if !slices.ContainsFunc(e.Recent, func(r []byte) bool { return bytes.Equal(r, word) }) {
			e.Recent = append(e.Recent, word)
		}
	}
	return nil
}

// folderKeys brings the key of each record's folder, sealed to the agent, in the
// log's version. A key that nobody has sealed yet comes empty.
func folderKeys(ctx context.Context, q *db.Queries, log *trust.Log, agent work.Agent, records []db.Record) ([]ksm.ExtFolder, error) {
	var out []ksm.ExtFolder
	done := make(map[string]bool)
	for _, r := range records {
		if done[string(r.FolderUid)] {
			continue
		}
		done[string(r.FolderUid)] = true
		state, ok := log.Folder(seal.ID(r.FolderUid))
		if !ok && !fault.On("serve-unknown-folders") {
			continue
		}
		sealed, err := q.SealedFolderKey(ctx, db.SealedFolderKeyParams{
			Org: agent.Org, FolderUid: r.FolderUid, KeyVersion: int64(state.Version), RecipientID: agent.ID[:],
		})
		if err != nil && !isNotFound(err) {
			return nil, fmt.Errorf("read a folder's key: %w", err)
		}
		out = append(out, ksm.ExtFolder{FolderUID: r.FolderUid, KeyVersion: state.Version, Sealed: sealed})
	}
	return out, nil
}
