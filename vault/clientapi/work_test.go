package clientapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// unknownField is a field of so many bytes that no message has.
func unknownField(n int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, n))
}

func TestStartRun(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	elsewhere := sc.o.Agent(t, "elsewhere", sc.o.Pool(t, "other pool"))
	gone := sc.o.Agent(t, "gone", sc.pool)
	sc.o.Change(t, trust.RemoveOp(gone.ID))
	blind := sc.o.Pool(t, "a pool that may not read the folder")
	sc.admin.catchUp()
	for _, test := range []struct {
		name   string
		change func(r *clientv1.StartRun)
		reason string
	}{
		{"no run id", func(r *clientv1.StartRun) { r.RunId = nil }, "malformed"},
		{"an account that is not there", func(r *clientv1.StartRun) { r.Account.RecordUid = random(16) }, "not_found"},
		{"an action that is none", func(r *clientv1.StartRun) { r.Action = "erase" }, "bad_request"},
		{"a pool that may not read the account", func(r *clientv1.StartRun) { r.PoolId = blind.Bytes() }, "not_allowed"},
		{"no pool", func(r *clientv1.StartRun) { r.PoolId = sc.agent.ID.Bytes() }, "not_found"},
		{"no command", func(r *clientv1.StartRun) { r.Command = nil }, "malformed"},
		{"from another device", func(r *clientv1.StartRun) { r.Command.From = random(16) }, "not_allowed"},
		{"to an agent of another pool", func(r *clientv1.StartRun) { r.Command.To = elsewhere.ID.Bytes() }, "agent_unknown"},
		{"to a removed agent", func(r *clientv1.StartRun) { r.Command.To = gone.ID.Bytes() }, "agent_unknown"},
		{"to a person's device", func(r *clientv1.StartRun) { r.Command.To = sc.o.Admin.ID.Bytes() }, "agent_unknown"},
		{"a command for another run", func(r *clientv1.StartRun) { r.Command.RunId = random(16) }, "malformed"},
		{"an expired command", func(r *clientv1.StartRun) { r.Command.Expires = time.Now().Add(-time.Hour).UnixMilli() }, "expired"},
		{"a command for ever", func(r *clientv1.StartRun) { r.Command.Expires = time.Now().Add(24 * time.Hour).UnixMilli() }, "malformed"},
		{"an empty command", func(r *clientv1.StartRun) { r.Command.Sealed = nil }, "too_large"},
		{"a frame with unknown fields without end", func(r *clientv1.StartRun) { r.Command.ProtoReflect().SetUnknown(unknownField(1 << 20)) }, "too_large"},
		{"a command too large", func(r *clientv1.StartRun) { r.Command.Sealed = random(64<<10 + 1) }, "too_large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			op := sc.startRun(sc.o.Admin, seal.NewID())
			test.change(op.GetStartRun())
			_, err := sc.admin.write(op)
			refused(t, err, test.reason)
		})
	}

	agent := s.bus.Subscribe(bus.Agent(1, sc.agent.ID))
	defer agent.Close()
	run := seal.NewID()
	op := sc.startRun(sc.o.Admin, run)
	sc.admin.must(sc.admin.write(op))
	select {
	case <-agent.C(): // after the commit, before the answer
	default:
		t.Error("the agent's channel was not woken")
	}
	got, err := sc.admin.GetRun(t.Context(), connect.NewRequest(&clientv1.GetRunRequest{RunId: run.Bytes()}))
	if err != nil {
		t.Fatal(err)
	}
	v := got.Msg.Run
	if v.State != "queued" || v.Cause != "person" || v.Action != "rotate" {
		t.Errorf("run: %v", v)
	}
	equal(t, "command", v.CommandId, op.GetStartRun().Command.Id)
	equal(t, "agent", v.AgentId, sc.agent.ID[:])

	// Its agent alone can take it up: nobody is sent to it later. It ends with its
	// command, or an hour later where the agent has acknowledged that.
	if v.NextAttempt != 0 || v.Until != op.GetStartRun().Command.Expires {
		t.Errorf("next attempt %d, until %d; the command ends at %d", v.NextAttempt, v.Until, op.GetStartRun().Command.Expires)
	}
	err = s.store.Write(t.Context(), func(q *db.Queries) error {
		_, err := q.AckCommand(t.Context(), db.AckCommandParams{Org: 1, AgentID: sc.agent.ID.Bytes(), ID: op.GetStartRun().Command.Id})
		return err
	})
	ok(t, err)
	got, err = sc.admin.GetRun(t.Context(), connect.NewRequest(&clientv1.GetRunRequest{RunId: run.Bytes()}))
	if err != nil || got.Msg.Run.NextAttempt != 0 || got.Msg.Run.Until != v.Created+(65*time.Minute).Milliseconds() {
		t.Errorf("acknowledged: %v, %v", got.Msg.Run, err)
	}

	drop := &clientv1.WriteOp{Op: &clientv1.WriteOp_DropRun{DropRun: &clientv1.DropRun{RunId: run.Bytes()}}}
	sc.admin.must(sc.admin.write(drop))
	_, err = sc.admin.write(drop)
	refused(t, err, "run_started")
}

