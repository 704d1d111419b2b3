package machineapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// agent enrols an agent of a pool that may read the first folder.
func (s *server) agent(name string) (*orgtest.Party, *ksm.Client) {
	s.t.Helper()
	pool := s.o.Pool(s.t, name+"'s pool")
	s.o.Grant(s.t, s.edit, pool, trust.Read)
	p := s.o.Agent(s.t, name, pool)
	s.write(func(ctx context.Context, q *db.Queries) error {
		log, err := s.dir.Append(ctx, q, s.org, s.o.Changes...)
		if err != nil {
			return err
		}
		return s.dir.PutKeys(ctx, q, s.org, log, p.ID, p.Keys)
	})
	return p, s.client(p)
}

func (s *server) client(p *orgtest.Party) *ksm.Client {
	s.t.Helper()
	t := s.transport()
	s.t.Cleanup(t.CloseIdleConnections)
	c, err := ksm.NewClient(ksm.ClientConfig{
		BaseURL: s.url(), HTTP: &http.Client{Transport: t}, ClientID: seal.AgentClientID(s.o.ID, p.ID), Key: p.DeviceKey, Version: "1.0",
	})
	s.must(err)
	return c
}

func refusal(err error) string {
	var e *ksm.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "unknown: " + err.Error()
}

// TestAgentRotates drives one run with the agents' client over TLS.
func TestAgentRotates(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	ctx := t.Context()
	r := s.addRecord(s.edit, login("1"))
	ref := ksm.Ref{Folder: s.edit[:], Record: r.uid[:]}
	account := trust.Ref{Folder: s.edit, Record: r.uid}
	run := seal.NewID()
	s.write(func(ctx context.Context, q *db.Queries) error {
		return s.work.StartRun(ctx, q, s.org, work.Start{RunID: run, Account: account.Proto(), PoolID: p.Owner[:], Action: "rotate", Cause: "schedule"})
	})
	lease, err := c.Lease(ctx, ksm.LeaseRequest{Account: ref, RunID: run[:], Cause: "mandate", Fetch: true})
	if err != nil || lease.Epoch == 0 || lease.Action != "rotate" || lease.TermMS != work.Term.Milliseconds() {
		t.Fatalf("lease %+v, %v", lease, err)
	}
	if got, err := c.Fetch(ctx, ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}}); err != nil || lease.Fetched == nil || !reflect.DeepEqual(got, *lease.Fetched) {
		t.Fatalf("with the lease came %+v, alone comes %+v, %v", lease.Fetched, got, err)
	}
	data := trust.SealData(r.key, []byte(login("2")))
	digest := seal.Hash(data)
	sign := func(phase trustv1.Phase) []byte {
		signed, _, err := trust.SignResult(s.o.Log, p.Sign, &trustv1.Result{
			Phase: phase, By: p.ID[:], Account: account.Proto(), RunId: run[:], LeaseEpoch: lease.Epoch, ValueSeq: 1, DataDigest: digest[:],
			Cause: digest[:], Time: s.clock().UnixMilli(), Credential: trustv1.Outcome_OUTCOME_DONE,
		})
		s.must(err)
		return signed
	}
	s.must(c.Stage(ctx, ksm.StageRequest{
		Account: ref, RunID: run[:], Epoch: lease.Epoch, Revision: 1, Data: data, DataDigest: digest[:],
		Result: sign(trustv1.Phase_PHASE_STAGED), Authority: []byte("sealed"), ValueSeq: 1,
	}))
	got, err := c.Fetch(ctx, ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}})
	s.must(err)
	if len(got.Records) != 1 || got.Records[0].Staged == nil || !bytes.Equal(got.Records[0].Staged.Data, data) || string(got.Records[0].Staged.Authority) != "sealed" {
		t.Fatalf("fetched %+v", got.Records)
	}
	if got.Records[0].Staged.Held {
		t.Error("a candidate is held, and the server was not restored")
	}
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.MarkRestored(ctx, db.MarkRestoredParams{ID: s.org, Restored: s.clock().Add(time.Second).UnixMilli()})
	})
	if got, err := c.Fetch(ctx, ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}}); err != nil || !got.Records[0].Staged.Held {
		t.Errorf("after a restore: %+v, %v", got.Records[0].Staged, err)
	}
	settle := ksm.SettleRequest{
		Account: ref, RunID: run[:], Epoch: lease.Epoch, DataDigest: digest[:], Result: sign(trustv1.Phase_PHASE_COMMITTED), Finish: true,
	}
	s.must(c.Commit(ctx, settle))
	s.must(c.Commit(ctx, settle))
	got, err = c.Fetch(ctx, ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}})
	s.must(err)
	e := got.Records[0]
	if e.Staged != nil || !bytes.Equal(e.Data, data) || e.Revision != 2 || !bytes.Equal(e.Attestation, settle.Result) || len(e.Recent) != 2 {
		t.Errorf("after the commit: %+v", e)
	}
	former, err := seal.OpenGCM(r.key, e.HistoryData, nil)
	if err != nil || string(former) != login("1") {
		t.Errorf("the former value: %v", err)
	}
	// Edits come after it: what the commit replaced, its word, and the run's last one are
	// served still.
	for n, word := range []string{"pending", "ended"} {
		s.write(func(ctx context.Context, q *db.Queries) error {
			return q.AddResult(ctx, db.AddResultParams{Org: s.org, Digest: []byte{100, byte(n)}, SubjectUid: r.uid[:], RunID: run[:], Phase: int64(trustv1.Phase_PHASE_FINISHED), Signed: []byte(word)})
		})
	}
	for n := range 20 {
		s.write(func(ctx context.Context, q *db.Queries) error {
			row := s.row(r.uid[:])
			return errors.Join(
				q.KeepInHistory(ctx, db.KeepInHistoryParams{Org: s.org, RecordUid: r.uid[:], Revision: row.Revision, RecordKey: row.RecordKey, KeyVersion: row.KeyVersion, Data: row.Data, Why: work.WhyReplaced, Result: row.Attestation}),
				q.AddResult(ctx, db.AddResultParams{Org: s.org, Digest: []byte{byte(n)}, SubjectUid: r.uid[:], Phase: int64(trustv1.Phase_PHASE_EDITED), Signed: []byte{byte(n)}}))
		})
	}
	got, err = c.Fetch(ctx, ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}})
	s.must(err)
	served := func(word []byte) bool {
		return slices.ContainsFunc(got.Records[0].Recent, func(r []byte) bool { return bytes.Equal(r, word) })
	}
	if e := got.Records[0]; len(e.Recent) != 18 || !served(settle.Result) || !served([]byte("ended")) {
		t.Errorf("after edits: %d results, the commit's %v, the last %v", len(e.Recent), served(settle.Result), served([]byte("ended")))
	} else if former, err := seal.OpenGCM(r.key, e.HistoryData, nil); err != nil || string(former) != login("1") {
		t.Errorf("the former value, after edits: %v", err)
	}
	again, err := c.Lease(ctx, ksm.LeaseRequest{Account: ref, RunID: run[:], Fetch: true})
	if err != nil || !again.Closed || again.Fetched != nil {
		t.Errorf("a finished run: %+v, %v", again, err)
	}
}

