package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// The tests' organisation: Alice administers; Bob owns folder F with every role
// that a member may give himself; Carol reads F; Dave has nothing. Pool P reads
// F; agents One and Two are of P, agent Three is of pool Q, which also reads F.
type world struct {
	t   testing.TB
	now time.Time
	org seal.Digest
	log *Log

	root     party
	recovery party

	alice, bob, carol, dave person
	p, q                    seal.ID
	one, two, three         party
	app                     seal.ID
	appKey                  seal.Key
	folder                  seal.ID
	folderKey               seal.Key
	changes                 [][]byte
}

type party struct {
	id     seal.ID
	sign   ed25519.PrivateKey
	seal   *seal.SealKey
	device *ecdsa.PrivateKey
	keys   []byte
}

type person struct {
	member seal.ID
	device party
}

func (p party) pub() ed25519.PublicKey { return p.sign.Public().(ed25519.PublicKey) }

// id makes a fixed id.
func id(n byte) seal.ID { return seal.ID{0: n, 15: n} }

// fixedKey makes a fixed key.
func fixedKey(n byte) seal.Key {
	k, err := seal.KeyFrom(append([]byte{n}, make([]byte, seal.KeySize-1)...))
	if err != nil {
		panic(err)
	}
	return k
}

func newParty(t testing.TB, n byte, agent bool) party {
	t.Helper()
	seed := slices.Repeat([]byte{n}, 32)
	sk, err := seal.SealKeyFrom(seed)
	if err != nil {
		t.Fatal(err)
	}
	p := party{id: id(n), sign: ed25519.NewKeyFromSeed(seed), seal: sk}
	var point []byte
	if agent {
		// Fixed, as all keys are: so the same organisation has the same log every time.
		if p.device, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), seed); err != nil {
			t.Fatal(err)
		}
		if point, err = seal.DevicePub(p.device); err != nil {
			t.Fatal(err)
		}
	}
	p.keys = EncodeKeys(sk.Public(), point)
	return p
}

// start is the tests' clock.
var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, now: start, root: newParty(t, 1, false), recovery: newParty(t, 2, false),
		alice: person{id(10), newParty(t, 11, false)}, bob: person{id(20), newParty(t, 21, false)},
		carol: person{id(30), newParty(t, 31, false)}, dave: person{id(35), newParty(t, 36, false)},
		p: id(40), q: id(41), one: newParty(t, 42, true), two: newParty(t, 43, true), three: newParty(t, 44, true),
		app: id(50), appKey: fixedKey(50), folder: id(60), folderKey: fixedKey(60),
	}
	org, changes, err := NewOrganisation(Founding{
		Root: w.root.sign, RecoveryID: w.recovery.id, RecoveryKeys: w.recovery.keys,
		MemberID: w.alice.member, MemberName: "Alice", Device: w.deviceEntry(w.alice, AllRoles),
	}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.org, w.log = org, NewLog(org)
	for _, c := range changes {
		w.append(c)
	}
	w.do(w.alice.device,
		PutOp(&trustv1.Entry{EntryId: w.bob.member.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Bob"}),
		PutOp(&trustv1.Entry{EntryId: w.carol.member.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Carol"}),
		PutOp(&trustv1.Entry{EntryId: w.dave.member.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Dave"}),
		PutOp(w.deviceEntry(w.bob, AllRoles)), PutOp(w.deviceEntry(w.carol, AllRoles)), PutOp(w.deviceEntry(w.dave, AllRoles)),
		PutOp(&trustv1.Entry{EntryId: w.p.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "P"}),
		PutOp(&trustv1.Entry{EntryId: w.q.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "Q"}),
		PutOp(agentEntry(w.one, w.p, "one")), PutOp(agentEntry(w.two, w.p, "two")), PutOp(agentEntry(w.three, w.q, "three")),
		PutOp(&trustv1.Entry{EntryId: w.app.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_APP, Name: "CI", AppCheck: seal.AppCheck(org, w.appKey, w.app).Bytes()}),
	)
	w.do(w.bob.device, NewFolderOps(org, w.folder, w.bob.member, w.folderKey)...)
	w.do(w.bob.device, GrantOp(w.folder, w.carol.member, Read))
	w.do(w.alice.device, GrantOp(w.folder, w.app, Read), GrantOp(w.folder, w.p, Read), GrantOp(w.folder, w.q, Read))
	return w
}

func (w *world) deviceEntry(p person, mask Roles) *trustv1.Entry {
	return &trustv1.Entry{
		EntryId: p.device.id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_DEVICE, Name: "device", OwnerId: p.member.Bytes(),
		SignPub: p.device.pub(), KeysDigest: seal.Hash(p.device.keys).Bytes(), V: Version, Roles: uint32(mask), NotAfter: w.now.Add(300 * day).UnixMilli(),
	}
}

func agentEntry(p party, pool seal.ID, name string) *trustv1.Entry {
	return &trustv1.Entry{
		EntryId: p.id.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_AGENT, Name: name, OwnerId: pool.Bytes(),
		SignPub: p.pub(), KeysDigest: seal.Hash(p.keys).Bytes(), V: Version,
	}
}

// fork is a copy of the world to try something in.
func (w *world) fork(t testing.TB) *world {
	c := *w
	c.t, c.log, c.changes = t, w.log.Clone(), slices.Clip(w.changes)
	return &c
}

func (w *world) append(signed []byte) {
	w.t.Helper()
	if _, err := w.log.Append(signed, w.now); err != nil {
		w.t.Fatal(err)
	}
	w.changes = append(w.changes, signed)
}

// change builds the next change of a party; the root's id is not in its changes.
func (w *world) change(by party, ops ...*trustv1.Op) *trustv1.Change {
	signer := by.id
	if by.id == w.root.id {
		signer = seal.ID{}
	}
	return w.log.NewChange(signer, w.now, ops...)
}

func (w *world) sign(c *trustv1.Change, keys ...ed25519.PrivateKey) []byte {
	w.t.Helper()
	org := w.org
	if c.Epoch == 0 {
		org = seal.Digest{}
	}
	signed, _, err := signEnvelope(seal.KindLog, org, c, keys...) // unchecked, unlike SignChange
	if err != nil {
		w.t.Fatal(err)
	}
	return signed
}

// do appends what must be accepted.
func (w *world) do(by party, ops ...*trustv1.Op) {
	w.t.Helper()
	w.append(w.sign(w.change(by, ops...), by.sign))
}

// wantReason fails unless err carries the reason ("" for none).
func wantReason(t testing.TB, err error, want Reason) {
	t.Helper()
	if got := ReasonOf(err); got != want || (want == "") != (err == nil) {
		t.Fatalf("got %v, want reason %q", err, want)
	}
}
