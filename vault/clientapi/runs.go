package clientapi

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/schedule"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/work"
)

const (
	// rowsPerPage bounds what one page looks at while it searches for rows that
	// the caller may see: a page may be short, even empty, and have a next one.
	rowsPerPage = 5000
	// mostResults bounds the results that GetRun gives.
	mostResults = 100
	// agentsAtOnce bounds ListAgents.
	agentsAtOnce = 100_000
	// replyWait bounds how long GetReply waits: a server that stops waits for it.
	replyWait = 5 * time.Second
	// overdueAfter is when an unfinished run counts as overdue.
	overdueAfter = 15 * time.Minute
)

// ListRotations: see the service's definition. The token is the account's uid
// of the last one seen.
func (s *service) ListRotations(ctx context.Context, r *connect.Request[clientv1.ListRotationsRequest]) (*connect.Response[clientv1.ListRotationsResponse], error) {
	from, err := after(r.Msg.Page, 16)
	if err != nil {
		return nil, err
	}
	for _, b := range [][]byte{r.Msg.FolderUid, r.Msg.AccountUid} {
		if len(b) != 0 && len(b) != 16 {
			return nil, malformed("a uid of %d bytes", len(b))
		}
	}
	answer := &clientv1.ListRotationsResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		sees := func(rot db.Rotation) bool {
			return p.has(seal.ID(rot.FolderUid), trust.Read) && (len(r.Msg.FolderUid) == 0 || string(r.Msg.FolderUid) == string(rot.FolderUid))
		}
		if len(r.Msg.AccountUid) != 0 {
			rot, err := q.RotationOf(ctx, db.RotationOfParams{Org: p.org, AccountUid: r.Msg.AccountUid})
			if errors.Is(err, store.ErrNotFound) || err == nil && !sees(rot) {
				return nil
			}
			answer.Rotations = append(answer.Rotations, rotationView(rot))
			return err
		}
		n := size(r.Msg.Page)
		for seen := 0; ; {
			rows, err := q.RotationsAfter(ctx, db.RotationsAfterParams{Org: p.org, After: from, Rows: pageMax})
			if err != nil {
				return err
			}
			for _, rot := range rows {
				if len(answer.Rotations) == n || seen == rowsPerPage {
					answer.Next = token(from)
					return nil
				}
				seen++
				from = rot.AccountUid
				if sees(rot) {
					answer.Rotations = append(answer.Rotations, rotationView(rot))
				}
			}
			if len(rows) < pageMax {
				return nil
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

func rotationView(r db.Rotation) *clientv1.RotationView {
	var s clientv1.Schedule
	if proto.Unmarshal(r.Schedule, &s) != nil {
		s.Reset() // shown as none: the scheduler tells of it by an event
	}
	v := &clientv1.RotationView{
		Rotation: &clientv1.PutRotation{
			Account:  &trustv1.Ref{FolderUid: r.FolderUid, RecordUid: r.AccountUid},
			Resource: &trustv1.Ref{FolderUid: r.ResourceFolder, RecordUid: r.ResourceUid},
			PoolId:   r.PoolID, Schedule: &s, Missed: r.Missed, JitterS: uint32(r.JitterS), Paused: r.Paused&1 != 0,
		},
		Next: r.NextDue, Last: r.LastDue, State: r.State, Failures: uint32(r.Failures), Reason: r.Reason,
	}
	if r.Paused != 0 {
		v.State, v.Next = "paused", 0
	}
	return v
}

// PreviewSchedule: see the service's definition.
func (s *service) PreviewSchedule(_ context.Context, r *connect.Request[clientv1.PreviewScheduleRequest]) (*connect.Response[clientv1.PreviewScheduleResponse], error) {
	parsed, err := parseSchedule(r.Msg.Schedule)
	if err != nil {
		return nil, err
	}
	after := s.Now()
	if r.Msg.After > 0 {
		after = time.UnixMilli(r.Msg.After)
	}
	answer := &clientv1.PreviewScheduleResponse{}
	for _, t := range parsed.Preview(after, int(min(r.Msg.Count, schedule.MaxPreview))) {
		answer.Times = append(answer.Times, t.UnixMilli())
	}
	return connect.NewResponse(answer), nil
}

// runFilter chooses runs: by what index, and which of them.
type runFilter struct {
	list func(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error)
	want func(r db.Run, now time.Time) bool
}

func everyRun(db.Run, time.Time) bool { return true }

func allRuns(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.RunsBefore(ctx, p)
}

func openRuns(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.OpenRunsBefore(ctx, db.OpenRunsBeforeParams(p))
}

func badRuns(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.BadRunsBefore(ctx, db.BadRunsBeforeParams(p))
}

// badRun says of a run what the index of badRuns does.
func badRun(r db.Run) bool {
	const failed = int64(trustv1.Outcome_OUTCOME_FAILED)
	return r.State == work.Failed || r.State == work.Alert || r.Credential == failed || r.Dependents == failed || r.Scripts == failed
}

func unmendedRuns(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.UnmendedRunsBefore(ctx, db.UnmendedRunsBeforeParams(p))
}

func unmendedDependents(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.UnmendedDependentsBefore(ctx, db.UnmendedDependentsBeforeParams(p))
}

func unmendedScripts(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
	return q.UnmendedScriptsBefore(ctx, db.UnmendedScriptsBeforeParams(p))
}

var runFilters = map[string]runFilter{
	"":                    {allRuns, everyRun},
	"failed":              {badRuns, everyRun},
	"unmended":            {unmendedRuns, everyRun},
	"unmended_dependents": {unmendedDependents, everyRun},
	"unmended_scripts":    {unmendedScripts, everyRun},
	"unfinished":          {openRuns, everyRun},
	"overdue":             {openRuns, func(r db.Run, now time.Time) bool { return now.Sub(time.UnixMilli(r.Created)) > overdueAfter }},
	"unverifiable": {allRuns, func(r db.Run, _ time.Time) bool {
		return r.Credential == int64(trustv1.Outcome_OUTCOME_UNVERIFIABLE)
	}},
}

// ListRuns: see the service's definition. It is newest first; the token is the
// time and the id of the last one seen.
func (s *service) ListRuns(ctx context.Context, r *connect.Request[clientv1.ListRunsRequest]) (*connect.Response[clientv1.ListRunsResponse], error) {
	from, err := after(r.Msg.Page, 24)
	if err != nil {
		return nil, err
	}
	filter, ok := runFilters[r.Msg.Filter]
	if !ok {
		return nil, malformed("no filter %q of runs", r.Msg.Filter)
	}
	if len(r.Msg.AccountUid) != 0 {
		account, err := id("account", r.Msg.AccountUid)
		if err != nil {
			return nil, err
		}
		want := filter.want
		open := r.Msg.Filter == "unfinished" || r.Msg.Filter == "overdue"
		bad := r.Msg.Filter == "failed"
		if strings.HasPrefix(r.Msg.Filter, "unmended") {
			return nil, malformed("the filter %s is for all accounts", r.Msg.Filter)
		}
		filter.list = func(ctx context.Context, q *db.Queries, p db.RunsBeforeParams) ([]db.Run, error) {
			return q.RunsOfAccountBefore(ctx, db.RunsOfAccountBeforeParams{Org: p.Org, AccountUid: account[:], Created: p.Created, RunID: p.RunID, Rows: p.Rows})
		}
		filter.want = func(r db.Run, now time.Time) bool {
			return want(r, now) && !(open && r.Finished != 0) && !(bad && !badRun(r))
		}
	}
	at := db.RunsBeforeParams{Created: math.MaxInt64, RunID: []byte{}, Rows: rowsAtOnce}
	if from != nil {
		at.Created, at.RunID = int64(binary.BigEndian.Uint64(from)&math.MaxInt64), from[8:]
	}
	answer := &clientv1.ListRunsResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		at.Org = p.org
		n := size(r.Msg.Page)
		for seen := 0; ; {
			rows, err := filter.list(ctx, q, at)
			if err != nil {
				return err
			}
			for _, run := range rows {
				if len(answer.Runs) == n || seen == rowsPerPage {
					answer.Next = token(slices.Concat(number(at.Created), at.RunID))
					return nil
				}
				seen++
				at.Created, at.RunID = run.Created, run.RunID
				if p.has(seal.ID(run.FolderUid), trust.Read) && filter.want(run, s.Now()) {
					answer.Runs = append(answer.Runs, runView(run))
				}
			}
			if len(rows) < rowsAtOnce {
				return nil
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

func runView(r db.Run) *clientv1.RunView {
	v := &clientv1.RunView{
		RunId: r.RunID, Account: &trustv1.Ref{FolderUid: r.FolderUid, RecordUid: r.AccountUid}, PoolId: r.PoolID, AgentId: r.AgentID,
		Action: r.Action, Cause: r.Cause, State: r.State, Phase: r.Phase, Attempt: uint32(r.Attempt),
		Created: r.Created, Started: r.Started, Finished: r.Finished,
		Credential: trustv1.Outcome(r.Credential), Dependents: trustv1.Outcome(r.Dependents), Scripts: trustv1.Outcome(r.Scripts),
		Class: r.Class, Reason: r.Reason, CommandId: r.CommandID,
	}
	if len(r.ResourceUid) > 0 {
		v.Resource = &trustv1.Ref{FolderUid: r.ResourceFolder, RecordUid: r.ResourceUid}
	}
	switch {
	case !work.OfOneAgent(r):
		v.NextAttempt = max(r.NextAttempt, 0) // below: held, and nobody knows until when
	case r.State == work.Queued:
		v.Until = r.NextAttempt // nobody is sent to it then
	}
	return v
}

// GetRun: see the service's definition.
func (s *service) GetRun(ctx context.Context, r *connect.Request[clientv1.GetRunRequest]) (*connect.Response[clientv1.GetRunResponse], error) {
	runID, err := id("run id", r.Msg.RunId)
	if err != nil {
		return nil, err
	}
	answer := &clientv1.GetRunResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		run, err := q.RunByID(ctx, db.RunByIDParams{Org: p.org, RunID: runID[:]})
		if errors.Is(err, store.ErrNotFound) || err == nil && !p.has(seal.ID(run.FolderUid), trust.Read) {
			return notFound("no run %s", runID)
		}
		if err != nil {
			return err
		}
		answer.Run = runView(run)
		if answer.Run.Until != 0 {
			// What its agent has not acknowledged ends with the command's time.
			c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: p.org, ID: run.CommandID})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err == nil && c.Acked == 0 {
				answer.Run.Until = c.Expires
			}
		}
		answer.Results, err = resultsOfRun(ctx, q, run)
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// resultsOfRun gives a run's results, and of their details as many as an answer bears.
func resultsOfRun(ctx context.Context, q *db.Queries, run db.Run) (views []*clientv1.ResultView, err error) {
	rows, err := q.ResultsOfRun(ctx, db.ResultsOfRunParams{Org: run.Org, RunID: run.RunID, SubjectUid: run.AccountUid, Rows: mostResults})
	if err != nil {
		return nil, err
	}
	bytes := int64(0)
	for _, row := range rows {
		view := &clientv1.ResultView{Signed: row.Signed}
		if row.Detail > 0 && bytes+row.Detail <= 2*pageBytes {
			bytes += row.Detail
			if view.Detail, err = q.DetailOf(ctx, db.DetailOfParams{Org: run.Org, Digest: row.Digest}); err != nil {
				return nil, err
			}
		}
		views = append(views, view)
	}
	return views, nil
}

// GetReply: see the service's definition. A reply is sealed to the device that
// sent the command, and served to no other. Who may not wait, since that device waits
// for many already, is answered at once.
func (s *service) GetReply(ctx context.Context, r *connect.Request[clientv1.GetReplyRequest]) (*connect.Response[clientv1.GetReplyResponse], error) {
	command, err := id("command id", r.Msg.CommandId)
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	if r.Msg.WaitMs == 0 || !s.waits.enter(c.entry) {
		answer, err := s.reply(ctx, command)
		return connect.NewResponse(answer), err
	}
	defer s.waits.leave(c.entry)
	told := s.Bus.Subscribe(bus.Reply(c.org, command))
	defer told.Close()
	over := time.NewTimer(min(time.Duration(r.Msg.WaitMs)*time.Millisecond, replyWait))
	defer over.Stop()
	answer, err := s.reply(ctx, command)
	if err != nil || len(answer.Signed) > 0 || answer.Refused != "" {
		return connect.NewResponse(answer), err
	}
	select {
	case <-told.C():
	case <-over.C:
	case <-ctx.Done():
	}
	answer, err = s.reply(ctx, command)
	return connect.NewResponse(answer), err
}

func (s *service) reply(ctx context.Context, command seal.ID) (*clientv1.GetReplyResponse, error) {
	answer := &clientv1.GetReplyResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: p.org, ID: command[:]})
		if errors.Is(err, store.ErrNotFound) || err == nil && string(c.FromID) != string(p.entry[:]) {
			return notFound("no command %s of this device", command)
		}
		if err != nil {
			return err
		}
		answer.Delivered, answer.Refused, answer.Signed, answer.SealedDetail = c.Acked != 0, c.Refused, c.Reply, c.ReplyDetail
		return nil
	})
	return answer, err
}

// ListAgents: see the service's definition. Who is an agent stands in the log;
// presence is a hint by which a client chooses one.
func (s *service) ListAgents(ctx context.Context, r *connect.Request[clientv1.ListAgentsRequest]) (*connect.Response[clientv1.ListAgentsResponse], error) {
	var pool seal.ID
	if len(r.Msg.PoolId) != 0 {
		var err error
		if pool, err = id("pool", r.Msg.PoolId); err != nil {
			return nil, err
		}
	}
	answer := &clientv1.ListAgentsResponse{}
	err := s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		var ids [][]byte
		views := make(map[string]*clientv1.AgentView)
		for _, e := range p.log.Entries(trustv1.EntryKind_ENTRY_KIND_AGENT) {
			if !pool.IsZero() && e.Owner != pool || len(ids) == agentsAtOnce {
				continue
			}
			v := &clientv1.AgentView{AgentId: e.ID.Bytes()}
			ids, views[string(v.AgentId)] = append(ids, v.AgentId), v
			answer.Agents = append(answer.Agents, v)
		}
		for part := range slices.Chunk(ids, rowsAtOnce) {
			seen, err := q.PresenceOf(ctx, db.PresenceOfParams{Org: p.org, Ids: part})
			if err != nil {
				return err
			}
			for _, a := range seen {
				v := views[string(a.AgentID)]
				v.Connected, v.Seen, v.Version, v.Os, v.Arch, v.LogEpoch = a.Connected == 1, a.Seen, a.Version, a.Os, a.Arch, uint64(a.LogEpoch)
			}
			leases, err := q.LeasesOf(ctx, db.LeasesOfParams{Org: p.org, Ids: part})
			if err != nil {
				return err
			}
			for _, l := range leases {
				views[string(l.AgentID)].Leases = uint32(l.Leases)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}
