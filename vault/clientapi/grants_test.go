package clientapi_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// scene is one organisation with something of everything in one folder.
type scene struct {
	*server
	o                 *orgtest.Org
	admin             *client
	folder, pool, app seal.ID
	agent             *orgtest.Party
	account, resource trust.Ref
}

func newScene(t *testing.T, s *server) *scene {
	t.Helper()
	o := orgtest.New(t, time.Now)
	sc := &scene{server: s, o: o, folder: o.Folder(t), pool: o.Pool(t, "pool"), app: o.App(t, "app")}
	sc.agent = o.Agent(t, "agent", sc.pool)
	o.Grant(t, sc.folder, sc.pool, trust.Read)
	o.Grant(t, sc.folder, sc.app, trust.Read)
	sc.admin = s.found(o)
	var account, resource *clientv1.WriteOp
	sc.account, account = newRecord(sc.folder, "pamUser")
	sc.resource, resource = newRecord(sc.folder, "pamMachine")
	sc.admin.must(sc.admin.write(account, resource, sc.putRotation(), sc.putApp()))
	return sc
}

func (sc *scene) putRotation() *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutRotation{PutRotation: &clientv1.PutRotation{
		Account: sc.account.Proto(), Resource: sc.resource.Proto(), PoolId: sc.pool.Bytes(),
		Schedule: &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 86400}},
	}}}
}

func (sc *scene) putApp() *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutApp{PutApp: &clientv1.PutApp{AppId: sc.app.Bytes(), AppData: random(50), OwnerPub: sc.agent.Device}}}
}

func (sc *scene) putAppClient(id []byte) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppClient{PutAppClient: &clientv1.PutAppClient{
		AppId: sc.app.Bytes(), ClientId: id, Name: "ci", EncryptedAppKey: random(60), TokenExpires: time.Now().Add(time.Hour).UnixMilli(),
	}}}
}

func (sc *scene) startRun(by *orgtest.Party, run seal.ID) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_StartRun{StartRun: &clientv1.StartRun{
		RunId: run.Bytes(), Account: sc.account.Proto(), Resource: sc.resource.Proto(), PoolId: sc.pool.Bytes(), Action: "rotate",
		Command: frame(by.ID, sc.agent.ID, run),
	}}}
}

func sendCommand(from, to seal.ID) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_SendCommand{SendCommand: &clientv1.SendCommand{Command: frame(from, to, seal.ID{})}}}
}

// member is a device with roles in the scene's folder and nowhere else.
func (sc *scene) member(t *testing.T, roles trust.Roles) *client {
	t.Helper()
	p := sc.o.Member(t, "member", 0)
	if roles != 0 {
		sc.o.Grant(t, sc.folder, p.Owner, roles)
	}
	sc.admin.catchUp()
	return sc.signIn(sc.o, p)
}

const folderRoles = trust.Read | trust.Edit | trust.Operate | trust.Share | trust.ApproveScript

func without(r trust.Roles) trust.Roles {
	if r == trust.Read {
		r |= trust.Share // which includes it
	}
	return folderRoles &^ r
}

