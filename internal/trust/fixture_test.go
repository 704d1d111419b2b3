package trust

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Records of the tests, all in folder F: resource R with administrator M, account
// A on R. Bob signs.
var (
	uidR, uidM, uidA = id(100), id(101), id(102)
	keyR, keyM, keyA = fixedKey(100), fixedKey(101), fixedKey(102)
)

func (w *world) ref(uid seal.ID) Ref { return Ref{w.folder, uid} }

// base is what every statement of the tests begins with.
func (w *world) statement(uid seal.ID, key seal.Key) *trustv1.Statement {
	return &trustv1.Statement{
		RecordUid: uid.Bytes(), FolderUid: w.folder.Bytes(), KeyCheck: seal.RecordKeyCheck(w.org, key, uid).Bytes(),
		Seq: 1, Issued: w.now.UnixMilli(),
	}
}

func (w *world) resource() *trustv1.Statement {
	s := w.statement(uidR, keyR)
	s.Kind = trustv1.RecordKind_RECORD_KIND_RESOURCE
	s.Subject = &trustv1.Statement_Resource{Resource: &trustv1.Resource{
		PoolId: w.p.Bytes(), Plugin: "postgres", Host: "db.internal", Port: 5432,
		Tls:          &trustv1.Tls{Mode: trustv1.TlsMode_TLS_MODE_PIN, SpkiSha256: [][]byte{make([]byte, 32)}},
		AdminAccount: w.ref(uidM).Proto(),
	}}
	return s
}

func (w *world) admin() *trustv1.Statement {
	s := w.statement(uidM, keyM)
	s.Kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
	s.Subject = &trustv1.Statement_Account{Account: &trustv1.Account{Resource: w.ref(uidR).Proto(), Login: "postgres"}}
	return s
}

func (w *world) account() *trustv1.Statement {
	s := w.statement(uidA, keyA)
	s.Kind = trustv1.RecordKind_RECORD_KIND_ACCOUNT
	s.Subject = &trustv1.Statement_Account{Account: &trustv1.Account{
		Resource: w.ref(uidR).Proto(), Login: "app", SecretKind: "password",
		Mandate: &trustv1.Mandate{Enabled: true, MinIntervalS: 3600, ValidUntil: w.now.Add(100 * day).UnixMilli()},
	}}
	return s
}

// signStatement signs without the checks of SignStatement, with the log's head
// where the statement has none.
func (w *world) signStatement(by party, s *trustv1.Statement) []byte {
	w.t.Helper()
	s = proto.CloneOf(s)
	h := w.log.Head()
	if s.V == 0 {
		s.V = Version
	}
	if s.LogDigest == nil {
		s.LogEpoch, s.LogDigest = h.Epoch, h.Digest.Bytes()
	}
	b, _, err := signEnvelope(seal.KindStatement, w.org, s, by.sign)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) open(by party, s *trustv1.Statement) *Statement {
	w.t.Helper()
	out, err := OpenStatement(w.log, w.signStatement(by, s))
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// serve is a record as an honest server serves it.
func (w *world) serve(uid seal.ID, key seal.Key, data string, signed []byte) Served {
	s := Served{Ref: w.ref(uid), RecordKey: SealRecordKey(w.folderKey, key), Data: SealData(key, []byte(data))}
	if signed != nil {
		s.Statement = SealStatement(w.org, key, uid, signed)
	}
	return s
}

// result is an agent's result about account A.
func (w *world) result(phase trustv1.Phase, by party, seq uint64, data seal.Digest) *trustv1.Result {
	return &trustv1.Result{
		RunId: id(120).Bytes(), Event: 1, Phase: phase, By: by.id.Bytes(), Cause: make([]byte, 32), Account: w.ref(uidA).Proto(),
		ValueSeq: seq, DataDigest: data.Bytes(), Time: w.now.UnixMilli(), Credential: trustv1.Outcome_OUTCOME_DONE,
	}
}

func (w *world) signResult(by party, r *trustv1.Result) []byte {
	w.t.Helper()
	r = proto.CloneOf(r)
	h := w.log.Head()
	r.V = Version
	if r.LogDigest == nil {
		r.LogEpoch, r.LogDigest = h.Epoch, h.Digest.Bytes()
	}
	b, _, err := signEnvelope(seal.KindResult, w.org, r, by.sign)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// rotate is a command of Bob's to agent One: rotate A on R.
func (w *world) rotate(account, resource *Statement) *trustv1.Command {
	return &trustv1.Command{
		Id: id(130).Bytes(), AgentId: w.one.id.Bytes(), Action: trustv1.Action_ACTION_ROTATE, Account: w.ref(uidA).Proto(),
		Pins: []*trustv1.Pin{
			{Record: account.Ref.Proto(), Digest: account.Digest.Bytes()},
			{Record: resource.Ref.Proto(), Digest: resource.Digest.Bytes()},
		},
		Issued: w.now.UnixMilli(), Expires: w.now.Add(DefaultLifetime).UnixMilli(), RunId: id(120).Bytes(),
	}
}

// signCommand signs without the checks of SealCommand.
func (w *world) signCommand(by party, c *trustv1.Command) ([]byte, seal.Digest) {
	w.t.Helper()
	c = proto.CloneOf(c)
	h := w.log.Head()
	if c.V == 0 {
		c.V = Version
	}
	if c.LogDigest == nil {
		c.LogEpoch, c.LogDigest = h.Epoch, h.Digest.Bytes()
	}
	b, d, err := signEnvelope(seal.KindCommand, w.org, c, by.sign)
	if err != nil {
		w.t.Fatal(err)
	}
	return b, d
}

// frame seals whatever bytes as a command from one party to another.
func (w *world) frame(from, to party, cmd seal.ID, signed []byte) *trustv1.CommandFrame {
	w.t.Helper()
	box, err := seal.SealTo(to.seal.Public(), commandRoute(w.org, from.id, to.id, cmd), signed)
	if err != nil {
		w.t.Fatal(err)
	}
	return &trustv1.CommandFrame{To: to.id.Bytes(), From: from.id.Bytes(), Id: cmd.Bytes(), Sealed: box}
}

func (w *world) later(d time.Duration) { w.now = w.now.Add(d) }
