package machineapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/machineapi"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// undone is a store on which every write succeeds, and nothing is kept: so each input
// meets the same vault.
type undone struct{ store.Store }

var errUndone = errors.New("undone")

func (u undone) Write(ctx context.Context, f func(*db.Queries) error) error {
	err := u.Store.Write(ctx, func(q *db.Queries) error {
		if err := f(q); err != nil {
			return err
		}
		return errUndone
	})
	if errors.Is(err, errUndone) {
		return nil
	}
	return err
}

// requests is a vault with a record in each of its folders, and two clients: an
// application that may edit one of them, and an agent that may read it and holds the
// lease of the record there.
type requests struct {
	*server
	machine, agent, stranger machine
	names                    *strings.Replacer // @word in a payload stands for a uid
	secrets                  []string          // what nobody here may read
}

// The SDKs and the agents spell uids in different alphabets: spell is the one at hand.
func newRequests(f *testing.F, spell func([]byte) string) *requests {
	s := newServer(f)
	r := &requests{server: s, machine: s.prebound("m"), stranger: s.prebound("stranger")}
	open, hidden := s.addRecord(s.edit, login("1")), s.addRecord(s.hidden, login("2"))
	owned := s.addRecord(s.edit, login("3"))
	s.addStatement(owned)
	p, client := s.agent("a")
	clientID := seal.AgentClientID(s.o.ID, p.ID)
	r.agent = machine{clientID[:], p.DeviceKey}
	run, account := seal.NewID(), trust.Ref{Folder: s.edit, Record: owned.uid}
	s.write(func(ctx context.Context, q *db.Queries) error {
		return s.work.StartRun(ctx, q, s.org, work.Start{RunID: run, Account: account.Proto(), PoolID: p.Owner[:], Action: "rotate", Cause: "schedule"})
	})
	lease, err := client.Lease(f.Context(), ksm.LeaseRequest{Account: ksm.Ref{Folder: s.edit[:], Record: owned.uid[:]}, RunID: run[:], Cause: "mandate"})
	s.must(err)
	row := s.row(hidden.uid[:])
	for _, b := range [][]byte{row.Data, row.RecordKey} {
		r.secrets = append(r.secrets, ksm.Std(b), ksm.URL(b))
	}
	data := trust.SealData(owned.key, []byte(login("4")))
	digest := seal.Hash(data)
	sign := func(phase trustv1.Phase) []byte {
		signed, _, err := trust.SignResult(s.o.Log, p.Sign, &trustv1.Result{
			Phase: phase, By: p.ID[:], Account: account.Proto(), RunId: run[:], LeaseEpoch: lease.Epoch, ValueSeq: 1, DataDigest: digest[:],
			Cause: digest[:], Time: s.clock().UnixMilli(), Credential: trustv1.Outcome_OUTCOME_DONE,
		})
		s.must(err)
		return signed
	}
	var pairs []string
	for name, b := range map[string][]byte{
		"@edit": s.edit[:], "@read": s.read[:], "@hidden": s.hidden[:], "@open": open.uid[:], "@secret": hidden.uid[:], "@owned": owned.uid[:],
		"@run": run[:], "@entry": p.ID[:], "@data": data, "@digest": digest[:],
		"@isstaged": sign(trustv1.Phase_PHASE_STAGED), "@iscommitted": sign(trustv1.Phase_PHASE_COMMITTED), "@isfinished": sign(trustv1.Phase_PHASE_FINISHED),
	} {
		pairs = append(pairs, name, spell(b))
	}
	r.names = strings.NewReplacer(pairs...)
	s.listen(func(c *machineapi.Config) {
		c.Store, c.Rate, c.Burst, c.AgentRate, c.AgentBurst = undone{s.store}, 1<<30, 1<<30, 1<<30, 1<<30
	})
	return r
}

