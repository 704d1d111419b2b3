package clientapi

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	rowsAtOnce = 100 // rows read in one query (SizesInFolderOfKinds says so too): a page ends by bytes, not only by rows
	kindsMax   = 50
)

// ListRecords: see the service's definition. They come ordered by folder and
// uid; the token is both, of the last one seen.
func (s *service) ListRecords(ctx context.Context, r *connect.Request[clientv1.ListRecordsRequest]) (*connect.Response[clientv1.ListRecordsResponse], error) {
	from, err := after(r.Msg.Page, 32)
	if err != nil {
		return nil, err
	}
	if len(r.Msg.Kinds) > kindsMax {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "", "%d kinds, at most %d", len(r.Msg.Kinds), kindsMax)
	}
	answer := &clientv1.ListRecordsResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		folders, err := p.oneOrAll(r.Msg.FolderUid)
		if err != nil {
			return err
		}
		l := recordLister{ctx: ctx, q: q, org: p.org, kinds: r.Msg.Kinds, dataOnly: r.Msg.DataOnly, limit: size(r.Msg.Page)}
		for _, f := range folders {
			start := []byte{}
			if from != nil {
				switch slices.Compare(f.UID[:], from[:16]) {
				case -1:
					continue
				case 0:
					start = from[16:]
				}
			}
			if full, err := l.folder(f.UID, start); err != nil || full {
				answer.Next = token(l.last[:])
				answer.Records = l.found
				return err
			}
		}
		answer.Records = l.found
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// oneOrAll is the folder asked for, or every one that the caller reads.
func (p *party) oneOrAll(uid []byte) ([]trust.FolderState, error) {
	if len(uid) == 0 {
		return p.folders(trust.Read), nil
	}
	folder, err := id("folder uid", uid)
	if err != nil {
		return nil, err
	}
	f, ok := p.log.Folder(folder)
	if !ok {
		return nil, notFound("the log knows no folder %s", folder)
	}
	return []trust.FolderState{f}, p.need(folder, trust.Read)
}

type recordLister struct {
	ctx   context.Context
	q     *db.Queries
	org   int64
	kinds []string
	limit int
	bytes int64

	dataOnly bool

	last  [32]byte
	found []*clientv1.RecordView
}

// folder adds a folder's records, and reports whether the page is full before
// the folder's end.
func (l *recordLister) folder(folder seal.ID, start []byte) (full bool, err error) {
	for {
		rows, err := l.sizes(folder, start)
		if err != nil || len(rows) == 0 {
			return false, err
		}
		var beside map[string]int64
		if !l.dataOnly {
			beside, err = sizesBeside(l.ctx, l.q, l.org, uidsOf(rows))
			if err != nil {
				return false, err
			}
		}
		cut := len(rows)
		for i, r := range rows {
			if len(l.found)+i >= l.limit || l.bytes > pageBytes {
				cut, full = i, true
				break
			}
			l.bytes += r.Size + beside[string(r.RecordUid)]
			l.last = [32]byte(slices.Concat(folder[:], r.RecordUid))
		}
		if err := l.add(uidsOf(rows[:cut])); err != nil {
			return false, err
		}
		if full || len(rows) < rowsAtOnce {
			return full, nil
		}
		start = rows[len(rows)-1].RecordUid
	}
}

func (l *recordLister) sizes(folder seal.ID, start []byte) (rows []db.SizesInFolderRow, err error) {
	if len(l.kinds) == 0 {
		return l.q.SizesInFolder(l.ctx, db.SizesInFolderParams{Org: l.org, FolderUid: folder[:], After: start, N: rowsAtOnce})
	}
	ofKinds, err := l.q.SizesInFolderOfKinds(l.ctx, db.SizesInFolderOfKindsParams{Org: l.org, FolderUid: folder[:], After: start, Kinds: l.kinds})
	for _, r := range ofKinds {
		rows = append(rows, db.SizesInFolderRow(r))
	}
	return rows, err
}

func (l *recordLister) add(uids [][]byte) error {
	rows, err := records(l.ctx, l.q, l.org, uids)
	if err != nil {
		return err
	}
	if !l.dataOnly {
		views, err := recordViews(l.ctx, l.q, l.org, rows)
		l.found = append(l.found, views...)
		return err
	}
	for _, r := range rows {
		l.found = append(l.found, recordView(r))
	}
	return nil
}