func TestFetchFollowsLinksWithinThePoolsRights(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	account, resource := s.addRecord(s.edit, login("account")), s.addRecord(s.edit, login("resource"))
	admin, elsewhere := s.addRecord(s.edit, login("admin")), s.addRecord(s.hidden, login("hidden"))
	link := func(r, resource, admin record, folders ...seal.ID) {
		s.write(func(ctx context.Context, q *db.Queries) error {
			return q.SetRecordLinks(ctx, db.SetRecordLinksParams{
				ResourceUid: resource.uid[:], ResourceFolder: folders[0][:], AdminUid: admin.uid[:], AdminFolder: folders[1][:],
				PoolID: p.Owner[:], Org: s.org, RecordUid: r.uid[:],
			})
		})
	}
	none := record{}
	link(account, resource, none, s.edit, seal.ID{})
	link(resource, none, admin, seal.ID{}, s.edit)
	link(admin, resource, none, s.edit, seal.ID{})
	sealed, err := trust.SealFolderKey(s.o.Log, s.edit, s.o.Folders[s.edit], p.ID, p.Keys, s.clock())
	s.must(err)
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.PutFolderKey(ctx, db.PutFolderKeyParams{Org: s.org, FolderUid: s.edit[:], KeyVersion: 1, RecipientID: p.ID[:], Sealed: sealed})
	})
	fetch := func(r record) (uids []seal.ID, got ksm.FetchAnswer) {
		got, err := c.Fetch(t.Context(), ksm.FetchRequest{RequestedRecords: []string{r.uid.String()}})
		s.must(err)
		for _, e := range got.Records {
			uids = append(uids, seal.ID(e.Ref.Record))
		}
		return uids, got
	}
	uids, got := fetch(account)
	if !slices.Equal(uids, []seal.ID{account.uid, resource.uid, admin.uid}) {
		t.Errorf("fetched %v", uids)
	}
	if len(got.Folders) != 1 || !bytes.Equal(got.Folders[0].Sealed, sealed) || got.Folders[0].KeyVersion != 1 {
		t.Errorf("folders: %+v", got.Folders)
	}
	link(account, elsewhere, admin, s.hidden, s.read) // a folder that the pool does not read; a folder that is not the record's
	if uids, _ := fetch(account); !slices.Equal(uids, []seal.ID{account.uid}) {
		t.Errorf("fetched %v", uids)
	}
	if uids, _ := fetch(elsewhere); len(uids) != 0 {
		t.Errorf("fetched %v", uids)
	}
}

