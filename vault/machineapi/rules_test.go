package machineapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/vault/work"
)

// raw is a request as a client of our own making sends it, for what no SDK does.
type raw struct {
	header http.Header
	body   []byte
	key    seal.Key
}

func (s *server) raw(m machine, payload map[string]any) raw {
	s.t.Helper()
	payload["clientId"], payload["clientVersion"] = ksm.Std(m.id), "xx1"
	r := raw{header: http.Header{}, key: seal.NewKey()}
	sealed, err := seal.SealECIES(serverPoint(), r.key.Expose())
	s.must(err)
	r.body = seal.SealGCM(r.key, []byte(encode(s.t, payload)), nil)
	r.header.Set("PublicKeyId", "100")
	r.header.Set("TransmissionKey", ksm.Std(sealed))
	r.sign(s, m, slices.Concat(sealed, r.body))
	return r
}

func (r raw) sign(s *server, m machine, input []byte) {
	sig, err := seal.SignP256(m.key, input)
	s.must(err)
	r.header.Set("Authorization", "Signature "+ksm.Std(sig))
}

// send posts a request and gives the refusal's code, "" for success, and the
// opened answer.
func (s *server) send(path string, r raw) (code string, answer []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url()+path, bytes.NewReader(r.body))
	s.must(err)
	req.Header = r.header
	t := s.transport()
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Do(req)
	s.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.must(err)
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error string }
		if err := json.Unmarshal(body, &e); err != nil {
			return resp.Status, nil
		}
		return e.Error, nil
	}
	if len(body) == 0 {
		return "", nil
	}
	answer, err = seal.OpenGCM(r.key, body, nil)
	s.must(err)
	return "", answer
}

func (s *server) do(m machine, op string, payload map[string]any) string {
	s.t.Helper()
	code, _ := s.send(ksm.PathMachine+op, s.raw(m, payload))
	return code
}

func (s *server) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (r record) seal(password string) string {
	return ksm.URL(trust.SealData(r.key, []byte(login(password))))
}

func (s *server) update(m machine, r record, password, transaction string) string {
	s.t.Helper()
	p := map[string]any{"recordUid": r.uid, "revision": s.row(r.uid[:]).Revision, "data": r.seal(password)}
	if transaction != "" {
		p["transactionType"] = transaction
	}
	return s.do(m, ksm.OpUpdateSecret, p)
}

func (s *server) history(r record) (why []string) {
	s.t.Helper()
	s.query(func(ctx context.Context, q *db.Queries) error {
		rows, err := q.HistoryBefore(ctx, db.HistoryBeforeParams{Org: s.org, RecordUid: r.uid[:], Before: 1 << 40, Rows: 100})
		for _, row := range rows {
			why = append(why, row.Why)
		}
		return err
	})
	return why
}

func (s *server) events(prefix string) (list []db.Event) {
	s.t.Helper()
	s.query(func(ctx context.Context, q *db.Queries) (err error) {
		list, err = audit.List(ctx, q, audit.Filter{Org: s.org, Names: []string{prefix}, Limit: 1000})
		return err
	})
	return list
}

func TestARequestCountsOnce(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	first := s.raw(m, map[string]any{"recordUid": r.uid, "revision": 1, "data": r.seal("2")})
	code, _ := s.send(ksm.PathMachine+ksm.OpUpdateSecret, first)
	s.want("the first time", code, "")
	code, _ = s.send(ksm.PathMachine+ksm.OpUpdateSecret, first)
	s.want("replayed", code, ksm.CodeAccessDenied)
	// The signature does not cover the path: a copy is refused there as well.
	code, _ = s.send(ksm.PathMachine+ksm.OpFinalize, first)
	s.want("replayed on another path", code, ksm.CodeAccessDenied)
}

// TestChannelSignaturesAreNoRequests: what an agent or client signs elsewhere is
// no Authorization here.
func TestChannelSignaturesAreNoRequests(t *testing.T) {
	s := newServer(t)
	m := s.prebound("m")
	r := s.raw(m, map[string]any{})
	r.sign(s, m, seal.ChannelInput(s.o.ID, [64]byte(m.id), "localhost", [32]byte(seal.Hash(r.body)), [32]byte{}))
	code, _ := s.send(ksm.PathMachine+ksm.OpGetSecret, r)
	s.want("a channel's signature", code, ksm.CodeAccessDenied)
	if got := s.events("app.client_refused"); len(got) != 1 || got[0].Reason != "signature_invalid" {
		t.Errorf("events: %+v", got)
	}
	for range 3 {
		s.send(ksm.PathMachine+ksm.OpGetSecret, r)
	}
	if got := s.events("app.client_refused"); len(got) != 1 {
		t.Errorf("%d events within ten minutes", len(got))
	}
}