// ask sends a payload as a client that a key has signed for; where it is an object, the
// client's name is put in.
func (r *requests) ask(t *testing.T, path string, client machine, signer machine, payload string) (status int, answer []byte) {
	t.Helper()
	payload = r.names.Replace(payload)
	object := map[string]json.RawMessage{}
	if json.Unmarshal([]byte(payload), &object) == nil && object != nil {
		object["clientId"] = json.RawMessage(encode(t, ksm.Std(client.id)))
		payload = encode(t, object)
	}
	key := seal.NewKey()
	sealed, err := seal.SealECIES(serverPoint(), key.Expose())
	if err != nil {
		t.Fatal(err)
	}
	body := seal.SealGCM(key, []byte(payload), nil)
	sig, err := seal.SignP256(signer.key, slices.Concat(sealed, body))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("PublicKeyId", "100")
	req.Header.Set("TransmissionKey", ksm.Std(sealed))
	req.Header.Set("Authorization", "Signature "+ksm.Std(sig))
	w := httptest.NewRecorder()
	r.api.ServeHTTP(w, req)
	if w.Code != http.StatusOK || w.Body.Len() == 0 {
		return w.Code, w.Body.Bytes()
	}
	answer, err = seal.OpenGCM(key, w.Body.Bytes(), nil)
	if err != nil {
		t.Fatalf("the answer does not open: %v", err)
	}
	return w.Code, answer
}

// judge holds an answer against what every answer must be: a success or a refusal, never
// a failure of the server, and nothing of a folder that the client has no right to.
func (r *requests) judge(t *testing.T, path string, client machine, payload string) {
	t.Helper()
	status, answer := r.ask(t, path, client, client, payload)
	if status != http.StatusOK && (status < 400 || status >= 500) {
		t.Fatalf("%s answers %d: %s", path, status, answer)
	}
	if status != http.StatusOK {
		var refused struct{ Error string }
		if json.Unmarshal(answer, &refused) != nil || refused.Error == "" {
			t.Fatalf("%s refuses with %d and no code: %s", path, status, answer)
		}
	}
	for _, s := range r.secrets {
		// A refusal may name what it was asked for.
		if status == http.StatusOK && bytes.Contains(answer, []byte(s)) && !strings.Contains(r.names.Replace(payload), s) {
			t.Fatalf("%s answers what the client may not read: %s", path, answer)
		}
	}
	if status, answer := r.ask(t, path, client, r.stranger, payload); status < 400 {
		t.Fatalf("%s takes another client's signature: %d %s", path, status, answer)
	}
}

// FuzzRequest: any payload of any operation, well sealed and signed by a client of an
// application.
func FuzzRequest(f *testing.F) {
	r := newRequests(f, ksm.URL)
	ops := []string{
		ksm.OpGetSecret, ksm.OpGetFolders, ksm.OpUpdateSecret, ksm.OpFinalize, ksm.OpRollback, ksm.OpCreateSecret, ksm.OpDeleteSecret,
		ksm.OpCreateFolder, ksm.OpUpdateFolder, ksm.OpDeleteFolder, ksm.OpAddFile,
	}
	box, key, cbc := strings.Repeat("A", 60), strings.Repeat("A", 80), strings.Repeat("A", 86) // data, keys under keys
	for op, payloads := range map[string][]string{
		ksm.OpGetSecret:    {`{"clientVersion":"ms17"}`, `{"requestedRecords":["@open","@secret"]}`, `{"requestedFolders":["@hidden"],"requestLinks":true}`, `{"ext":true,"requestedRecords":["@open"]}`, `{"publicKey":"BA"}`},
		ksm.OpGetFolders:   {`{}`, `{"requestedFolders":["@edit"]}`},
		ksm.OpUpdateSecret: {`{"recordUid":"@open","revision":1,"data":"` + box + `"}`, `{"recordUid":"@secret","revision":1,"data":"` + box + `","transactionType":"rotation"}`, `{"recordUid":"@owned","revision":1,"data":"AA","links2Remove":["@open"]}`},
		ksm.OpFinalize:     {`{"recordUid":"@open"}`, `{"recordUid":"@secret"}`},
		ksm.OpRollback:     {`{"recordUid":"@open"}`},
		ksm.OpCreateSecret: {`{"recordUid":"AAAAAAAAAAAAAAAAAAAAAQ","folderUid":"@edit","folderKey":"` + key + `","data":"` + box + `"}`, `{"recordUid":"@open","folderUid":"@hidden","data":"AA"}`},
		ksm.OpDeleteSecret: {`{"recordUids":["@open","@secret","@owned"]}`},
		ksm.OpCreateFolder: {`{"folderUid":"AAAAAAAAAAAAAAAAAAAAAg","sharedFolderUid":"@edit","data":"` + box + `","sharedFolderKey":"` + cbc + `"}`},
		ksm.OpUpdateFolder: {`{"folderUid":"@edit","data":"` + box + `"}`},
		ksm.OpDeleteFolder: {`{"folderUids":["@edit","@hidden"],"forceDeletion":true}`},
		ksm.OpAddFile:      {`{"fileRecordUid":"AAAAAAAAAAAAAAAAAAAAAw","fileRecordData":"AAAA","ownerRecordUid":"@open","ownerRecordData":"` + box + `","ownerRecordRevision":1,"linkKey":"` + key + `","fileSize":30}`},
	} {
		for _, p := range payloads {
			f.Add(slices.Index(ops, op), p)
		}
	}
	f.Fuzz(func(t *testing.T, op int, payload string) {
		if op < 0 || op >= len(ops) {
			return
		}
		r.judge(t, ksm.PathMachine+ops[op], r.machine, payload)
	})
}

