package trust

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The steps of keys.md 4.1.
func TestAppendSteps(t *testing.T) {
	base := newWorld(t)
	alice, bob := base.alice.device, base.bob.device
	for _, row := range []struct {
		name string
		make func(w *world) []byte
		want Reason
	}{
		{"1 not a message", func(w *world) []byte { return []byte{0xff} }, Malformed},
		{"1 no signature", func(w *world) []byte { return w.sign(w.change(alice)) }, Malformed},
		{"1 two signatures", func(w *world) []byte { return w.sign(w.change(alice), alice.sign, bob.sign) }, Malformed},
		{"1 three signatures", func(w *world) []byte { return w.sign(w.change(alice), alice.sign, bob.sign, alice.sign) }, Malformed},
		{"1 unknown field in the envelope", func(w *world) []byte { return append(w.sign(w.change(alice), alice.sign), 0x98, 0x06, 1) }, UnknownField},
		{"1 unknown field in the change", func(w *world) []byte {
			c := w.change(alice)
			c.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1})
			return w.sign(c, alice.sign)
		}, UnknownField},
		{"1 unknown field deep in an op", func(w *world) []byte {
			e := member(80)
			e.ProtoReflect().SetUnknown([]byte{0x98, 0x06, 1})
			return w.sign(w.change(alice, PutOp(e)), alice.sign)
		}, UnknownField},
		{"1 unknown entry kind", func(w *world) []byte {
			return w.sign(w.change(alice, PutOp(edit(member(80), func(e *trustv1.Entry) { e.Kind = 99 }))), alice.sign)
		}, UnknownField},
		{"1 newer format", func(w *world) []byte {
			c := w.change(alice)
			c.V = Version + 1
			return w.sign(c, alice.sign)
		}, UnknownField},
		{"1 no format", func(w *world) []byte {
			c := w.change(alice)
			c.V = 0
			return w.sign(c, alice.sign)
		}, Malformed},
		{"1 short prev", func(w *world) []byte {
			c := w.change(alice)
			c.Prev = c.Prev[:31]
			return w.sign(c, alice.sign)
		}, Malformed},
		{"1 an empty op", func(w *world) []byte { return w.sign(w.change(alice, &trustv1.Op{}), alice.sign) }, Malformed},
		{"1 too large", func(w *world) []byte { return make([]byte, MaxSigned+1) }, TooLarge},
		{"2 the head again", func(w *world) []byte { return w.changes[len(w.changes)-1] }, ""},
		{"2 change 0 again", func(w *world) []byte { return w.changes[0] }, ""},
		{"2 another change of a known epoch", func(w *world) []byte {
			c := w.change(alice, PutOp(member(80)))
			c.Epoch--
			return w.sign(c, alice.sign)
		}, LogFork},
		{"2 another prev", func(w *world) []byte {
			c := w.change(alice)
			c.Prev[0] ^= 1
			return w.sign(c, alice.sign)
		}, LogFork},
		{"2 a change left out", func(w *world) []byte {
			w.fork(w.t).do(alice)
			c := w.change(alice)
			c.Epoch++
			return w.sign(c, alice.sign)
		}, LogGap},
		{"3 signed by nobody", func(w *world) []byte { return w.sign(w.change(alice), newParty(w.t, 99, false).sign) }, LogSigner},
		{"3 signed by a removed admin", func(w *world) []byte {
			eve := person{id(80), newParty(w.t, 81, false)}
			w.do(alice, PutOp(member(80)), GrantOp(seal.ID{}, id(80), AllRoles), PutOp(w.deviceEntry(eve, AllRoles)))
			w.do(alice, RemoveOp(eve.member))
			c := w.change(alice)
			return w.sign(c, eve.device.sign)
		}, LogSigner},
		{"3 signed after not_after", func(w *world) []byte {
			w.now = w.now.Add(301 * day)
			return w.sign(w.change(bob, FloorOp(Ref{w.folder, id(90)}, 1)), bob.sign)
		}, LogSigner},
		{"3 issued before the former", func(w *world) []byte {
			c := w.change(alice)
			c.Issued--
			c.ValidUntil--
			return w.sign(c, alice.sign)
		}, LogSigner},
		{"3 signature of another body", func(w *world) []byte {
			signed := &trustv1.Signed{}
			if err := proto.Unmarshal(w.sign(w.change(alice, PutOp(member(80))), alice.sign), signed); err != nil {
				w.t.Fatal(err)
			}
			other := &trustv1.Signed{}
			if err := proto.Unmarshal(w.sign(w.change(alice), alice.sign), other); err != nil {
				w.t.Fatal(err)
			}
			signed.Body = other.Body
			b, err := proto.Marshal(signed)
			if err != nil {
				w.t.Fatal(err)
			}
			return b
		}, SignatureBad},
		{"3 signature for another organisation", func(w *world) []byte {
			b, _, err := SignChange(seal.Digest{1}, w.change(alice), alice.sign)
			if err != nil {
				w.t.Fatal(err)
			}
			return b
		}, SignatureBad},
		{"3 member extends valid_until", func(w *world) []byte {
			c := w.change(bob, FloorOp(Ref{w.folder, id(90)}, 1))
			c.ValidUntil++
			return w.sign(c, bob.sign)
		}, LogSigner},
		{"3 member shortens valid_until", func(w *world) []byte {
			c := w.change(bob, FloorOp(Ref{w.folder, id(90)}, 1))
			c.ValidUntil--
			return w.sign(c, bob.sign)
		}, LogSigner},
		{"3 masked device of an admin extends valid_until", func(w *world) []byte {
			p := person{w.alice.member, newParty(w.t, 81, false)}
			w.do(alice, PutOp(w.deviceEntry(p, Read|Edit)))
			c := w.change(p.device, FloorOp(Ref{w.folder, id(90)}, 1))
			c.ValidUntil++
			return w.sign(c, p.device.sign)
		}, LogSigner},
		{"4 issued 120 s ahead", func(w *world) []byte {
			c := w.change(alice)
			c.Issued = w.now.Add(Skew).UnixMilli()
			return w.sign(c, alice.sign)
		}, ""},
		{"4 issued further ahead", func(w *world) []byte {
			c := w.change(alice)
			c.Issued = w.now.Add(Skew).UnixMilli() + 1
			return w.sign(c, alice.sign)
		}, ClockFuture},
		{"4 valid for longer than the policy", func(w *world) []byte {
			c := w.change(alice)
			c.ValidUntil++
			return w.sign(c, alice.sign)
		}, Malformed},
		{"4 valid for longer than the policy that it sets", func(w *world) []byte {
			c := w.change(alice, PolicyOp(30, true))
			c.ValidUntil = c.Issued + (31 * day).Milliseconds()
			return w.sign(c, alice.sign)
		}, Malformed},
		{"4 shorter policy with its own age", func(w *world) []byte { return w.sign(w.change(alice, PolicyOp(30, true)), alice.sign) }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			signed := row.make(w)
			before := w.log.Clone()
			_, err := w.log.Append(signed, w.now)
			wantReason(t, err, row.want)
			if row.want != "" && !reflect.DeepEqual(before.s, w.log.s) {
				t.Error("a refused change left a trace")
			}
		})
	}
}

