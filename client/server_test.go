package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// vault is a server in memory, with an agent that answers at once: it keeps what a client
// writes and shows it again, and checks nothing. What it shows passes through twist.
type vault struct {
	clientv1connect.VaultServiceClient // what is not here is not called

	log       *trust.Log
	changes   [][]byte
	public    map[seal.ID][]byte
	folders   map[seal.ID]*clientv1.FolderView // as the client sees them
	records   []*clientv1.RecordView
	history   []*clientv1.HistoryView // all of one account
	former    map[Ref][]*clientv1.StatementView
	rotations []*clientv1.RotationView
	apps      map[seal.ID]*clientv1.AppView
	runs      map[seal.ID]*clientv1.GetRunResponse
	replies   map[seal.ID]*clientv1.GetReplyResponse

	me, agent, pool seal.ID
	agentKeys       enrol.Keys

	noted []string // events that a client told of: name and reason

	asked    int    // times that the agent was asked to give a candidate up
	unproven string // why the agent leaves a candidate that it is asked to give up; empty: it does not say
	again    bool   // and tries again in a while

	calls int // that are still answered; 0: no bound
	twist func(proto.Message)
}

// clone is a vault of its own that begins as this one is.
func (v *vault) clone() *vault {
	out := *v
	out.log, out.changes, out.records = v.log.Clone(), slices.Clone(v.changes), slices.Clone(v.records)
	out.public, out.folders, out.apps = maps.Clone(v.public), maps.Clone(v.folders), maps.Clone(v.apps)
	out.former, out.runs, out.replies = maps.Clone(v.former), maps.Clone(v.runs), maps.Clone(v.replies)
	out.rotations, out.history = slices.Clone(v.rotations), slices.Clone(v.history)
	return &out
}

var errEnoughCalls = connect.NewError(connect.CodeInvalidArgument, errors.New("that is enough"))