// GetRecords: see the service's definition.
func (s *service) GetRecords(ctx context.Context, r *connect.Request[clientv1.GetRecordsRequest]) (*connect.Response[clientv1.GetRecordsResponse], error) {
	if len(r.Msg.Refs) > pageMax {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "ask in parts", "%d records, at most %d", len(r.Msg.Refs), pageMax)
	}
	asked := make(map[trust.Ref]bool, len(r.Msg.Refs))
	for _, x := range r.Msg.Refs {
		name, err := ref(x)
		if err != nil {
			return nil, err
		}
		asked[name] = true
	}
	answer := &clientv1.GetRecordsResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		var uids [][]byte
		for name := range asked {
			if p.has(name.Folder, trust.Read) {
				uids = append(uids, name.Record.Bytes())
			}
		}
		bytes := int64(0)
		for part := range slices.Chunk(uids, rowsAtOnce) {
			sizes, err := q.SizesOf(ctx, db.SizesOfParams{Org: p.org, Uids: part})
			if err != nil {
				return err
			}
			beside, err := sizesBeside(ctx, q, p.org, part)
			if err != nil {
				return err
			}
			var found [][]byte
			for _, r := range sizes {
				if asked[trust.Ref{Folder: seal.ID(r.FolderUid), Record: seal.ID(r.RecordUid)}] {
					found = append(found, r.RecordUid)
					bytes += r.Size + beside[string(r.RecordUid)]
				}
			}
			if bytes > 2*pageBytes {
				return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "ask in parts", "these records are together too large for one answer")
			}
			rows, err := records(ctx, q, p.org, found)
			if err != nil {
				return err
			}
			views, err := recordViews(ctx, q, p.org, rows)
			if err != nil {
				return err
			}
			answer.Records = append(answer.Records, views...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

func uidsOf(rows []db.SizesInFolderRow) [][]byte {
	uids := make([][]byte, len(rows))
	for i, r := range rows {
		uids[i] = r.RecordUid
	}
	return uids
}

// records reads records, ordered by uid. Their sizes were counted before.
func records(ctx context.Context, q *db.Queries, org int64, uids [][]byte) ([]db.Record, error) {
	if len(uids) == 0 {
		return nil, nil
	}
	rows, err := q.RecordsByUID(ctx, db.RecordsByUIDParams{Org: org, Uids: uids})
	slices.SortFunc(rows, func(a, b db.Record) int { return slices.Compare(a.RecordUid, b.RecordUid) })
	return rows, err
}

// sizesBeside counts what recordViews puts beside records, in bytes.
func sizesBeside(ctx context.Context, q *db.Queries, org int64, uids [][]byte) (map[string]int64, error) {
	rows, err := q.SizesBeside(ctx, db.SizesBesideParams{Org: org, Uids: uids})
	sizes := make(map[string]int64, len(rows))
	for _, r := range rows {
		sizes[string(r.RecordUid)] = r.Size
	}
	return sizes, err
}

// recordView is a record as its row has it.
func recordView(r db.Record) *clientv1.RecordView {
	return &clientv1.RecordView{
		Ref:  &trustv1.Ref{FolderUid: r.FolderUid, RecordUid: r.RecordUid},
		Kind: r.Kind, RecordKey: r.RecordKey, KeyVersion: uint32(r.KeyVersion), MadeVersion: uint32(r.MadeVersion), Data: r.Data, Revision: r.Revision, Updated: r.Updated,
		Links: links(r),
	}
}

// recordViews joins records with their statement, results and candidate. The results'
// details stay away: GetRun has them.
func recordViews(ctx context.Context, q *db.Queries, org int64, rows []db.Record) ([]*clientv1.RecordView, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	views := make([]*clientv1.RecordView, len(rows))
	byUID := make(map[string]*clientv1.RecordView, len(rows))
	attested := make(map[string]*clientv1.RecordView) // by digest of the result
	var uids, digests [][]byte
	for i, r := range rows {
		v := recordView(r)
		views[i], byUID[string(r.RecordUid)] = v, v
		uids = append(uids, r.RecordUid)
		if len(r.Attestation) > 0 {
			attested[string(r.Attestation)] = v
			digests = append(digests, r.Attestation)
		}
	}
	statements, err := q.StatementsOf(ctx, db.StatementsOfParams{Org: org, Uids: uids})
	if err != nil {
		return nil, err
	}
	for _, st := range statements {
		byUID[string(st.RecordUid)].Statement = &clientv1.StatementView{Seq: uint64(st.Seq), Digest: st.Digest, Blob: st.Blob}
	}
	staged, err := q.StagedByUID(ctx, db.StagedByUIDParams{Org: org, Uids: uids})
	if err != nil {
		return nil, err
	}
	for _, st := range staged {
		byUID[string(st.RecordUid)].Staged = &clientv1.StagedView{
			Owner: st.OwnerKind, RunId: st.RunID, Time: st.Time, Data: st.Data, Result: st.Result, Authority: st.Authority,
		}
	}
	last, err := q.LastResultsOf(ctx, db.LastResultsOfParams{Org: org, Uids: uids})
	if err != nil {
		return nil, err
	}
	for _, r := range last {
		byUID[string(r.SubjectUid)].Last = &clientv1.ResultView{Signed: r.Signed}
	}
	if len(digests) == 0 {
		return views, nil
	}
	results, err := q.ResultsByDigest(ctx, db.ResultsByDigestParams{Org: org, Digests: digests})
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		attested[string(r.Digest)].Attestation = &clientv1.ResultView{Signed: r.Signed}
	}
	return views, nil
}

