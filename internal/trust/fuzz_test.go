package trust

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The fuzzer holds no key. Where the bytes are a body, the test signs them, so that the
// fuzzer gets past the signature; then the same body under a key that may not sign it
// must be refused.

// signBody signs any bytes.
func signBody(by party, kind seal.Kind, org seal.Digest, body []byte) []byte {
	kid := keyID(by.pub())
	b, err := proto.Marshal(&trustv1.Signed{Body: body, Sigs: []*trustv1.Sig{{KeyId: kid.Bytes(), Sig: seal.Sign(by.sign, kind, org, body)}}})
	if err != nil {
		panic(err)
	}
	return b
}

func bodyOf(t testing.TB, signed []byte) []byte {
	t.Helper()
	s := &trustv1.Signed{}
	if err := proto.Unmarshal(signed, s); err != nil {
		t.Fatal(err)
	}
	return s.Body
}

// refusal fails for an error that carries no reason.
func refusal(t *testing.T, err error) {
	t.Helper()
	if err != nil && ReasonOf(err) == "" {
		t.Fatalf("a refusal without a reason: %v", err)
	}
}

// comesBack fails unless an accepted message, encoded anew, is accepted as the same.
func comesBack[M proto.Message](t *testing.T, m M, read func(body []byte) (M, error)) {
	t.Helper()
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read(body)
	if err != nil || !proto.Equal(m, again) {
		t.Fatalf("%v, written anew, is %v: %v", m, again, err)
	}
}

// FuzzSigned: any bytes as each of the four envelopes. What is accepted is a body that
// its party has signed, as that kind of message.
func FuzzSigned(f *testing.F) {
	w := newWorld(f)
	next := w.sign(w.change(w.alice.device, FloorOp(w.ref(uidA), 1)), w.alice.device.sign)
	statement := w.signStatement(w.bob.device, w.account())
	result := w.signResult(w.one, w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 1, seal.Digest{1}))
	command, _ := w.signCommand(w.bob.device, w.rotate(w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource())))
	for _, b := range append([][]byte{next, statement, result, command}, w.changes...) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		judge := func(err error, signed ...[]byte) {
			t.Helper()
			refusal(t, err)
			if err != nil {
				return
			}
			body := bodyOf(t, b)
			if !slices.ContainsFunc(signed, func(s []byte) bool { return bytes.Equal(bodyOf(t, s), body) }) {
				t.Fatalf("accepted what nobody signed: %x", body)
			}
		}
		_, err := w.log.Clone().Append(b, w.now)
		judge(err, append(slices.Clip(w.changes), next)...)
		_, err = NewLog(w.org).Append(b, w.now)
		judge(err, w.changes[0])
		_, err = OpenStatement(w.log, b)
		judge(err, statement)
		_, err = OpenResult(w.log, b)
		judge(err, result)
		_, err = ReadCommand(w.log, b)
		judge(err, command)
	})
}

