package clientapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory"
)

// opsMax bounds the ops of one call: they hold the database's writer meanwhile.
const opsMax = 5000

// writer is one Write: its transaction, its caller, and what is to be checked
// when all ops are done.
type writer struct {
	*party
	s   *service
	ctx context.Context
	q   *db.Queries
	now time.Time

	appended   bool
	gone       bool // the caller's own append removed him
	statements []statementWritten
	rekeyed    map[seal.ID]bool // folders that have a new key by this call: was it put in place?
	answer     *clientv1.WriteResponse
}

// Write: see the service's definition. Each op is judged in the state that the
// former ones left, the log included.
func (s *service) Write(ctx context.Context, r *connect.Request[clientv1.WriteRequest]) (*connect.Response[clientv1.WriteResponse], error) {
	c := callerOf(ctx)
	if len(r.Msg.Ops) > opsMax {
		return nil, refuse(connect.CodeInvalidArgument, ReasonTooLarge, "write in parts", "%d ops, at most %d", len(r.Msg.Ops), opsMax)
	}
	if err := s.mayAppend(c, r.Msg); err != nil {
		return nil, err
	}
	defer s.Directory.EndTurn(c.org, r.Msg.Turn)
	var w *writer
	var refused error // of an append: an event of its own
	err := s.Store.Write(ctx, func(q *db.Queries) error {
		refused = nil
		p, err := s.party(ctx, q)
		if err != nil {
			return err
		}
		w = &writer{party: p, s: s, ctx: ctx, q: q, now: s.Now(), answer: &clientv1.WriteResponse{}, rekeyed: map[seal.ID]bool{}}
		for i, op := range r.Msg.Ops {
			if err := w.do(op); err != nil {
				if _, ok := op.GetOp().(*clientv1.WriteOp_Append); ok {
					refused = err
				}
				return w.failed(i, op, err)
			}
		}
		return w.finish()
	})
	if refused != nil {
		if err := s.Directory.NoteRefusal(ctx, s.Store, c.org, c.entry, refused); err != nil {
			s.log.ErrorContext(ctx, "client api: note a refused append", "err", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(w.answer), nil
}

// mayAppend keeps appends in the order of their turns.
func (s *service) mayAppend(c caller, r *clientv1.WriteRequest) error {
	for _, op := range r.Ops {
		if _, ok := op.GetOp().(*clientv1.WriteOp_Append); !ok {
			continue
		}
		if err := s.Directory.MayAppend(c.org, r.Turn); errors.Is(err, directory.ErrNotYourTurn) {
			return refuse(connect.CodeAborted, ReasonTurn, "take a turn, fetch the log, sign anew", "%v", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// failed says which op failed. The reason stays.
func (w *writer) failed(i int, op *clientv1.WriteOp, err error) error {
	var k *ksm.Error
	if errors.As(err, &k) { // of package work
		code := connect.CodeFailedPrecondition
		switch k.Code {
		case ksm.CodeBadRequest:
			code = connect.CodeInvalidArgument
		case ksm.CodeAccessDenied:
			code = connect.CodePermissionDenied
		case ksm.CodeThrottled:
			code = connect.CodeResourceExhausted
		}
		err = refuse(code, k.Code, "", "%s", k.Message)
	}
	err = untrusted(err)
	var c *connect.Error
	if !errors.As(err, &c) {
		return fmt.Errorf("op %d (%T): %w", i, op.GetOp(), err)
	}
	named := connect.NewError(c.Code(), fmt.Errorf("op %d: %s", i, c.Message()))
	for _, d := range c.Details() {
		named.AddDetail(d)
	}
	return named
}

func (w *writer) do(op *clientv1.WriteOp) error {
	if w.gone {
		return errSession
	}
	switch op := op.GetOp().(type) {
	case *clientv1.WriteOp_Append:
		return w.append(op.Append)
	case *clientv1.WriteOp_PutKeys:
		return w.putKeys(op.PutKeys)
	case *clientv1.WriteOp_PutFolderKey:
		return w.putFolderKey(op.PutFolderKey)
	}
	if w.enrolment {
		return notAllowed("this session is good for enrolling alone: sign in with the device's own key")
	}
	switch op := op.GetOp().(type) {
	case *clientv1.WriteOp_PutFolder:
		return w.putFolder(op.PutFolder)
	case *clientv1.WriteOp_PutEnrolBlob:
		return w.putEnrolBlob(op.PutEnrolBlob)
	case *clientv1.WriteOp_PutRecord:
		return w.putRecord(op.PutRecord)
	case *clientv1.WriteOp_RekeyFolder:
		return w.rekeyFolder(op.RekeyFolder)
	case *clientv1.WriteOp_RekeyRecord:
		return w.rekeyRecord(op.RekeyRecord)
	case *clientv1.WriteOp_DeleteRecord:
		return w.deleteRecord(op.DeleteRecord)
	case *clientv1.WriteOp_PutStatement:
		return w.putStatement(op.PutStatement)
	case *clientv1.WriteOp_PutResult:
		return w.putResult(op.PutResult)
	case *clientv1.WriteOp_PutRotation:
		return w.putRotation(op.PutRotation)
	case *clientv1.WriteOp_PauseRotation:
		return w.pauseRotation(op.PauseRotation)
	case *clientv1.WriteOp_DeleteRotation:
		return w.deleteRotation(op.DeleteRotation)
	case *clientv1.WriteOp_StartRun:
		return w.startRun(op.StartRun)
	case *clientv1.WriteOp_SendCommand:
		return w.sendCommand(op.SendCommand)
	case *clientv1.WriteOp_DropRun:
		return w.dropRun(op.DropRun)
	case *clientv1.WriteOp_PutApp:
		return w.putApp(op.PutApp)
	case *clientv1.WriteOp_PutAppKey:
		return w.putAppKey(op.PutAppKey)
	case *clientv1.WriteOp_PutAppFolder:
		return w.putAppFolder(op.PutAppFolder)
	case *clientv1.WriteOp_PutAppClient:
		return w.putAppClient(op.PutAppClient)
	case *clientv1.WriteOp_RemoveAppClient:
		return w.removeAppClient(op.RemoveAppClient)
	case *clientv1.WriteOp_NoteEvent:
		return w.noteEvent(op.NoteEvent)
	case *clientv1.WriteOp_EndRecovery:
		return w.endRecovery(op.EndRecovery)
	}
	return malformed("an op that this server does not know")
}

// finish checks what only the whole call can satisfy.
func (w *writer) finish() error {
	for _, st := range w.statements {
		if floor := w.log.Floor(st.ref); floor > st.seq || st.replaces && floor < st.seq {
			return refuse(connect.CodeFailedPrecondition, ReasonFloor, "append the floor of the new statement in the same call",
				"statement %d of record %s, but its floor in the log is %d", st.seq, st.ref, floor)
		}
	}
	if err := w.allRekeyed(); err != nil {
		return err
	}
	if w.enrolment && w.appended {
		if err := keysStored(w.ctx, w.q, w.org, w.e); err != nil {
			return err
		}
		// Whoever else had this token may not go on under the new party's name.
		err := w.q.EndOtherSessionsOf(w.ctx, db.EndOtherSessionsOfParams{Org: w.org, EntryID: w.entry[:], BearerHash: w.hash})
		if err != nil {
			return err
		}
		if err := w.q.DeleteEnrolBlob(w.ctx, db.DeleteEnrolBlobParams{Org: w.org, EntryID: w.entry[:]}); err != nil {
			return err
		}
	}
	head := w.log.Head()
	w.answer.HeadEpoch, w.answer.HeadDigest = head.Epoch, head.Digest[:]
	return nil
}

// tell writes an event of the caller's.
func (w *writer) tell(e audit.Event) error {
	e.Org, e.Actor = w.org, w.entry[:]
	return audit.Tell(w.ctx, w.q, w.s.Bus, e)
}

// push tells watching clients after the commit.
func (w *writer) push(m *clientv1.WatchResponse) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return // a hint
	}
	w.q.AfterCommit(func() { w.s.Bus.Publish(bus.Push(w.org), payload) })
}

// append adds a change to the log. What it may say is the log's business. An
// enrolment's session brings its own successor and nothing else.
func (w *writer) append(signed []byte) error {
	if w.enrolment && (w.appended || w.e.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT) {
		return &trust.Error{Reason: trust.EnrolUsed, What: "the token was used already"}
	}
	known := w.log.Has(signed)
	log, err := w.log, error(nil)
	if w.appended {
		err = w.s.Directory.AppendTo(w.ctx, w.q, w.org, log, signed)
	} else {
		log, err = w.s.Directory.Append(w.ctx, w.q, w.org, signed)
	}
	if trust.ReasonOf(err) == trust.LogFork && late(w.log, signed) {
		return refuse(connect.CodeAborted, ReasonOutOfSync, "fetch the log, sign anew", "another change came first")
	}
	if err != nil {
		return err
	}
	w.appended = true
	if !known {
		if err := w.newKeys(signed); err != nil {
			return err
		}
	}
	if _, live := log.Entry(w.entry); !live {
		w.log, w.gone = log, true
		return nil
	}
	if err := w.see(log, w.now); err != nil {
		return err
	}
	if w.enrolment && w.e.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
		return notAllowed("an enrolment's session appends its own successor and nothing else")
	}
	return nil
}

// late reports whether a change follows one of this very log: two signers were
// at work at once, which is no fork.
func late(log *trust.Log, signed []byte) bool {
	var envelope trustv1.Signed
	var change trustv1.Change
	if proto.Unmarshal(signed, &envelope) != nil || proto.Unmarshal(envelope.Body, &change) != nil || change.Epoch == 0 {
		return false
	}
	former, ok := log.DigestAt(change.Epoch - 1)
	return ok && string(former[:]) == string(change.Prev)
}

func (w *writer) putKeys(r *clientv1.PutKeys) error {
	entry, err := id("entry id", r.GetEntryId())
	if err != nil {
		return err
	}
	if w.enrolment && entry != w.entry {
		return notAllowed("an enrolment's session stores its own keys alone")
	}
	// Whoever brings them: they are the log's, or they are refused.
	return w.s.Directory.PutKeys(w.ctx, w.q, w.org, w.log, entry, r.GetKeys())
}

const maxEnrolBlob = 1 << 20

func (w *writer) putEnrolBlob(r *clientv1.PutEnrolBlob) error {
	entry, err := id("entry id", r.GetEntryId())
	if err != nil {
		return err
	}
	if n := len(r.GetBlob()); n == 0 || n > maxEnrolBlob {
		return refuse(connect.CodeInvalidArgument, ReasonTooLarge, "leave folders out; they can be filled in later", "an enrol blob of %d bytes, at most %d", n, maxEnrolBlob)
	}
	e, ok := w.log.Entry(entry)
	if !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
		return notFound("no open enrolment %s", entry)
	}
	if e.PutBy != w.entry {
		return notAllowed("enrolment %s is another's", entry)
	}
	if !e.Unattended {
		return notAllowed("the log does not say that the token of enrolment %s carries keys", entry)
	}
	return w.q.PutEnrolBlob(w.ctx, db.PutEnrolBlobParams{Org: w.org, EntryID: entry[:], Blob: r.GetBlob()})
}

func (w *writer) noteEvent(r *clientv1.NoteEvent) error {
	if !audit.ClientMayNote(r.GetName()) {
		return malformed("no event %q of a client's", r.GetName())
	}
	if !w.s.notes.allow(w.entry.String(), notesOfEntry, w.now) {
		return throttled()
	}
	e := audit.Event{Name: r.GetName(), Reason: r.GetReason()}
	if r.GetRecord() != nil {
		rec, err := ref(r.GetRecord())
		if err != nil {
			return err
		}
		if err := w.need(rec.Folder, trust.Read); err != nil {
			return err
		}
		e.Folder, e.Record = rec.Folder[:], rec.Record[:]
	}
	return w.tell(e)
}