func TestReplies(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	op := sendCommand(sc.o.Admin.ID, sc.agent.ID)
	command := op.GetSendCommand().Command.Id
	sc.admin.must(sc.admin.write(op))
	other := sc.member(t, folderRoles)
	get := func(c *client) (*clientv1.GetReplyResponse, error) {
		r, err := c.GetReply(t.Context(), connect.NewRequest(&clientv1.GetReplyRequest{CommandId: command}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	_, err := get(other)
	refused(t, err, "not_found")
	r, err := get(sc.admin)
	if err != nil || r.Delivered || len(r.Signed) != 0 {
		t.Errorf("before: %v, %v", r, err)
	}
	signed := random(100)
	err = s.store.Write(t.Context(), func(q *db.Queries) error {
		_, err := q.AckCommand(t.Context(), db.AckCommandParams{Org: 1, ID: command, AgentID: sc.agent.ID.Bytes()})
		if err != nil {
			return err
		}
		return q.SetReply(t.Context(), db.SetReplyParams{Org: 1, ID: command, Reply: signed, ReplyDetail: random(10)})
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err = get(sc.admin)
	if err != nil || !r.Delivered {
		t.Fatalf("after: %v, %v", r, err)
	}
	equal(t, "reply", r.Signed, signed)
}

// Who waits for a reply has it when it is stored, and not before; where none comes the
// answer says so after the time that was asked for.
func TestWaitForReply(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	op := sendCommand(sc.o.Admin.ID, sc.agent.ID)
	command := op.GetSendCommand().Command.Id
	sc.admin.must(sc.admin.write(op))
	get := func(ms uint32) (*clientv1.GetReplyResponse, error) {
		r, err := sc.admin.GetReply(t.Context(), connect.NewRequest(&clientv1.GetReplyRequest{CommandId: command, WaitMs: ms}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	began := time.Now()
	if r, err := get(100); err != nil || len(r.Signed) != 0 || time.Since(began) < 100*time.Millisecond {
		t.Errorf("after %v: %v, %v", time.Since(began), r, err)
	}
	signed := random(100)
	waited := make(chan error, 1)
	go func() {
		r, err := get(5000)
		if err == nil && !bytes.Equal(r.Signed, signed) {
			err = fmt.Errorf("the reply: %v", r)
		}
		waited <- err
	}()
	err := s.store.Write(t.Context(), func(q *db.Queries) error {
		q.AfterCommit(func() { s.bus.Publish(bus.Reply(1, [16]byte(command)), nil) })
		return q.SetReply(t.Context(), db.SetReplyParams{Org: 1, ID: command, Reply: signed, ReplyDetail: random(10)})
	})
	if err := errors.Join(err, <-waited); err != nil {
		t.Error(err)
	}
}

func TestRotations(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	for _, test := range []struct {
		name   string
		change func(r *clientv1.PutRotation)
		reason string
	}{
		{"no schedule", func(r *clientv1.PutRotation) { r.Schedule = nil }, "schedule_bad"},
		{"a bad cron line", func(r *clientv1.PutRotation) {
			r.Schedule = &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: "61 * * * *"}}
		}, "schedule_bad"},
		{"an unknown time zone", func(r *clientv1.PutRotation) {
			r.Schedule = &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: "1 * * * *"}, TimeZone: "Mars/Olympus"}
		}, "schedule_bad"},
		{"an interval too short", func(r *clientv1.PutRotation) {
			r.Schedule = &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 119}}
		}, "schedule_bad"},
		{"a cron that fires each minute", func(r *clientv1.PutRotation) {
			r.Schedule = &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: "* * * * *"}}
		}, "schedule_bad"},
		{"a time that has passed", func(r *clientv1.PutRotation) {
			r.Schedule = &clientv1.Schedule{Kind: &clientv1.Schedule_Once{Once: time.Now().Add(-time.Hour).UnixMilli()}}
		}, "schedule_bad"},
		{"unknown fields without end", func(r *clientv1.PutRotation) {
			r.Schedule.ProtoReflect().SetUnknown(unknownField(1 << 20))
		}, "too_large"},
		{"an unknown policy", func(r *clientv1.PutRotation) { r.Missed = "twice" }, "malformed"},
		{"too much jitter", func(r *clientv1.PutRotation) { r.JitterS = 90_000 }, "malformed"},
		{"no such account", func(r *clientv1.PutRotation) { r.Account.RecordUid = random(16) }, "not_found"},
		{"no such resource", func(r *clientv1.PutRotation) { r.Resource.RecordUid = random(16) }, "not_found"},
		{"no such pool", func(r *clientv1.PutRotation) { r.PoolId = random(16) }, "not_found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			op := sc.putRotation()
			test.change(op.GetPutRotation())
			_, err := sc.admin.write(op)
			refused(t, err, test.reason)
		})
	}
	get := func() *clientv1.RotationView {
		t.Helper()
		r, err := sc.admin.ListRotations(t.Context(), connect.NewRequest(&clientv1.ListRotationsRequest{AccountUid: sc.account.Record.Bytes()}))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Msg.Rotations) == 0 {
			return nil
		}
		return r.Msg.Rotations[0]
	}
	pause := func(p bool) error {
		_, err := sc.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_PauseRotation{PauseRotation: &clientv1.PauseRotation{Account: sc.account.Proto(), Paused: p}}})
		return err
	}
	due := s.bus.Subscribe(bus.Work)
	defer due.Close()
	sc.admin.must(sc.admin.write(sc.putRotation()))
	select {
	case <-due.C():
	default:
		t.Error("the scheduler was not woken")
	}
	first := get()
	if first.State != "scheduled" || first.Next <= time.Now().UnixMilli() || first.Rotation.Missed != "once" || first.Rotation.Schedule.GetEveryS() != 86400 {
		t.Errorf("set: %v", first)
	}
	ok(t, pause(true))
	if r := get(); r.State != "paused" || r.Next != 0 {
		t.Errorf("paused: %v", r)
	}
	ok(t, pause(false))
	if r := get(); r.State != "scheduled" || r.Next == 0 {
		t.Errorf("resumed: %v", r)
	}
	remove := &clientv1.WriteOp{Op: &clientv1.WriteOp_DeleteRotation{DeleteRotation: &clientv1.DeleteRotation{Account: sc.account.Proto()}}}
	sc.admin.must(sc.admin.write(remove))
	if r := get(); r != nil {
		t.Errorf("deleted: %v", r)
	}
	_, err := sc.admin.write(remove)
	refused(t, err, "not_found")
	refused(t, pause(true), "not_found")

	names := sc.admin.eventNames()
	for _, name := range []string{"schedule.set", "schedule.paused", "schedule.resumed", "schedule.deleted"} {
		if names[name] == 0 {
			t.Errorf("no event %s", name)
		}
	}
	p, err := sc.admin.PreviewSchedule(t.Context(), connect.NewRequest(&clientv1.PreviewScheduleRequest{
		Schedule: &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 120}}, Count: 3, After: 1_000_000,
	}))
	if err != nil || len(p.Msg.Times) != 3 || !slices.IsSorted(p.Msg.Times) || p.Msg.Times[0] <= 1_000_000 {
		t.Errorf("preview: %v, %v", p, err)
	}
}

