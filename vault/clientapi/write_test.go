package clientapi_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

func (c *client) get(ref trust.Ref) *clientv1.RecordView {
	c.t.Helper()
	r, err := c.GetRecords(c.t.Context(), connect.NewRequest(&clientv1.GetRecordsRequest{Refs: []*trustv1.Ref{ref.Proto()}}))
	if err != nil {
		c.t.Fatal(err)
	}
	if len(r.Msg.Records) == 0 {
		return nil
	}
	return r.Msg.Records[0]
}

func (c *client) eventNames() map[string]int {
	c.t.Helper()
	r, err := c.ListEvents(c.t.Context(), connect.NewRequest(&clientv1.ListEventsRequest{Page: &clientv1.Page{Size: 1000}}))
	if err != nil {
		c.t.Fatal(err)
	}
	names := map[string]int{}
	for _, e := range r.Msg.Events {
		names[e.Name]++
	}
	return names
}

func TestRecordRevisions(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	folder := o.Folder(t)
	admin := s.found(o)
	ref, create := newRecord(folder, "pamUser")
	first := create.GetPutRecord()
	answer := admin.must(admin.write(create))
	if len(answer.Revisions) != 1 || answer.Revisions[0].Revision != 1 {
		t.Errorf("revisions: %v", answer.Revisions)
	}
	_, err := admin.write(create)
	refused(t, err, "exists")

	second := random(50)
	admin.must(admin.write(replaceRecord(ref, 1, second)))
	_, err = admin.write(replaceRecord(ref, 1, random(50)))
	refused(t, err, "out_of_sync")
	_, err = admin.write(replaceRecord(ref, 3, random(50)))
	refused(t, err, "out_of_sync")
	_, err = admin.write(replaceRecord(trust.Ref{Folder: folder, Record: seal.NewID()}, 1, random(50)))
	refused(t, err, "not_found")
	_, err = admin.write(replaceRecord(trust.Ref{Folder: o.Folder(t), Record: ref.Record}, 2, random(50)))
	refused(t, err, "not_found") // a folder that the server's log does not know yet, a uid of another

	got := admin.get(ref)
	equal(t, "data", got.Data, second)
	equal(t, "record key is kept", got.RecordKey, first.RecordKey)
	if got.Revision != 2 || got.Kind != "pamUser" {
		t.Errorf("got revision %d, kind %q", got.Revision, got.Kind)
	}
	history, err := admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: ref.Proto()}))
	if err != nil || len(history.Msg.History) != 1 {
		t.Fatalf("history: %v, %v", history, err)
	}
	h := history.Msg.History[0]
	equal(t, "former data", h.Data, first.Data)
	if h.Revision != 1 || h.Why != "replaced" {
		t.Errorf("history: revision %d, %q", h.Revision, h.Why)
	}

	// All or nothing.
	other, create := newRecord(folder, "pamUser")
	_, err = admin.write(create, replaceRecord(ref, 1, random(50)))
	refused(t, err, "out_of_sync")
	if admin.get(other) != nil {
		t.Error("an op of a refused call was kept")
	}

	_, err = admin.write(deleteRecord(ref, 1))
	refused(t, err, "out_of_sync")
	admin.must(admin.write(deleteRecord(ref, 2)))
	if admin.get(ref) != nil {
		t.Error("the deleted record is served")
	}
	names := admin.eventNames()
	if names["record.created"] != 1 || names["record.edited"] != 1 || names["record.deleted"] != 1 {
		t.Errorf("events: %v", names)
	}
}

func deleteRecord(ref trust.Ref, revision int64) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_DeleteRecord{DeleteRecord: &clientv1.DeleteRecord{Ref: ref.Proto(), Revision: revision}}}
}

func TestRecordBounds(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	folder := o.Folder(t)
	admin := s.found(o)
	for _, test := range []struct {
		name   string
		change func(r *clientv1.PutRecord)
		reason string
	}{
		{"no folder", func(r *clientv1.PutRecord) { r.Ref.FolderUid = nil }, "malformed"},
		{"a folder that the log does not know", func(r *clientv1.PutRecord) { r.Ref.FolderUid = random(16) }, "not_found"},
		{"no record key", func(r *clientv1.PutRecord) { r.RecordKey = nil }, "malformed"},
		{"a record key of another size", func(r *clientv1.PutRecord) { r.RecordKey = random(61) }, "malformed"},
		{"another version of the folder's key", func(r *clientv1.PutRecord) { r.KeyVersion = 2 }, "key_version"},
		{"no type", func(r *clientv1.PutRecord) { r.Kind = "" }, "malformed"},
		{"no data", func(r *clientv1.PutRecord) { r.Data = nil }, "too_large"},
		{"too much data", func(r *clientv1.PutRecord) { r.Data = make([]byte, 2<<20) }, "too_large"},
		{"a negative revision", func(r *clientv1.PutRecord) { r.Revision = -1 }, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, op := newRecord(folder, "pamUser")
			test.change(op.GetPutRecord())
			_, err := admin.write(op)
			refused(t, err, test.reason)
		})
	}
	_, err := admin.write(&clientv1.WriteOp{})
	refused(t, err, "malformed")
	_, err = admin.write(make([]*clientv1.WriteOp, 5001)...)
	refused(t, err, "too_large")
	_, huge := newRecord(folder, "pamUser")
	huge.GetPutRecord().Data = make([]byte, 5<<20)
	if _, err := admin.write(huge); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a request of 5 MiB: %v", err)
	}
}

