package proof

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Rows in which the server serves one record, or key, for another.

// swap exchanges columns of two records.
func (w *hostileWorld) swap(t *testing.T, a, b trust.Ref, columns ...string) {
	t.Helper()
	for _, c := range columns {
		var x, y any
		w.read(t, "SELECT "+c+" FROM record WHERE org = 1 AND record_uid = ?", []any{a.Record.Bytes()}, &x)
		w.read(t, "SELECT "+c+" FROM record WHERE org = 1 AND record_uid = ?", []any{b.Record.Bytes()}, &y)
		w.sql(t, "UPDATE record SET "+c+" = ? WHERE org = 1 AND record_uid = ?", y, a.Record.Bytes())
		w.sql(t, "UPDATE record SET "+c+" = ? WHERE org = 1 AND record_uid = ?", x, b.Record.Bytes())
	}
}

// honest makes accounts that work, and keeps their rows for the row's end.
func (w *hostileWorld) honest(t *testing.T, n int) (titles []string, refs []trust.Ref) {
	t.Helper()
	for range n {
		title := w.account(t)
		w.works(t, title)
		titles, refs = append(titles, title), append(refs, w.ref(t, title))
	}
	for _, r := range refs {
		w.keepRecord(t, r)
	}
	return titles, refs
}

// refusedByClient asserts that a person's client refuses the record as it is served
// now, before it signs anything, and tells of it. The targets are those of the account: the
// world's own where none is named.
func (w *hostileWorld) refusedByClient(t *testing.T, r trust.Ref, reason trust.Reason, targets ...*gate) {
	t.Helper()
	since := w.now(t)
	var o installation.Outcome
	var err error
	w.untouched(t, func() { o, err = w.Rotate(t.Context(), path(r)) }, targets...)
	if err == nil || o.Reason != string(reason) {
		t.Errorf("the client ended otherwise than by %s: %+v: %v", reason, o, err)
		return
	}
	if reason != trust.NotAllowed { // an honest server has those, too
		w.told(t, since, "record.refused", reason)
	}
}

// refusedByAll does the worst once the agent has the command, and asserts that the
// agent refuses the records, and a client, too; then that the honest rows work again.
func (w *hostileWorld) refusedByAll(t *testing.T, title string, r trust.Ref, reason trust.Reason, worst func()) {
	t.Helper()
	w.refused(t, title, reason, worst)
	w.refusedByClient(t, r, reason)
}

func dataAndKeySwapped(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 2)
	w.refusedByAll(t, titles[0], refs[0], trust.RecordSwapped, func() { w.swap(t, refs[0], refs[1], "record_key", "data", "data_digest") })
}

func allSwapped(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 2)
	w.refusedByAll(t, titles[0], refs[0], trust.RecordSwapped, func() {
		w.swap(t, refs[0], refs[1], "record_key", "data", "data_digest", "revision", "value_seq", "attestation", "statement_seq")
		a, b := refs[0].Record.Bytes(), refs[1].Record.Bytes()
		spare := seal.NewID().Bytes()
		for table, column := range map[string]string{"statement": "record_uid", "result": "subject_uid"} {
			for _, move := range [][2][]byte{{a, spare}, {b, a}, {spare, b}} {
				w.sql(t, "UPDATE "+table+" SET "+column+" = ? WHERE org = 1 AND "+column+" = ?", move[1], move[0])
			}
		}
	})
}

func dataSwapped(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 2)
	w.refusedByAll(t, titles[0], refs[0], trust.RecordCorrupt, func() { w.swap(t, refs[0], refs[1], "data", "data_digest") })
}

func servedAsAnother(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 2)
	a, b := w.loot(t, refs[0]), w.loot(t, refs[1])

	t.Run("statement wrapped anew under the other's key", func(t *testing.T) {
		restore := w.keepRecord(t, refs[0])
		w.refusedByAll(t, titles[0], refs[0], trust.RecordSwapped, func() {
			w.sql(t, `UPDATE record SET (record_key, data, data_digest) = (SELECT record_key, data, data_digest FROM record WHERE org = 1 AND record_uid = ?)
				WHERE org = 1 AND record_uid = ?`, refs[1].Record.Bytes(), refs[0].Record.Bytes())
			w.serveStatement(t, refs[0], b.key, a.statement.Seq, a.signed)
		})
		restore()
	})

	t.Run("moved to another folder", func(t *testing.T) {
		restore := w.keepRecord(t, refs[0])
		other, key := w.newFolder(t, w.owner(t), w.ada(t))
		moved := trust.Ref{Folder: other, Record: refs[0].Record}
		w.sql(t, "UPDATE record SET folder_uid = ?, record_key = ? WHERE org = 1 AND record_uid = ?",
			other.Bytes(), trust.SealRecordKey(key, a.key), refs[0].Record.Bytes())
		w.dueRefused(t, moved, "record.refused", trust.FolderMismatch)
		w.refusedByClient(t, moved, trust.FolderMismatch)
		restore()
	})

	t.Run("under a member's own statement", func(t *testing.T) {
		restore := w.keepRecord(t, refs[0])
		member, bob := w.member(t, trust.Read)
		defer w.remove(t, member)
		own, _ := w.newFolder(t, member, bob)
		s := a.statement
		s.FolderUid, s.Seq = own.Bytes(), s.Seq+100
		signed := w.sign(t, bob.stolen(), a.key, s)
		w.refusedByAll(t, titles[0], refs[0], trust.FolderMismatch, func() { w.serveStatement(t, refs[0], a.key, s.Seq, signed) })
		restore()
	})
	w.works(t, titles[0])
}