func TestAgentsLog(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	ctx := t.Context()
	first, err := c.Log(ctx, ksm.LogRequest{Limit: 2})
	s.must(err)
	if len(first.Changes) != 2 || first.Epoch != s.o.Log.Head().Epoch {
		t.Errorf("%d changes, head %d", len(first.Changes), first.Epoch)
	}
	rest, err := c.Log(ctx, ksm.LogRequest{From: 2})
	s.must(err)
	log := trust.NewLog(s.o.ID)
	for _, signed := range append(first.Changes, rest.Changes...) {
		_, err := log.Append(signed, s.clock())
		s.must(err)
	}
	if log.Head() != s.o.Log.Head() {
		t.Errorf("replayed to %+v", log.Head())
	}
	if past, err := c.Log(ctx, ksm.LogRequest{From: 1 << 40}); err != nil || len(past.Changes) != 0 {
		t.Errorf("beyond the head: %+v, %v", past, err)
	}
	keys, err := c.Keys(ctx, ksm.KeysRequest{EntryIDs: [][]byte{p.ID[:], make([]byte, 16)}})
	if err != nil || len(keys.Keys) != 2 || !bytes.Equal(keys.Keys[0], p.Keys) || len(keys.Keys[1]) != 0 {
		t.Errorf("keys: %v", err)
	}

	// An agent gives back what the server lacks, and nothing that does not hold.
	missing := s.o.Change(t, trust.PolicyOp(90, true))
	got, err := c.Append(ctx, ksm.AppendRequest{Changes: [][]byte{missing}})
	if err != nil || got.Epoch != s.o.Log.Head().Epoch {
		t.Errorf("append: %+v, %v", got, err)
	}
	own := s.o.Sign(t, p, trust.PolicyOp(30, true))
	_, err = c.Append(ctx, ksm.AppendRequest{Changes: [][]byte{own}})
	s.want("a change that an agent signed", refusal(err), string(trust.LogSigner))
	if e := s.events("append.refused"); len(e) != 1 || e[0].Reason != string(trust.LogSigner) {
		t.Errorf("events: %+v", e)
	}
}

