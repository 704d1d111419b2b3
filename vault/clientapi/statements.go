package clientapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// ListStatements: see the service's definition. The token is the number of the last
// one seen.
func (s *service) ListStatements(ctx context.Context, r *connect.Request[clientv1.ListStatementsRequest]) (*connect.Response[clientv1.ListStatementsResponse], error) {
	name, err := ref(r.Msg.Ref)
	if err != nil {
		return nil, err
	}
	before, err := beforeNumber(r.Msg.Page)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ListStatementsResponse{}
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
		rows, err := q.FormerStatements(ctx, db.FormerStatementsParams{Org: p.org, RecordUid: name.Record[:], Before: before, Rows: int64(n) + 1})
		if err != nil {
			return err
		}
		bytes := 0
		for i, row := range rows {
			if i == n || bytes > pageBytes {
				answer.Next = token(number(rows[i-1].Seq))
				break
			}
			bytes += len(row.Blob)
			answer.Statements = append(answer.Statements, &clientv1.StatementView{Seq: uint64(row.Seq), Digest: row.Digest, Blob: row.Blob})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}