func folderKeysSwapped(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 1)
	other, _ := w.newFolder(t, w.owner(t), w.ada(t))
	folder := refs[0].Folder
	restore := w.keep(t, "folder_key", "org = 1 AND folder_uid IN (?, ?)", folder.Bytes(), other.Bytes())
	w.refusedByAll(t, titles[0], refs[0], trust.FolderKeySwapped, func() {
		w.sql(t, `UPDATE folder_key AS k SET sealed = o.sealed FROM folder_key o WHERE o.org = k.org AND o.recipient_id = k.recipient_id
			AND o.folder_uid <> k.folder_uid AND k.folder_uid IN (?, ?) AND o.folder_uid IN (?, ?)`,
			folder.Bytes(), other.Bytes(), folder.Bytes(), other.Bytes())
	})
	restore()
	w.works(t, titles[0])

	restore = w.keep(t, "folder_key", "org = 1 AND folder_uid = ?", folder.Bytes())
	w.refusedByAll(t, titles[0], refs[0], trust.FolderKeySwapped, func() { w.serveOwnFolderKey(t, folder, 1, seal.NewKey()) })
	restore()
	w.works(t, titles[0])
}

// serveOwnFolderKey seals a folder key of the server's own to the agent and to the
// administrator's device, as the API does with an honest one.
func (w *hostileWorld) serveOwnFolderKey(t *testing.T, folder seal.ID, version uint32, key seal.Key) {
	t.Helper()
	l := w.log(t)
	for _, e := range l.Entries(trustv1.EntryKind_ENTRY_KIND_AGENT, trustv1.EntryKind_ENTRY_KIND_DEVICE) {
		var encoded []byte
		w.read(t, "SELECT keys FROM entry_keys WHERE org = 1 AND entry_id = ?", []any{e.ID.Bytes()}, &encoded)
		keys, err := trust.CheckKeys(e, encoded)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := seal.SealTo(keys.SealPub, seal.Route{Purpose: seal.PurposeFolder, Org: l.Org(), To: e.ID, Object: folder}, key.Expose())
		if err != nil {
			t.Fatal(err)
		}
		w.sql(t, "INSERT OR REPLACE INTO folder_key (org, folder_uid, key_version, recipient_id, sealed) VALUES (1, ?, ?, ?, ?)",
			folder.Bytes(), version, e.ID.Bytes(), sealed)
	}
}

func folderOfServer(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 1)
	// The pool reads every folder, so that the server's own is not refused for that.
	w.cli(t, "folder", "grant", "*", installation.Pool, "read")
	t.Cleanup(func() { w.cli(t, "folder", "grant", "*", installation.Pool, "none") })
	w.works(t, titles[0])

	a := w.loot(t, refs[0])
	folder, key := seal.NewID(), seal.NewKey()
	made := trust.Ref{Folder: folder, Record: refs[0].Record}
	w.keep(t, "folder_key", "org = 1 AND folder_uid = ?", folder.Bytes())
	w.keep(t, "folder", "org = 1 AND folder_uid = ?", folder.Bytes())
	w.sql(t, "INSERT INTO folder (org, folder_uid, data, created) VALUES (1, ?, x'', ?)", folder.Bytes(), time.Now().UnixMilli())
	w.serveOwnFolderKey(t, folder, 0, key)
	w.sql(t, "UPDATE record SET folder_uid = ?, record_key = ? WHERE org = 1 AND record_uid = ?",
		folder.Bytes(), trust.SealRecordKey(key, a.key), refs[0].Record.Bytes())
	hostile := filepath.Join(w.ServerFault(), "serve-unknown-folders")
	if err := os.WriteFile(hostile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(hostile) })

	w.dueRefused(t, made, "record.refused", trust.FolderUnknown)
	w.refusedByClient(t, made, trust.FolderUnknown)
}

func statementDeleted(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 1)
	r := refs[0]
	a := w.loot(t, r)
	w.refusedByAll(t, titles[0], r, trust.RecordUnsigned, func() {
		w.sql(t, "DELETE FROM statement WHERE org = 1 AND record_uid = ?", r.Record.Bytes())
		w.sql(t, "UPDATE record SET statement_seq = 0 WHERE org = 1 AND record_uid = ?", r.Record.Bytes())
	})
	// An application that edits the record may write, too, that it is one that needs none.
	written := trust.SealData(a.key, []byte(`{"type":"login","title":"`+titles[0]+`","fields":[{"type":"password","value":["what a machine client likes"]}],"custom":[]}`))
	digest := seal.Hash(written)
	w.untouched(t, func() {
		w.sql(t, "UPDATE record SET data = ?, data_digest = ? WHERE org = 1 AND record_uid = ?", written, digest.Bytes(), r.Record.Bytes())
		if state, reason := w.state(t, r); state != "unsigned" || reason != string(trust.RecordUnsigned) {
			t.Errorf("a client shows it as %s, %s", state, reason)
		}
		w.fails(t, trust.RecordUnsigned, "record", "get", path(r), "--reveal", "--field", "secret")
	})
}

func statementOfReader(t *testing.T, w *hostileWorld) {
	titles, refs := w.honest(t, 1)
	member, reader := w.member(t, trust.Read)
	defer w.remove(t, member)
	a := w.loot(t, refs[0])
	a.statement.Seq++
	signed := w.sign(t, reader.stolen(), a.key, a.statement)
	w.refusedByAll(t, titles[0], refs[0], trust.NotAllowed, func() { w.serveStatement(t, refs[0], a.key, a.statement.Seq, signed) })
}