// Agents that give back what the server has all along do not hold up those who
// write.
func TestKnownChangesNeedNoWriter(t *testing.T) {
	s := newServer(t)
	_, c := s.agent("a")
	var known [][]byte
	for range 100 {
		known = append(known, s.o.Changes...)
	}
	s.write(func(context.Context, *db.Queries) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := c.Append(ctx, ksm.AppendRequest{Changes: known[:min(len(known), 1000)]})
		if err != nil || got.Epoch != s.o.Log.Head().Epoch {
			t.Errorf("while another writes: %+v, %v", got, err)
		}
		return nil
	})
}

func TestManyChangesAreGivenBack(t *testing.T) {
	s := newServer(t)
	_, c := s.agent("a")
	for n := range 130 { // more than one transaction's
		s.o.Change(t, trust.PolicyOp(uint32(30+n), true))
	}
	got, err := c.Append(t.Context(), ksm.AppendRequest{Changes: s.o.Changes})
	if err != nil || got.Epoch != s.o.Log.Head().Epoch {
		t.Errorf("append: %+v, %v", got, err)
	}
	if n := len(s.events("policy.set")); n != 130 {
		t.Errorf("%d events", n)
	}
}

// By asking for what comes after a change an agent confirms it.
func TestAgentConfirmsTheLog(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	ctx := t.Context()
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.AgentHere(ctx, db.AgentHereParams{Org: s.org, AgentID: p.ID[:], Seen: 1, Node: "n"})
	})
	want := func(what string, epoch uint64) {
		t.Helper()
		s.write(func(ctx context.Context, q *db.Queries) error {
			seen, err := q.PresenceOf(ctx, db.PresenceOfParams{Org: s.org, Ids: [][]byte{p.ID[:]}})
			if err != nil || len(seen) != 1 || uint64(seen[0].LogEpoch) != epoch {
				t.Errorf("after %s: %+v, %v, want change %d", what, seen, err, epoch)
			}
			return err
		})
	}
	head := s.o.Log.Head().Epoch
	for _, step := range []struct {
		from, want uint64
	}{{0, 0}, {2, 1}, {1, 1}, {1 << 40, 1}, {head + 2, 1}, {head + 1, head}, {0, head}} {
		_, err := c.Log(ctx, ksm.LogRequest{From: step.from})
		s.must(err)
		want(fmt.Sprintf("asking from %d on", step.from), step.want)
	}
}

func TestRemovedAgentIsRefusedAtOnce(t *testing.T) {
	s := newServer(t)
	p, c := s.agent("a")
	_, err := c.Log(t.Context(), ksm.LogRequest{})
	s.must(err)
	s.o.Change(t, trust.RemoveOp(p.ID))
	s.sync()
	_, err = c.Log(t.Context(), ksm.LogRequest{})
	s.want("after its removal", refusal(err), ksm.CodeAccessDenied)
}

func TestAgentOfAnotherPoolIsToldOf(t *testing.T) {
	s := newServer(t)
	right, _ := s.agent("right")
	wrong, c := s.agent("wrong")
	account, resource := s.addRecord(s.edit, login("account")), s.addRecord(s.edit, login("resource"))
	s.write(func(ctx context.Context, q *db.Queries) error {
		err := q.SetRecordLinks(ctx, db.SetRecordLinksParams{ResourceUid: resource.uid[:], ResourceFolder: s.edit[:], Org: s.org, RecordUid: account.uid[:]})
		if err != nil {
			return err
		}
		return q.SetRecordLinks(ctx, db.SetRecordLinksParams{PoolID: right.Owner[:], Org: s.org, RecordUid: resource.uid[:]})
	})
	for range 3 { // told once
		run := seal.NewID()
		_, err := c.Lease(t.Context(), ksm.LeaseRequest{Account: ksm.Ref{Folder: s.edit[:], Record: account.uid[:]}, RunID: run[:], Cause: "recover"})
		s.want("a lease", refusal(err), ksm.CodeAccessDenied)
	}
	e := s.events("agent.refused")
	if len(e) != 1 || e[0].Reason != string(trust.WrongPool) || seal.ID(e[0].Actor) != wrong.ID || seal.ID(e[0].RecordUid) != account.uid || !strings.Contains(e[0].Fields, "127.0.0.1") {
		t.Errorf("events: %+v", e)
	}
}

