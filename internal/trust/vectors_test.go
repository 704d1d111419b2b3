package trust

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

var update = flag.Bool("update", false, "write testdata/seal/trust.json anew")

const vectorFile = "../../testdata/seal/trust.json"

// vectors are a log and messages of each kind against it, for other
// implementations: bytes in hex, and what must come out of them.
type vectors struct {
	OrgID   string   `json:"org_id"`
	NowMS   int64    `json:"now_ms"`
	Changes []string `json:"changes"` // Signed, in order
	Head    string   `json:"head"`    // digest of the last
	// The HPKE private key of agent_id, to open command frames.
	AgentID      string          `json:"agent_id"`
	AgentSealKey string          `json:"agent_seal_key"`
	Messages     []messageVector `json:"messages"`
}

type messageVector struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`             // log, statement, command, result: Signed; frame: CommandFrame
	Bytes  string `json:"bytes"`            // hex
	Digest string `json:"digest,omitempty"` // of the message, where it is good
	Reason Reason `json:"reason,omitempty"` // where it is refused
}

// run opens a message against a log and gives its digest.
func (v *vectors) run(t *testing.T, m messageVector, l *Log) (seal.Digest, error) {
	t.Helper()
	b := unhex(t, m.Bytes)
	switch m.Kind {
	case "log":
		a, err := l.Clone().Append(b, time.UnixMilli(v.NowMS))
		return a.Digest, err
	case "statement":
		s, err := OpenStatement(l, b)
		if err != nil {
			return seal.Digest{}, err
		}
		return s.Digest, nil
	case "command":
		c, err := ReadCommand(l, b)
		if err != nil {
			return seal.Digest{}, err
		}
		return c.Digest, nil
	case "result":
		r, err := OpenResult(l, b)
		if err != nil {
			return seal.Digest{}, err
		}
		return r.Digest, nil
	case "frame":
		f := &trustv1.CommandFrame{}
		if err := proto.Unmarshal(b, f); err != nil {
			t.Fatal(err)
		}
		k, err := seal.SealKeyFrom(unhex(t, v.AgentSealKey))
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenCommand(l, &volatile{}, seal.ID(unhex(t, v.AgentID)), k, f, time.UnixMilli(v.NowMS))
		if err != nil {
			return seal.Digest{}, err
		}
		return c.Digest, nil
	}
	t.Fatalf("kind %q", m.Kind)
	return seal.Digest{}, nil
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func makeVectors(t *testing.T) *vectors {
	cryptotest.SetGlobalRandom(t, 1)
	w := newWorld(t)
	bob := w.bob.device
	oneSeal, err := w.one.seal.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{
		OrgID: w.org.String(), NowMS: w.now.UnixMilli(), Head: w.log.Head().Digest.String(),
		AgentID: hex.EncodeToString(w.one.id[:]), AgentSealKey: hex.EncodeToString(oneSeal),
	}
	for _, c := range w.changes {
		v.Changes = append(v.Changes, hex.EncodeToString(c))
	}
	add := func(name, kind string, b []byte) {
		v.Messages = append(v.Messages, messageVector{Name: name, Kind: kind, Bytes: hex.EncodeToString(b)})
	}
	flip := func(b []byte) []byte {
		b = slices.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}

	change := w.sign(w.change(bob, FloorOp(w.ref(uidR), 2)), bob.sign)
	add("a floor by an editor", "log", change)
	add("the same, signature altered", "log", flip(change))
	add("the same by a reader", "log", w.sign(w.change(w.carol.device, FloorOp(w.ref(uidR), 2)), w.carol.device.sign))
	add("another change of a known epoch", "log", func() []byte {
		c := w.change(bob, FloorOp(w.ref(uidR), 2))
		c.Epoch--
		return w.sign(c, bob.sign)
	}())
	add("a change left out", "log", func() []byte {
		c := w.change(bob, FloorOp(w.ref(uidR), 2))
		c.Epoch++
		return w.sign(c, bob.sign)
	}())
	add("a field that version 1 does not know", "log", func() []byte {
		c := w.change(w.alice.device)
		c.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1})
		return w.sign(c, w.alice.device.sign)
	}())
	add("a singular field given twice", "log", func() []byte {
		c := w.change(w.alice.device)
		c.ProtoReflect().SetUnknown([]byte{0x08, 1})
		return w.sign(c, w.alice.device.sign)
	}())

	resource := w.signStatement(bob, w.resource())
	add("a resource", "statement", resource)
	add("an account with a mandate", "statement", w.signStatement(bob, w.account()))
	add("a resource, signature altered", "statement", flip(resource))
	add("a resource, signed by a reader", "statement", w.signStatement(w.carol.device, w.resource()))
	add("a resource, signed by nobody of the log", "statement", w.signStatement(newParty(t, 99, false), w.resource()))

	cmd := w.rotate(w.open(bob, w.account()), w.open(bob, w.resource()))
	signed, _ := w.signCommand(bob, cmd)
	add("rotate", "command", signed)
	add("a command under a statement's signature", "command", signBody(bob, seal.KindStatement, w.org, bodyOf(t, signed)))
	frame := w.frame(bob, w.one, id(130), signed)
	add("rotate, sealed", "frame", mustMarshal(t, frame))
	frame = proto.CloneOf(frame)
	frame.From = w.carol.device.id.Bytes()
	add("rotate, the frame's from altered", "frame", mustMarshal(t, frame))
	late := proto.CloneOf(cmd)
	late.Issued, late.Expires = w.now.Add(-15*time.Minute).UnixMilli(), w.now.Add(-13*time.Minute).UnixMilli()
	signed, _ = w.signCommand(bob, late)
	add("rotate, 15 minutes late", "frame", mustMarshal(t, w.frame(bob, w.one, id(130), signed)))
	other := proto.CloneOf(cmd)
	other.AgentId = w.two.id.Bytes()
	signed, _ = w.signCommand(bob, other)
	add("rotate, for another agent", "frame", mustMarshal(t, w.frame(bob, w.one, id(130), signed)))

	result := w.signResult(w.one, w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 1, seal.Digest{1}))
	add("committed", "result", result)
	add("edited, by a device", "result", w.signResult(bob, w.result(trustv1.Phase_PHASE_EDITED, bob, 1, seal.Digest{1})))
	add("committed, signature altered", "result", flip(result))
	add("in another's name", "result", w.signResult(w.two, w.result(trustv1.Phase_PHASE_COMMITTED, w.one, 1, seal.Digest{1})))
	return v
}

func TestVectors(t *testing.T) {
	if *update {
		v := makeVectors(t)
		l := v.replay(t)
		for n, m := range v.Messages {
			d, err := v.run(t, m, l)
			if err != nil {
				v.Messages[n].Reason = ReasonOf(err)
			} else {
				v.Messages[n].Digest = d.String()
			}
		}
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	l := v.replay(t)
	good, refused := map[string]bool{}, map[string]bool{}
	for _, m := range v.Messages {
		t.Run(m.Kind+"/"+m.Name, func(t *testing.T) {
			d, err := v.run(t, m, l)
			wantReason(t, err, m.Reason)
			if err == nil && d.String() != m.Digest {
				t.Errorf("digest %s, want %s", d, m.Digest)
			}
			good[m.Kind], refused[m.Kind] = good[m.Kind] || err == nil, refused[m.Kind] || err != nil
		})
	}
	for _, kind := range []string{"log", "statement", "command", "result", "frame"} {
		if !good[kind] || !refused[kind] {
			t.Errorf("%s: a good one %v, a refused one %v", kind, good[kind], refused[kind])
		}
	}
}

func (v *vectors) replay(t *testing.T) *Log {
	t.Helper()
	org, err := seal.ParseDigest(v.OrgID)
	if err != nil {
		t.Fatal(err)
	}
	var changes [][]byte
	for _, c := range v.Changes {
		changes = append(changes, unhex(t, c))
	}
	l, err := replay(org, slices.Values(changes), time.UnixMilli(v.NowMS))
	if err != nil {
		t.Fatal(err)
	}
	if l.Head().Digest.String() != v.Head {
		t.Fatalf("head %s, want %s", l.Head().Digest, v.Head)
	}
	return l
}