// shown is a message as it comes over the wire.
func shown[A any, M interface {
	*A
	proto.Message
}](v *vault, honest M) (*connect.Response[A], error) {
	if v.calls--; v.calls == 0 {
		v.calls = 1
		return nil, errEnoughCalls
	}
	m := proto.CloneOf(honest)
	if v.twist != nil {
		v.twist(m)
	}
	b, err := proto.Marshal(m)
	out := M(new(A))
	if err == nil {
		err = proto.Unmarshal(b, out)
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return connect.NewResponse((*A)(out)), nil
}

func (v *vault) GetLog(_ context.Context, q *connect.Request[clientv1.GetLogRequest]) (*connect.Response[clientv1.GetLogResponse], error) {
	h := v.log.Head()
	return shown(v, &clientv1.GetLogResponse{
		Changes: v.changes[min(q.Msg.FromEpoch, uint64(len(v.changes))):], HeadEpoch: h.Epoch, HeadDigest: h.Digest.Bytes(),
	})
}

func (v *vault) GetKeys(_ context.Context, q *connect.Request[clientv1.GetKeysRequest]) (*connect.Response[clientv1.GetKeysResponse], error) {
	a := &clientv1.GetKeysResponse{}
	for _, id := range q.Msg.EntryIds {
		a.Keys = append(a.Keys, &clientv1.EntryKeys{EntryId: id, Keys: v.public[seal.ID(id)]})
	}
	return shown(v, a)
}

func (v *vault) TakeTurn(context.Context, *connect.Request[clientv1.TakeTurnRequest]) (*connect.Response[clientv1.TakeTurnResponse], error) {
	h := v.log.Head()
	return shown(v, &clientv1.TakeTurnResponse{Turn: []byte("turn"), HeadEpoch: h.Epoch, HeadDigest: h.Digest.Bytes()})
}

func (v *vault) ListFolders(context.Context, *connect.Request[clientv1.ListFoldersRequest]) (*connect.Response[clientv1.ListFoldersResponse], error) {
	return shown(v, &clientv1.ListFoldersResponse{Folders: slices.Collect(maps.Values(v.folders))})
}

func (v *vault) ListWrapped(_ context.Context, q *connect.Request[clientv1.ListWrappedRequest]) (*connect.Response[clientv1.ListWrappedResponse], error) {
	a := &clientv1.ListWrappedResponse{Folders: []*clientv1.Wrapped{{Uid: seal.NewID().Bytes(), Wrapped: []byte("garbage")}}}
	for _, r := range v.records {
		if bytes.Equal(r.Ref.FolderUid, q.Msg.FolderUid) {
			a.Records = append(a.Records, &clientv1.Wrapped{Uid: r.Ref.RecordUid, Wrapped: r.RecordKey})
		}
	}
	return shown(v, a)
}

func (v *vault) ListOldKeys(_ context.Context, q *connect.Request[clientv1.ListOldKeysRequest]) (*connect.Response[clientv1.ListOldKeysResponse], error) {
	a := &clientv1.ListOldKeysResponse{}
	for _, r := range v.records {
		if bytes.Equal(r.Ref.FolderUid, q.Msg.FolderUid) {
			a.Records = append(a.Records, &clientv1.OldKey{
				Record: r, Files: []*clientv1.FileKey{{FileUid: seal.NewID().Bytes(), FileKey: r.RecordKey}}, Former: []*clientv1.FormerKey{{Former: r.RecordKey}},
			})
		}
	}
	return shown(v, a)
}

func (v *vault) ListMissingKeys(context.Context, *connect.Request[clientv1.ListMissingKeysRequest]) (*connect.Response[clientv1.ListMissingKeysResponse], error) {
	a := &clientv1.ListMissingKeysResponse{}
	for uid, f := range v.folders {
		a.Missing = append(a.Missing, &clientv1.MissingKey{FolderUid: uid.Bytes(), KeyVersion: f.KeyVersion, RecipientId: v.agent.Bytes()})
	}
	for app := range v.apps {
		a.Missing = append(a.Missing, &clientv1.MissingKey{AppId: app.Bytes(), RecipientId: v.me.Bytes()})
	}
	return shown(v, a)
}

func (v *vault) ListRecords(_ context.Context, q *connect.Request[clientv1.ListRecordsRequest]) (*connect.Response[clientv1.ListRecordsResponse], error) {
	a := &clientv1.ListRecordsResponse{}
	for _, r := range v.records {
		if len(q.Msg.Kinds) == 0 || slices.Contains(q.Msg.Kinds, r.Kind) {
			a.Records = append(a.Records, r)
		}
	}
	return shown(v, a)
}

func (v *vault) GetRecords(_ context.Context, q *connect.Request[clientv1.GetRecordsRequest]) (*connect.Response[clientv1.GetRecordsResponse], error) {
	a := &clientv1.GetRecordsResponse{}
	for _, r := range v.records {
		if slices.ContainsFunc(q.Msg.Refs, func(ref *trustv1.Ref) bool { return proto.Equal(ref, r.Ref) }) {
			a.Records = append(a.Records, r)
		}
	}
	return shown(v, a)
}

func (v *vault) ListHistory(context.Context, *connect.Request[clientv1.ListHistoryRequest]) (*connect.Response[clientv1.ListHistoryResponse], error) {
	return shown(v, &clientv1.ListHistoryResponse{History: v.history})
}

func (v *vault) ListStatements(_ context.Context, q *connect.Request[clientv1.ListStatementsRequest]) (*connect.Response[clientv1.ListStatementsResponse], error) {
	ref, _ := refFrom(q.Msg.Ref)
	return shown(v, &clientv1.ListStatementsResponse{Statements: v.former[ref]})
}

func (v *vault) GetFormerStatements(_ context.Context, q *connect.Request[clientv1.GetFormerStatementsRequest]) (*connect.Response[clientv1.GetFormerStatementsResponse], error) {
	a := &clientv1.GetFormerStatementsResponse{}
	for _, p := range q.Msg.Refs {
		ref, _ := refFrom(p)
		if list := v.former[ref]; len(list) > 0 {
			a.Statements = append(a.Statements, &clientv1.FormerStatement{Ref: p, Statement: list[0]})
		}
	}
	return shown(v, a)
}

func (v *vault) ListRotations(context.Context, *connect.Request[clientv1.ListRotationsRequest]) (*connect.Response[clientv1.ListRotationsResponse], error) {
	return shown(v, &clientv1.ListRotationsResponse{Rotations: v.rotations})
}

func (v *vault) ListRuns(context.Context, *connect.Request[clientv1.ListRunsRequest]) (*connect.Response[clientv1.ListRunsResponse], error) {
	a := &clientv1.ListRunsResponse{}
	for _, r := range v.runs {
		a.Runs = append(a.Runs, r.Run)
	}
	return shown(v, a)
}

func (v *vault) GetRun(_ context.Context, q *connect.Request[clientv1.GetRunRequest]) (*connect.Response[clientv1.GetRunResponse], error) {
	id := idOr(q.Msg.RunId)
	if v.runs[id] == nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no such run"))
	}
	return shown(v, v.runs[id])
}