func TestStatements(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	folder := o.Folder(t)
	admin := s.found(o)
	ref, create := newRecord(folder, "pamMachine")
	d1, d2, d3 := random(32), random(32), random(32)
	_, err := admin.write(create, putStatement(ref, 1, d1, random(32)))
	refused(t, err, "statement_conflict") // the first follows none
	admin.must(admin.write(create, putStatement(ref, 1, d1, nil)))

	_, err = admin.write(putStatement(ref, 2, d2, d1))
	refused(t, err, "statement_unfloored")
	floor := o.Sign(t, o.Admin, trust.FloorOp(ref, 2))
	_, err = admin.write(putStatement(ref, 2, d2, d3), appendOp(floor))
	refused(t, err, "statement_conflict")
	_, err = admin.write(putStatement(ref, 1, d2, d1), appendOp(floor))
	refused(t, err, "statement_conflict")
	_, err = admin.write(putStatement(ref, 3, d2, d1), appendOp(floor))
	refused(t, err, "statement_unfloored")                                 // its floor is not its own
	admin.must(admin.write(putStatement(ref, 2, d2, d1), appendOp(floor))) // in either order
	o.Add(t, floor)
	_, err = admin.write(putStatement(ref, 3, d3, d1))
	refused(t, err, "statement_conflict")

	got := admin.get(ref).Statement
	if got.GetSeq() != 2 {
		t.Errorf("statement served: %d", got.GetSeq())
	}
	equal(t, "statement's digest", got.GetDigest(), d2)

	// A first statement below a floor that stands already.
	other, create := newRecord(folder, "pamMachine")
	floor = o.Change(t, trust.FloorOp(other, 5))
	admin.must(admin.write(appendOp(floor)))
	_, err = admin.write(create, putStatement(other, 4, d1, nil))
	refused(t, err, "statement_unfloored")
	admin.must(admin.write(create, putStatement(other, 5, d1, nil)))

	// The newest former one of many records: those that have one, and may be read.
	reader := o.Member(t, "reader of nothing", 0)
	admin.catchUp()
	ask := &clientv1.GetFormerStatementsRequest{Refs: []*trustv1.Ref{
		other.Proto(), ref.Proto(), {FolderUid: folder.Bytes(), RecordUid: random(16)}, {FolderUid: random(16), RecordUid: ref.Record.Bytes()},
	}}
	former, err := admin.GetFormerStatements(t.Context(), connect.NewRequest(ask))
	if err != nil || len(former.Msg.Statements) != 1 {
		t.Fatalf("former statements: %v, %v", former, err)
	}
	equal(t, "the former statement's record", former.Msg.Statements[0].Ref.RecordUid, ref.Record[:])
	equal(t, "the former statement", former.Msg.Statements[0].Statement.Digest, d1)
	former, err = s.signIn(o, reader).GetFormerStatements(t.Context(), connect.NewRequest(ask))
	if err != nil || len(former.Msg.Statements) != 0 {
		t.Errorf("to one who may not read: %v, %v", former, err)
	}
	ask.Refs = slices.Repeat(ask.Refs, 251)
	_, err = admin.GetFormerStatements(t.Context(), connect.NewRequest(ask))
	refused(t, err, "too_large")
}

// edit signs a person's result about a record's present data.
func edit(t *testing.T, o *orgtest.Org, by *orgtest.Party, ref trust.Ref, data []byte, valueSeq uint64, change func(r *trustv1.Result)) []byte {
	t.Helper()
	r := &trustv1.Result{
		RunId: seal.NewID().Bytes(), Phase: trustv1.Phase_PHASE_EDITED, By: by.ID.Bytes(), Cause: make([]byte, 32), Account: ref.Proto(),
		ValueSeq: valueSeq, DataDigest: seal.Hash(data).Bytes(), Time: time.Now().UnixMilli(),
	}
	if change != nil {
		change(r)
	}
	signed, _, err := trust.SignResult(o.Log, by.Sign, r)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func putResult(ref trust.Ref, signed []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutResult{PutResult: &clientv1.PutResult{Account: ref.Proto(), Signed: signed}}}
}

