package client

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// exposure is an account in a folder that Bob read, and a server that serves it with what
// its runs are said to have come to.
type exposure struct {
	clientv1connect.VaultServiceClient // whatever else is asked fails
	*history
	folder            seal.ID
	folderKey, key    seal.Key
	resource, account *clientv1.RecordView
	agent, stranger   ed25519.PrivateKey // of the resource's pool, and of another one
	agentID, otherID  seal.ID
	run               seal.ID
	listed            []seal.ID // as the account's runs
	more              bool      // of them
	results           map[seal.ID][][]byte
}

func newExposure(t *testing.T, kind string) *exposure {
	t.Helper()
	x := &exposure{
		history: newHistory(t), folder: seal.NewID(), folderKey: seal.NewKey(), run: seal.NewID(), agentID: seal.NewID(), otherID: seal.NewID(),
		results: map[seal.ID][][]byte{},
	}
	ada, _ := x.log.Entry(x.admin)
	x.do(trust.NewFolderOps(x.log.Org(), x.folder, ada.Owner, x.folderKey)...)
	other := seal.NewID()
	x.do(trust.PutOp(&trustv1.Entry{EntryId: other.Bytes(), Kind: KindPool, Name: "dc2", V: trust.Version}))
	x.agent, x.stranger = x.enrols(x.agentID, x.pool, "gw2"), x.enrols(x.otherID, other, "gw3")
	x.do(trust.GrantOp(x.folder, x.pool, Read), trust.GrantOp(x.folder, other, Read), trust.GrantOp(x.folder, x.bob, Read))
	resource, account := Ref{Folder: x.folder, Record: seal.NewID()}, Ref{Folder: x.folder, Record: seal.NewID()}
	x.resource = x.record(resource, "pamMachine", &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_RESOURCE, Subject: &trustv1.Statement_Resource{Resource: &trustv1.Resource{
		PoolId: x.pool.Bytes(), Plugin: "ssh", Host: "web", Port: 22,
	}}})
	x.account = x.record(account, TypeAccount, &trustv1.Statement{Kind: trustv1.RecordKind_RECORD_KIND_ACCOUNT, Subject: &trustv1.Statement_Account{Account: &trustv1.Account{
		Resource: resource.Proto(), Login: "app", SecretKind: kind,
	}}})
	return x
}

func (x *exposure) enrols(id, pool seal.ID, name string) ed25519.PrivateKey {
	x.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	x.must(err)
	x.do(trust.PutOp(x.party(id, KindAgent, pool, name, key)))
	return key
}

// record is a record with a secret, its key, and its statement.
func (x *exposure) record(ref Ref, kind string, s *trustv1.Statement) *clientv1.RecordView {
	x.t.Helper()
	x.key = seal.NewKey()
	s.RecordUid, s.FolderUid, s.KeyCheck, s.Seq, s.Issued = ref.Record.Bytes(), ref.Folder.Bytes(), seal.RecordKeyCheck(x.log.Org(), x.key, ref.Record).Bytes(), 1, x.now.UnixMilli()
	signed, digest, err := trust.SignStatement(x.log, x.sign, s)
	x.must(err)
	rec := record.New(kind, ref.Record.String())
	x.must(rec.SetText("password", []byte("correct horse")))
	plain, err := rec.JSON()
	x.must(err)
	return &clientv1.RecordView{
		Ref: ref.Proto(), Kind: kind, RecordKey: trust.SealRecordKey(x.folderKey, x.key), KeyVersion: 1, MadeVersion: 1, Data: trust.SealData(x.key, plain), Revision: 1,
		Statement: &clientv1.StatementView{Seq: 1, Digest: digest.Bytes(), Blob: trust.SealStatement(x.log.Org(), x.key, ref.Record, signed)},
	}
}

func (x *exposure) signs(by seal.ID, key ed25519.PrivateKey, r *trustv1.Result) []byte {
	x.t.Helper()
	r.By, r.Account, r.Time, r.Event = by.Bytes(), x.account.Ref, x.now.UnixMilli(), 1
	signed, _, err := trust.SignResult(x.log, key, r)
	x.must(err)
	return signed
}