// FuzzAgentRequest: any payload of any of the agents' operations.
func FuzzAgentRequest(f *testing.F) {
	r := newRequests(f, ksm.Std)
	ops := []string{
		ksm.OpLog, ksm.OpAppend, ksm.OpKeys, ksm.OpLease, ksm.OpStage, ksm.OpCommit, ksm.OpAbandon, ksm.OpReport, ksm.OpRestate, ksm.OpFetch,
	}
	const account = `"account":{"folder":"@edit","record":"@owned"},"runId":"@run","epoch":1`
	for op, payloads := range map[string][]string{
		ksm.OpLog:     {`{"from":0,"limit":10}`, `{"from":18446744073709551615,"limit":-1}`},
		ksm.OpAppend:  {`{"changes":["AA=="]}`},
		ksm.OpKeys:    {`{"entryIds":["@entry"]}`},
		ksm.OpLease:   {`{` + account + `,"cause":"mandate","fetch":true}`, `{"account":{"folder":"@hidden","record":"@secret"},"runId":"@open","cause":"recover","fetch":true}`},
		ksm.OpStage:   {`{` + account + `,"revision":1,"data":"@data","dataDigest":"@digest","result":"@isstaged","authority":"AA==","valueSeq":1}`, `{` + account + `,"revision":1,"data":"AA==","dataDigest":"AA==","result":"AA=="}`},
		ksm.OpCommit:  {`{` + account + `,"dataDigest":"@digest","result":"@iscommitted","finish":true}`},
		ksm.OpAbandon: {`{` + account + `,"dataDigest":"AA==","result":"AA=="}`},
		ksm.OpReport:  {`{` + account + `,"retry":true}`, `{` + account + `,"result":"@isfinished","detail":"AA=="}`, `{"refusals":[{"name":"run.refused","reason":"mandate_off","runId":"@run","record":{"folder":"@edit","record":"@owned"},"fields":{}}]}`},
		ksm.OpRestate: {`{"record":{"folder":"@edit","record":"@owned"},"seq":2,"digest":"AA==","blob":"AA=="}`},
		ksm.OpFetch:   {`{"requestedRecords":["@owned","@open","@secret"],"ext":true}`},
	} {
		for _, p := range payloads {
			f.Add(slices.Index(ops, op), strings.Replace(p, `{`, `{"op":"`+op+`",`, 1))
		}
	}
	f.Fuzz(func(t *testing.T, op int, payload string) {
		if op < 0 || op >= len(ops) {
			return
		}
		path := ksm.PathAgent
		if ops[op] == ksm.OpFetch {
			path = ksm.PathMachine
		}
		r.judge(t, path+ops[op], r.agent, payload)
	})
}
