package clientapi

import (
	"context"
	"encoding/binary"
	"math"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const prefixesMax = 50

// ListEvents: see the service's definition. Administrators see all events,
// others those of folders that they read, and their own. The token is the seq
// of the last one looked at.
func (s *service) ListEvents(ctx context.Context, r *connect.Request[clientv1.ListEventsRequest]) (*connect.Response[clientv1.ListEventsResponse], error) {
	from, err := after(r.Msg.Page, 8)
	if err != nil {
		return nil, err
	}
	if len(r.Msg.Names) > prefixesMax || r.Msg.AfterSeq < 0 {
		return nil, malformed("%d names, at most %d; seq %d", len(r.Msg.Names), prefixesMax, r.Msg.AfterSeq)
	}
	for _, name := range r.Msg.Names {
		if !audit.Begins(name) {
			return nil, malformed("no event has a name that begins with %q; they begin with %s", name, strings.Join(audit.Groups(), " "))
		}
	}
	f := audit.Filter{After: r.Msg.AfterSeq, Newest: r.Msg.NewestFirst, Names: r.Msg.Names, Limit: rowsAtOnce}
	if from != nil {
		f.After = int64(binary.BigEndian.Uint64(from) & math.MaxInt64)
	}
	answer := &clientv1.ListEventsResponse{}
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		f.Org = p.org
		n := size(r.Msg.Page)
		for seen := 0; ; {
			rows, err := audit.List(ctx, q, f)
			if err != nil {
				return err
			}
			for _, e := range rows {
				if len(answer.Events) == n || seen == rowsPerPage {
					answer.Next = token(number(f.After))
					return nil
				}
				seen++
				f.After = e.Seq
				if p.seesEvent(e) {
					answer.Events = append(answer.Events, eventView(e))
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

func (p *party) seesEvent(e db.Event) bool {
	if p.admin() || string(e.Actor) == string(p.entry[:]) {
		return true
	}
	folder, err := seal.IDFrom(e.FolderUid)
	return err == nil && p.has(folder, trust.Read)
}

func eventView(e db.Event) *clientv1.EventView {
	v := &clientv1.EventView{Seq: e.Seq, Time: e.Time, Name: e.Name, Actor: e.Actor, RunId: e.RunID, Reason: e.Reason, Fields: e.Fields}
	if len(e.FolderUid) > 0 {
		v.Record = &trustv1.Ref{FolderUid: e.FolderUid, RecordUid: e.RecordUid}
	}
	return v
}

// Bounds of what one device has open: Watch calls, and calls that wait for a reply.
const (
	watchesPerEntry = 16
	waitsPerEntry   = 256
)

type watches struct {
	most int
	mu   sync.Mutex
	open map[seal.ID]int
}

func (w *watches) enter(entry seal.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = make(map[seal.ID]int)
	}
	if w.open[entry] >= w.most {
		return false
	}
	w.open[entry]++
	return true
}

func (w *watches) leave(entry seal.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[entry]--; w.open[entry] <= 0 {
		delete(w.open, entry)
	}
}

// topicOf is the topic of a hint; every kind has one.
func topicOf(m *clientv1.WatchResponse) string {
	switch m.What.(type) {
	case *clientv1.WatchResponse_Record:
		return "records"
	case *clientv1.WatchResponse_Run:
		return "runs"
	case *clientv1.WatchResponse_Events:
		return "events"
	case *clientv1.WatchResponse_Log:
		return "log"
	case *clientv1.WatchResponse_Reply:
		return "replies"
	}
	return ""
}

// Watch: see the service's definition. It begins with Ready: from then on no
// hint is missed. Ready comes again when hints were lost: look at everything
// again. It ends with the session.
func (s *service) Watch(ctx context.Context, r *connect.Request[clientv1.WatchRequest], out *connect.ServerStream[clientv1.WatchResponse]) error {
	c := callerOf(ctx)
	topics := make(map[string]bool)
	for _, t := range r.Msg.Topics {
		switch t {
		case "records", "runs", "events", "log", "replies":
			topics[t] = true
		default:
			return malformed("no topic %q", t)
		}
	}
	if !s.watches.enter(c.entry) {
		return refuse(connect.CodeResourceExhausted, ReasonThrottled, "close one of them", "%d watches are open", watchesPerEntry)
	}
	defer s.watches.leave(c.entry)
	sub := s.Bus.Subscribe(bus.Push(c.org))
	defer sub.Close()
	ready := &clientv1.WatchResponse{What: &clientv1.WatchResponse_Ready{Ready: &clientv1.Ready{}}}
	if err := out.Send(ready); err != nil {
		return err
	}
	end := time.NewTimer(c.expires.Sub(s.Now()))
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			return errSession
		case payload, open := <-sub.C():
			if !open {
				return refuse(connect.CodeUnavailable, ReasonUnavailable, "watch again", "the server is stopping")
			}
			var hint clientv1.WatchResponse
			if err := proto.Unmarshal(payload, &hint); err != nil {
				continue // not a client's
			}
			if sub.Overflowed() {
				if err := out.Send(ready); err != nil {
					return err
				}
			}
			topic := topicOf(&hint)
			if !topics[topic] && topic != "log" { // the log may end this very watch
				continue
			}
			sees, err := s.seesHint(ctx, &hint)
			if err != nil {
				return err
			}
			if !sees || !topics[topic] {
				continue
			}
			if err := out.Send(&hint); err != nil {
				return err
			}
		}
	}
}

// seesHint judges by the log of the moment, so that a withdrawn grant or a
// removal counts at once.
func (s *service) seesHint(ctx context.Context, m *clientv1.WatchResponse) (sees bool, err error) {
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		reads := func(r *trustv1.Ref) bool {
			folder, err := seal.IDFrom(r.GetFolderUid())
			return err == nil && p.has(folder, trust.Read)
		}
		switch what := m.What.(type) {
		case *clientv1.WatchResponse_Record:
			sees = reads(what.Record.GetRef())
		case *clientv1.WatchResponse_Run:
			sees = reads(what.Run.GetAccount())
		case *clientv1.WatchResponse_Reply:
			c, err := q.CommandByID(ctx, db.CommandByIDParams{Org: p.org, ID: what.Reply})
			sees = err == nil && string(c.FromID) == string(p.entry[:])
		default:
			sees = true // that there is something, to whoever asks for it
		}
		return nil
	})
	return sees, err
}
