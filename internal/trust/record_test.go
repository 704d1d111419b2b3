package trust

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The steps of keys.md 4.2, 1 to 6.
func TestOpenRecordSteps(t *testing.T) {
	base := newWorld(t)
	bob, carol := base.bob.device, base.carol.device
	for _, row := range []struct {
		name string
		make func(w *world, m *Volatile) (seal.Key, Served)
		want Reason
	}{
		{"honest", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"1 another folder key", func(w *world, m *Volatile) (seal.Key, Served) {
			return seal.Key{1}, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, FolderKeySwapped},
		{"1 the former folder key after re-keying", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(bob, FolderOp(w.org, w.folder, 2, seal.Key{2}))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, FolderKeySwapped},
		{"1 a folder that the log does not know", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Ref.Folder = id(61)
			return w.folderKey, s
		}, FolderUnknown},
		{"2 key wrapped under another", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.RecordKey = SealRecordKey(seal.Key{1}, keyR)
			return w.folderKey, s
		}, RecordCorrupt},
		{"2 only the data swapped", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Data = w.serve(uidM, keyM, "{}", nil).Data
			return w.folderKey, s
		}, RecordCorrupt},
		{"3 no statement", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", nil)
		}, RecordUnsigned},
		{"3 data and key of another record", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidM, keyM, "{}", nil)
			s.Ref, s.Statement = w.ref(uidR), SealStatement(w.org, keyR, uidR, w.signStatement(bob, w.resource()))
			return w.folderKey, s
		}, RecordSwapped},
		{"3 everything of another record", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidM, keyM, "{}", w.signStatement(bob, w.admin()))
			s.Ref = w.ref(uidR)
			return w.folderKey, s
		}, RecordSwapped},
		{"4 signer not in the log", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(newParty(t, 99, false), w.resource()))
		}, SignerUnknown},
		{"4 signed by an agent", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(w.one, w.resource()))
		}, SignerUnknown},
		{"4 signer removed since", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			w.do(w.alice.device, RemoveOp(w.bob.member))
			return w.folderKey, s
		}, SignerUnknown},
		{"4 signed after the device's time", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.resource()
			s.Issued = w.now.Add(301 * day).UnixMilli()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, SignerUnknown},
		{"4 signature altered", func(w *world, m *Volatile) (seal.Key, Served) {
			signed := w.signStatement(bob, w.resource())
			signed[len(signed)-1] ^= 1
			return w.folderKey, w.serve(uidR, keyR, "{}", signed)
		}, SignatureBad},
		{"4 the signature of a command", func(w *world, m *Volatile) (seal.Key, Served) {
			signed, _, err := signEnvelope(seal.KindCommand, w.org, w.resource(), bob.sign)
			if err != nil {
				t.Fatal(err)
			}
			return w.folderKey, w.serve(uidR, keyR, "{}", signed)
		}, SignatureBad},
		{"4 signed by a reader", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(carol, w.resource()))
		}, NotAllowed},
		{"4 a resource by an editor who may not operate", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(carol, w.resource()))
		}, NotAllowed},
		{"4 an account by that editor", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidM, keyM, "{}", w.signStatement(carol, w.admin()))
		}, ""},
		{"4 an enabled mandate by that editor", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(w.alice.device, GrantOp(w.folder, w.carol.member, Read|Edit))
			return w.folderKey, w.serve(uidA, keyA, "{}", w.signStatement(carol, w.account()))
		}, NotAllowed},
		{"4 right withdrawn since", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			w.do(w.alice.device, GrantOp(w.folder, w.bob.member, Read))
			return w.folderKey, s
		}, NotAllowed},
		{"4 signer saw another log", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.resource()
			s.LogEpoch, s.LogDigest = 3, seal.Digest{1}.Bytes()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, LogFork},
		{"4 signer saw a newer log", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.resource()
			s.LogEpoch, s.LogDigest = 300, seal.Digest{1}.Bytes()
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, s))
		}, LogGap},
		{"5 another record's statement wrapped anew", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.admin()))
		}, RecordSwapped},
		{"5 another record's key under this uid", func(w *world, m *Volatile) (seal.Key, Served) {
			return w.folderKey, w.serve(uidR, keyM, "{}", w.signStatement(bob, w.resource()))
		}, RecordSwapped},
		{"5 another kind than asked for", func(w *world, m *Volatile) (seal.Key, Served) {
			s := w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
			s.Kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
			return w.folderKey, s
		}, RecordSwapped},
		{"5 a statement for this uid in another folder", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(w.dave.device, NewFolderOps(w.org, id(61), w.dave.member, seal.Key{61})...)
			s := w.resource()
			s.FolderUid, s.Seq, s.Prev = id(61).Bytes(), 9, make([]byte, 32)
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(w.dave.device, s))
		}, FolderMismatch},
		{"6 below memory", func(w *world, m *Volatile) (seal.Key, Served) {
			_ = m.RememberStatement(w.ref(uidR), StatementSeen{Seq: 2})
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementRollback},
		{"6 below the floor", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidR), 2))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementRollback},
		{"6 at the floor", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidR), 1))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"6 a floor of another record", func(w *world, m *Volatile) (seal.Key, Served) {
			w.do(bob, FloorOp(w.ref(uidM), 2))
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, ""},
		{"6 the number in memory with another digest", func(w *world, m *Volatile) (seal.Key, Served) {
			_ = m.RememberStatement(w.ref(uidR), StatementSeen{Seq: 1, Digest: seal.Digest{1}})
			return w.folderKey, w.serve(uidR, keyR, "{}", w.signStatement(bob, w.resource()))
		}, StatementFork},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &Volatile{}
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

