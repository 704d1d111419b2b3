package trust

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// signBody signs any bytes, so that the fuzzer gets past the signature.
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

// FuzzSigned: any bytes as each of the four envelopes.
func FuzzSigned(f *testing.F) {
	w := newWorld(f)
	for _, c := range w.changes {
		f.Add(c)
	}
	f.Add(w.signStatement(w.bob.device, w.account()))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := w.log.Clone().Append(b, w.now)
		refusal(t, err)
		_, err = NewLog(seal.Digest{}).Append(b, w.now)
		refusal(t, err)
		_, err = OpenStatement(w.log, b)
		refusal(t, err)
		_, err = OpenResult(w.log, b)
		refusal(t, err)
		_, err = ReadCommand(w.log, b)
		refusal(t, err)
	})
}

// FuzzChange: any body, well signed by an administrator and as change 0.
func FuzzChange(f *testing.F) {
	w := newWorld(f)
	for _, c := range w.changes {
		f.Add(bodyOf(f, c))
	}
	f.Add(mustMarshal(f, w.change(w.alice.device, FloorOp(w.ref(uidA), 1), RemoveOp(w.bob.member), RootOp(w.one.pub()))))
	f.Fuzz(func(t *testing.T, body []byte) {
		l := w.log.Clone()
		_, err := l.Append(signBody(w.alice.device, seal.KindLog, w.org, body), w.now)
		refusal(t, err)
		if err != nil && !reflect.DeepEqual(l.s, w.log.s) {
			t.Fatalf("a refused change left a trace: %v", err)
		}
		_, err = NewLog(seal.Digest{}).Append(signBody(w.root, seal.KindLog, seal.Digest{}, body), w.now)
		refusal(t, err)
	})
}

// FuzzStatement: any body, well signed; what is accepted can be asked for links.
func FuzzStatement(f *testing.F) {
	w := newWorld(f)
	for _, s := range []*trustv1.Statement{w.account(), w.resource(), w.admin()} {
		f.Add(bodyOf(f, w.signStatement(w.bob.device, s)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := OpenStatement(w.log, signBody(w.bob.device, seal.KindStatement, w.org, body))
		refusal(t, err)
		if err == nil {
			refusal(t, CheckLinks(w.log, s, w.p))
			refusal(t, CheckMandate(w.log, w.one.id, s, s, Activity{}, nil, w.now))
		}
	})
}

// FuzzCommand: any body, well signed.
func FuzzCommand(f *testing.F) {
	w := newWorld(f)
	cmd := w.rotate(w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource()))
	signed, _ := w.signCommand(w.bob.device, cmd)
	f.Add(bodyOf(f, signed))
	cmd.Action, cmd.Args = trustv1.Action_ACTION_CANCEL, &trustv1.Command_Cancel{Cancel: &trustv1.CancelArgs{RunId: id(120).Bytes()}}
	signed, _ = w.signCommand(w.bob.device, cmd)
	f.Add(bodyOf(f, signed))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ReadCommand(w.log, signBody(w.bob.device, seal.KindCommand, w.org, body))
		refusal(t, err)
		if err == nil {
			refusal(t, c.checkTimes(&volatile{}, w.now))
			refusal(t, c.checkRoles(w.log, w.one.id))
			refusal(t, CheckPins(c))
			refusal(t, c.CheckStaging(w.now))
		}
	})
}

// FuzzFrame: any bytes as a command frame, and any bytes sealed in a good one.
func FuzzFrame(f *testing.F) {
	w := newWorld(f)
	signed, _ := w.signCommand(w.bob.device, w.rotate(w.open(w.bob.device, w.account()), w.open(w.bob.device, w.resource())))
	f.Add(mustMarshal(f, w.frame(w.bob.device, w.one, id(130), signed)))
	f.Add(signed)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := w.fork(t)
		frame := &trustv1.CommandFrame{}
		if proto.Unmarshal(b, frame) == nil {
			_, err := OpenCommand(w.log, &volatile{}, w.one.id, w.one.seal, frame, w.now)
			refusal(t, err)
		}
		if len(b) < MaxSealedCommand-seal.SealOverhead {
			_, err := OpenCommand(w.log, &volatile{}, w.one.id, w.one.seal, w.frame(w.bob.device, w.one, id(130), b), w.now)
			refusal(t, err)
		}
	})
}

// FuzzResult: any body, well signed; and any bytes as keys, details and authority.
func FuzzResult(f *testing.F) {
	w := newWorld(f)
	f.Add(bodyOf(f, w.signResult(w.one, w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 1, seal.Digest{1}))))
	f.Add(w.one.keys)
	f.Fuzz(func(t *testing.T, body []byte) {
		signed := signBody(w.one, seal.KindResult, w.org, body)
		r, err := OpenResult(w.log, signed)
		refusal(t, err)
		if err == nil {
			refusal(t, CheckWord(w.log, r, w.ref(uidA), w.p))
		}
		_, err = CheckResult(w.log, signed, Expect{Agent: w.one.id})
		refusal(t, err)
		_, err = CheckKeys(Entry{Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, KeysDigest: seal.Hash(body)}, body)
		refusal(t, err)
		_, err = decodeDetail(body)
		refusal(t, err)
		_, err = OpenAuthority(w.org, keyA, uidA, seal.SealExt(w.org, keyA, uidA, seal.ExtAuthority, body))
		refusal(t, err)
	})
}