func TestTransactionsBelongToTheirClient(t *testing.T) {
	s := newServer(t)
	s.setClock(time.Now())
	r := s.addRecord(s.edit, login("1"))
	a, b := s.prebound("a"), s.prebound("b")
	s.want("a stages", s.update(a, r, "staged by a", "rotation"), "")
	settle := map[string]any{"recordUid": r.uid}
	s.want("b finalizes", s.do(b, ksm.OpFinalize, settle), "")
	s.want("b rolls back", s.do(b, ksm.OpRollback, settle), "")
	if row := s.row(r.uid[:]); row.Revision != 1 || len(s.history(r)) != 0 {
		t.Error("another client settled the transaction")
	}
	s.want("b updates meanwhile", s.update(b, r, "by b", ""), ksm.CodeOutstanding)
	s.want("b stages meanwhile", s.update(b, r, "by b", "general"), ksm.CodeOutstanding)
	s.want("a updates past it", s.update(a, r, "by a", ""), ksm.CodeOutstanding)
	s.want("a stages anew", s.update(a, r, "again", "rotation"), "")
	if got := s.history(r); !slices.Equal(got, []string{work.WhyRolledBack}) {
		t.Errorf("history: %v", got)
	}
	s.want("a finalizes", s.do(a, ksm.OpFinalize, settle), "")
	if got := s.history(r); !slices.Equal(got, []string{work.WhyReplaced, work.WhyRolledBack}) || s.row(r.uid[:]).Revision != 2 {
		t.Errorf("history: %v", got)
	}

	// An abandoned transaction does not hold the record for ever, and is not lost.
	s.want("a stages and dies", s.update(a, r, "abandoned", "rotation"), "")
	s.setClock(s.clock().Add(time.Hour))
	s.want("b updates later", s.update(b, r, "by b", ""), "")
	if got := s.history(r); !slices.Equal(got[:2], []string{work.WhyReplaced, work.WhyRolledBack}) {
		t.Errorf("history: %v", got)
	}
	s.want("an unknown type", s.update(b, r, "x", "other"), ksm.CodeBadRequest)
}

// A person's client may edit while a transaction is open: what was staged before
// that does not undo it.
func TestTransactionsAreOfTheirRevision(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	s.want("stage", s.update(m, r, "staged", "general"), "")
	edited := trust.SealData(r.key, []byte("by a person"))
	s.write(func(ctx context.Context, q *db.Queries) error {
		row := s.row(r.uid[:])
		_, err := q.ReplaceRecord(ctx, db.ReplaceRecordParams{
			Kind: row.Kind, RecordKey: row.RecordKey, KeyVersion: row.KeyVersion, Data: edited, DataDigest: row.DataDigest,
			Org: s.org, RecordUid: r.uid[:], Revision: row.Revision,
		})
		return err
	})
	settle := map[string]any{"recordUid": r.uid}
	s.want("finalize", s.do(m, ksm.OpFinalize, settle), ksm.CodeOutOfSync)
	if row := s.row(r.uid[:]); row.Revision != 2 || !bytes.Equal(row.Data, edited) {
		t.Errorf("revision %d", row.Revision)
	}
	s.want("rollback", s.do(m, ksm.OpRollback, settle), "")
}

// The data that comes with a file replaces the record's: where agents rotate, it
// is taken only from who has read what is current.
func TestFilesDoNotUndoARotation(t *testing.T) {
	for _, test := range []struct {
		name      string
		statement bool
		revision  any // of the record at revision 2; nil: an older SDK
		want      string
	}{
		{"an older SDK", false, nil, ""},
		{"the current revision", false, 2, ""},
		{"a revision before", false, 1, ksm.CodeOutOfSync},
		{"rotated: an older SDK", true, nil, ksm.CodeOutOfSync},
		{"rotated: no revision", true, 0, ksm.CodeOutOfSync},
		{"rotated: a revision before", true, 1, ksm.CodeOutOfSync},
		{"rotated: a revision to come", true, 3, ksm.CodeOutOfSync},
		{"rotated: the current revision", true, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			r := s.addRecord(s.edit, login("1"))
			m := s.prebound("m")
			s.want("update", s.update(m, r, login("2"), ""), "")
			if test.statement {
				s.addStatement(r)
			}
			current := s.row(r.uid[:]).Data
			request := map[string]any{
				"fileRecordUid": seal.NewID(), "fileRecordData": "AAAA", "ownerRecordUid": r.uid, "ownerRecordData": r.seal(login("1")),
				"linkKey": ksm.Std(make([]byte, 60)), "fileSize": 30,
			}
			if test.revision != nil {
				request["ownerRecordRevision"] = test.revision
			}
			s.want("add_file", s.do(m, ksm.OpAddFile, request), test.want)
			if kept := bytes.Equal(s.row(r.uid[:]).Data, current); kept != (test.want != "") {
				t.Errorf("the current data was kept: %v", kept)
			}
		})
	}
}

