package clientapi

import (
	"context"
	"math"

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
		sizes, err := q.SizesOfFormerStatements(ctx, db.SizesOfFormerStatementsParams{Org: p.org, RecordUid: name.Record[:], Before: before, Rows: int64(n) + 1})
		if err != nil {
			return err
		}
		bytes := int64(0)
		for i, x := range sizes {
			if i == n || bytes > pageBytes {
				n = i
				answer.Next = token(number(sizes[i-1].Seq))
				break
			}
			bytes += x.Size
		}
		rows, err := q.FormerStatements(ctx, db.FormerStatementsParams{Org: p.org, RecordUid: name.Record[:], Before: before, Rows: int64(n)})
		if err != nil {
			return err
		}
		for _, row := range rows {
			answer.Statements = append(answer.Statements, &clientv1.StatementView{Seq: uint64(row.Seq), Digest: row.Digest, Blob: row.Blob})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// GetFormerStatements: see the service's definition.
func (s *service) GetFormerStatements(ctx context.Context, r *connect.Request[clientv1.GetFormerStatementsRequest]) (*connect.Response[clientv1.GetFormerStatementsResponse], error) {
	if len(r.Msg.Refs) > pageMax {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "ask in parts", "%d records, at most %d", len(r.Msg.Refs), pageMax)
	}
	answer := &clientv1.GetFormerStatementsResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		w := writer{party: p, s: s, ctx: ctx, q: q}
		bytes := 0
		for _, x := range r.Msg.Refs {
			name, err := ref(x)
			if err != nil {
				return err
			}
			if !p.has(name.Folder, trust.Read) {
				continue
			}
			if _, err := w.record(name); connect.CodeOf(err) == connect.CodeNotFound {
				continue
			} else if err != nil {
				return err
			}
			rows, err := q.FormerStatements(ctx, db.FormerStatementsParams{Org: p.org, RecordUid: name.Record[:], Before: math.MaxInt64, Rows: 1})
			if err != nil {
				return err
			}
			for _, row := range rows {
				bytes += len(row.Blob)
				answer.Statements = append(answer.Statements, &clientv1.FormerStatement{
					Ref: name.Proto(), Statement: &clientv1.StatementView{Seq: uint64(row.Seq), Digest: row.Digest, Blob: row.Blob},
				})
			}
			if bytes > pageBytes {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}
