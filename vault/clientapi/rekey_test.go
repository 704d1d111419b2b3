package clientapi_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// rekeyScene is a folder with all that may lie under its key.
type rekeyScene struct {
	s      *server
	o      *orgtest.Org
	admin  *client
	folder seal.ID
	app    seal.ID
	record trust.Ref // with a former value
	other  trust.Ref
	sub    []byte
	file   []byte
}

func newRekeyScene(t *testing.T) *rekeyScene {
	t.Helper()
	sc := &rekeyScene{s: newServer(t), o: orgtest.New(t, time.Now), sub: random(16), file: random(16)}
	sc.folder = sc.o.Folder(t)
	pool := sc.o.Pool(t, "dc1")
	sc.o.Agent(t, "gw1", pool)
	sc.o.Grant(t, sc.folder, pool, trust.Read)
	sc.app = sc.o.App(t, "terraform")
	sc.o.Grant(t, sc.folder, sc.app, trust.Read)
	sc.admin = sc.s.found(sc.o)
	var create [2]*clientv1.WriteOp
	sc.record, create[0] = newRecord(sc.folder, "pamUser")
	sc.other, create[1] = newRecord(sc.folder, "login")
	sc.admin.must(sc.admin.write(create[0], create[1], replaceRecord(sc.record, 1, random(40)), sc.putAppFolder(1),
		&clientv1.WriteOp{Op: &clientv1.WriteOp_PutFolder{PutFolder: &clientv1.PutFolder{FolderUid: sc.folder.Bytes(), Data: random(48)}}}))
	err := sc.s.store.Write(t.Context(), func(q *db.Queries) error {
		err := q.AddSubfolder(t.Context(), db.AddSubfolderParams{Org: 1, FolderUid: sc.sub, RootUid: sc.folder[:], FolderKey: random(64), Data: random(32)})
		if err != nil {
			return err
		}
		return q.AddFile(t.Context(), db.AddFileParams{Org: 1, FileUid: sc.file, RecordUid: sc.record.Record[:], FileKey: random(60), Data: random(40), Size: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func (sc *rekeyScene) putAppFolder(version uint32) *clientv1.WriteOp {
	return &clientv1.WriteOp{Op: &clientv1.WriteOp_PutAppFolder{PutAppFolder: &clientv1.PutAppFolder{
		AppId: sc.app.Bytes(), FolderUid: sc.folder.Bytes(), KeyVersion: version, Wrapped: random(60),
	}}}
}

func (sc *rekeyScene) wrapped(t *testing.T) *clientv1.ListWrappedResponse {
	t.Helper()
	all := &clientv1.ListWrappedResponse{}
	q := &clientv1.ListWrappedRequest{FolderUid: sc.folder.Bytes(), Page: &clientv1.Page{Size: 1}}
	for {
		page, err := sc.admin.ListWrapped(t.Context(), connect.NewRequest(q))
		if err != nil {
			t.Fatal(err)
		}
		all.Records, all.Folders = append(all.Records, page.Msg.Records...), append(all.Folders, page.Msg.Folders...)
		if page.Msg.Next == "" {
			return all
		}
		q.Page.Token = page.Msg.Next
	}
}

// call is a complete call: the change first, what is under the key, then who gets it.
func (sc *rekeyScene) call(t *testing.T) (ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) {
	t.Helper()
	r = &clientv1.RekeyFolder{FolderUid: sc.folder.Bytes(), KeyVersion: 2, Data: random(48)}
	w := sc.wrapped(t)
	for _, x := range w.Records {
		r.Records = append(r.Records, &clientv1.Rewrapped{Uid: x.Uid, Former: x.Wrapped, Wrapped: random(60)})
	}
	for _, x := range w.Folders {
		r.Folders = append(r.Folders, &clientv1.Rewrapped{Uid: x.Uid, Former: x.Wrapped, Wrapped: random(64)})
	}
	ops = []*clientv1.WriteOp{
		appendOp(sc.o.Sign(t, sc.o.Admin, trust.FolderOp(sc.o.ID, sc.folder, 2, seal.NewKey()))),
		{Op: &clientv1.WriteOp_RekeyFolder{RekeyFolder: r}},
		sc.putAppFolder(2),
	}
	for _, e := range sc.o.Log.Readers(sc.folder) {
		ops = append(ops, putFolderKey(sc.folder, 2, e.ID))
	}
	return ops, r
}

func drop(ops []*clientv1.WriteOp, i int) []*clientv1.WriteOp {
	return append(append([]*clientv1.WriteOp{}, ops[:i]...), ops[i+1:]...)
}

// A new folder key that leaves anything under the former one, or anybody without it, is
// refused, and nothing of the call is kept.
func TestNewFolderKeyTakesAllOver(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(sc *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp
		reason string
	}{
		{"complete", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp { return ops }, ""},
		{"the change alone", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			return ops[:1]
		}, "rekey_incomplete"},
		{"without its change", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			return ops[1:2]
		}, "key_version"},
		{"a record's key left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp {
			r.Records = r.Records[1:]
			return ops
		}, "rekey_incomplete"},
		{"a record made meanwhile", func(sc *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			_, create := newRecord(sc.folder, "login")
			sc.admin.must(sc.admin.write(create))
			return ops
		}, "rekey_incomplete"},
		{"a record deleted meanwhile", func(sc *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			sc.admin.must(sc.admin.write(deleteRecord(sc.other, 1)))
			return ops
		}, "rekey_incomplete"},
		{"another record's former key", func(_ *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp {
			r.Records[0].Former = r.Records[1].Former
			return ops
		}, "rekey_incomplete"},
		{"a wrapped key of another size", func(_ *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp {
			r.Records[0].Wrapped = random(61)
			return ops
		}, "malformed"},
		{"a sub-folder left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp {
			r.Folders = nil
			return ops
		}, "rekey_incomplete"},
		{"the folder's name left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, r *clientv1.RekeyFolder) []*clientv1.WriteOp {
			r.Data = nil
			return ops
		}, "malformed"},
		{"an application left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			return drop(ops, 2)
		}, "rekey_incomplete"},
		{"a reader left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			return drop(ops, 3)
		}, "reader_without_key"},
		{"the last reader left out", func(_ *rekeyScene, ops []*clientv1.WriteOp, _ *clientv1.RekeyFolder) []*clientv1.WriteOp {
			return ops[:len(ops)-1]
		}, "reader_without_key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc := newRekeyScene(t)
			before := sc.wrapped(t)
			if len(before.Records) != 2 || len(before.Folders) != 1 { // a former value has its record's key
				t.Fatalf("under the key: %d records, %d folders", len(before.Records), len(before.Folders))
			}
			ops, r := sc.call(t)
			_, err := sc.admin.write(test.change(sc, ops, r)...)
			folders, e := sc.admin.ListFolders(t.Context(), connect.NewRequest(&clientv1.ListFoldersRequest{}))
			if e != nil {
				t.Fatal(e)
			}
			f := folders.Msg.Folders[0]
			if test.reason != "" {
				refused(t, err, test.reason)
				if f.KeyVersion != 1 || f.OldKeys != 0 {
					t.Errorf("of the refused call is kept: %v", f)
				}
				return
			}
			ok(t, err)
			if f.KeyVersion != 2 || f.OldKeys != 2 || len(f.SealedKey) == 0 || !bytes.Equal(f.Data, r.Data) {
				t.Errorf("folder: %v", f)
			}
			after := sc.wrapped(t)
			for i, x := range r.Records {
				equal(t, "record's key", after.Records[i].Wrapped, x.Wrapped)
			}
			equal(t, "sub-folder's key", after.Folders[0].Wrapped, r.Folders[0].Wrapped)
			history, err := sc.admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.record.Proto()}))
			if err != nil || len(history.Msg.History) != 1 || history.Msg.History[0].KeyVersion != 2 {
				t.Fatalf("history: %v, %v", history, err)
			}
			equal(t, "former value's key", history.Msg.History[0].RecordKey, sc.admin.get(sc.record).RecordKey)
			sealed, err := sc.s.sealedKeys(t, sc.folder, 1)
			if err != nil || sealed != 0 {
				t.Errorf("%d copies of the former key are kept: %v", sealed, err)
			}
		})
	}
}