func TestEdits(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	folder := o.Folder(t)
	bob := o.Member(t, "Bob", trust.Read|trust.Edit)
	admin := s.found(o)
	ref, create := newRecord(folder, "pamUser")
	data := create.GetPutRecord().Data
	first := edit(t, o, o.Admin, ref, data, 1, nil)
	admin.must(admin.write(create, putResult(ref, first)))
	equal(t, "attestation", admin.get(ref).GetAttestation().GetSigned(), first)

	next := random(80)
	for _, test := range []struct {
		name   string
		signed []byte
		reason string
	}{
		{"of other data", edit(t, o, o.Admin, ref, data, 2, nil), "value_conflict"},
		{"with the same number", edit(t, o, o.Admin, ref, next, 1, nil), "value_conflict"},
		{"with a number that nobody comes after", edit(t, o, o.Admin, ref, next, 2+trust.MaxFloorRaise, nil), "value_conflict"},
		{"after another value", edit(t, o, o.Admin, ref, next, 2, func(r *trustv1.Result) { r.Prev = random(32) }), "value_conflict"},
		{"of another record", edit(t, o, o.Admin, trust.Ref{Folder: folder, Record: seal.NewID()}, next, 2, nil), "malformed"},
		{"by another device", edit(t, o, bob, ref, next, 2, nil), "not_allowed"},
		{"an agent's word", edit(t, o, o.Admin, ref, next, 2, func(r *trustv1.Result) { r.Phase = trustv1.Phase_PHASE_COMMITTED }), "not_allowed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := admin.write(replaceRecord(ref, 1, next), putResult(ref, test.signed))
			refused(t, err, test.reason)
		})
	}
	forged := edit(t, o, o.Admin, ref, next, 2, nil)
	forged[len(forged)-1] ^= 1
	_, err := admin.write(replaceRecord(ref, 1, next), putResult(ref, forged))
	refused(t, err, "signature_bad")
	good := edit(t, o, o.Admin, ref, next, 2, nil)
	admin.must(admin.write(replaceRecord(ref, 1, next), putResult(ref, good)))
	equal(t, "attestation", admin.get(ref).GetAttestation().GetSigned(), good)
	history, err := admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: ref.Proto()}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "what attested the former value", history.Msg.History[0].Result, first)

	// Agents may know of values that this database has lost.
	above := edit(t, o, o.Admin, ref, data, 9, nil)
	admin.must(admin.write(replaceRecord(ref, 2, data), putResult(ref, above)))
	equal(t, "attestation", admin.get(ref).GetAttestation().GetSigned(), above)
}