// TestOperationStandsInThePayload: a signed payload of one operation is none of
// another, whatever path it is sent to.
func TestOperationStandsInThePayload(t *testing.T) {
	s := newServer(t)
	p, _ := s.agent("a")
	id := seal.AgentClientID(s.o.ID, p.ID)
	m := machine{id[:], p.DeviceKey}
	for _, path := range []string{ksm.OpLog, ksm.OpAppend, ksm.OpKeys, ksm.OpLease, ksm.OpStage, ksm.OpCommit, ksm.OpAbandon, ksm.OpReport} {
		op := ksm.OpAbandon
		if path == op {
			op = ksm.OpCommit
		}
		code, _ := s.send(ksm.PathAgent+path, s.raw(m, map[string]any{"op": op}))
		s.want(op+" sent to "+path, code, ksm.CodeBadRequest)
	}
	code, _ := s.send(ksm.PathMachine+ksm.OpGetSecret, s.raw(m, map[string]any{"op": ksm.OpLog, "ext": true}))
	s.want("log sent to get_secret", code, ksm.CodeBadRequest)
	for _, op := range []string{ksm.OpGetSecret, ksm.OpUpdateSecret, ksm.OpDeleteSecret} {
		code, _ := s.send(ksm.PathMachine+op, s.raw(m, map[string]any{"op": op}))
		s.want("an agent on an application's "+op, code, ksm.CodeAccessDenied)
	}
}

func TestAgentsAreThrottledByThemselves(t *testing.T) {
	s := newServer(t, func(c *machineapi.Config) { c.AgentRate, c.AgentBurst = 1, 2 })
	_, a := s.agent("a")
	_, b := s.agent("b")
	var err error
	for range 3 {
		_, err = a.Log(t.Context(), ksm.LogRequest{})
	}
	var e *ksm.Error
	if !errors.As(err, &e) || e.Code != ksm.CodeThrottled || e.RetryAfter <= 0 {
		t.Errorf("got %v", err)
	}
	_, err = b.Log(t.Context(), ksm.LogRequest{})
	s.must(err)
}

func TestRefusalsOfAnAgentAreThrottled(t *testing.T) {
	s := newServer(t)
	_, a := s.agent("a")
	_, b := s.agent("b")
	r := s.addRecord(s.edit, login("1"))
	many := ksm.ReportRequest{Refusals: slices.Repeat([]ksm.Refusal{{
		Name: "run.refused", Reason: "mandate_off", Record: ksm.Ref{Folder: s.edit[:], Record: r.uid[:]},
	}}, 64)}
	told, began := 0, time.Now()
	var err error
	for err == nil && told < 10_000 {
		if err = a.Report(t.Context(), many); err == nil {
			told += len(many.Refusals)
		}
	}
	s.want("without end", refusal(err), ksm.CodeThrottled)
	if most := 5000 + 20*int(time.Since(began).Seconds()+1); told > most || told < 4900 {
		t.Errorf("%d refusals were taken, at most %d are to be", told, most)
	}
	s.must(b.Report(t.Context(), many))
	_, err = a.Log(t.Context(), ksm.LogRequest{})
	s.must(err) // the rest of its work goes on
}