// A former value may have a key of its own, which is no record's any more: it is taken
// over, too, or the call is refused.
func TestNewFolderKeyTakesFormerValuesOver(t *testing.T) {
	for _, leftOut := range []bool{true, false} {
		sc := newRekeyScene(t)
		key := random(60)
		err := sc.s.store.Write(t.Context(), func(q *db.Queries) error {
			return q.KeepInHistory(t.Context(), db.KeepInHistoryParams{Org: 1, RecordUid: sc.record.Record[:], Revision: 1, RecordKey: key, KeyVersion: 1, Data: random(40), Why: "replaced"})
		})
		ok(t, err)
		ops, r := sc.call(t)
		own := slices.IndexFunc(r.Records, func(x *clientv1.Rewrapped) bool { return bytes.Equal(x.Former, key) })
		if len(r.Records) != 3 || own < 0 {
			t.Fatalf("under the key: %d keys, the former value's among them: %v", len(r.Records), own >= 0)
		}
		wrapped := r.Records[own].Wrapped
		if leftOut {
			r.Records = slices.Delete(r.Records, own, own+1)
		}
		_, err = sc.admin.write(ops...)
		if leftOut {
			refused(t, err, "rekey_incomplete")
			continue
		}
		ok(t, err)
		history, err := sc.admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.record.Proto()}))
		if err != nil || len(history.Msg.History) != 2 || history.Msg.History[0].KeyVersion != 2 || history.Msg.History[1].KeyVersion != 2 {
			t.Fatalf("history: %v, %v", history, err)
		}
		equal(t, "key of its own", history.Msg.History[0].RecordKey, wrapped)
	}
}