// What a statement must not say, whoever signs it.
func TestStatementForm(t *testing.T) {
	w := newWorld(t)
	for _, row := range []struct {
		name string
		edit func(*trustv1.Statement)
		want Reason
	}{
		{"as it should be", func(s *trustv1.Statement) {}, ""},
		{"unknown field", func(s *trustv1.Statement) { s.ProtoReflect().SetUnknown([]byte{0xa0, 0x01, 1}) }, UnknownField},
		{"newer format", func(s *trustv1.Statement) { s.V = 2 }, UnknownField},
		{"seq zero", func(s *trustv1.Statement) { s.Seq = 0 }, Malformed},
		{"the first with a prev", func(s *trustv1.Statement) { s.Prev = make([]byte, 32) }, Malformed},
		{"short uid", func(s *trustv1.Statement) { s.RecordUid = s.RecordUid[:15] }, Malformed},
		{"zero folder", func(s *trustv1.Statement) { s.FolderUid = make([]byte, 16) }, Malformed},
		{"short key check", func(s *trustv1.Statement) { s.KeyCheck = s.KeyCheck[:31] }, Malformed},
		{"kind of another subject", func(s *trustv1.Statement) { s.Kind = trustv1.RecordKind_RECORD_KIND_SCRIPT }, Malformed},
		{"no subject", func(s *trustv1.Statement) { s.Subject = nil }, Malformed},
		{"no resource", func(s *trustv1.Statement) { s.GetAccount().Resource = nil }, Malformed},
		{"reference without a folder", func(s *trustv1.Statement) { s.GetAccount().Resource.FolderUid = nil }, Malformed},
		{"mandate under a minute", func(s *trustv1.Statement) { s.GetAccount().Mandate.MinIntervalS = 59 }, Malformed},
		{"mandate of 401 days", func(s *trustv1.Statement) {
			s.GetAccount().Mandate.ValidUntil = s.Issued + (401 * day).Milliseconds()
		}, Malformed},
		{"unknown verify mode", func(s *trustv1.Statement) { s.GetAccount().VerifyMode = "never" }, Malformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := w.account()
			row.edit(s)
			_, err := OpenStatement(w.log, w.signStatement(w.bob.device, s))
			wantReason(t, err, row.want)
			if row.want == Malformed {
				_, _, err = SignStatement(w.log, w.bob.device.sign, s)
				wantReason(t, err, Malformed)
			}
		})
	}
	signed, digest, err := SignStatement(w.log, w.bob.device.sign, w.account())
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenStatement(w.log, signed)
	if err != nil || s.Digest != digest || s.Signer.ID != w.bob.device.id {
		t.Errorf("%+v, %v", s, err)
	}
}

