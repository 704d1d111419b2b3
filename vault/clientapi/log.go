package clientapi

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory"
)

// turnWait bounds how long a call waits for its turn.
const turnWait = 60 * time.Second

// GetLog: see the service's definition. The log is every party's to read.
func (s *service) GetLog(ctx context.Context, r *connect.Request[clientv1.GetLogRequest]) (*connect.Response[clientv1.GetLogResponse], error) {
	limit := int64(r.Msg.Limit)
	if limit == 0 || limit > pageMax {
		limit = pageMax
	}
	if r.Msg.FromEpoch > 1<<62 {
		return nil, malformed("epoch %d", r.Msg.FromEpoch)
	}
	answer := &clientv1.GetLogResponse{}
	recovering := false
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		recovering = trust.ReasonOf(s.Directory.MayGrow(ctx, q, callerOf(ctx).org)) == trust.LogRecovering
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		head := p.log.Head()
		answer.HeadEpoch, answer.HeadDigest = head.Epoch, head.Digest[:]
		sizes, err := q.SizesOfChanges(ctx, db.SizesOfChangesParams{Org: p.org, Epoch: int64(r.Msg.FromEpoch), N: limit})
		if err != nil {
			return err
		}
		bytes := int64(0)
		for i, c := range sizes {
			if bytes += c.Size; bytes > pageBytes && i > 0 {
				limit = int64(i)
				break
			}
		}
		rows, err := q.ChangesFrom(ctx, db.ChangesFromParams{Org: p.org, Epoch: int64(r.Msg.FromEpoch), N: limit})
		for _, c := range rows {
			answer.Changes = append(answer.Changes, c.Signed)
		}
		return err
	})
	if c := callerOf(ctx); err == nil && recovering && !c.enrolment {
		// By asking for what comes after it, the device says what it holds.
		err = s.Store.Write(ctx, func(q *db.Queries) error { return s.Directory.Report(ctx, q, c.org, c.entry, r.Msg.FromEpoch) })
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// GetKeys: see the service's definition. Public keys are every party's to read.
func (s *service) GetKeys(ctx context.Context, r *connect.Request[clientv1.GetKeysRequest]) (*connect.Response[clientv1.GetKeysResponse], error) {
	if len(r.Msg.EntryIds) > pageMax {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "ask in parts", "%d entries, at most %d", len(r.Msg.EntryIds), pageMax)
	}
	for _, e := range r.Msg.EntryIds {
		if _, err := id("entry id", e); err != nil {
			return nil, err
		}
	}
	answer := &clientv1.GetKeysResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil || len(r.Msg.EntryIds) == 0 {
			return err
		}
		rows, err := q.EntryKeysOf(ctx, db.EntryKeysOfParams{Org: p.org, Ids: r.Msg.EntryIds})
		for _, k := range rows {
			answer.Keys = append(answer.Keys, &clientv1.EntryKeys{EntryId: k.EntryID, Keys: k.Keys})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// TakeTurn: see the service's definition.
func (s *service) TakeTurn(ctx context.Context, r *connect.Request[clientv1.TakeTurnRequest]) (*connect.Response[clientv1.TakeTurnResponse], error) {
	c := callerOf(ctx)
	if !r.Msg.SendBack {
		// Nobody signs in vain, nor by a clock that is behind.
		err := s.Store.Read(ctx, func(q *db.Queries) error { return s.Directory.MayGrow(ctx, q, c.org) })
		if err != nil {
			return nil, untrusted(err)
		}
	}
	wait, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	turn, err := s.Directory.TakeTurn(wait, c.org, s.quota(ctx), r.Msg.Removal && !c.enrolment)
	switch {
	case errors.Is(err, directory.ErrTurns):
		return nil, refuse(connect.CodeResourceExhausted, ReasonThrottled, "try again in a moment", "%v", err)
	case err != nil && ctx.Err() == nil:
		return nil, refuse(connect.CodeUnavailable, ReasonTurn, "try again", "no turn within %v", turnWait)
	case err != nil:
		return nil, err
	}
	answer := &clientv1.TakeTurnResponse{Turn: turn[:]}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q) // the log as it is now that nobody else appends
		if err != nil {
			return err
		}
		head := p.log.Head()
		answer.HeadEpoch, answer.HeadDigest = head.Epoch, head.Digest[:]
		return nil
	})
	if err != nil {
		s.Directory.EndTurn(c.org, turn[:])
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// quota is whom waiting turns count against: the member of a device, and each
// enrolment by itself, since a fleet of them has one owner.
func (s *service) quota(ctx context.Context) (member seal.ID) {
	c := callerOf(ctx)
	member = c.entry
	_ = s.Store.Read(ctx, func(q *db.Queries) error { // on failure the entry itself is good enough
		p, err := s.party(ctx, q)
		if err == nil && p.e.Kind == trustv1.EntryKind_ENTRY_KIND_DEVICE {
			member = p.e.Owner
		}
		return err
	})
	return member
}

// GetEnrolBlob: see the service's definition. It is the caller's own.
func (s *service) GetEnrolBlob(ctx context.Context, _ *connect.Request[clientv1.GetEnrolBlobRequest]) (*connect.Response[clientv1.GetEnrolBlobResponse], error) {
	answer := &clientv1.GetEnrolBlobResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		answer.Blob, err = q.EnrolBlob(ctx, db.EnrolBlobParams{Org: p.org, EntryID: p.entry[:]})
		if errors.Is(err, store.ErrNotFound) {
			return nil // a token without a blob
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}