// TestApplicationsLeaveAgentsRecordsAlone is rows 11 and 56 of the hostile
// operator's table, as far as the vault goes.
func TestApplicationsLeaveAgentsRecordsAlone(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	s.addStatement(r)
	m := s.prebound("m")
	settle := map[string]any{"recordUid": r.uid}
	s.want("a transaction", s.update(m, r, "x", "rotation"), ksm.CodeAccessDenied)

	candidate := trust.SealData(r.key, []byte(login("candidate")))
	s.write(func(ctx context.Context, q *db.Queries) error {
		d := seal.Hash(candidate)
		return q.AddStaged(ctx, db.AddStagedParams{
			Org: s.org, RecordUid: r.uid[:], OwnerKind: work.OwnerAgent, OwnerID: make([]byte, 16), BaseRevision: 1, Data: candidate, DataDigest: d[:],
		})
	})
	s.want("an update", s.update(m, r, "x", ""), ksm.CodeOutstanding)
	s.want("a file", s.do(m, ksm.OpAddFile, map[string]any{
		"fileRecordUid": seal.NewID(), "fileRecordData": "AAAA", "ownerRecordUid": r.uid, "ownerRecordData": r.seal("x"),
		"linkKey": ksm.Std(make([]byte, 60)), "fileSize": 30,
	}), ksm.CodeOutstanding)
	s.want("finalize", s.do(m, ksm.OpFinalize, settle), "")
	s.want("rollback", s.do(m, ksm.OpRollback, settle), "")
	_, answer := s.send(ksm.PathMachine+ksm.OpDeleteSecret, s.raw(m, map[string]any{"recordUids": []any{r.uid}}))
	if !bytes.Contains(answer, []byte(ksm.CodeAccessDenied)) {
		t.Errorf("delete: %s", answer)
	}
	s.query(func(ctx context.Context, q *db.Queries) error {
		staged, err := q.StagedOf(ctx, db.StagedOfParams{Org: s.org, RecordUid: r.uid[:]})
		if err == nil && !bytes.Equal(staged.Data, candidate) || s.row(r.uid[:]).Revision != 1 {
			t.Error("something of the agent's changed")
		}
		return err
	})
}

// TestEditsLoseTheirAttestation: a value that a foreign client wrote is attested
// by nobody, whatever was attested before.
func TestEditsLoseTheirAttestation(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	s.addStatement(r)
	attestation := seal.Hash([]byte("a result"))
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.SetRecordValue(ctx, db.SetRecordValueParams{ValueSeq: 4, Attestation: attestation[:], Org: s.org, RecordUid: r.uid[:]})
	})
	before := s.row(r.uid[:])
	s.want("update", s.update(s.prebound("m"), r, "2", ""), "")
	after := s.row(r.uid[:])
	if bytes.Equal(after.DataDigest, before.DataDigest) || after.ValueSeq != 4 || !bytes.Equal(after.Attestation, attestation[:]) {
		t.Error("the record does not show that its data is not what was attested")
	}
	if d := seal.Hash(after.Data); !bytes.Equal(d[:], after.DataDigest) {
		t.Error("the data's digest is not the data's")
	}
}

func TestGrantsCountAtOnce(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	s.want("with EDIT", s.update(m, r, "2", ""), "")
	s.o.Grant(t, s.edit, s.app, trust.Read)
	s.sync()
	s.want("with READ", s.update(m, r, "3", ""), ksm.CodeAccessDenied)
	if n := s.records(m); n != 1 {
		t.Errorf("%d records with READ", n)
	}
	s.o.Grant(t, s.edit, s.app, 0)
	s.sync()
	if n := s.records(m); n != 0 {
		t.Errorf("%d records without a grant", n)
	}
	s.o.Change(t, trust.RemoveOp(s.app))
	s.sync()
	s.want("a removed application", s.do(m, ksm.OpGetSecret, map[string]any{}), ksm.CodeAccessDenied)
}