// stage puts a candidate beside a record, as an agent's call does.
func (s *server) stage(org int64, ref trust.Ref, owner string) {
	s.t.Helper()
	data := random(50)
	err := s.store.Write(s.t.Context(), func(q *db.Queries) error {
		return q.AddStaged(s.t.Context(), db.AddStagedParams{
			Org: org, RecordUid: ref.Record[:], OwnerKind: owner, OwnerID: random(16), RunID: random(16), Data: data, DataDigest: seal.Hash(data).Bytes(), ValueSeq: 2,
		})
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestOutstandingCandidate(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	folder := o.Folder(t)
	admin := s.found(o)
	ref, create := newRecord(folder, "pamUser")
	data := create.GetPutRecord().Data
	admin.must(admin.write(create))
	s.stage(1, ref, "agent")
	if st := admin.get(ref).Staged; st.GetOwner() != "agent" || len(st.GetData()) == 0 {
		t.Errorf("candidate: %v", st)
	}
	_, err := admin.write(replaceRecord(ref, 1, random(50)))
	refused(t, err, "run_outstanding")
	_, err = admin.write(deleteRecord(ref, 1))
	refused(t, err, "run_outstanding")
	_, err = admin.write(putResult(ref, edit(t, o, o.Admin, ref, data, 1, nil)))
	refused(t, err, "run_outstanding")

	other, create := newRecord(folder, "pamUser")
	admin.must(admin.write(create))
	s.stage(1, other, "client") // a foreign client's own update hinders nobody
	admin.must(admin.write(replaceRecord(other, 1, random(50))))
}

func TestAppendsAndTurns(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	bob := o.Member(t, "Bob", trust.Read|trust.Share)
	admin.catchUp()
	ctx := t.Context()
	b := s.signIn(o, bob)

	turn, err := admin.TakeTurn(ctx, connect.NewRequest(&clientv1.TakeTurnRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if turn.Msg.HeadEpoch != o.Log.Head().Epoch {
		t.Errorf("head: got %d, want %d", turn.Msg.HeadEpoch, o.Log.Head().Epoch)
	}
	mine := o.Sign(t, o.Admin, trust.PolicyOp(100, true))
	_, err = b.write(appendOp(mine))
	refused(t, err, "turn_taken")
	answer, err := admin.Write(ctx, connect.NewRequest(&clientv1.WriteRequest{Ops: []*clientv1.WriteOp{appendOp(mine)}, Turn: turn.Msg.Turn}))
	if err != nil {
		t.Fatal(err)
	}
	late := o.Sign(t, o.Admin, trust.PolicyOp(90, true)) // signed without having seen mine
	o.Add(t, mine)
	if answer.Msg.HeadEpoch != o.Log.Head().Epoch {
		t.Errorf("head: got %d, want %d", answer.Msg.HeadEpoch, o.Log.Head().Epoch)
	}
	_, err = admin.write(appendOp(late))
	refused(t, err, "out_of_sync") // a race, no fork: and no event
	_, err = b.write(appendOp(o.Sign(t, bob, trust.GrantOp(seal.ID{}, bob.Owner, trust.AllRoles))))
	refused(t, err, "log_signer")
	if n := admin.eventNames()["append.refused"]; n != 1 {
		t.Errorf("%d events of refused appends, want 1", n)
	}
	admin.must(admin.write(appendOp(mine))) // what the log has already is no error

	log, err := b.GetLog(ctx, connect.NewRequest(&clientv1.GetLogRequest{FromEpoch: 1, Limit: 2}))
	if err != nil || len(log.Msg.Changes) != 2 {
		t.Fatalf("log: %v, %v", log, err)
	}
	equal(t, "change 1", log.Msg.Changes[0], o.Changes[1])
	keys, err := b.GetKeys(ctx, connect.NewRequest(&clientv1.GetKeysRequest{EntryIds: [][]byte{bob.ID.Bytes(), seal.NewID().Bytes()}}))
	if err != nil || len(keys.Msg.Keys) != 1 {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	equal(t, "keys", keys.Msg.Keys[0].Keys, bob.Keys)
}

func TestWatch(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	seen, hidden := o.Folder(t), o.Folder(t)
	bob := o.Member(t, "Bob", 0)
	o.Grant(t, seen, bob.Owner, trust.Read)
	admin := s.found(o)
	b := s.signIn(o, bob)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := receive(b.Watch(ctx, connect.NewRequest(&clientv1.WatchRequest{Topics: []string{"secrets"}})))
	refused(t, err, "malformed")

	stream, err := b.Watch(ctx, connect.NewRequest(&clientv1.WatchRequest{Topics: []string{"records", "log"}}))
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() || stream.Msg().GetReady() == nil {
		t.Fatalf("first: %v, %v", stream.Msg(), stream.Err())
	}
	_, secret := newRecord(hidden, "pamUser")
	ref, create := newRecord(seen, "pamUser")
	admin.must(admin.write(secret))
	admin.must(admin.write(create))
	if !stream.Receive() || stream.Msg().GetRecord().GetRevision() != 1 {
		t.Fatalf("record: %v, %v", stream.Msg(), stream.Err())
	}
	equal(t, "record of the hint", stream.Msg().GetRecord().GetRef().GetRecordUid(), ref.Record[:])

	o.Change(t, trust.RemoveOp(bob.ID))
	admin.catchUp()
	for stream.Receive() { // until the removal is seen
	}
	refused(t, stream.Err(), "session_ended")
}

// receive is a stream's first message or its error.
func receive(stream *connect.ServerStreamForClient[clientv1.WatchResponse], err error) (*clientv1.WatchResponse, error) {
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	if stream.Receive() {
		return stream.Msg(), nil
	}
	return nil, stream.Err()
}

// Events stay: a device notes so many in a minute, in one call or in many.
func TestNotesOfADeviceAreThrottled(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	bob := o.Member(t, "Bob", trust.Read)
	admin := s.found(o)
	notes := func(n int) []*clientv1.WriteOp {
		return slices.Repeat([]*clientv1.WriteOp{{Op: &clientv1.WriteOp_NoteEvent{NoteEvent: &clientv1.NoteEvent{Name: "record.revealed"}}}}, n)
	}
	admin.must(admin.write(notes(400)...))
	_, err := admin.write(notes(201)...)
	refused(t, err, "throttled")
	_, err = admin.write(notes(1)...)
	refused(t, err, "throttled")
	if n := admin.eventNames()["record.revealed"]; n != 400 {
		t.Errorf("%d events", n)
	}
	_, err = s.signIn(o, bob).write(notes(1)...)
	ok(t, err)
	s.wait(time.Minute)
	_, err = admin.write(notes(1)...)
	ok(t, err)
}