// TestGrants holds every op and list against the role that it needs: whoever has
// all others is refused, whoever has that one is not.
func TestGrants(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	reader := sc.o.Member(t, "reader", trust.Read)
	sc.admin.catchUp()
	newRun := func(t *testing.T) seal.ID {
		run := seal.NewID()
		sc.admin.must(sc.admin.write(sc.startRun(sc.o.Admin, run)))
		return run
	}
	newClient := func(t *testing.T) []byte {
		id := random(64)
		sc.admin.must(sc.admin.write(sc.putAppClient(id)))
		return id
	}
	made := func(t *testing.T) trust.Ref {
		ref, create := newRecord(sc.folder, "login")
		sc.admin.must(sc.admin.write(create))
		return ref
	}
	for _, test := range []struct {
		name  string
		needs trust.Roles
		op    func(t *testing.T, c *client) *clientv1.WriteOp
	}{
		{"PutFolder", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutFolder{PutFolder: &clientv1.PutFolder{FolderUid: sc.folder.Bytes(), Data: random(32)}}}
		}},
		{"PutFolderKey", trust.Share, func(t *testing.T, c *client) *clientv1.WriteOp { return putFolderKey(sc.folder, 1, reader.ID) }},
		{"PutRecord, new", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp { _, op := newRecord(sc.folder, "login"); return op }},
		{"PutRecord, old", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp { return replaceRecord(made(t), 1, random(9)) }},
		{"DeleteRecord", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp { return deleteRecord(made(t), 1) }},
		{"PutStatement", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp {
			return putStatement(made(t), 1, random(32), nil)
		}},
		{"PutResult, edited", trust.Edit, func(t *testing.T, c *client) *clientv1.WriteOp {
			ref, create := newRecord(sc.folder, "pamUser")
			sc.admin.must(sc.admin.write(create))
			return putResult(ref, edit(t, sc.o, c.party, ref, create.GetPutRecord().Data, 1, nil))
		}},
		{"PutRotation", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp { return sc.putRotation() }},
		{"PauseRotation", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_PauseRotation{PauseRotation: &clientv1.PauseRotation{Account: sc.account.Proto(), Paused: true}}}
		}},
		{"DeleteRotation", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp {
			sc.admin.must(sc.admin.write(sc.putRotation()))
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_DeleteRotation{DeleteRotation: &clientv1.DeleteRotation{Account: sc.account.Proto()}}}
		}},
		{"StartRun", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp { return sc.startRun(c.party, seal.NewID()) }},
		{"SendCommand", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp { return sendCommand(c.party.ID, sc.agent.ID) }},
		{"DropRun", trust.Operate, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_DropRun{DropRun: &clientv1.DropRun{RunId: newRun(t).Bytes()}}}
		}},
		{"PutAppFolder", trust.Share, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppFolder{PutAppFolder: &clientv1.PutAppFolder{
				AppId: sc.app.Bytes(), FolderUid: sc.folder.Bytes(), KeyVersion: 1, Wrapped: random(60),
			}}}
		}},
		{"PutAppKey", trust.Share, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppKey{PutAppKey: &clientv1.PutAppKey{
				AppId: sc.app.Bytes(), RecipientId: sc.o.Admin.ID.Bytes(), Sealed: random(seal.SealOverhead + 32),
			}}}
		}},
		{"PutAppClient", trust.Share, func(t *testing.T, c *client) *clientv1.WriteOp { return sc.putAppClient(random(64)) }},
		{"RemoveAppClient", trust.Share, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_RemoveAppClient{RemoveAppClient: &clientv1.RemoveAppClient{AppId: sc.app.Bytes(), ClientId: newClient(t)}}}
		}},
		{"NoteEvent", trust.Read, func(t *testing.T, c *client) *clientv1.WriteOp {
			return &clientv1.WriteOp{Op: &clientv1.WriteOp_NoteEvent{NoteEvent: &clientv1.NoteEvent{Name: "record.revealed", Record: sc.account.Proto()}}}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lacks, has := sc.member(t, without(test.needs)), sc.member(t, test.needs|trust.Read)
			_, err := lacks.write(test.op(t, lacks))
			refused(t, err, "not_allowed")
			_, err = has.write(test.op(t, has))
			ok(t, err)
		})
	}

	t.Run("PutApp", func(t *testing.T) {
		_, err := sc.member(t, folderRoles).write(sc.putApp())
		refused(t, err, "not_allowed")
		ok(t, second(sc.admin.write(sc.putApp())))
	})
	t.Run("PutFolderKey to who may not read", func(t *testing.T) {
		outsider := sc.member(t, trust.Edit)
		_, err := sc.admin.write(putFolderKey(sc.folder, 1, outsider.party.ID))
		refused(t, err, "not_allowed")
		_, err = outsider.write(putFolderKey(sc.folder, 1, outsider.party.ID))
		refused(t, err, "not_allowed")
	})
	t.Run("a narrowed device", func(t *testing.T) {
		p := sc.o.Member(t, "member", trust.AllRoles)
		e, _ := sc.o.Log.Entry(p.ID)
		narrow := e.Proto()
		narrow.Roles = uint32(trust.Read)
		sc.o.Change(t, trust.PutOp(narrow))
		sc.admin.catchUp()
		_, op := newRecord(sc.folder, "login")
		_, err := sc.signIn(sc.o, p).write(op)
		refused(t, err, "not_allowed")
	})
	t.Run("a withdrawn grant counts at once", func(t *testing.T) {
		c := sc.member(t, trust.Read|trust.Edit)
		_, op := newRecord(sc.folder, "login")
		ok(t, second(c.write(op)))
		sc.o.Grant(t, sc.folder, c.party.Owner, 0)
		sc.admin.catchUp()
		_, op = newRecord(sc.folder, "login")
		_, err := c.write(op)
		refused(t, err, "not_allowed")
	})
}

func second[T any](_ T, err error) error { return err }