func TestDeletedRecordTakesItsWorkAlong(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	run := seal.NewID()
	sc.admin.must(sc.admin.write(sc.startRun(sc.o.Admin, run)))
	sc.admin.must(sc.admin.write(deleteRecord(sc.account, 1)))
	got, err := sc.admin.GetRun(t.Context(), connect.NewRequest(&clientv1.GetRunRequest{RunId: run.Bytes()}))
	if err != nil || got.Msg.Run.State != "dropped" || got.Msg.Run.NextAttempt != 0 {
		t.Errorf("queued run: %v, %v", got, err)
	}
	r, err := sc.admin.ListRotations(t.Context(), connect.NewRequest(&clientv1.ListRotationsRequest{}))
	if err != nil || len(r.Msg.Rotations) != 0 {
		t.Errorf("rotations: %v, %v", r, err)
	}
}

// The contents of a deleted record's files go when its rows are durably gone, and not
// before.
func TestDeletedRecordTakesItsFilesAlong(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	ref, create := newRecord(sc.folder, "login")
	other, createOther := newRecord(sc.folder, "login")
	sc.admin.must(sc.admin.write(create, createOther))
	for n, of := range []trust.Ref{ref, ref, other} {
		err := s.store.Write(t.Context(), func(q *db.Queries) error {
			return q.AddFile(t.Context(), db.AddFileParams{
				Org: 1, FileUid: []byte{0: byte(n), 15: 1}, RecordUid: of.Record[:], FileKey: []byte("k"), Data: []byte("d"), UploadHash: []byte{byte(n)},
			})
		})
		ok(t, err)
	}
	_, err := sc.admin.write(deleteRecord(ref, 1), deleteRecord(other, 2)) // the second has another revision
	if err == nil || len(s.removed) > 0 {
		t.Errorf("a Write that fails: %v, removes the contents of %d files", err, len(s.removed))
	}
	sc.admin.must(sc.admin.write(deleteRecord(ref, 1)))
	if len(s.removed) != 2 {
		t.Errorf("the contents of %d files were removed, want 2", len(s.removed))
	}
	for _, f := range s.removed {
		equal(t, "the file's record", f.RecordUid, ref.Record[:])
	}
}