// 4.2 step 9: rights in the folder of everything that a statement names.
func TestCheckLinks(t *testing.T) {
	base := newWorld(t)
	g := id(61) // Dave's folder, which pool P reads; Bob has what the row says
	base.do(base.dave.device, NewFolderOps(base.org, g, base.dave.member, seal.Key{61})...)
	base.do(base.alice.device, GrantOp(g, base.p, Read))
	there := Ref{g, id(110)}.Proto()
	account := func(f func(a *trustv1.Account)) *trustv1.Statement {
		s := base.account()
		f(s.GetAccount())
		return s
	}
	resource := func(f func(r *trustv1.Resource)) *trustv1.Statement {
		s := base.resource()
		f(s.GetResource())
		return s
	}
	script := &trustv1.ScriptUse{Script: base.ref(id(111)).Proto(), Sha256: make([]byte, 32)}
	for _, row := range []struct {
		name string
		s    *trustv1.Statement
		bob  Roles // on g
		more ops   // by Alice
		want Reason
	}{
		{"all in one folder", base.account(), 0, nil, ""},
		{"resource there, with OPERATE", account(func(a *trustv1.Account) { a.Resource = there }), Operate, nil, ""},
		{"resource there, without", account(func(a *trustv1.Account) { a.Resource = there }), Read | Edit, nil, NotLinked},
		{"administrator there, with both", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), Read | Operate, nil, ""},
		{"administrator there, with OPERATE alone", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), Operate, nil, NotLinked},
		{"administrator there, without a role", resource(func(r *trustv1.Resource) { r.AdminAccount = there }), 0, nil, NotLinked},
		{"extra there, with OPERATE alone", resource(func(r *trustv1.Resource) { r.Extras = []*trustv1.Extra{{Name: "x", Account: there}} }), Operate, nil, NotLinked},
		{"jump host there, with OPERATE", resource(func(r *trustv1.Resource) { r.Via = there }), Operate, nil, ""},
		{"jump host there, with READ alone", resource(func(r *trustv1.Resource) { r.Via = there }), Read, nil, NotLinked},
		{"dependent there, with READ alone", account(func(a *trustv1.Account) { a.Dependents = []*trustv1.Dependent{{Resource: there, Plugin: "x"}} }), Read, nil, NotLinked},
		{"pair there, with READ alone", account(func(a *trustv1.Account) { a.PairAccount = there }), Read, nil, NotLinked},
		{"script, not approved", account(func(a *trustv1.Account) { a.Scripts = []*trustv1.ScriptUse{script} }), 0, nil, NotLinked},
		{"script, approved in the folder that uses it", account(func(a *trustv1.Account) { a.Scripts = []*trustv1.ScriptUse{script} }), 0, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, ""},
		{"script's record there, with READ alone", account(func(a *trustv1.Account) {
			u := proto.CloneOf(script)
			u.Records = []*trustv1.Ref{there}
			a.Scripts = []*trustv1.ScriptUse{u}
		}), Read, ops{GrantOp(base.folder, base.bob.member, AllRoles&^Admin)}, NotLinked},
		{"the pool may not read there", account(func(a *trustv1.Account) { a.Resource = there }), Operate, ops{GrantOp(g, base.p, 0)}, NotLinked},
		{"the signer's right ended", base.account(), 0, ops{GrantOp(base.folder, base.bob.member, Read|Edit)}, NotLinked},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			s := w.open(w.bob.device, row.s)
			w.do(w.alice.device, append(slices.Clone(row.more), GrantOp(g, w.bob.member, row.bob))...)
			wantReason(t, CheckLinks(w.log, s, w.p), row.want)
		})
	}
}