// sees counts what every list shows of one scene to a caller.
func (sc *scene) sees(t *testing.T, c *client, run seal.ID) map[string]int {
	t.Helper()
	ctx, n := t.Context(), map[string]int{}
	folders, err := c.ListFolders(ctx, connect.NewRequest(&clientv1.ListFoldersRequest{}))
	ok(t, err)
	for _, f := range folders.Msg.Folders {
		if string(f.FolderUid) == string(sc.folder[:]) {
			n["folders"]++
		}
	}
	records, err := c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{}))
	ok(t, err)
	for _, r := range records.Msg.Records {
		if string(r.Ref.FolderUid) == string(sc.folder[:]) {
			n["records"]++
		}
	}
	if c.get(sc.account) != nil {
		n["get"]++
	}
	if _, err := c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{FolderUid: sc.folder.Bytes()})); err == nil {
		n["folder's records"]++
	}
	if _, err := c.ListHistory(ctx, connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.account.Proto()})); err == nil {
		n["history"]++
	}
	if _, err := c.ListStatements(ctx, connect.NewRequest(&clientv1.ListStatementsRequest{Ref: sc.account.Proto()})); err == nil {
		n["former statements"]++
	}
	rotations, err := c.ListRotations(ctx, connect.NewRequest(&clientv1.ListRotationsRequest{}))
	ok(t, err)
	n["rotations"] = len(rotations.Msg.Rotations)
	rotations, err = c.ListRotations(ctx, connect.NewRequest(&clientv1.ListRotationsRequest{AccountUid: sc.account.Record.Bytes()}))
	ok(t, err)
	n["rotation"] = len(rotations.Msg.Rotations)
	runs, err := c.ListRuns(ctx, connect.NewRequest(&clientv1.ListRunsRequest{}))
	ok(t, err)
	n["runs"] = len(runs.Msg.Runs)
	runs, err = c.ListRuns(ctx, connect.NewRequest(&clientv1.ListRunsRequest{AccountUid: sc.account.Record.Bytes(), Filter: "unfinished"}))
	ok(t, err)
	n["account's runs"] = len(runs.Msg.Runs)
	if _, err := c.GetRun(ctx, connect.NewRequest(&clientv1.GetRunRequest{RunId: run.Bytes()})); err == nil {
		n["run"]++
	}
	events, err := c.ListEvents(ctx, connect.NewRequest(&clientv1.ListEventsRequest{Names: []string{"record."}, Page: &clientv1.Page{Size: 1000}}))
	ok(t, err)
	for _, e := range events.Msg.Events {
		if string(e.Record.GetRecordUid()) == string(sc.account.Record[:]) {
			n["events"]++
		}
	}
	apps, err := c.ListApps(ctx, connect.NewRequest(&clientv1.ListAppsRequest{}))
	ok(t, err)
	n["apps"] = len(apps.Msg.Apps)
	missing, err := c.ListMissingKeys(ctx, connect.NewRequest(&clientv1.ListMissingKeysRequest{}))
	ok(t, err)
	for _, m := range missing.Msg.Missing {
		if string(m.FolderUid) == string(sc.folder[:]) || string(m.AppId) == string(sc.app[:]) {
			n["missing keys"]++
		}
	}
	for k, v := range n {
		if v == 0 {
			delete(n, k)
		}
	}
	return n
}

func TestWhoSeesWhat(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	run := seal.NewID()
	sc.admin.must(sc.admin.write(sc.startRun(sc.o.Admin, run)))
	reads := []string{"folders", "records", "get", "folder's records", "history", "former statements", "rotations", "rotation", "runs", "account's runs", "run", "events"}
	shares := append([]string{"apps", "missing keys"}, reads...)

	// An administrator of another organisation on the same server sees nothing,
	// though he may read everything in his own.
	other := newScene(t, s)
	for _, test := range []struct {
		name string
		c    *client
		want []string
	}{
		{"administrator", sc.admin, shares},
		{"reader", sc.member(t, trust.Read), reads},
		{"sharer", sc.member(t, trust.Share), shares},
		{"all but read", sc.member(t, without(trust.Read)), nil},
		{"no grant", sc.member(t, 0), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := sc.sees(t, test.c, run)
			for _, what := range test.want {
				if got[what] == 0 {
					t.Errorf("does not see %s", what)
				}
				delete(got, what)
			}
			if len(got) != 0 {
				t.Errorf("sees %v", got)
			}
		})
	}
	t.Run("another organisation's administrator", func(t *testing.T) {
		got := sc.sees(t, other.admin, run)
		// His own rows stand in the lists that are not of one folder.
		for what, own := range map[string]int{"rotations": 1, "apps": 1} {
			if got[what] != own {
				t.Errorf("%s: %d, want his own %d", what, got[what], own)
			}
			delete(got, what)
		}
		if len(got) != 0 {
			t.Errorf("sees %v", got)
		}
		_, err := other.admin.write(replaceRecord(sc.account, 1, random(9)))
		refused(t, err, "not_found")
		_, err = other.admin.write(sendCommand(other.o.Admin.ID, sc.agent.ID))
		refused(t, err, "agent_unknown")
		_, err = other.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_DropRun{DropRun: &clientv1.DropRun{RunId: run.Bytes()}}})
		refused(t, err, "not_found")
		keys, err := other.admin.GetKeys(t.Context(), connect.NewRequest(&clientv1.GetKeysRequest{EntryIds: [][]byte{sc.o.Admin.ID.Bytes()}}))
		if err != nil || len(keys.Msg.Keys) != 0 {
			t.Errorf("keys: %v, %v", keys, err)
		}
		agents, err := other.admin.ListAgents(t.Context(), connect.NewRequest(&clientv1.ListAgentsRequest{}))
		if err != nil || len(agents.Msg.Agents) != 1 || string(agents.Msg.Agents[0].AgentId) != string(other.agent.ID[:]) {
			t.Errorf("agents: %v, %v", agents, err)
		}
		_, err = other.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppClient{PutAppClient: &clientv1.PutAppClient{AppId: sc.app.Bytes(), ClientId: random(64), Name: "x"}}})
		refused(t, err, "not_found")
	})
}
