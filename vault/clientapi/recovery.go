package clientapi

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// GetRecovery: see the service's definition. It is everybody's to read, as the log is.
func (s *service) GetRecovery(ctx context.Context, _ *connect.Request[clientv1.GetRecoveryRequest]) (*connect.Response[clientv1.GetRecoveryResponse], error) {
	answer := &clientv1.GetRecoveryResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		org, err := q.OrgByNumber(ctx, p.org)
		if err != nil {
			return err
		}
		answer.Restored, answer.Recovering = org.Restored, org.Recovering != 0
		rows, err := q.ReportedOf(ctx, p.org)
		for _, r := range rows {
			answer.Reported = append(answer.Reported, &clientv1.Reported{EntryId: r.EntryID, Changes: uint64(r.Changes), Time: r.Time})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// endRecovery is an administrator's word that whoever held more of the log has sent
// it back.
func (w *writer) endRecovery(r *clientv1.EndRecovery) error {
	if err := w.need(seal.ID{}, trust.Admin); err != nil {
		return err
	}
	ended, err := w.s.Directory.EndRecovery(w.ctx, w.q, w.org, time.UnixMilli(r.GetRestored()), w.entry)
	if err != nil {
		return err
	}
	if !ended {
		return refuse(connect.CodeAborted, ReasonOutOfSync, "look again: `rotunda org end-recovery`", "the server does not recover from a restore at %s", time.UnixMilli(r.GetRestored()).UTC().Format(time.RFC3339))
	}
	return nil
}