func links(r db.Record) *clientv1.Links {
	l := &clientv1.Links{PoolId: r.PoolID}
	if len(r.ResourceUid) > 0 {
		l.Resource = &trustv1.Ref{FolderUid: r.ResourceFolder, RecordUid: r.ResourceUid}
	}
	if len(r.AdminUid) > 0 {
		l.AdminAccount = &trustv1.Ref{FolderUid: r.AdminFolder, RecordUid: r.AdminUid}
	}
	return l
}

// ListHistory: see the service's definition. It is newest first; the token is
// the number of the last one seen.
func (s *service) ListHistory(ctx context.Context, r *connect.Request[clientv1.ListHistoryRequest]) (*connect.Response[clientv1.ListHistoryResponse], error) {
	name, err := ref(r.Msg.Ref)
	if err != nil {
		return nil, err
	}
	before, err := beforeNumber(r.Msg.Page)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ListHistoryResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		if err := p.need(name.Folder, trust.Read); err != nil {
			return err
		}
		w := writer{party: p, s: s, ctx: ctx, q: q}
		if _, err := w.record(name); err != nil {
			return err
		}
		n := size(r.Msg.Page)
		sizes, err := q.SizesOfHistory(ctx, db.SizesOfHistoryParams{Org: p.org, RecordUid: name.Record[:], Before: before, Rows: int64(n) + 1})
		if err != nil {
			return err
		}
		bytes := int64(0)
		for i, h := range sizes {
			if i == n || bytes > pageBytes {
				n = i
				answer.Next = token(number(sizes[i-1].N))
				break
			}
			bytes += h.Size
		}
		rows, err := q.HistoryBefore(ctx, db.HistoryBeforeParams{Org: p.org, RecordUid: name.Record[:], Before: before, Rows: int64(n)})
		if err != nil {
			return err
		}
		var digests [][]byte
		for _, h := range rows {
			answer.History = append(answer.History, &clientv1.HistoryView{
				Revision: h.Revision, RecordKey: h.RecordKey, KeyVersion: uint32(max(h.KeyVersion, 0)), UnderRecord: h.KeyVersion < 0,
				Data: h.Data, Why: h.Why, Time: h.Time, RunId: h.RunID, Result: h.Result,
			})
			if len(h.Result) > 0 {
				digests = append(digests, h.Result)
			}
		}
		return attest(ctx, q, p.org, answer.History, digests)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// attest puts the signed results in the place of their digests.
func attest(ctx context.Context, q *db.Queries, org int64, history []*clientv1.HistoryView, digests [][]byte) error {
	signed := make(map[string][]byte, len(digests))
	for part := range slices.Chunk(digests, rowsAtOnce) {
		results, err := q.ResultsByDigest(ctx, db.ResultsByDigestParams{Org: org, Digests: part})
		if err != nil {
			return err
		}
		for _, r := range results {
			signed[string(r.Digest)] = r.Signed
		}
	}
	for _, h := range history {
		h.Result = signed[string(h.Result)]
	}
	return nil
}