func TestFoundingChanges(t *testing.T) {
	w := newWorld(t)
	zero, one := &trustv1.Change{}, &trustv1.Change{}
	for n, c := range []*trustv1.Change{zero, one} {
		signed := &trustv1.Signed{}
		if err := proto.Unmarshal(w.changes[n], signed); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(signed.Body, c); err != nil {
			t.Fatal(err)
		}
	}
	if w.org != seal.MessageDigest(seal.KindLog, seal.Digest{}, mustMarshal(t, zero)) {
		t.Error("the organisation's id is not the digest of change 0")
	}
	alter := func(c *trustv1.Change, f func(*trustv1.Change)) *trustv1.Change {
		c = proto.CloneOf(c)
		f(c)
		return c
	}
	for _, row := range []struct {
		name   string
		org    seal.Digest
		change *trustv1.Change
		key    party
		want   Reason
	}{
		{"as founded", seal.Digest{}, zero, w.root, ""},
		{"pinned", w.org, zero, w.root, ""},
		{"another organisation pinned", seal.Digest{1}, zero, w.root, LogFork},
		{"change 0 by another key", seal.Digest{}, zero, w.alice.device, LogSigner},
		{"change 0 with a further op", seal.Digest{}, alter(zero, func(c *trustv1.Change) { c.Ops = append(c.Ops, PutOp(member(80))) }), w.root, Malformed},
		{"change 0 without a policy", seal.Digest{}, alter(zero, func(c *trustv1.Change) { c.Ops = c.Ops[:1] }), w.root, Malformed},
		{"change 0 without a root", seal.Digest{}, alter(zero, func(c *trustv1.Change) { c.Ops = c.Ops[1:] }), w.root, Malformed},
		{"change 0 with a prev", seal.Digest{}, alter(zero, func(c *trustv1.Change) { c.Prev = w.org.Bytes() }), w.root, Malformed},
		{"change 1 as founded", w.org, one, w.root, ""},
		{"change 1 by the device that it puts", w.org, one, w.alice.device, LogSigner},
		{"change 1 without recovery", w.org, alter(one, func(c *trustv1.Change) { c.Ops = c.Ops[1:] }), w.root, Malformed},
		{"change 1 with a further op", w.org, alter(one, func(c *trustv1.Change) { c.Ops = append(c.Ops, PutOp(member(80))) }), w.root, Malformed},
		{"change 1 without an administrator", w.org, alter(one, func(c *trustv1.Change) { c.Ops[2].GetGrant().Roles = uint32(Read) }), w.root, Malformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := NewLog(row.org)
			if row.change.Epoch == 1 {
				if _, err := l.Append(w.changes[0], w.now); err != nil {
					t.Fatal(err)
				}
			}
			_, err := l.Append(w.sign(row.change, row.key.sign), w.now)
			wantReason(t, err, row.want)
		})
	}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