// attests has a result be the newest word on the account's value.
func (x *exposure) attests(by seal.ID, key ed25519.PrivateKey, r *trustv1.Result) []byte {
	r.DataDigest = seal.Hash(x.account.Data).Bytes()
	signed := x.signs(by, key, r)
	x.account.Attestation = &clientv1.ResultView{Signed: signed}
	x.account.Last = x.account.Attestation
	return signed
}

// rotated: the run has set the account's secret. What it left is not known yet.
func (x *exposure) rotated() {
	signed := x.attests(x.agentID, x.agent, &trustv1.Result{Phase: trustv1.Phase_PHASE_COMMITTED, RunId: x.run.Bytes(), ValueSeq: 2})
	x.results[x.run], x.listed = [][]byte{signed}, []seal.ID{x.run}
}

// finished is an agent's word that the run has ended; class: with something left to do.
func (x *exposure) finished(by seal.ID, key ed25519.PrivateKey, class string) {
	x.results[x.run] = append(x.results[x.run], x.signs(by, key, &trustv1.Result{Phase: trustv1.Phase_PHASE_FINISHED, RunId: x.run.Bytes(), Class: class}))
}

// edited is a person's word on the value; with same: that the secret is as it was.
func (x *exposure) edited(same *trustv1.SameSecret) {
	x.attests(x.admin, x.sign, &trustv1.Result{Phase: trustv1.Phase_PHASE_EDITED, RunId: seal.NewID().Bytes(), ValueSeq: 3, Same: same})
}

// sameSecret says that the secret is still the one of the present value.
func (x *exposure) sameSecret() *trustv1.SameSecret {
	r, err := trust.OpenResult(x.log, x.account.Attestation.Signed)
	x.must(err)
	set, epoch := r.SetBy()
	return &trustv1.SameSecret{ValueSeq: set, LogEpoch: epoch}
}

func (x *exposure) ListRecords(_ context.Context, q *connect.Request[clientv1.ListRecordsRequest]) (*connect.Response[clientv1.ListRecordsResponse], error) {
	a := &clientv1.ListRecordsResponse{}
	if seal.ID(q.Msg.FolderUid) == x.folder {
		a.Records = []*clientv1.RecordView{x.account}
	}
	return connect.NewResponse(a), nil
}

func (x *exposure) GetRecords(context.Context, *connect.Request[clientv1.GetRecordsRequest]) (*connect.Response[clientv1.GetRecordsResponse], error) {
	return connect.NewResponse(&clientv1.GetRecordsResponse{Records: []*clientv1.RecordView{x.resource}}), nil
}

func (x *exposure) ListRuns(context.Context, *connect.Request[clientv1.ListRunsRequest]) (*connect.Response[clientv1.ListRunsResponse], error) {
	a := &clientv1.ListRunsResponse{}
	for _, id := range x.listed {
		a.Runs = append(a.Runs, &clientv1.RunView{RunId: id.Bytes()})
	}
	if x.more {
		a.Next = "more"
	}
	return connect.NewResponse(a), nil
}

func (x *exposure) GetRun(_ context.Context, q *connect.Request[clientv1.GetRunRequest]) (*connect.Response[clientv1.GetRunResponse], error) {
	results, ok := x.results[seal.ID(q.Msg.RunId)]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, nil)
	}
	v := &clientv1.GetRunResponse{}
	for _, signed := range results {
		v.Results = append(v.Results, &clientv1.ResultView{Signed: signed})
	}
	return connect.NewResponse(v), nil
}

// exposed says whether the administrator's client counts the account among those whose
// secret Bob may know.
func (x *exposure) exposed() bool {
	x.t.Helper()
	r := replay{log: trust.NewLog(x.log.Org())}
	for _, change := range x.changes {
		x.must(r.add(change, x.now))
	}
	c := &Client{
		facts: facts{OrgID: x.log.Org(), Entry: x.admin}, log: x.log, conn: &enrol.Conn{VaultServiceClient: x}, now: func() time.Time { return x.now },
		memory: memory{filepath.Join(x.t.TempDir(), "memory.db")},
	}
	c.sync.at, c.sync.chores, c.sign.ends = time.Now(), true, time.Now().Add(time.Hour)
	state, _ := x.log.Folder(x.folder)
	c.folders.put(x.folder, state.Version, x.folderKey)
	c.folders.put(x.f, 1, seal.NewKey()) // which has no records
	list, unseen, err := c.Exposed(x.t.Context(), c.stillOutside(r.found))
	x.must(err)
	if slices.Contains(unseen, x.folder) || len(list) > 1 {
		x.t.Fatalf("%d accounts are exposed, unseen folders: %v", len(list), unseen)
	}
	return len(list) == 1
}

