package trust

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The steps of keys.md 4.2, 1 to 6.
func TestOpenRecordSteps(t *testing.T) {
	base := newWorld(t)
	bob, carol := base.bob.device, base.carol.device
	for _, row := range []struct {
		name string
		make func(w *world, m *volatile) (seal.Key, Served)
		want Reason
	}{
		{"honest", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"1 another folder key", func(w *world, m *volatile) (seal.Key, Served) {
			return fixedKey(1), w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, FolderKeySwapped},
		{"1 the former folder key after re-keying", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(bob, FolderOp(w.org, w.folder, 2, fixedKey(2)))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, FolderKeySwapped},
		{"1 a folder that the log does not know", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Ref.Folder = id(61)
			return w.folderKey, s
		}, FolderUnknown},
		{"2 key wrapped under another", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.RecordKey = SealRecordKey(fixedKey(1), keyR)
			return w.folderKey, s
		}, RecordCorrupt},
		{"2 only the data swapped", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Data = w.serve(uidM, keyM, "{}", nil).Data
			return w.folderKey, s
		}, RecordCorrupt},
		{"3 no statement", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", nil)
		}, RecordUnsigned},
		{"3 data and key of another record", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidM, keyM, "{}", nil)
			s.Ref, s.Statement = w.ref(uidR), SealStatement(w.org, keyR, uidR, w.signStatement(bob, w.resource()))
			return w.folderKey, s
		}, RecordSwapped},
		{"3 everything of another record", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidM, keyM, "{}", w.signStatement(bob, w.admin()))
			s.Ref = w.ref(uidR)
			return w.folderKey, s
		}, RecordSwapped},
		{"4 signer not in the log", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(newParty(t, 99, false), w.resource()))
		}, SignerUnknown},
		{"4 signed by an agent", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(w.one, w.resource()))
		}, SignerUnknown},
		{"4 signer removed since", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			w.do(w.alice.device, RemoveOp(w.bob.member))
			return w.folderKey, s
		}, SignerUnknown},
		{"4 signed after the device's time", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.resource()
			s.Issued = w.now.Add(301 * day).UnixMilli()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, SignerUnknown},
		{"4 signature altered", func(w *world, m *volatile) (seal.Key, Served) {
			signed := w.signStatement(bob, w.resource())
			signed[len(signed)-1] ^= 1
			return w.folderKey, w.serve(uidR, keyR, "{}", signed)
		}, SignatureBad},
		{"4 the signature of a command", func(w *world, m *volatile) (seal.Key, Served) {
			signed, _, err := signEnvelope(seal.KindCommand, w.org, w.resource(), bob.sign)
			if err != nil {
				t.Fatal(err)
			}
			return w.folderKey, w.serve(uidR, keyR, "{}", signed)
		}, SignatureBad},
		{"4 signed by a reader", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(carol, w.resource()))
		}, NotAllowed},
		{"4 a resource by an editor who may not operate", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(carol, w.resource()))
		}, NotAllowed},
		{"4 an account by that editor", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidM, keyM, "{}", w.signStatement(carol, w.admin()))
		}, ""},
		{"4 an enabled mandate by that editor", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidA, keyA, "{}", w.signStatement(carol, w.account()))
		}, NotAllowed},
		{"4 right withdrawn since", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			w.do(w.alice.device, GrantOp(w.folder, w.bob.member, Read))
			return w.folderKey, s
		}, NotAllowed},
		{"4 signer saw another log", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.resource()
			s.LogEpoch, s.LogDigest = 3, seal.Digest{1}.Bytes()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, LogFork},
		{"4 signer saw a newer log", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.resource()
			s.LogEpoch, s.LogDigest = 300, seal.Digest{1}.Bytes()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, LogGap},
		{"5 another record's statement wrapped anew", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.admin()))
		}, RecordSwapped},
		{"5 another record's key under this uid", func(w *world, m *volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyM, "{}", w.signStatement(bob, w.resource()))
		}, RecordSwapped},
		{"5 another kind than asked for", func(w *world, m *volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
			return w.folderKey, s
		}, RecordSwapped},
		{"5 a statement for this uid in another folder", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(w.dave.device, NewFolderOps(w.org, id(61), w.dave.member, fixedKey(61))...)
			s := w.resource()
			s.FolderUid, s.Seq, s.Prev = id(61).Bytes(), 9, make([]byte, 32)
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(w.dave.device, s))
		}, FolderMismatch},
		{"6 below memory", func(w *world, m *volatile) (seal.Key, Served) {
			_ = m.RememberStatement(w.ref(uidR), StatementSeen{Seq: 2})
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementRollback},
		{"6 below the floor", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidR), 2))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementRollback},
		{"6 at the floor", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidR), 1))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"6 a floor of another record", func(w *world, m *volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidM), 2))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"6 the number in memory with another digest", func(w *world, m *volatile) (seal.Key, Served) {
			_ = m.RememberStatement(w.ref(uidR), StatementSeen{Seq: 1, Digest: seal.Digest{1}})
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementFork},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &volatile{}
			key, served := row.make(w, m)
			before, _ := m.Statement(served.Ref)
			rec, err := OpenRecord(w.log, m, key, served)
			wantReason(t, err, row.want)
			seen, _ := m.Statement(served.Ref)
			if row.want != "" {
				if rec != nil || seen.Digest != before.Digest {
					t.Error("a refused record was returned or remembered")
				}
				return
			}
			if string(rec.Data) != "{}" || seen.Digest != rec.Statement.Digest || seen.Seq != rec.Statement.Seq || seen.Signed == nil {
				t.Errorf("record %+v, remembered %+v", rec, seen)
			}
		})
	}
}