func TestFolderWithANewKeyWaitsForItsWrapping(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	key := seal.NewKey()
	s.o.Change(t, trust.FolderOp(s.o.ID, s.edit, 2, key))
	s.sync()
	if n := s.records(m); n != 0 {
		t.Errorf("%d records under a key that the application does not have", n)
	}
	s.want("update", s.update(m, r, "2", ""), ksm.CodeAccessDenied)
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.PutAppFolder(ctx, db.PutAppFolderParams{Org: s.org, AppID: s.app[:], FolderUid: s.edit[:], KeyVersion: 2, Wrapped: seal.WrapKey(s.key, key)})
	})
	if n := s.records(m); n != 0 {
		t.Errorf("%d records that are still wrapped under the former key", n)
	}
}

func (s *server) sync() {
	s.t.Helper()
	s.write(func(ctx context.Context, q *db.Queries) error {
		_, err := s.dir.Append(ctx, q, s.org, s.o.Changes...)
		return err
	})
}

// records counts the records that a machine is shown.
func (s *server) records(m machine) (n int) {
	s.t.Helper()
	code, answer := s.send(ksm.PathMachine+ksm.OpGetSecret, s.raw(m, map[string]any{}))
	s.want("get_secret", code, "")
	var got ksm.GetAnswer
	s.must(json.Unmarshal(answer, &got))
	for _, f := range got.Folders {
		n += len(f.Records)
	}
	return n
}

func TestLockedAddressAndExpiredToken(t *testing.T) {
	s := newServer(t)
	locked := s.prebound("locked", func(p *db.AddAppClientParams) { p.LockAddress = 1 })
	s.want("the first address is kept", s.do(locked, ksm.OpGetSecret, map[string]any{}), "")
	s.want("the same address", s.do(locked, ksm.OpGetSecret, map[string]any{}), "")
	s.write(func(ctx context.Context, q *db.Queries) error {
		return q.ConfirmClient(ctx, db.ConfirmClientParams{Address: "192.0.2.1", ClientID: locked.id})
	})
	s.want("another address", s.do(locked, ksm.OpGetSecret, map[string]any{}), ksm.CodeAccessDenied)

	late := s.prebound("late", func(p *db.AddAppClientParams) {
		p.PublicKey, p.EncryptedAppKey, p.TokenExpires = nil, []byte("wrapped"), s.clock().Add(-time.Second).UnixMilli()
	})
	point, err := seal.DevicePub(late.key)
	s.must(err)
	s.want("an expired token", s.do(late, ksm.OpGetSecret, map[string]any{"publicKey": ksm.Std(point)}), ksm.CodeAccessDenied)
}

func TestBindingIsToOneKey(t *testing.T) {
	s := newServer(t)
	m := s.prebound("token", func(p *db.AddAppClientParams) { p.PublicKey, p.EncryptedAppKey = nil, []byte("wrapped") })
	bind := func(with machine) (string, bool) {
		point, err := seal.DevicePub(with.key)
		s.must(err)
		code, answer := s.send(ksm.PathMachine+ksm.OpGetSecret, s.raw(machine{m.id, with.key}, map[string]any{"publicKey": ksm.Std(point)}))
		return code, bytes.Contains(answer, []byte(ksm.Std([]byte("wrapped"))))
	}
	thief := s.prebound("thief")
	if code, key := bind(m); code != "" || !key {
		t.Fatalf("binding: %q, key given: %v", code, key)
	}
	if code, key := bind(m); code != "" || !key {
		t.Errorf("the same key again: %q, key given: %v", code, key)
	}
	if code, key := bind(thief); code != ksm.CodeAccessDenied || key {
		t.Errorf("another key: %q, key given: %v", code, key)
	}
	s.want("confirmed", s.do(m, ksm.OpGetSecret, map[string]any{}), "")
	if code, key := bind(m); code != ksm.CodeAccessDenied || key {
		t.Errorf("after the confirmation: %q, key given: %v", code, key)
	}
	s.query(func(ctx context.Context, q *db.Queries) error {
		c, err := q.MachineClientByID(ctx, m.id)
		if len(c.EncryptedAppKey) != 0 {
			t.Error("the wrapped key is kept though nobody needs it")
		}
		return err
	})
}