func TestPluginsAndScripts(t *testing.T) {
	w := newWorld(t)
	w.do(w.alice.device, PluginOp(Plugin{"x", "1", "linux", "amd64", seal.Digest{7}}))
	builtIn := func(name string, d seal.Digest) bool { return name == "postgres" && d == seal.Digest{8} }
	wantReason(t, CheckPlugin(w.log, builtIn, "postgres", seal.Digest{8}), "")
	wantReason(t, CheckPlugin(w.log, builtIn, "x", seal.Digest{7}), "")
	wantReason(t, CheckPlugin(w.log, builtIn, "y", seal.Digest{7}), PluginUnknown)
	wantReason(t, CheckPlugin(w.log, nil, "postgres", seal.Digest{8}), PluginUnknown)

	file := seal.Digest{9}
	s := w.statement(id(111), seal.Key{1})
	s.Kind = trustv1.RecordKind_RECORD_KIND_SCRIPT
	s.Subject = &trustv1.Statement_Script{Script: &trustv1.Script{Name: "after", ScriptKind: "after", Sha256: file.Bytes(), ManifestSha256: make([]byte, 32)}}
	script := w.open(w.bob.device, s)
	use := &trustv1.ScriptUse{Script: script.Ref.Proto(), Sha256: file.Bytes()}
	wantReason(t, CheckScript(use, script, file), "")
	wantReason(t, CheckScript(use, script, seal.Digest{1}), ScriptChanged)
	wantReason(t, CheckScript(&trustv1.ScriptUse{Script: script.Ref.Proto(), Sha256: make([]byte, 32)}, script, file), ScriptChanged)
	wantReason(t, CheckScript(&trustv1.ScriptUse{Script: w.ref(uidR).Proto(), Sha256: file.Bytes()}, script, file), ScriptChanged)
	wantReason(t, CheckScript(use, w.open(w.bob.device, w.account()), file), ScriptChanged)
}