func (v *vault) GetReply(_ context.Context, q *connect.Request[clientv1.GetReplyRequest]) (*connect.Response[clientv1.GetReplyResponse], error) {
	if r := v.replies[idOr(q.Msg.CommandId)]; r != nil {
		return shown(v, r)
	}
	return shown(v, &clientv1.GetReplyResponse{})
}

func (v *vault) ListAgents(context.Context, *connect.Request[clientv1.ListAgentsRequest]) (*connect.Response[clientv1.ListAgentsResponse], error) {
	return shown(v, &clientv1.ListAgentsResponse{Agents: []*clientv1.AgentView{{
		AgentId: v.agent.Bytes(), Connected: true, Seen: time.Now().UnixMilli(), Version: "1", Os: "linux", Arch: "amd64", LogEpoch: v.log.Head().Epoch,
	}}})
}

func (v *vault) ListApps(context.Context, *connect.Request[clientv1.ListAppsRequest]) (*connect.Response[clientv1.ListAppsResponse], error) {
	return shown(v, &clientv1.ListAppsResponse{Apps: slices.Collect(maps.Values(v.apps))})
}

func (v *vault) ListEvents(context.Context, *connect.Request[clientv1.ListEventsRequest]) (*connect.Response[clientv1.ListEventsResponse], error) {
	return shown(v, &clientv1.ListEventsResponse{Events: []*clientv1.EventView{
		{Seq: 1, Time: time.Now().UnixMilli(), Name: "record.created", Actor: v.me.Bytes(), Record: v.records[0].Ref, RunId: seal.NewID().Bytes(), Fields: `{"kind":"login"}`},
	}})
}

func (v *vault) GetRecovery(context.Context, *connect.Request[clientv1.GetRecoveryRequest]) (*connect.Response[clientv1.GetRecoveryResponse], error) {
	return shown(v, &clientv1.GetRecoveryResponse{Restored: 1, Recovering: true, Reported: []*clientv1.Reported{{EntryId: v.agent.Bytes(), Changes: 3, Time: 1}}})
}

func (v *vault) Watch(context.Context, *connect.Request[clientv1.WatchRequest]) (*connect.ServerStreamForClient[clientv1.WatchResponse], error) {
	return nil, errEnoughCalls
}