func (s *server) sealedKeys(t *testing.T, folder seal.ID, version int64) (n int, err error) {
	t.Helper()
	err = s.store.Read(t.Context(), func(q *db.Queries) error {
		list, err := q.FolderKeyRecipients(t.Context(), db.FolderKeyRecipientsParams{Org: 1, FolderUid: folder[:], KeyVersion: version})
		n = len(list)
		return err
	})
	return n, err
}

// A call that gives a folder a new key overwrites what only the keys' holders can check.
func TestRekeyNeedsEdit(t *testing.T) {
	for roles, reason := range map[trust.Roles]string{trust.Share: "not_allowed", trust.Share | trust.Edit: ""} {
		sc := newRekeyScene(t)
		sharer := sc.o.Member(t, "sharer", 0)
		sc.o.Grant(t, sc.folder, sharer.Owner, roles)
		sc.admin.catchUp()
		ops, _ := sc.call(t)
		ops[0] = appendOp(sc.o.Sign(t, sharer, trust.FolderOp(sc.o.ID, sc.folder, 2, seal.NewKey())))
		_, err := sc.s.signIn(sc.o, sharer).write(ops...)
		if reason == "" {
			ok(t, err)
		} else {
			refused(t, err, reason)
		}
	}
}

// However old a change is, it brings what is under the former key; unless the server was
// restored, and has lost it.
func TestOldChangeTakesAllOver(t *testing.T) {
	sc := newRekeyScene(t)
	ops, _ := sc.call(t)
	sc.s.wait(trust.Skew + time.Minute)
	_, err := sc.admin.write(ops[0])
	refused(t, err, "rekey_incomplete")
	sc.s.restored()
	ok(t, second(sc.admin.write(ops[0])))
	ok(t, second(sc.admin.write(ops[0]))) // and a change that is there already brings nothing
}

// Nobody who may only share takes the folder's key from those who have it.
func TestSharerReplacesNoKey(t *testing.T) {
	sc := newRekeyScene(t)
	sharer := sc.o.Member(t, "sharer", 0)
	sc.o.Grant(t, sc.folder, sharer.Owner, trust.Share)
	editor := sc.o.Member(t, "editor", 0)
	sc.o.Grant(t, sc.folder, editor.Owner, trust.Share|trust.Edit)
	sc.admin.catchUp()
	c := sc.s.signIn(sc.o, sharer)
	ok(t, second(c.write(putFolderKey(sc.folder, 1, editor.ID))))
	_, err := c.write(putFolderKey(sc.folder, 1, editor.ID))
	refused(t, err, "not_allowed")
	ok(t, second(c.write(putFolderKey(sc.folder, 1, sharer.ID)))) // his own
	ok(t, second(c.write(putFolderKey(sc.folder, 1, sharer.ID))))
	ok(t, second(sc.s.signIn(sc.o, editor).write(putFolderKey(sc.folder, 1, sharer.ID))))
}