// 4.2 step 7, and 3.4 on whose word counts.
func TestCheckValue(t *testing.T) {
	base := newWorld(t)
	const committed, edited = trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_EDITED
	sealed := SealData(keyA, []byte(`{"v":2}`))
	data, older := seal.Hash(sealed), seal.Digest{1}
	for _, row := range []struct {
		name    string
		seen    ValueSeen
		given   func(w *world)
		results func(w *world) [][]byte
		want    Reason
		seq     uint64
	}{
		{"committed by an agent of the pool", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, "", 2},
		{"edited by an editor", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.result(edited, w.bob.device, 2, data))}
		}, "", 2},
		{"the newest of several", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{
				w.signResult(w.one, w.result(committed, w.one, 1, older)),
				w.signResult(w.two, w.result(committed, w.two, 2, data)),
			}
		}, "", 2},
		{"as remembered", ValueSeen{Seq: 2, Digest: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, "", 2},
		{"no result at all", ValueSeen{}, nil, func(w *world) [][]byte { return nil }, ValueUnattested, 0},
		{"committed by an agent of another pool", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.three, w.result(committed, w.three, 2, data))}
		}, ValueUnattested, 0},
		{"committed by a device", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.bob.device, w.result(committed, w.bob.device, 2, data))}
		}, ValueUnattested, 0},
		{"edited by a reader", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.carol.device, w.result(edited, w.carol.device, 2, data))}
		}, ValueUnattested, 0},
		{"edited by an agent", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(edited, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"only staged", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(trustv1.Phase_PHASE_STAGED, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"committed for another account", ValueSeen{}, nil, func(w *world) [][]byte {
			r := w.result(committed, w.one, 2, data)
			r.Account = w.ref(uidM).Proto()
			return [][]byte{w.signResult(w.one, r)}
		}, ValueUnattested, 0},
		{"in another's name", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.three, w.result(committed, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"the agent was removed", ValueSeen{}, func(w *world) { w.do(w.alice.device, RemoveOp(w.one.id)) }, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueUnattested, 0},
		{"a foreign client wrote after it", ValueSeen{}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, older))}
		}, ValueUnattested, 2},
		{"the newest result with the older data, remembered", ValueSeen{Seq: 3, Digest: seal.Digest{3}, Former: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 3, seal.Digest{3}))}
		}, ValueRollback, 3},
		{"a newer result with the remembered data", ValueSeen{Seq: 2, Digest: data}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 3, seal.Digest{3}))}
		}, ValueRollback, 3},
		{"older data and older result", ValueSeen{Seq: 3, Digest: seal.Digest{3}}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueRollback, 2},
		{"older data and no result", ValueSeen{Seq: 3, Digest: seal.Digest{3}, Former: data}, nil, func(w *world) [][]byte { return nil }, ValueRollback, 0},
		{"two values of one number", ValueSeen{Seq: 2, Digest: seal.Digest{3}}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, ValueFork, 2},
		{"a number out of reach", ValueSeen{Seq: 1, Digest: older}, nil, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2+MaxFloorRaise, data))}
		}, ValueUnattested, 0},
		{"the signer saw a newer log", ValueSeen{}, nil, func(w *world) [][]byte {
			r := w.result(committed, w.one, 2, data)
			r.LogEpoch, r.LogDigest = 300, make([]byte, 32)
			return [][]byte{w.signResult(w.one, r)}
		}, LogGap, 0},
		{"the log is stale", ValueSeen{}, func(w *world) { w.later(181 * day) }, func(w *world) [][]byte {
			return [][]byte{w.signResult(w.one, w.result(committed, w.one, 2, data))}
		}, LogStale, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, m := base.fork(t), &Volatile{}
			if row.given != nil {
				row.given(w)
			}
			if err := m.RememberValue(w.ref(uidA), row.seen); err != nil {
				t.Fatal(err)
			}
			results := row.results(w)
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Recent = sealed, results
			if len(results) > 0 {
				served.Attestation = results[0]
			}
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			v, err := CheckValue(w.log, m, c, served, w.p, w.now)
			wantReason(t, err, row.want)
			if (v == nil) != (row.seq == 0) || v != nil && v.Seq != row.seq {
				t.Errorf("value %+v, want number %d", v, row.seq)
			}
			seen, _ := m.Value(w.ref(uidA))
			if row.want == "" && (seen.Seq != row.seq || seen.Digest != data) || row.want != "" && seen != row.seen {
				t.Errorf("remembered %+v", seen)
			}
		})
	}

	t.Run("pool unknown to the reader", func(t *testing.T) {
		w := base.fork(t)
		for _, row := range []struct {
			given func()
			want  Reason
		}{
			{func() {}, ""},
			{func() { w.do(w.alice.device, GrantOp(w.folder, w.p, 0)) }, ValueUnattested},
		} {
			row.given()
			served := w.serve(uidA, keyA, "", nil)
			served.Data, served.Attestation = sealed, w.signResult(w.one, w.result(committed, w.one, 2, data))
			c, err := OpenContent(w.log, w.folderKey, served)
			if err != nil {
				t.Fatal(err)
			}
			_, err = CheckValue(w.log, &Volatile{}, c, served, seal.ID{}, w.now)
			wantReason(t, err, row.want)
		}
	})
}