func TestAgents(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	sc.o.Agent(t, "elsewhere", sc.o.Pool(t, "other pool"))
	sc.admin.catchUp()
	err := s.store.Write(t.Context(), func(q *db.Queries) error {
		return q.AgentHere(t.Context(), db.AgentHereParams{Org: 1, AgentID: sc.agent.ID.Bytes(), Seen: 7, Version: "1.2", Os: "linux", Arch: "arm64", Node: "n"})
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := sc.admin.ListAgents(t.Context(), connect.NewRequest(&clientv1.ListAgentsRequest{}))
	if err != nil || len(all.Msg.Agents) != 2 {
		t.Fatalf("all: %v, %v", all, err)
	}
	pool, err := sc.admin.ListAgents(t.Context(), connect.NewRequest(&clientv1.ListAgentsRequest{PoolId: sc.pool.Bytes()}))
	if err != nil || len(pool.Msg.Agents) != 1 {
		t.Fatalf("pool: %v, %v", pool, err)
	}
	if a := pool.Msg.Agents[0]; !a.Connected || a.Seen != 7 || a.Version != "1.2" || a.Arch != "arm64" {
		t.Errorf("agent: %v", a)
	}
}

func TestApps(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	other := newScene(t, s)
	for _, test := range []struct {
		name   string
		change func(r *clientv1.PutAppClient)
		reason string
	}{
		{"a short client id", func(r *clientv1.PutAppClient) { r.ClientId = random(63) }, "malformed"},
		{"no name", func(r *clientv1.PutAppClient) { r.Name = "" }, "malformed"},
		{"a token without a key", func(r *clientv1.PutAppClient) { r.EncryptedAppKey = nil }, "malformed"},
		{"a token for a week", func(r *clientv1.PutAppClient) { r.TokenExpires = time.Now().Add(7 * 24 * time.Hour).UnixMilli() }, "malformed"},
		{"a token that has ended", func(r *clientv1.PutAppClient) { r.TokenExpires = 1 }, "malformed"},
		{"access that has ended", func(r *clientv1.PutAppClient) { r.AccessExpires = 1 }, "malformed"},
		{"a configuration with a key that is no point", func(r *clientv1.PutAppClient) { r.PublicKey = random(65) }, "malformed"},
		{"no such application", func(r *clientv1.PutAppClient) { r.AppId = random(16) }, "not_found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			op := sc.putAppClient(random(64))
			test.change(op.GetPutAppClient())
			_, err := sc.admin.write(op)
			refused(t, err, test.reason)
		})
	}
	client := random(64)
	sc.admin.must(sc.admin.write(sc.putAppClient(client)))
	_, err := sc.admin.write(sc.putAppClient(client))
	refused(t, err, "exists")
	_, err = other.admin.write(other.putAppClient(client)) // nor is it taken over from another organisation
	refused(t, err, "exists")
	_, err = other.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_RemoveAppClient{RemoveAppClient: &clientv1.RemoveAppClient{AppId: other.app.Bytes(), ClientId: client}}})
	refused(t, err, "not_found")

	// Whoever may share one folder of an application of two makes no client of
	// it: that would open the other folder to him.
	another := sc.o.Folder(t)
	sharer := sc.member(t, trust.Share)
	ok(t, second(sharer.write(sc.putAppClient(random(64)))))
	sc.o.Grant(t, another, sc.app, trust.Read)
	sc.admin.catchUp()
	_, err = sharer.write(sc.putAppClient(random(64)))
	refused(t, err, "not_allowed")

	state := func() (string, []string) {
		t.Helper()
		r, err := sc.admin.ListApps(t.Context(), connect.NewRequest(&clientv1.ListAppsRequest{}))
		if err != nil || len(r.Msg.Apps) != 1 {
			t.Fatalf("apps: %v, %v", r, err)
		}
		folders := []string{}
		for _, f := range r.Msg.Apps[0].FolderUids {
			folders = append(folders, string(f))
		}
		for _, c := range r.Msg.Apps[0].Clients {
			if string(c.ClientId) == string(client) {
				return c.State, folders
			}
		}
		return "", folders
	}
	if got, _ := state(); got != "waiting" {
		t.Errorf("new client: %s", got)
	}
	share := &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppFolder{PutAppFolder: &clientv1.PutAppFolder{
		AppId: sc.app.Bytes(), FolderUid: sc.folder.Bytes(), KeyVersion: 1, Wrapped: random(60),
	}}}
	sc.admin.must(sc.admin.write(share))
	if _, folders := state(); !slices.Equal(folders, []string{string(sc.folder[:])}) {
		t.Errorf("folders: %x", folders)
	}
	sc.admin.must(sc.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_RemoveAppClient{RemoveAppClient: &clientv1.RemoveAppClient{AppId: sc.app.Bytes(), ClientId: client}}}))
	if got, _ := state(); got != "revoked" {
		t.Errorf("removed client: %s", got)
	}
	sc.o.Grant(t, sc.folder, sc.app, 0)
	sc.admin.catchUp()
	if _, folders := state(); len(folders) != 0 {
		t.Errorf("folders after the grant was withdrawn: %x", folders)
	}
	_, err = sc.admin.write(share)
	refused(t, err, "not_allowed")
}

func TestAbandonByDevice(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	s.stage(1, sc.account, "agent")
	st := sc.admin.get(sc.account).Staged
	abandon := func(by *client) error {
		_, err := by.write(putResult(sc.account, edit(t, sc.o, by.party, sc.account, st.Data, 2, func(r *trustv1.Result) {
			r.Phase, r.Reason = trustv1.Phase_PHASE_ABANDONED, "candidate_unattested"
		})))
		return err
	}
	refused(t, abandon(sc.member(t, without(trust.Operate))), "not_allowed")
	refused(t, abandon(sc.member(t, without(trust.Edit))), "not_allowed")
	ok(t, abandon(sc.member(t, trust.Read|trust.Edit|trust.Operate)))
	if st := sc.admin.get(sc.account).Staged; st != nil {
		t.Errorf("the candidate is still there: %v", st)
	}
	history, err := sc.admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.account.Proto()}))
	if err != nil || len(history.Msg.History) != 1 || history.Msg.History[0].Why != "abandoned" {
		t.Fatalf("history: %v, %v", history, err)
	}
	equal(t, "the candidate in the history", history.Msg.History[0].Data, st.Data)
}
