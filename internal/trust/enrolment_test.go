package trust

import (
	"crypto/ed25519"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// Enrolment: its key puts its own successor, with the new key's signature, once.
func TestEnrolment(t *testing.T) {
	base := newWorld(t)
	alice := base.alice.device
	seed := fixedKey(9)
	token := seal.EnrolSignKey(seed)
	newcomer := newParty(t, 71, true)
	base.do(alice, PutOp(NewEnrolment(id(71), seed, trustv1.EntryKind_ENTRY_KIND_AGENT, base.p, "new", 0, base.now.Add(day))))
	enrolment, _ := base.log.Entry(id(71))
	good := Successor(enrolment, newcomer.pub(), newcomer.keys, time.Time{})
	thief := newParty(t, 72, true)

	for _, row := range []struct {
		name  string
		given func(w *world)
		ops   ops
		keys  []ed25519.PrivateKey
		want  Reason
	}{
		{"its successor", nil, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, ""},
		{"without the new key", nil, ops{PutOp(good)}, []ed25519.PrivateKey{token}, LogSigner},
		{"with another second key", nil, ops{PutOp(good)}, []ed25519.PrivateKey{token, thief.sign}, LogSigner},
		{"without the token", nil, ops{PutOp(good)}, []ed25519.PrivateKey{newcomer.sign}, LogSigner},
		{"keys in the wrong order", nil, ops{PutOp(good)}, []ed25519.PrivateKey{newcomer.sign, token}, LogSigner},
		{"the token's key as the new key", nil, ops{PutOp(edit(good, func(e *trustv1.Entry) { e.SignPub = token.Public().(ed25519.PublicKey) }))}, []ed25519.PrivateKey{token, token}, LogSigner},
		{"another id", nil, ops{PutOp(edit(good, func(e *trustv1.Entry) { e.EntryId = id(73).Bytes() }))}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"another pool", nil, ops{PutOp(edit(good, func(e *trustv1.Entry) { e.OwnerId = base.q.Bytes() }))}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"another kind", nil, ops{PutOp(edit(good, func(e *trustv1.Entry) {
			e.Kind, e.OwnerId, e.NotAfter = trustv1.EntryKind_ENTRY_KIND_DEVICE, base.alice.member.Bytes(), base.now.Add(day).UnixMilli()
		}))}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"another name", nil, ops{PutOp(edit(good, func(e *trustv1.Entry) { e.Name = "one" }))}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"a second op", nil, ops{PutOp(good), GrantOp(base.folder, base.p, 0)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"another op", nil, ops{GrantOp(base.folder, base.p, 0)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"after its time", func(w *world) { w.now = w.now.Add(2 * day) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"used", func(w *world) { w.append(w.sign(w.change(newcomer, PutOp(good)), token, newcomer.sign)) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, EnrolUsed},
		{"removed", func(w *world) { w.do(alice, RemoveOp(id(71))) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"its maker's device removed", func(w *world) { w.do(w.root, RemoveOp(alice.id)) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"its maker removed", func(w *world) { w.do(w.root, RemoveOp(w.alice.member)) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"its maker demoted", func(w *world) { w.do(w.root, GrantOp(seal.ID{}, w.alice.member, AllRoles&^Admin)) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"its maker's device demoted", func(w *world) { w.do(w.root, PutOp(w.deviceEntry(w.alice, AllRoles&^Admin))) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
		{"its maker's device renewed", func(w *world) { w.do(w.root, PutOp(w.deviceEntry(w.alice, AllRoles))) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, ""},
		{"its pool removed", func(w *world) { w.do(alice, RemoveOp(w.p)) }, ops{PutOp(good)}, []ed25519.PrivateKey{token, newcomer.sign}, LogSigner},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			if row.given != nil {
				row.given(w)
			}
			_, err := w.log.Append(w.sign(w.change(newcomer, row.ops...), row.keys...), w.now)
			wantReason(t, err, row.want)
			if row.want == "" {
				if e, ok := w.log.Entry(id(71)); !ok || e.Kind != trustv1.EntryKind_ENTRY_KIND_AGENT || e.Owner != w.p {
					t.Errorf("the successor is %+v", e)
				}
			}
		})
	}

	t.Run("bad second signature", func(t *testing.T) {
		w := base.fork(t)
		signed := &trustv1.Signed{}
		if err := proto.Unmarshal(w.sign(w.change(newcomer, PutOp(good)), token, newcomer.sign), signed); err != nil {
			t.Fatal(err)
		}
		signed.Sigs[1].Sig[0] ^= 1
		_, err := w.log.Append(mustMarshal(t, signed), w.now)
		wantReason(t, err, SignatureBad)
	})
}

// A further device, enrolled by its owner's own: its mask and its time are bound.
func TestDeviceEnrolment(t *testing.T) {
	base := newWorld(t)
	seed := fixedKey(9)
	token := seal.EnrolSignKey(seed)
	newcomer := newParty(t, 71, false)
	base.do(base.bob.device, PutOp(NewEnrolment(id(71), seed, trustv1.EntryKind_ENTRY_KIND_DEVICE, base.bob.member, "phone", Read, base.now.Add(day))))
	enrolment, _ := base.log.Entry(id(71))
	for _, row := range []struct {
		name     string
		given    func(w *world)
		notAfter time.Duration
		edit     func(*trustv1.Entry)
		want     Reason
	}{
		{"as agreed", nil, 400 * day, func(*trustv1.Entry) {}, ""},
		{"for too long", nil, 401 * day, func(*trustv1.Entry) {}, Malformed},
		{"with a wider mask", nil, 400 * day, func(e *trustv1.Entry) { e.Roles = uint32(Read | Edit) }, LogSigner},
		{"for another member", nil, 400 * day, func(e *trustv1.Entry) { e.OwnerId = base.carol.member.Bytes() }, LogSigner},
		{"its maker's mask narrowed", func(w *world) { w.do(w.root, PutOp(w.deviceEntry(w.bob, Edit))) }, 400 * day, func(*trustv1.Entry) {}, LogSigner},
		{"its maker's mask narrowed to its own", func(w *world) { w.do(w.root, PutOp(w.deviceEntry(w.bob, Read))) }, 400 * day, func(*trustv1.Entry) {}, ""},
		{"people may enrol their own no more", func(w *world) { w.do(w.alice.device, PolicyOp(90, false)) }, 400 * day, func(*trustv1.Entry) {}, LogSigner},
		{"the same, its maker an administrator since", func(w *world) {
			w.do(w.alice.device, PolicyOp(90, false), GrantOp(seal.ID{}, w.bob.member, Admin))
		}, 400 * day, func(*trustv1.Entry) {}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			if row.given != nil {
				row.given(w)
			}
			e := edit(Successor(enrolment, newcomer.pub(), newcomer.keys, w.now.Add(row.notAfter)), row.edit)
			_, err := w.log.Append(w.sign(w.change(newcomer, PutOp(e)), token, newcomer.sign), w.now)
			wantReason(t, err, row.want)
			if row.want == "" && w.log.Roles(id(71), w.folder) != Read {
				t.Errorf("the new device has %s", w.log.Roles(id(71), w.folder))
			}
		})
	}
}

// After a root op the new root signs, and the organisation keeps its id.
func TestRootReplacement(t *testing.T) {
	w := newWorld(t)
	next := newParty(t, 5, false)
	w.do(w.root, RootOp(next.pub()))
	if w.log.Org() != w.org || !w.log.Root().Equal(next.pub()) {
		t.Error("the organisation or its root is not what it should be")
	}
	_, err := w.log.Append(w.sign(w.change(w.root, PutOp(member(80))), w.root.sign), w.now)
	wantReason(t, err, LogSigner)
	c := w.log.NewChange(seal.ID{}, w.now, PutOp(member(80)))
	_, err = w.log.Append(w.sign(c, next.sign), w.now)
	wantReason(t, err, "")
}