// Who may not share may not re-key, nor see what is under the key if he may not read.
func TestRekeyNeedsShare(t *testing.T) {
	sc := newRekeyScene(t)
	reader := sc.o.Member(t, "reader", 0)
	sc.o.Grant(t, sc.folder, reader.Owner, trust.Read|trust.Edit)
	stranger := sc.o.Member(t, "stranger", 0)
	sc.admin.catchUp()
	ops, _ := sc.call(t)
	ops[0] = appendOp(sc.o.Sign(t, reader, trust.FolderOp(sc.o.ID, sc.folder, 2, seal.NewKey())))
	_, err := sc.s.signIn(sc.o, reader).write(ops...)
	refused(t, err, "log_signer")
	c := sc.s.signIn(sc.o, stranger)
	_, err = c.ListWrapped(t.Context(), connect.NewRequest(&clientv1.ListWrappedRequest{FolderUid: sc.folder.Bytes()}))
	refused(t, err, "not_allowed")
	_, err = c.ListOldKeys(t.Context(), connect.NewRequest(&clientv1.ListOldKeysRequest{FolderUid: sc.folder.Bytes()}))
	refused(t, err, "not_allowed")
}

// Records get their new keys one by one, and the server knows which have none yet.
func TestRekeyRecord(t *testing.T) {
	sc := newRekeyScene(t)
	ops, _ := sc.call(t)
	sc.admin.must(sc.admin.write(ops...))
	sc.o.Add(t, ops[0].GetAppend())
	rekey := func(change func(r *clientv1.RekeyRecord)) (*clientv1.RekeyRecord, error) {
		r := &clientv1.RekeyRecord{
			Ref: sc.record.Proto(), Revision: 2, RecordKey: random(60), KeyVersion: 2, Data: random(70),
			Files: []*clientv1.FileKey{{FileUid: sc.file, FileKey: random(60)}}, Former: []*clientv1.FormerKey{{Former: sc.admin.get(sc.record).RecordKey, Wrapped: random(60)}},
		}
		if change != nil {
			change(r)
		}
		_, err := sc.admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_RekeyRecord{RekeyRecord: r}})
		return r, err
	}
	old := func() (out []string) {
		t.Helper()
		r, err := sc.admin.ListOldKeys(t.Context(), connect.NewRequest(&clientv1.ListOldKeysRequest{FolderUid: sc.folder.Bytes()}))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range r.Msg.Records {
			out = append(out, string(k.Record.Ref.RecordUid))
		}
		return out
	}
	if got := old(); len(got) != 2 {
		t.Fatalf("%d records have former keys", len(got))
	}
	for _, test := range []struct {
		name   string
		change func(r *clientv1.RekeyRecord)
		reason string
	}{
		{"another revision", func(r *clientv1.RekeyRecord) { r.Revision = 1 }, "out_of_sync"},
		{"the former folder key", func(r *clientv1.RekeyRecord) { r.KeyVersion = 1 }, "key_version"},
		{"no key", func(r *clientv1.RekeyRecord) { r.RecordKey = nil }, "malformed"},
		{"no data", func(r *clientv1.RekeyRecord) { r.Data = nil }, "too_large"},
		{"a file left out", func(r *clientv1.RekeyRecord) { r.Files = nil }, "out_of_sync"},
		{"a file's key of another size", func(r *clientv1.RekeyRecord) { r.Files[0].FileKey = random(3) }, "malformed"},
		{"the former key left out", func(r *clientv1.RekeyRecord) { r.Former = nil }, "out_of_sync"},
		{"another former key", func(r *clientv1.RekeyRecord) { r.Former[0].Former = random(60) }, "out_of_sync"},
		{"a former key of another size", func(r *clientv1.RekeyRecord) { r.Former[0].Wrapped = random(9) }, "malformed"},
		{"no such record", func(r *clientv1.RekeyRecord) { r.Ref.RecordUid = random(16) }, "not_found"},
	} {
		_, err := rekey(test.change)
		t.Run(test.name, func(t *testing.T) { refused(t, err, test.reason) })
	}

	staged := func(owner string, at time.Time) {
		t.Helper()
		err := sc.s.store.Write(t.Context(), func(q *db.Queries) error {
			return q.AddStaged(t.Context(), db.AddStagedParams{
				Org: 1, RecordUid: sc.record.Record[:], OwnerKind: owner, OwnerID: random(16), RunID: random(16), BaseRevision: 2, Data: random(30), DataDigest: random(32), Time: at.UnixMilli(),
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	unstage := func() {
		t.Helper()
		err := sc.s.store.Write(t.Context(), func(q *db.Queries) error {
			return q.DeleteStagedOf(t.Context(), db.DeleteStagedOfParams{Org: 1, RecordUid: sc.record.Record[:]})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for owner, at := range map[string]time.Time{"agent": time.Now().Add(-48 * time.Hour), "client": time.Now().Add(-59 * time.Minute)} {
		staged(owner, at)
		_, err := rekey(nil)
		refused(t, err, "run_outstanding")
		unstage()
	}
	for state, reason := range map[string]string{"queued": "", "leased": "run_outstanding", "committed": "run_outstanding"} {
		run := seal.NewID()
		err := sc.s.store.Write(t.Context(), func(q *db.Queries) error {
			err := q.AddRun(t.Context(), db.AddRunParams{Org: 1, RunID: run[:], AccountUid: sc.record.Record[:], FolderUid: sc.folder[:], Action: "rotate"})
			if err != nil || reason == "" { // AddRun makes a queued one
				return err
			}
			return q.MoveRun(t.Context(), db.MoveRunParams{Org: 1, RunID: run[:], State: state})
		})
		if err != nil {
			t.Fatal(err)
		}
		if reason == "" {
			continue // it has read nothing yet: the re-keying below goes through beside it
		}
		_, err = rekey(nil)
		refused(t, err, reason)
		err = sc.s.store.Write(t.Context(), func(q *db.Queries) error {
			return q.MoveRun(t.Context(), db.MoveRunParams{Org: 1, RunID: run[:], State: "finished", Finished: 1})
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	staged("client", time.Now().Add(-2*time.Hour)) // its time is over
	before := sc.admin.get(sc.record)
	r, err := rekey(nil)
	ok(t, err)
	got := sc.admin.get(sc.record)
	equal(t, "key", got.RecordKey, r.RecordKey)
	equal(t, "data", got.Data, r.Data)
	if got.Revision != 3 || got.Staged != nil {
		t.Errorf("revision %d, staged %v", got.Revision, got.Staged)
	}
	history, err := sc.admin.ListHistory(t.Context(), connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.record.Proto()}))
	if err != nil || len(history.Msg.History) != 3 {
		t.Fatalf("history: %v, %v", history, err)
	}
	if h := history.Msg.History; h[0].Why != "rekeyed" || h[1].Why != "rolled_back" || h[2].Why != "replaced" {
		t.Errorf("history: %q, %q, %q", h[0].Why, h[1].Why, h[2].Why)
	}
	equal(t, "former data", history.Msg.History[0].Data, before.Data)
	for _, h := range history.Msg.History {
		equal(t, "former value's key, under the record's", h.RecordKey, r.Former[0].Wrapped)
		if !h.UnderRecord || h.KeyVersion != 0 {
			t.Errorf("a former value's key is under version %d of the folder's", h.KeyVersion)
		}
	}
	if got := old(); len(got) != 1 || got[0] != string(sc.other.Record[:]) {
		t.Errorf("%d records have former keys, want the other one alone", len(got))
	}
	_, create := newRecord(sc.folder, "login")
	create.GetPutRecord().KeyVersion = 2
	sc.admin.must(sc.admin.write(create))
	if got := old(); len(got) != 1 {
		t.Error("a record made under the new key counts as old")
	}
	if n := sc.admin.eventNames(); n["record.rekeyed"] != 1 || n["folder.rekeyed"] != 1 {
		t.Errorf("events: %v", n)
	}
	// A second re-keying takes over one key of each record, and the one of a value that
	// was replaced meanwhile is the record's own.
	sc.admin.must(sc.admin.write(replaceRecord(sc.record, 3, random(20))))
	if w := sc.wrapped(t); len(w.Records) != 3 {
		t.Errorf("under the folder's key are %d keys, want those of three records", len(w.Records))
	}
}
