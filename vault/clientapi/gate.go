package clientapi

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Who may call a procedure. Whatever is not listed is for devices (and recovery).
var (
	withoutSession = map[string]bool{
		clientv1connect.VaultServiceChallengeProcedure:          true,
		clientv1connect.VaultServiceSignInProcedure:             true,
		clientv1connect.VaultServiceCreateOrganisationProcedure: true,
	}
	// whileEnrolling lists what an enrolment's session may do; Write is
	// narrowed further, op by op.
	whileEnrolling = map[string]bool{
		clientv1connect.VaultServiceGetLogProcedure:       true,
		clientv1connect.VaultServiceGetKeysProcedure:      true,
		clientv1connect.VaultServiceTakeTurnProcedure:     true,
		clientv1connect.VaultServiceWriteProcedure:        true,
		clientv1connect.VaultServiceListFoldersProcedure:  true,
		clientv1connect.VaultServiceGetEnrolBlobProcedure: true,
	}
	// large lists those whose answers have megabytes: each caller has a few of them at once.
	large = map[string]bool{
		clientv1connect.VaultServiceGetLogProcedure:              true,
		clientv1connect.VaultServiceListRecordsProcedure:         true,
		clientv1connect.VaultServiceGetRecordsProcedure:          true,
		clientv1connect.VaultServiceListHistoryProcedure:         true,
		clientv1connect.VaultServiceListStatementsProcedure:      true,
		clientv1connect.VaultServiceGetFormerStatementsProcedure: true,
		clientv1connect.VaultServiceListWrappedProcedure:         true,
		clientv1connect.VaultServiceListOldKeysProcedure:         true,
		clientv1connect.VaultServiceListFoldersProcedure:         true,
		clientv1connect.VaultServiceListMissingKeysProcedure:     true,
		clientv1connect.VaultServiceListAppsProcedure:            true,
		clientv1connect.VaultServiceListAgentsProcedure:          true,
		clientv1connect.VaultServiceListRotationsProcedure:       true,
		clientv1connect.VaultServiceListRunsProcedure:            true,
		clientv1connect.VaultServiceGetRunProcedure:              true,
		clientv1connect.VaultServiceListEventsProcedure:          true,
	}
)

// largeAtOnce is how many of them.
const largeAtOnce = 4

var errSession = refuse(connect.CodeUnauthenticated, ReasonSession, "sign in again", "there is no such session, or it has ended")

// caller is a session.
type caller struct {
	org       int64
	entry     seal.ID
	hash      []byte // of the bearer
	enrolment bool   // good for enrolling alone, also when that is done
	expires   time.Time
}

type callerKey struct{}

func callerOf(ctx context.Context) caller { return ctx.Value(callerKey{}).(caller) }

// gate lets nobody in without a session, and makes every error a client's.
type gate struct{ s *service }

func (g gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		procedure := r.Spec().Procedure
		in, err := g.s.enter(ctx, procedure, r.Header().Get("Authorization"))
		if err != nil {
			return nil, g.s.answered(ctx, procedure, err)
		}
		if large[procedure] {
			leave, err := g.s.answers.Enter(ctx, callerOf(in).entry.String())
			if err != nil {
				return nil, g.s.answered(ctx, procedure, err)
			}
			visitOf(ctx).whenWritten = leave
		}
		answer, err := next(in, r)
		if err != nil {
			return nil, g.s.answered(ctx, procedure, err)
		}
		return answer, nil
	}
}

func (g gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		procedure := c.Spec().Procedure
		in, err := g.s.enter(ctx, procedure, c.RequestHeader().Get("Authorization"))
		if err == nil {
			err = next(in, c)
		}
		if err != nil {
			return g.s.answered(ctx, procedure, err)
		}
		return nil
	}
}

func (g gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// enter puts the caller into the context.
func (s *service) enter(ctx context.Context, procedure, authorization string) (context.Context, error) {
	if withoutSession[procedure] {
		return ctx, nil
	}
	text, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(32) {
		return nil, errSession
	}
	bearer, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errSession
	}
	hash := seal.Hash(bearer)
	var c caller
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		row, err := q.SessionByHash(ctx, hash[:])
		if errors.Is(err, store.ErrNotFound) {
			return errSession
		}
		if err != nil {
			return err
		}
		entry, err := seal.IDFrom(row.EntryID)
		if err != nil {
			return err
		}
		c = caller{row.Org, entry, hash[:], row.Enrolment == 1, time.UnixMilli(row.Expires)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !s.Now().Before(c.expires) {
		return nil, errSession
	}
	if c.enrolment && !whileEnrolling[procedure] {
		return nil, notAllowed("this session is good for enrolling alone: sign in with the device's own key")
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// party is a caller with the log by which he is judged.
type party struct {
	caller
	log *trust.Log
	e   trust.Entry
}

// party reads the log and finds the caller in it. A removed party has no session
// any more, whatever its bearer says.
func (s *service) party(ctx context.Context, q *db.Queries) (*party, error) {
	c := callerOf(ctx)
	log, err := s.Directory.View(ctx, q, c.org)
	if err != nil {
		return nil, err
	}
	p := &party{caller: c}
	return p, p.see(log, s.Now())
}

// see judges the caller by a log from here on.
func (p *party) see(log *trust.Log, now time.Time) error {
	e, ok := log.Entry(p.entry)
	if !ok || e.Expired(now) {
		return errSession
	}
	p.log, p.e = log, e
	return nil
}

// roles are the caller's in a folder; the recovery kit opens every folder and
// brings administrators back, but neither edits nor operates.
func (p *party) roles(folder seal.ID) trust.Roles {
	if p.e.Kind == trustv1.EntryKind_ENTRY_KIND_RECOVERY {
		return trust.Read | trust.Share | trust.Admin
	}
	return p.log.Roles(p.entry, folder)
}

func (p *party) has(folder seal.ID, roles trust.Roles) bool { return p.roles(folder).Has(roles) }

func (p *party) admin() bool { return p.has(seal.ID{}, trust.Admin) }

// need is the error of a caller who lacks roles in a folder.
func (p *party) need(folder seal.ID, roles trust.Roles) error {
	if p.has(folder, roles) {
		return nil
	}
	return notAllowed("this needs %s on folder %s", roles, folder)
}

// folders lists the folders in which the caller has roles, ordered by uid.
func (p *party) folders(roles trust.Roles) []trust.FolderState {
	var out []trust.FolderState
	for _, f := range p.log.Folders() {
		if p.has(f.UID, roles) {
			out = append(out, f)
		}
	}
	return out
}