// rekeys gives the folder its next key; made is that for which the account's own was made.
func (x *exposure) rekeys(version, made uint32) {
	x.do(trust.FolderOp(x.log.Org(), x.folder, version, x.folderKey))
	x.account.KeyVersion, x.account.MadeVersion = version, made
}

// Whose secret somebody who was shut out may know: every one that was set before, and a
// key that was replaced since as long as nobody has signed that the former one has ended.
func TestExposed(t *testing.T) {
	leaves := func(x *exposure) { x.do(trust.RemoveOp(x.bob)) }
	for _, row := range []struct {
		name string
		kind string
		do   func(x *exposure)
		want bool
	}{
		{"nobody was shut out", SecretSSHKey, func(x *exposure) { x.rotated() }, false},
		{"a password set before", SecretPassword, func(x *exposure) { x.rotated(); leaves(x) }, true},
		{"a password set since", SecretPassword, func(x *exposure) { leaves(x); x.rotated() }, false},
		{"a key set before", SecretSSHKey, func(x *exposure) { x.rotated(); x.finished(x.agentID, x.agent, ""); leaves(x) }, true},
		{"a key set since, and nobody says that its run has ended", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated() }, true},
		{"a key set since, by a run that has ended", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated(); x.finished(x.agentID, x.agent, "") }, false},
		{"and its end is the newest word", SecretSSHKey, func(x *exposure) {
			leaves(x)
			x.rotated()
			x.finished(x.agentID, x.agent, "")
			x.account.Last = &clientv1.ResultView{Signed: x.results[x.run][1]}
			clear(x.results)
		}, false},
		{"by a run that ended with the former key still to be ended", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated(); x.finished(x.agentID, x.agent, "unreachable") }, true},
		{"by a run of whose end another pool's agent speaks", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated(); x.finished(x.otherID, x.stranger, "") }, true},
		{"by a run that the server does not know", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated(); clear(x.results) }, true},
		{"a key set by hand since", SecretSSHKey, func(x *exposure) { leaves(x); x.edited(nil) }, false},
		{"edited since, after a run that has not ended", SecretSSHKey, func(x *exposure) { leaves(x); x.rotated(); x.edited(x.sameSecret()) }, true},
		{"edited since, after a run that has ended", SecretSSHKey, func(x *exposure) {
			leaves(x)
			x.rotated()
			x.finished(x.agentID, x.agent, "")
			x.edited(x.sameSecret())
		}, false},
		{"edited since, and no run has set it", SecretSSHKey, func(x *exposure) {
			leaves(x)
			x.rotated()
			same := x.sameSecret()
			x.listed = nil
			x.edited(same)
		}, false},
		{"edited since, and not all runs were seen", SecretSSHKey, func(x *exposure) {
			leaves(x)
			x.rotated()
			same := x.sameSecret()
			x.listed, x.more = nil, true
			x.edited(same)
		}, true},
		{"a password set since, before the folder's new key", SecretPassword, func(x *exposure) { leaves(x); x.rotated(); x.rekeys(2, 2) }, true},
		{"after it, under a new key of the record", SecretPassword, func(x *exposure) { leaves(x); x.rekeys(2, 2); x.rotated() }, false},
		{"after it, under the record's key of before", SecretPassword, func(x *exposure) { leaves(x); x.rekeys(2, 1); x.rotated() }, true},
		{"under a record's key that waits for others than him", SecretPassword, func(x *exposure) { leaves(x); x.rekeys(2, 2); x.rekeys(3, 2); x.rotated() }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			x := newExposure(t, row.kind)
			row.do(x)
			if got := x.exposed(); got != row.want {
				t.Errorf("exposed: %v, want %v", got, row.want)
			}
		})
	}
}