// Write keeps what was written. It checks nothing: that is other tests' business.
func (v *vault) Write(_ context.Context, q *connect.Request[clientv1.WriteRequest]) (*connect.Response[clientv1.WriteResponse], error) {
	for _, op := range q.Msg.Ops {
		if err := v.write(op); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	h := v.log.Head()
	a := &clientv1.WriteResponse{HeadEpoch: h.Epoch, HeadDigest: h.Digest.Bytes()}
	for _, r := range v.records {
		a.Revisions = append(a.Revisions, &clientv1.RecordRevision{RecordUid: r.Ref.RecordUid, Revision: r.Revision})
	}
	return shown(v, a)
}

func (v *vault) write(op *clientv1.WriteOp) error {
	switch op := op.Op.(type) {
	case *clientv1.WriteOp_Append:
		done, err := v.log.Append(op.Append, time.Now())
		if err == nil && done.New {
			v.changes = append(v.changes, op.Append)
		}
		return err
	case *clientv1.WriteOp_PutKeys:
		v.public[seal.ID(op.PutKeys.EntryId)] = op.PutKeys.Keys
	case *clientv1.WriteOp_PutFolder:
		p := op.PutFolder
		v.folders[seal.ID(p.FolderUid)] = &clientv1.FolderView{FolderUid: p.FolderUid, Data: p.Data, KeyVersion: 1}
	case *clientv1.WriteOp_RekeyFolder:
		p := op.RekeyFolder
		v.folders[seal.ID(p.FolderUid)] = &clientv1.FolderView{FolderUid: p.FolderUid, Data: p.Data, KeyVersion: p.KeyVersion}
		for _, w := range p.Records {
			v.change(w.Uid, func(r *clientv1.RecordView) { r.RecordKey, r.KeyVersion = w.Wrapped, p.KeyVersion })
		}
	case *clientv1.WriteOp_PutFolderKey:
		p := op.PutFolderKey
		if f := v.folders[seal.ID(p.FolderUid)]; f != nil && bytes.Equal(p.RecipientId, v.me.Bytes()) {
			f = proto.CloneOf(f)
			f.SealedKey = p.Sealed
			v.folders[seal.ID(p.FolderUid)] = f
		}
	case *clientv1.WriteOp_PutRecord:
		p := op.PutRecord
		if p.Revision == 0 {
			v.records = append(v.records, &clientv1.RecordView{Ref: p.Ref, Kind: p.Kind, RecordKey: p.RecordKey, KeyVersion: p.KeyVersion, Data: p.Data, Revision: 1, Updated: 1, Links: p.Links})
			break
		}
		v.change(p.Ref.RecordUid, func(r *clientv1.RecordView) {
			v.history = append(v.history, &clientv1.HistoryView{Revision: r.Revision, RecordKey: r.RecordKey, KeyVersion: r.KeyVersion, Data: r.Data, Why: "replaced", Time: 1, Result: r.Attestation.GetSigned()})
			r.Data, r.Revision = p.Data, r.Revision+1
		})
	case *clientv1.WriteOp_RekeyRecord:
		p := op.RekeyRecord
		v.change(p.Ref.RecordUid, func(r *clientv1.RecordView) {
			r.RecordKey, r.KeyVersion, r.Data, r.Revision = p.RecordKey, p.KeyVersion, p.Data, r.Revision+1
		})
	case *clientv1.WriteOp_PutStatement:
		p := op.PutStatement
		v.change(p.Ref.RecordUid, func(r *clientv1.RecordView) {
			if r.Statement != nil {
				ref, _ := refFrom(p.Ref)
				v.former[ref] = append([]*clientv1.StatementView{r.Statement}, v.former[ref]...)
			}
			r.Statement = &clientv1.StatementView{Seq: p.Seq, Digest: p.Digest, Blob: p.Blob}
		})
	case *clientv1.WriteOp_PutResult:
		p := op.PutResult
		result, err := trust.OpenResult(v.log, p.Signed)
		if err != nil {
			return err
		}
		v.change(p.Account.RecordUid, func(r *clientv1.RecordView) {
			r.Last = &clientv1.ResultView{Signed: p.Signed}
			if result.Phase == trustv1.Phase_PHASE_ABANDONED {
				r.Staged = nil
				return
			}
			r.Attestation = r.Last
		})
	case *clientv1.WriteOp_PutRotation:
		v.rotations = []*clientv1.RotationView{{Rotation: op.PutRotation, Next: time.Now().Add(time.Hour).UnixMilli(), Last: 1, State: "scheduled"}}
	case *clientv1.WriteOp_PutApp:
		p := op.PutApp
		v.apps[seal.ID(p.AppId)] = &clientv1.AppView{AppId: p.AppId, AppData: p.AppData, OwnerPub: p.OwnerPub, HolderIds: [][]byte{v.me.Bytes(), v.agent.Bytes()}}
	case *clientv1.WriteOp_PutAppKey:
		if a := v.apps[seal.ID(op.PutAppKey.AppId)]; a != nil && bytes.Equal(op.PutAppKey.RecipientId, v.me.Bytes()) {
			a = proto.CloneOf(a)
			a.SealedKey = op.PutAppKey.Sealed
			v.apps[seal.ID(a.AppId)] = a
		}
	case *clientv1.WriteOp_NoteEvent:
		v.noted = append(v.noted, op.NoteEvent.Name+" "+op.NoteEvent.Reason)
	case *clientv1.WriteOp_SendCommand:
		return v.replied(op.SendCommand.Command)
	case *clientv1.WriteOp_StartRun:
		return v.ran(op.StartRun)
	}
	return nil
}

// change changes a record; what other vaults have of it stays.
func (v *vault) change(uid []byte, f func(*clientv1.RecordView)) {
	for i, r := range v.records {
		if bytes.Equal(r.Ref.RecordUid, uid) {
			v.records[i] = proto.CloneOf(r)
			f(v.records[i])
		}
	}
}

// replied is the agent that answers a command.
func (v *vault) replied(frame *trustv1.CommandFrame) error {
	c, err := trust.OpenCommand(v.log, forgetful{}, v.agent, v.agentKeys.Seal, frame, time.Now())
	if err != nil {
		return err
	}
	if c.Action == trustv1.Action_ACTION_CANCEL {
		v.asked++
	}
	if c.Action == trustv1.Action_ACTION_CANCEL && v.unproven != "" {
		return v.left(c)
	}
	sealed, err := trust.SealReply(v.log, v.agent, c.Signer.ID, v.public[c.Signer.ID], c.ID, &trustv1.Detail{
		Text: "text", Info: &trustv1.InfoReply{Version: "1", Os: "linux"}, Plugins: []*trustv1.PluginReply{{Name: "ssh", Sha256: make([]byte, 32)}},
		Probe: &trustv1.ProbeReply{
			Address: "db:22", TlsSpkiSha256: [][]byte{make([]byte, 32)}, SshHostKeySha256: [][]byte{make([]byte, 32)}, SshHostKeyType: []string{"ssh-ed25519"},
			FirstSshHostKeySha256: make([]byte, 32),
		},
	})
	if err != nil {
		return err
	}
	signed, err := v.result(&trustv1.Result{Phase: trustv1.Phase_PHASE_REPLIED, Cause: c.Digest.Bytes(), Credential: trustv1.Outcome_OUTCOME_DONE, DetailDigest: seal.Hash(sealed).Bytes()})
	v.replies[c.ID] = &clientv1.GetReplyResponse{Delivered: true, Signed: signed, SealedDetail: sealed}
	return err
}

// left is the agent that was asked to give a candidate up, and could not judge it.
func (v *vault) left(c *trust.Command) error {
	signed, err := v.result(&trustv1.Result{
		Phase: trustv1.Phase_PHASE_FINISHED, Cause: c.Digest.Bytes(), RunId: c.RunId, Account: c.Account.Proto(), Credential: trustv1.Outcome_OUTCOME_PENDING,
		Dependents: trustv1.Outcome_OUTCOME_NONE, Scripts: trustv1.Outcome_OUTCOME_NONE, Class: string(sdk.ClassConflict), Reason: v.unproven,
	})
	run := proto.CloneOf(v.runs[seal.ID(c.RunId)])
	run.Results = append(run.Results, &clientv1.ResultView{Signed: signed})
	if !v.again {
		run.Run.State = "alert"
	}
	v.runs[seal.ID(c.RunId)] = run
	return err
}

// ran is the agent that has done a run at once, and changed nothing.
func (v *vault) ran(s *clientv1.StartRun) error {
	c, err := trust.OpenCommand(v.log, forgetful{}, v.agent, v.agentKeys.Seal, s.Command, time.Now())
	if err != nil {
		return err
	}
	signed, err := v.result(&trustv1.Result{
		Phase: trustv1.Phase_PHASE_FINISHED, Cause: c.Digest.Bytes(), RunId: s.RunId, Account: s.Account, Credential: trustv1.Outcome_OUTCOME_DONE,
		Dependents: trustv1.Outcome_OUTCOME_NONE, Scripts: trustv1.Outcome_OUTCOME_NONE,
	})
	v.runs[seal.ID(s.RunId)] = &clientv1.GetRunResponse{
		Run:     &clientv1.RunView{RunId: s.RunId, Account: s.Account, Resource: s.Resource, PoolId: s.PoolId, AgentId: v.agent.Bytes(), Action: s.Action, Cause: "person", State: "finished", Created: 1},
		Results: []*clientv1.ResultView{{Signed: signed}},
	}
	return err
}

// result is the agent's signature under a result.
func (v *vault) result(r *trustv1.Result) ([]byte, error) {
	r.By, r.Time = v.agent.Bytes(), time.Now().UnixMilli()
	signed, _, err := trust.SignResult(v.log, v.agentKeys.Sign, r)
	return signed, err
}

// forgetful is the memory of an agent that has seen nothing.
type forgetful struct{ trust.AgentMemory }

func (forgetful) CommandKnown(seal.ID) (bool, error) { return false, nil }
func (forgetful) GreatestTime() (time.Time, error)   { return time.Time{}, nil }
func (forgetful) ReplayFloor() (time.Time, error)    { return time.Time{}, nil }

// estate is an organisation on a vault: a folder with a resource, its administrator, an
// account with a history, a schedule, a candidate and a run, a login, an application, and
// a member of whom part of it was signed.
type estate struct {
	t     testing.TB
	vault *vault
	keys  enrol.Keys // of the device
	facts facts

	phone     seal.ID // Bob's device
	phoneKeys enrol.Keys

	folder, app, bob, run    seal.ID
	resource, account, login Ref
	script                   Ref // that runs after the resource's rotations
}

func (e *estate) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// client is the device's client of a vault, with a memory of its own.
func (e *estate) client(v *vault, memoryFile string) *Client {
	c := &Client{
		facts: e.facts, keys: enrol.Keys{Sign: slices.Clone(e.keys.Sign), Seal: e.keys.Seal}, now: time.Now, memory: memory{memoryFile},
		log: trust.NewLog(e.facts.OrgID), conn: &enrol.Conn{VaultServiceClient: v},
	}
	c.sign.ends, c.sync.chores = time.Now().Add(24*time.Hour), true
	return c
}

var estateScript = luaText("notify", "1", "after_rotation")

func newEstate(t testing.TB) *estate {
	e := &estate{t: t, bob: seal.NewID()}
	ctx, now := t.Context(), time.Now()
	party := func(kind trustv1.EntryKind, name string) (enrol.Keys, *trustv1.Entry) {
		keys, err := enrol.MakeKeys(kind)
		e.must(err)
		public, err := keys.Public()
		e.must(err)
		entry := &trustv1.Entry{
			EntryId: seal.NewID().Bytes(), Kind: kind, Name: name, V: trust.Version, SignPub: keys.SignPub(), KeysDigest: seal.Hash(public).Bytes(),
		}
		if kind == KindDevice {
			entry.NotAfter, entry.Roles = now.Add(300*24*time.Hour).UnixMilli(), uint32(trust.AllRoles)
		}
		return keys, entry
	}
	_, root, err := ed25519.GenerateKey(nil)
	e.must(err)
	recovery, err := seal.GenerateSealKey()
	e.must(err)
	keys, laptop := party(KindDevice, "laptop")
	e.keys = keys
	org, changes, err := trust.NewOrganisation(trust.Founding{
		Root: root, RecoveryID: seal.NewID(), RecoveryKeys: trust.EncodeKeys(recovery.Public(), nil), MemberID: seal.NewID(), MemberName: "Ada", Device: laptop,
	}, now)
	e.must(err)
	v := &vault{
		log: trust.NewLog(org), public: map[seal.ID][]byte{}, folders: map[seal.ID]*clientv1.FolderView{}, former: map[Ref][]*clientv1.StatementView{},
		apps: map[seal.ID]*clientv1.AppView{}, runs: map[seal.ID]*clientv1.GetRunResponse{}, replies: map[seal.ID]*clientv1.GetReplyResponse{},
		me: seal.ID(laptop.EntryId), pool: seal.NewID(),
	}
	e.vault, e.facts = v, facts{V: 1, Server: "localhost:1", OrgID: org, Entry: v.me}
	for _, signed := range changes {
		e.must(v.write(appendOp(signed)))
	}
	agentKeys, agent := party(KindAgent, "gw1")
	agent.OwnerId, v.agent, v.agentKeys = v.pool.Bytes(), seal.ID(agent.EntryId), agentKeys
	phoneKeys, phone := party(KindDevice, "phone")
	phone.OwnerId = e.bob.Bytes()
	e.phone, e.phoneKeys = seal.ID(phone.EntryId), phoneKeys
	for id, k := range map[seal.ID]enrol.Keys{v.me: keys, v.agent: agentKeys, seal.ID(phone.EntryId): phoneKeys} {
		v.public[id], err = k.Public()
		e.must(err)
	}
	c := e.client(v, filepath.Join(t.TempDir(), "memory"))
	folder, err := c.AddFolder(ctx, "Databases")
	e.must(err)
	e.folder = folder.UID
	_, err = c.change(ctx, changeSpec{op: "set up", ops: func(*trust.Log) ([]*trustv1.Op, error) {
		return []*trustv1.Op{
			putPool(v.pool, "dc1"), trust.PutOp(agent), trust.GrantOp(e.folder, v.pool, Read),
			trust.PutOp(&trustv1.Entry{EntryId: e.bob.Bytes(), Kind: KindMember, Name: "Bob", V: trust.Version}), trust.PutOp(phone),
			trust.GrantOp(e.folder, e.bob, Read|Edit|Operate|Share),
		}, nil
	}})
	e.must(err)
	e.resource, err = c.AddResource(ctx, ResourceSpec{Folder: e.folder, Type: TypeDatabase, Title: "db1", Pool: v.pool, Plugin: "postgres", Host: "db1", Port: 5432, TLS: &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_SYSTEM}})
	e.must(err)
	admin, err := c.AddAccount(ctx, AccountSpec{Folder: e.folder, Title: "db1-admin", Resource: e.resource, Login: "postgres", Secret: sdk.NewSecret([]byte("admin's"))})
	e.must(err)
	e.must(c.EditResource(ctx, e.resource, func(r *trustv1.Resource) error { r.AdminAccount = admin.Proto(); return nil }))
	e.script, err = c.AddScript(ctx, ScriptSpec{Folder: e.folder, Text: estateScript})
	e.must(err)
	e.must(c.UseScript(ctx, e.resource, ScriptUseSpec{Script: e.script, SHA256: seal.Hash(estateScript)}))
	e.login, err = c.AddLogin(ctx, LoginSpec{Folder: e.folder, Title: "shop", Login: "ada", Secret: sdk.NewSecret([]byte("shop's"))})
	e.must(err)
	// Of the account Bob has signed everything so far.
	bob := &estate{t: t, keys: phoneKeys, facts: facts{V: 1, Server: "localhost:1", OrgID: org, Entry: seal.ID(phone.EntryId)}}
	b := bob.client(v, filepath.Join(t.TempDir(), "memory"))
	key := c.folders.keys[e.folder].key
	b.folders.put(e.folder, 1, key)
	e.account, err = b.AddAccount(ctx, AccountSpec{Folder: e.folder, Title: "app", Resource: e.resource, Login: "app", Secret: sdk.NewSecret([]byte("first"))})
	e.must(err)
	e.must(c.SetRotation(ctx, RotationSpec{Account: e.account, Schedule: &Schedule{Every: 30 * 24 * time.Hour}}))
	second := sdk.NewSecret([]byte("second"))
	e.must(b.EditRecord(ctx, e.account, RecordEdit{Secret: &second}))
	app, err := c.AddApp(ctx, "terraform")
	e.must(err)
	e.app = app.ID
	_, err = c.AddMember(ctx, MemberSpec{Name: "Eve", Device: "tablet"})
	e.must(err)
	e.editOutside(key)
	e.candidate(key, 3)
	return e
}