// TestOwnersCopiesAreNotKept looks into the database's files for what clients
// seal to the application's owner.
func TestOwnersCopiesAreNotKept(t *testing.T) {
	s := newServer(t)
	m := s.prebound("m")
	copies := [][]byte{bytes.Repeat([]byte("owner's copy of a record key;"), 4)[:112], bytes.Repeat([]byte("owner's copy of a file key;;"), 4)[:112]}
	kept := bytes.Repeat([]byte("k"), 60)
	uid := seal.NewID()
	s.want("create", s.do(m, ksm.OpCreateSecret, map[string]any{
		"recordUid": uid, "folderUid": s.edit, "recordKey": ksm.Std(copies[0]), "folderKey": ksm.Std(kept), "data": ksm.URL([]byte("data of the record")),
	}), "")
	s.want("file", s.do(m, ksm.OpAddFile, map[string]any{
		"fileRecordUid": seal.NewID(), "fileRecordKey": ksm.Std(copies[1]), "fileRecordData": ksm.URL([]byte("metadata")), "ownerRecordUid": uid,
		"ownerRecordData": ksm.URL([]byte("data with the file")), "ownerRecordRevision": 1, "linkKey": ksm.Std(kept), "fileSize": 30,
	}), "")
	var files []byte
	s.must(filepath.WalkDir(s.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files = append(files, b...)
		return err
	}))
	if !bytes.Contains(files, []byte("data with the file")) {
		t.Fatal("the test looks in the wrong place")
	}
	for _, c := range copies {
		if bytes.Contains(files, c) {
			t.Error("a copy that is sealed to the owner was kept")
		}
	}
}

func TestServerTellsItsKey(t *testing.T) {
	s := newServer(t)
	tr := s.transport()
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(s.url() + ksm.PathServer)
	s.must(err)
	defer resp.Body.Close()
	var info ksm.ServerInfo
	s.must(json.NewDecoder(resp.Body).Decode(&info))
	if info.Host != "localhost" || info.KeyID != serverKeyID || !bytes.Equal(info.PublicKey, serverPoint()) || info.Version != "test" {
		t.Errorf("got %+v", info)
	}
}

func TestMalformedPayloads(t *testing.T) {
	s := newServer(t)
	r := s.addRecord(s.edit, login("1"))
	m := s.prebound("m")
	for name, test := range map[string]struct {
		op      string
		payload map[string]any
		want    string
	}{
		"no data":               {ksm.OpUpdateSecret, map[string]any{"recordUid": r.uid, "revision": 1}, ksm.CodeBadRequest},
		"large data":            {ksm.OpUpdateSecret, map[string]any{"recordUid": r.uid, "revision": 1, "data": ksm.URL(make([]byte, ksm.MaxData+1))}, ksm.CodeTooLarge},
		"a number for a uid":    {ksm.OpUpdateSecret, map[string]any{"recordUid": 5}, ksm.CodeBadRequest},
		"no uid":                {ksm.OpUpdateSecret, map[string]any{"revision": 1, "data": "AAAA"}, ksm.CodeAccessDenied},
		"a short key":           {ksm.OpCreateSecret, map[string]any{"recordUid": seal.NewID(), "folderUid": s.edit, "folderKey": "AAAA", "data": "AAAA"}, ksm.CodeBadRequest},
		"a foreign sub-folder":  {ksm.OpCreateSecret, map[string]any{"recordUid": seal.NewID(), "folderUid": s.edit, "subFolderUid": seal.NewID(), "folderKey": ksm.Std(make([]byte, 60)), "data": "AAAA"}, ksm.CodeBadRequest},
		"a folder without name": {ksm.OpCreateFolder, map[string]any{"folderUid": seal.NewID(), "sharedFolderUid": s.edit, "sharedFolderKey": ksm.Std(make([]byte, 64))}, ksm.CodeBadRequest},
		"a folder's uid again":  {ksm.OpCreateFolder, map[string]any{"folderUid": s.read, "sharedFolderUid": s.edit, "sharedFolderKey": ksm.Std(make([]byte, 64)), "data": "AAAA"}, ksm.CodeBadRequest},
		"too many uids":         {ksm.OpGetSecret, map[string]any{"requestedRecords": slices.Repeat([]any{r.uid}, 1001)}, ksm.CodeTooLarge},
		"a binding without key": {ksm.OpGetSecret, map[string]any{"publicKey": "BAAA"}, ksm.CodeAccessDenied},
	} {
		if got := s.do(m, test.op, test.payload); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	code, _ := s.send(ksm.PathAgent+ksm.OpLease, s.raw(m, map[string]any{"op": ksm.OpLease}))
	s.want("an application on an agent's path", code, ksm.CodeAccessDenied)
	code, _ = s.send(ksm.PathMachine+"no_such", s.raw(m, map[string]any{}))
	s.want("no operation", code, "404 Not Found")
	r2 := s.raw(m, map[string]any{})
	r2.body = make([]byte, ksm.MaxBody+1)
	code, _ = s.send(ksm.PathMachine+ksm.OpGetSecret, r2)
	s.want("a large body", code, ksm.CodeTooLarge)
}