// FuzzChange: any body, well signed by an administrator and as change 0. What is refused
// leaves no trace; what is accepted moves the head by one, cannot be given twice nor by
// another, and gives whoever replays the log the same state.
func FuzzChange(f *testing.F) {
	w := newWorld(f)
	for _, c := range w.changes {
		f.Add(bodyOf(f, c))
	}
	for _, ops := range [][]*trustv1.Op{
		{FloorOp(w.ref(uidA), 1), RemoveOp(w.bob.member), RootOp(w.one.pub())},
		{FloorOp(w.ref(uidA), 1)},
		{RemoveOp(w.carol.device.id)},
		{GrantOp(w.folder, w.p, 0), PolicyOp(90, true)},
		{PutOp(&trustv1.Entry{EntryId: id(70).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Eve"})},
	} {
		f.Add(mustMarshal(f, w.log.NewChange(w.alice.device.id, w.now, ops...)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := NewLog(seal.Digest{}).Append(signBody(w.root, seal.KindLog, seal.Digest{}, body), w.now)
		refusal(t, err)
		byDave := w.log.Clone()
		_, err = byDave.Append(signBody(w.dave.device, seal.KindLog, w.org, body), w.now)
		refusal(t, err)

		l, signed := w.log.Clone(), signBody(w.alice.device, seal.KindLog, w.org, body)
		_, err = l.Append(signed, w.now)
		refusal(t, err)
		known := slices.ContainsFunc(w.changes, func(c []byte) bool { return bytes.Equal(bodyOf(t, c), body) })
		if err != nil || known {
			if !reflect.DeepEqual(l.s, w.log.s) {
				t.Fatalf("a change that was refused, or known, left a trace: %v", err)
			}
			return
		}
		if h, was := l.Head(), w.log.Head(); h.Epoch != was.Epoch+1 || h.Digest != seal.MessageDigest(seal.KindLog, w.org, body) {
			t.Fatalf("after change %d comes %d, %s", was.Epoch, h.Epoch, h.Digest)
		}
		if byDave.Head() == l.Head() {
			t.Fatal("one change counts under two signers")
		}
		after := l.Head()
		if _, err := l.Append(signed, w.now); err != nil || l.Head() != after {
			t.Fatalf("the same change again: %v", err)
		}
		again := NewLog(w.org)
		for _, c := range append(slices.Clip(w.changes), signed) {
			if _, err := again.Append(c, w.now); err != nil {
				t.Fatalf("replayed: %v", err)
			}
		}
		if !reflect.DeepEqual(l.s, again.s) {
			t.Fatal("the replayed log has another state")
		}
	})
}

// FuzzStatement: any body, well signed by who may edit the folder, and by who may not.
func FuzzStatement(f *testing.F) {
	w := newWorld(f)
	for _, s := range []*trustv1.Statement{w.account(), w.resource(), w.admin()} {
		f.Add(bodyOf(f, w.signStatement(w.bob.device, s)))
	}
	open := func(by party, body []byte) (*Statement, error) {
		return OpenStatement(w.log, signBody(by, seal.KindStatement, w.org, body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, outsider := range []party{w.carol.device, w.dave.device, w.one, w.root} {
			if s, err := open(outsider, body); err == nil {
				t.Fatalf("%s made a statement of %s", outsider.id, s.Ref)
			}
		}
		s, err := open(w.bob.device, body)
		refusal(t, err)
		if err != nil {
			return
		}
		refusal(t, CheckLinks(w.log, s, w.p))
		if s.Ref.Folder != w.folder || s.Ref.IsZero() || s.Seq == 0 {
			t.Fatalf("accepted for %s, number %d", s.Ref, s.Seq)
		}
		comesBack(t, s.Statement, func(body []byte) (*trustv1.Statement, error) {
			s, err := open(w.bob.device, body)
			if err != nil {
				return nil, err
			}
			return s.Statement, nil
		})
	})
}

// FuzzMandate: any body as the account's statement and any as another agent's result,
// both well signed. A run is only allowed by a mandate that is on, in time, for the
// resource at hand, and not shortly after a commit.
func FuzzMandate(f *testing.F) {
	w := newWorld(f)
	resource := w.open(w.bob.device, w.resource())
	w.later(2 * time.Hour)
	committed := w.result(trustv1.Phase_PHASE_COMMITTED, w.two, 1, seal.Digest{1})
	for _, edit := range []func(*trustv1.Mandate){
		func(*trustv1.Mandate) {},
		func(m *trustv1.Mandate) { m.Enabled = false },
		func(m *trustv1.Mandate) { m.ValidUntil = w.now.Add(-time.Minute).UnixMilli() },
	} {
		s := w.account()
		s.Issued -= (2 * time.Hour).Milliseconds()
		edit(s.GetAccount().Mandate)
		f.Add(bodyOf(f, w.signStatement(w.bob.device, s)), bodyOf(f, w.signResult(w.two, committed)))
		f.Add(bodyOf(f, w.signStatement(w.bob.device, s)), []byte{})
	}
	f.Fuzz(func(t *testing.T, body, resultBody []byte) {
		s, err := OpenStatement(w.log, signBody(w.bob.device, seal.KindStatement, w.org, body))
		if err != nil {
			return
		}
		results := [][]byte{signBody(w.two, seal.KindResult, w.org, resultBody), resultBody}
		err = CheckMandate(w.log, w.one.id, s, resource, Activity{}, results, w.now)
		refusal(t, err)
		if err != nil {
			return
		}
		m := s.GetAccount().GetMandate()
		if !m.GetEnabled() || m.ValidUntil < w.now.UnixMilli() || mustRef(s.GetAccount().Resource) != resource.Ref {
			t.Fatalf("runs under %v", s.GetAccount())
		}
		r, err := OpenResult(w.log, results[0])
		if err != nil || r.Account != s.Ref || r.Phase != trustv1.Phase_PHASE_COMMITTED {
			return
		}
		if ago := w.now.Sub(time.UnixMilli(r.Time)); CheckWord(w.log, r, s.Ref, w.p) == nil && ago >= 0 && ago < time.Duration(m.MinIntervalS)*time.Second {
			t.Fatalf("runs %s after a commit, with an interval of %d s", ago, m.MinIntervalS)
		}
	})
}

// FuzzCommand: any body, well signed by a person's device, and by who is none.
func FuzzCommand(f *testing.F) {
	w := newWorld(f)
	cmd := w.rotate(w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource()))
	signed, _ := w.signCommand(w.bob.device, cmd)
	f.Add(bodyOf(f, signed))
	cmd.Action, cmd.Args = trustv1.Action_ACTION_CANCEL, &trustv1.Command_Cancel{Cancel: &trustv1.CancelArgs{RunId: id(120).Bytes()}}
	signed, _ = w.signCommand(w.bob.device, cmd)
	f.Add(bodyOf(f, signed))
	read := func(by party, body []byte) (*Command, error) {
		return ReadCommand(w.log, signBody(by, seal.KindCommand, w.org, body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, outsider := range []party{w.one, w.root, w.recovery} {
			if _, err := read(outsider, body); err == nil {
				t.Fatalf("%s gave a command", outsider.id)
			}
		}
		c, err := read(w.bob.device, body)
		refusal(t, err)
		if err != nil {
			return
		}
		refusal(t, c.checkRoles(w.log, w.one.id))
		refusal(t, CheckPins(c))
		refusal(t, c.CheckStaging(w.now))
		err = c.checkTimes(&volatile{}, w.now)
		refusal(t, err)
		if life := time.UnixMilli(c.Expires).Sub(time.UnixMilli(c.Issued)); err == nil && (life <= 0 || life > MaxLifetime) {
			t.Fatalf("a command lives %s", life)
		}
		if c.Target().IsZero() && c.Action == trustv1.Action_ACTION_ROTATE {
			t.Fatal("rotates nothing")
		}
		comesBack(t, c.Command, func(body []byte) (*trustv1.Command, error) {
			c, err := read(w.bob.device, body)
			if err != nil {
				return nil, err
			}
			return c.Command, nil
		})
	})
}

// FuzzFrame: any bytes as a command frame, and any bytes sealed in a good one. What
// opens is for this agent, from the frame's sender, and opens once.
func FuzzFrame(f *testing.F) {
	w := newWorld(f)
	cmd := w.rotate(w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource()))
	signed, _ := w.signCommand(w.bob.device, cmd)
	f.Add(mustMarshal(f, w.frame(w.bob.device, w.one, id(130), signed)))
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := w.fork(t)
		take := func(frame *trustv1.CommandFrame) {
			m := &volatile{}
			c, err := OpenCommand(w.log, m, w.one.id, w.one.seal, frame, w.now)
			refusal(t, err)
			if err != nil {
				return
			}
			if !bytes.Equal(c.Signed, signed) && !bytes.Equal(bodyOf(t, c.Signed), bodyOf(t, signed)) {
				t.Fatalf("took a command that Bob did not sign: %v", c.Command)
			}
			if c.Signer.ID != seal.ID(frame.From) || seal.ID(c.AgentId) != w.one.id || c.ID != seal.ID(frame.Id) {
				t.Fatalf("took %v in the frame %v", c.Command, frame)
			}
			m.commands = map[seal.ID]bool{c.ID: true}
			if _, err := OpenCommand(w.log, m, w.one.id, w.one.seal, frame, w.now); ReasonOf(err) != Replayed {
				t.Fatalf("the same again: %v", err)
			}
			if _, err := OpenCommand(w.log, &volatile{}, w.two.id, w.two.seal, frame, w.now); err == nil {
				t.Fatal("another agent takes it, too")
			}
		}
		frame := &trustv1.CommandFrame{}
		if proto.Unmarshal(b, frame) == nil {
			take(frame)
		}
		if len(b) < MaxSealedCommand-seal.SealOverhead {
			take(w.frame(w.bob.device, w.one, id(130), b))
		}
	})
}

// FuzzResult: any body, well signed by an agent, and by others; and any bytes as keys
// and detail.
func FuzzResult(f *testing.F) {
	w := newWorld(f)
	for _, phase := range []trustv1.Phase{trustv1.Phase_PHASE_STAGED, trustv1.Phase_PHASE_COMMITTED, trustv1.Phase_PHASE_FINISHED, trustv1.Phase_PHASE_REPLIED} {
		f.Add(bodyOf(f, w.signResult(w.one, w.result(phase, w.one, 1, seal.Digest{1}))))
	}
	f.Add(w.one.keys)
	f.Add(mustMarshal(f, &trustv1.Detail{}))
	open := func(by party, body []byte) (*Result, error) {
		return OpenResult(w.log, signBody(by, seal.KindResult, w.org, body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if k, err := CheckKeys(Entry{Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, KeysDigest: seal.Hash(body)}, body); err == nil {
			comesBack(t, k, func(b []byte) (*trustv1.Keys, error) {
				return CheckKeys(Entry{Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, KeysDigest: seal.Hash(b)}, b)
			})
		} else {
			refusal(t, err)
		}
		d, err := decodeDetail(body)
		refusal(t, err)
		if err == nil {
			comesBack(t, d, decodeDetail)
		}

		r, err := open(w.one, body)
		refusal(t, err)
		if err != nil {
			return
		}
		for _, other := range []party{w.two, w.three, w.bob.device, w.root} {
			if _, err := open(other, body); err == nil {
				t.Fatalf("%s signed for %s", other.id, w.one.id)
			}
		}
		if CheckWord(w.log, r, w.ref(uidA), w.p) == nil && r.Account != w.ref(uidA) {
			t.Fatalf("a word about %s counts for another account", r.Account)
		}
		if _, err := CheckResult(w.log, r.Signed, Expect{Agent: w.two.id}); err == nil {
			t.Fatal("one agent's word counts as another's")
		}
		comesBack(t, r.Result, func(body []byte) (*trustv1.Result, error) {
			r, err := open(w.one, body)
			if err != nil {
				return nil, err
			}
			return r.Result, nil
		})
	})
}

// FuzzCandidate: agent Two takes over what agent One is said to have staged. Any body as
// One's result, and any bytes as its authority. Where the candidate may be applied, the
// result attests this very data as the next value, and the authority is a person's
// command that says so or the account's mandate.
func FuzzCandidate(f *testing.F) {
	w := newWorld(f)
	account, resource := w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource())
	sealed := SealData(keyA, []byte(`{"v":3}`))
	staged := w.result(trustv1.Phase_PHASE_STAGED, w.one, 3, seal.Digest{})
	command, cause := w.signCommand(w.bob.device, w.rotate(account, resource))
	lost := w.signResult(w.one, w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 2, seal.Hash(sealed)))
	for _, authority := range [][]byte{
		append([]byte{authorityCommand}, command...), append([]byte{authorityMandate}, account.Digest[:]...),
		append([]byte{authorityCommitted}, lost...),
		{},
		{9, 9},
	} {
		staged.Cause = cause.Bytes()
		f.Add(bodyOf(f, w.signResult(w.one, staged)), authority)
		staged.Cause = account.Digest.Bytes()
		f.Add(bodyOf(f, w.signResult(w.one, staged)), authority)
	}
	record := &Record{Content{Ref: w.ref(uidA), Key: keyA}, account}
	f.Fuzz(func(t *testing.T, body, authority []byte) {
		// The digest of the data is random, since its encryption is: it is filled in.
		r := &trustv1.Result{}
		if proto.Unmarshal(body, r) == nil && len(r.DataDigest) == 32 && seal.Digest(r.DataDigest).IsZero() {
			r.DataDigest = seal.Hash(sealed).Bytes()
			body = mustMarshal(t, r)
		}
		served := ServedCandidate{
			Data: sealed, Result: signBody(w.one, seal.KindResult, w.org, body),
			Authority: seal.SealExt(w.org, keyA, uidA, seal.ExtAuthority, authority),
		}
		c, err := CheckCandidate(w.log, &volatile{}, w.two.id, record, w.p, &Value{Seq: 2}, served, w.now)
		refusal(t, err)
		if err != nil {
			return
		}
		refusal(t, c.NoApply)
		if string(c.Data) != `{"v":3}` || c.DataDigest != seal.Hash(sealed) || seal.Digest(c.Result.DataDigest) != c.DataDigest ||
			c.Result.Phase != trustv1.Phase_PHASE_STAGED || c.Result.Account != w.ref(uidA) || c.Result.ValueSeq <= 2 {
			t.Fatalf("accepted %q, of %v", c.Data, c.Result)
		}
		if c.NoApply == nil {
			a, err := OpenAuthority(w.org, keyA, uidA, served.Authority)
			byCommand := err == nil && len(a.Command) > 0 && bytes.Equal(bodyOf(t, a.Command), bodyOf(t, command)) && seal.Digest(c.Result.Cause) == cause
			byMandate := err == nil && len(a.Command) == 0 && len(a.Committed) == 0
			if !byCommand && !byMandate || c.Result.ValueSeq != 3 {
				t.Fatalf("value %d may be applied by %x, %v", c.Result.ValueSeq, authority, err)
			}
		}
		// What another account's record or another key holds is no candidate here.
		served.Authority = authority
		if c, err := CheckCandidate(w.log, &volatile{}, w.two.id, record, w.p, &Value{Seq: 2}, served, w.now); err == nil && c.NoApply == nil {
			t.Fatal("an authority that nobody sealed counts")
		}
		served.Result = signBody(w.three, seal.KindResult, w.org, body)
		if _, err := CheckCandidate(w.log, &volatile{}, w.two.id, record, w.p, &Value{Seq: 2}, served, w.now); err == nil {
			t.Fatal("an agent of another pool staged it")
		}
	})
}

// FuzzServedRecord: any bytes as the statement and the attestation of a record, sealed
// and signed as the parties would, and as they come from the server.
func FuzzServedRecord(f *testing.F) {
	w := newWorld(f)
	served := w.serve(uidA, keyA, `{"v":1}`, nil)
	value := w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 1, seal.Digest{})
	f.Add(bodyOf(f, w.signStatement(w.bob.device, w.account())), bodyOf(f, w.signResult(w.one, value)))
	f.Add(bodyOf(f, w.signStatement(w.bob.device, w.resource())), []byte{})
	f.Fuzz(func(t *testing.T, body, resultBody []byte) {
		raw := served
		raw.Statement, raw.Attestation, raw.RecordKey = body, resultBody, append([]byte{}, body...)
		if _, err := OpenRecord(w.log, &volatile{}, w.folderKey, raw); err == nil {
			t.Fatal("opened what nobody sealed")
		}
		r := &trustv1.Result{}
		if proto.Unmarshal(resultBody, r) == nil && len(r.DataDigest) == 32 && seal.Digest(r.DataDigest).IsZero() {
			r.DataDigest = seal.Hash(served.Data).Bytes()
			resultBody = mustMarshal(t, r)
		}
		s, m := served, &volatile{}
		s.Statement = SealStatement(w.org, keyA, uidA, signBody(w.bob.device, seal.KindStatement, w.org, body))
		s.Recent = [][]byte{resultBody, signBody(w.one, seal.KindResult, w.org, resultBody)}
		rec, err := OpenRecord(w.log, m, w.folderKey, s)
		refusal(t, err)
		if err != nil {
			return
		}
		if rec.Statement.Ref != w.ref(uidA) || seal.Digest(rec.Statement.KeyCheck) != seal.RecordKeyCheck(w.org, keyA, uidA) || string(rec.Data) != `{"v":1}` {
			t.Fatalf("opened as %s: %q", rec.Statement.Ref, rec.Data)
		}
		v, err := CheckValue(w.log, m, &rec.Content, s, w.p, w.now)
		refusal(t, err)
		if err == nil && (seal.Digest(v.Result.DataDigest) != rec.DataDigest || v.Result.Account != w.ref(uidA)) {
			t.Fatalf("value %d is attested by %v", v.Seq, v.Result)
		}
	})
}