// editOutside is what a machine's client does: it writes a value that nobody signs for.
func (e *estate) editOutside(folderKey seal.Key) {
	e.vault.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) {
		key, err := seal.UnwrapKey(folderKey, r.RecordKey)
		e.must(err)
		plain, err := seal.OpenGCM(key, r.Data, nil)
		e.must(err)
		r.Data, r.Revision = trust.SealData(key, plain), r.Revision+1
	})
}

// candidate is a run of the agent's that has staged another secret for the account.
func (e *estate) candidate(folderKey seal.Key, number uint64) {
	v := e.vault
	e.run = seal.NewID()
	v.change(e.account.Record.Bytes(), func(r *clientv1.RecordView) {
		key, err := seal.UnwrapKey(folderKey, r.RecordKey)
		e.must(err)
		plain, err := seal.OpenGCM(key, r.Data, nil)
		e.must(err)
		data := trust.SealData(key, plain)
		signed, err := v.result(&trustv1.Result{
			Phase: trustv1.Phase_PHASE_STAGED, RunId: e.run.Bytes(), Account: r.Ref, ValueSeq: number, DataDigest: seal.Hash(data).Bytes(), LeaseEpoch: 1, Event: 1,
		})
		e.must(err)
		r.Staged = &clientv1.StagedView{Owner: "agent", RunId: e.run.Bytes(), Time: 1, Data: data, Result: signed}
		v.runs[e.run] = &clientv1.GetRunResponse{
			Run:     &clientv1.RunView{RunId: e.run.Bytes(), Account: r.Ref, Resource: e.resource.Proto(), PoolId: v.pool.Bytes(), AgentId: v.agent.Bytes(), Action: "rotate", Cause: "schedule", State: "staged", Created: 1},
			Results: []*clientv1.ResultView{{Signed: signed}},
		}
	})
}
