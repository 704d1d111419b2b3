package proof

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// thief has the files of a device or an agent: he is that party.
type thief struct {
	id   seal.ID
	keys enrol.Keys
}

func (d *device) stolen() thief { return thief{d.id, d.keys} }

func stolenAgent(t *testing.T, a *installation.Agent) thief {
	t.Helper()
	id := stolen(t, a)
	return thief{id.Entry, id.Keys}
}

// newFolder makes a folder of a member's own that the pool dc1 may read.
func (w *hostileWorld) newFolder(t *testing.T, member seal.ID, d *device) (folder seal.ID, key seal.Key) {
	t.Helper()
	folder, key = seal.NewID(), seal.NewKey()
	d.append(t, trust.NewFolderOps(w.log(t).Org(), folder, member, key)...)
	pool := w.entry(t, trustv1.EntryKind_ENTRY_KIND_POOL, installation.Pool)
	l := w.ada(t).append(t, trust.GrantOp(folder, pool.ID, trust.Read))
	for _, reader := range l.Readers(folder) {
		sealed, err := trust.SealFolderKey(l, folder, key, reader.ID, w.publicKeys(t, reader.ID), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		w.sql(t, "INSERT INTO folder_key (org, folder_uid, key_version, recipient_id, sealed) VALUES (1, ?, 1, ?, ?)", folder.Bytes(), reader.ID.Bytes(), sealed)
	}
	return folder, key
}

// ---- what a thief can open and make ----

// loot is a record that was opened with stolen keys.
type loot struct {
	ref       trust.Ref
	key       seal.Key
	data      []byte // clear JSON
	box       []byte // as it lies in the vault
	statement *trustv1.Statement
	signed    []byte // Signed{Statement}
}

// folderKey opens the copy of a folder's key that is sealed to the thief.
func (w *hostileWorld) folderKey(t *testing.T, th thief, folder seal.ID) seal.Key {
	t.Helper()
	var version uint32
	var sealed []byte
	w.read(t, "SELECT key_version, sealed FROM folder_key WHERE org = 1 AND folder_uid = ? AND recipient_id = ? ORDER BY key_version DESC",
		[]any{folder.Bytes(), th.id.Bytes()}, &version, &sealed)
	key, err := trust.OpenFolderKey(w.log(t), th.id, th.keys.Seal, folder, version, sealed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// loot opens a record as the vault has it, with the keys of Ada, who may read it.
func (w *hostileWorld) loot(t *testing.T, r trust.Ref) loot {
	t.Helper()
	s := loot{ref: r, statement: &trustv1.Statement{}}
	var wrapped, blob []byte
	w.read(t, `SELECT r.record_key, r.data, s.blob FROM record r JOIN statement s ON s.org = r.org AND s.record_uid = r.record_uid
		AND s.seq = r.statement_seq WHERE r.org = 1 AND r.record_uid = ?`, []any{r.Record.Bytes()}, &wrapped, &s.box, &blob)
	var err error
	if s.key, err = seal.UnwrapKey(w.folderKey(t, w.ada(t).stolen(), r.Folder), wrapped); err != nil {
		t.Fatal(err)
	}
	if s.data, err = seal.OpenGCM(s.key, s.box, nil); err != nil {
		t.Fatal(err)
	}
	if s.signed, err = seal.OpenExt(w.log(t).Org(), s.key, r.Record, seal.ExtStatement, blob); err != nil {
		t.Fatal(err)
	}
	var envelope trustv1.Signed
	if err := proto.Unmarshal(s.signed, &envelope); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(envelope.Body, s.statement); err != nil {
		t.Fatal(err)
	}
	return s
}

// sign signs a statement for a record, whoever the thief is: no client of ours would.
func (w *hostileWorld) sign(t *testing.T, th thief, key seal.Key, s *trustv1.Statement) []byte {
	t.Helper()
	s = proto.CloneOf(s)
	l := w.log(t)
	s.KeyCheck, s.Issued = seal.RecordKeyCheck(l.Org(), key, seal.ID(s.RecordUid)).Bytes(), time.Now().UnixMilli()
	signed, _, err := trust.SignStatement(l, th.keys.Sign, s)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// serveStatement has the server serve a Signed{Statement} with a record: as its
// statement of that number, sealed under the key given.
func (w *hostileWorld) serveStatement(t *testing.T, r trust.Ref, key seal.Key, seq uint64, signed []byte) {
	t.Helper()
	blob := trust.SealStatement(w.log(t).Org(), key, r.Record, signed)
	var envelope trustv1.Signed
	if err := proto.Unmarshal(signed, &envelope); err != nil {
		t.Fatal(err)
	}
	digest := seal.MessageDigest(seal.KindStatement, w.log(t).Org(), envelope.Body)
	w.sql(t, "INSERT OR REPLACE INTO statement (org, record_uid, seq, folder_uid, digest, blob, time) VALUES (1, ?, ?, ?, ?, ?, ?)",
		r.Record.Bytes(), seq, r.Folder.Bytes(), digest.Bytes(), blob, time.Now().UnixMilli())
	w.sql(t, "UPDATE record SET statement_seq = ? WHERE org = 1 AND record_uid = ?", seq, r.Record.Bytes())
}

// serveResult has the server keep a Signed{Result}; attests makes it the newest word
// on the record's value.
func (w *hostileWorld) serveResult(t *testing.T, r trust.Ref, signed []byte, digest seal.Digest, attests bool) {
	t.Helper()
	var envelope trustv1.Signed
	var result trustv1.Result
	if err := proto.Unmarshal(signed, &envelope); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(envelope.Body, &result); err != nil {
		t.Fatal(err)
	}
	w.sql(t, `INSERT OR REPLACE INTO result SELECT 1, ?, ?, ?, ?, ?, ?, ?, ?, x'', coalesce(max(n), 0) + 1, ? FROM result WHERE org = 1`,
		digest.Bytes(), r.Record.Bytes(), result.RunId, result.Phase, result.By, result.ValueSeq, result.DataDigest, signed, time.Now().UnixMilli())
	if attests {
		w.sql(t, "UPDATE record SET attestation = ?, value_seq = ? WHERE org = 1 AND record_uid = ?", digest.Bytes(), result.ValueSeq, r.Record.Bytes())
	}
}

// result signs a result as the thief.
func (w *hostileWorld) result(t *testing.T, th thief, r *trustv1.Result) (signed []byte, digest seal.Digest) {
	t.Helper()
	r = proto.CloneOf(r)
	r.By = th.id.Bytes()
	if r.Time == 0 {
		r.Time = time.Now().UnixMilli()
	}
	signed, digest, err := trust.SignResult(w.log(t), th.keys.Sign, r)
	if err != nil {
		t.Fatal(err)
	}
	return signed, digest
}

// path names a record as the command line takes it whatever its title.
func path(r trust.Ref) string { return fmt.Sprintf("%s/%s", r.Folder, r.Record) }