func TestFolderKeys(t *testing.T) {
	base := newWorld(t)
	for _, row := range []struct {
		name string
		do   func(w *world) error
		want Reason
	}{
		{"sealed to an agent and opened", func(w *world) error {
			box, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			if err != nil {
				return err
			}
			k, err := OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			if err == nil && k != w.folderKey {
				t.Error("another key came out")
			}
			return err
		}, ""},
		{"to recovery", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.recovery.id, w.recovery.keys, w.now)
			return err
		}, ""},
		{"to who may not read", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.dave.device.id, w.dave.device.keys, w.now)
			return err
		}, NotAllowed},
		{"to keys that are not the log's", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.two.keys, w.now)
			return err
		}, RecipientUnverified},
		{"to a removed agent", func(w *world) error {
			w.do(w.alice.device, RemoveOp(w.one.id))
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			return err
		}, RecipientUnverified},
		{"to a device past its time", func(w *world) error {
			_, err := SealFolderKey(w.log, w.folder, w.folderKey, w.carol.device.id, w.carol.device.keys, w.now.Add(301*day))
			return err
		}, RecipientUnverified},
		{"a key of the server's own", func(w *world) error {
			box, err := seal.SealTo(w.one.seal.Public(), folderRoute(w.org, w.folder, w.one.id), make([]byte, 32))
			if err != nil {
				return err
			}
			_, err = OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"the sealed key of another folder", func(w *world) error {
			w.do(w.bob.device, NewFolderOps(w.org, id(61), w.bob.member, seal.Key{61})...)
			box, err := SealFolderKey(w.log, id(61), seal.Key{61}, w.bob.device.id, w.bob.device.keys, w.now)
			if err != nil {
				return err
			}
			_, err = OpenFolderKey(w.log, w.bob.device.id, w.bob.device.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"the former version", func(w *world) error {
			box, err := SealFolderKey(w.log, w.folder, w.folderKey, w.one.id, w.one.keys, w.now)
			if err != nil {
				return err
			}
			w.do(w.bob.device, FolderOp(w.org, w.folder, 2, seal.Key{2}))
			_, err = OpenFolderKey(w.log, w.one.id, w.one.seal, w.folder, 1, box)
			return err
		}, FolderKeySwapped},
		{"a folder of the server's own", func(w *world) error {
			_, err := OpenFolderKey(w.log, w.one.id, w.one.seal, id(61), 1, nil)
			return err
		}, FolderUnknown},
		{"an application's key", func(w *world) error { return CheckAppKey(w.log, w.app, w.appKey) }, ""},
		{"another application key", func(w *world) error { return CheckAppKey(w.log, w.app, seal.Key{1}) }, FolderKeySwapped},
	} {
		t.Run(row.name, func(t *testing.T) { wantReason(t, row.do(base.fork(t)), row.want) })
	}
}

func TestSigningIn(t *testing.T) {
	w := newWorld(t)
	challenge, exporter := [32]byte{1}, [32]byte{2}
	const host = "vault.example.org"
	session := func(p party, host string) []byte {
		return seal.SignSession(p.sign, seal.SessionInput(w.org, p.id, host, challenge, exporter))
	}
	check := func(as party, host string, sig []byte, now time.Time) error {
		_, err := CheckSession(w.log, as.id, host, challenge, exporter, sig, now)
		return err
	}
	bob := w.bob.device
	wantReason(t, check(bob, host, session(bob, host), w.now), "")
	wantReason(t, check(bob, host, session(bob, "other.example.org"), w.now), SignatureBad)
	wantReason(t, check(bob, host, session(w.carol.device, host), w.now), SignatureBad)
	wantReason(t, check(bob, host, session(bob, host), w.now.Add(301*day)), SignerUnknown)
	wantReason(t, check(w.one, host, session(w.one, host), w.now), SignerUnknown)

	channel := func(p party, input []byte) []byte {
		sig, err := seal.SignP256(p.device, input)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	input := seal.ChannelInput(w.org, seal.AgentClientID(w.org, w.one.id), host, challenge, exporter)
	_, err := CheckChannel(w.log, w.one.id, w.one.keys, host, challenge, exporter, channel(w.one, input))
	wantReason(t, err, "")
	_, err = CheckChannel(w.log, w.one.id, w.one.keys, host, challenge, exporter, channel(w.two, input))
	wantReason(t, err, SignatureBad)
	_, err = CheckChannel(w.log, w.one.id, w.one.keys, host, challenge, exporter, channel(w.one, challenge[:]))
	wantReason(t, err, SignatureBad)
	_, err = CheckChannel(w.log, w.one.id, w.two.keys, host, challenge, exporter, channel(w.one, input))
	wantReason(t, err, RecipientUnverified)
	_, err = CheckChannel(w.log, bob.id, bob.keys, host, challenge, exporter, nil)
	wantReason(t, err, SignerUnknown)
}
