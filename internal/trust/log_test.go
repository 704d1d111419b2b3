package trust

import (
	"crypto/ed25519"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

type ops []*trustv1.Op

func member(n byte) *trustv1.Entry {
	return &trustv1.Entry{EntryId: id(n).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_MEMBER, Name: "Eve"}
}

// edit alters an entry before it is put.
func edit(e *trustv1.Entry, f func(*trustv1.Entry)) *trustv1.Entry {
	e = proto.CloneOf(e)
	f(e)
	return e
}

// Who may sign each op: the table of keys.md 3.1, row by row.
func TestWhoMaySign(t *testing.T) {
	base := newWorld(t)
	alice, bob, carol, dave, root := base.alice.device, base.bob.device, base.carol.device, base.dave.device, base.root
	zero, f, g := seal.ID{}, base.folder, id(61)
	further := newParty(t, 70, false)
	furtherOf := func(p person, mask Roles) *trustv1.Entry {
		return base.deviceEntry(person{p.member, further}, mask)
	}
	seed := seal.Key{9}
	enrol := func(target trustv1.EntryKind, owner seal.ID, roles Roles, age time.Duration) *trustv1.Entry {
		return NewEnrolment(id(71), seed, target, owner, "new", roles, base.now.Add(age))
	}
	const device, agent = trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_AGENT
	newAgent := newParty(t, 72, true)
	masked := person{base.bob.member, newParty(t, 73, false)} // Bob's second device: read and share only
	plugin := Plugin{"x", "1", "linux", "amd64", seal.Digest{7}}
	recovery, _ := base.log.Recovery()

	for _, row := range []struct {
		name  string
		given func(w *world) // first
		by    party
		ops   ops
		want  Reason
	}{
		// put
		{"admin puts a member", nil, alice, ops{PutOp(member(80))}, ""},
		{"root puts a member", nil, root, ops{PutOp(member(80))}, ""},
		{"member puts a member", nil, bob, ops{PutOp(member(80))}, LogSigner},
		{"admin puts an agent", nil, alice, ops{PutOp(agentEntry(newAgent, base.p, "four"))}, ""},
		{"member puts an agent", nil, bob, ops{PutOp(agentEntry(newAgent, base.p, "four"))}, LogSigner},
		{"agent puts an agent", nil, base.one, ops{PutOp(agentEntry(newAgent, base.p, "four"))}, LogSigner},
		{"member puts a pool", nil, bob, ops{PutOp(&trustv1.Entry{EntryId: id(80).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_POOL, Name: "R"})}, LogSigner},
		{"member puts an app", nil, bob, ops{PutOp(&trustv1.Entry{EntryId: id(80).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_APP, Name: "A", AppCheck: make([]byte, 32)})}, LogSigner},
		{"member puts a further device of himself", nil, bob, ops{PutOp(furtherOf(base.bob, Read))}, ""},
		{"the same without self_devices", func(w *world) { w.do(alice, PolicyOp(180, false)) }, bob, ops{PutOp(furtherOf(base.bob, Read))}, LogSigner},
		{"admin puts it without self_devices", func(w *world) { w.do(alice, PolicyOp(180, false)) }, alice, ops{PutOp(furtherOf(base.bob, Read))}, ""},
		{"member puts a device of another", nil, bob, ops{PutOp(furtherOf(base.carol, Read))}, LogSigner},
		{"masked device puts one with a wider mask", func(w *world) { w.do(bob, PutOp(w.deviceEntry(masked, Read|Share))) }, masked.device, ops{PutOp(furtherOf(base.bob, Read|Edit))}, LogSigner},
		{"masked device puts one within its mask", func(w *world) { w.do(bob, PutOp(w.deviceEntry(masked, Read|Share))) }, masked.device, ops{PutOp(furtherOf(base.bob, Read))}, ""},
		{"masked device widens itself", func(w *world) { w.do(bob, PutOp(w.deviceEntry(masked, Read|Share))) }, masked.device, ops{PutOp(base.deviceEntry(masked, AllRoles))}, LogSigner},
		{"member renews his own device", nil, bob, ops{PutOp(edit(base.deviceEntry(base.bob, AllRoles), func(e *trustv1.Entry) { e.NotAfter += 1000 }))}, ""},
		{"member puts an enrolment for a further device of himself", nil, bob, ops{PutOp(enrol(device, base.bob.member, Read, day))}, ""},
		{"member puts an enrolment for another", nil, bob, ops{PutOp(enrol(device, base.carol.member, Read, day))}, LogSigner},
		{"member puts an enrolment for an agent", nil, bob, ops{PutOp(enrol(agent, base.p, 0, day))}, LogSigner},
		{"admin puts an enrolment for an agent", nil, alice, ops{PutOp(enrol(agent, base.p, 0, day))}, ""},
		{"enrolment of more than seven days", nil, alice, ops{PutOp(enrol(agent, base.p, 0, 8*day))}, Malformed},
		{"enrolment that is over already", nil, alice, ops{PutOp(enrol(agent, base.p, 0, 0))}, Malformed},
		{"device of more than 400 days", nil, alice, ops{PutOp(edit(furtherOf(base.bob, Read), func(e *trustv1.Entry) { e.NotAfter = base.now.Add(401 * day).UnixMilli() }))}, Malformed},
		{"device without not_after", nil, alice, ops{PutOp(edit(furtherOf(base.bob, Read), func(e *trustv1.Entry) { e.NotAfter = 0 }))}, Malformed},
		{"agent with not_after", nil, alice, ops{PutOp(edit(agentEntry(newAgent, base.p, "four"), func(e *trustv1.Entry) { e.NotAfter = base.now.UnixMilli() }))}, Malformed},
		{"device of nobody", nil, alice, ops{PutOp(furtherOf(person{member: id(99)}, Read))}, Malformed},
		{"device of a pool", nil, alice, ops{PutOp(furtherOf(person{member: base.p}, Read))}, Malformed},
		{"agent of a member", nil, alice, ops{PutOp(agentEntry(newAgent, base.bob.member, "four"))}, Malformed},
		{"member with a signing key", nil, alice, ops{PutOp(edit(member(80), func(e *trustv1.Entry) { e.SignPub = newAgent.pub() }))}, Malformed},
		{"put over another's live entry", nil, bob, ops{PutOp(base.deviceEntry(base.carol, AllRoles))}, LogSigner},
		{"put with another kind over a live id", nil, alice, ops{PutOp(edit(member(0), func(e *trustv1.Entry) { e.EntryId = base.p.Bytes() }))}, LogSigner},
		{"put with another owner over a live id", nil, alice, ops{PutOp(agentEntry(base.one, base.q, "one"))}, LogSigner},
		{"rename", nil, alice, ops{PutOp(edit(agentEntry(base.one, base.p, "one"), func(e *trustv1.Entry) { e.Name = "uno" }))}, ""},
		{"an id once removed", func(w *world) { w.do(alice, RemoveOp(base.one.id)) }, alice, ops{PutOp(agentEntry(base.one, base.p, "one"))}, LogSigner},
		{"a signing key that is live in another entry", nil, alice, ops{PutOp(edit(agentEntry(newAgent, base.p, "four"), func(e *trustv1.Entry) { e.SignPub = base.one.pub() }))}, Malformed},
		{"the root's key in an entry", nil, alice, ops{PutOp(edit(agentEntry(newAgent, base.p, "four"), func(e *trustv1.Entry) { e.SignPub = base.root.pub() }))}, Malformed},
		{"the same key twice in one change", nil, alice, ops{PutOp(agentEntry(newAgent, base.p, "four")), PutOp(edit(agentEntry(newAgent, base.p, "five"), func(e *trustv1.Entry) { e.EntryId = id(74).Bytes() }))}, Malformed},
		{"member puts over recovery", nil, bob, ops{PutOp(recovery.Proto())}, LogSigner},
		{"admin puts over recovery", nil, alice, ops{PutOp(recovery.Proto())}, LogSigner},
		{"root puts over recovery", nil, root, ops{PutOp(recovery.Proto())}, ""},
		{"root puts a second recovery", nil, root, ops{PutOp(edit(recovery.Proto(), func(e *trustv1.Entry) { e.EntryId = id(80).Bytes() }))}, Malformed},
		{"root puts an emergency administrator's device", nil, root, ops{PutOp(furtherOf(base.alice, AllRoles)), RemoveOp(base.alice.device.id)}, ""},

		// remove
		{"admin removes a member", nil, alice, ops{RemoveOp(base.bob.member)}, ""},
		{"root removes a device", nil, root, ops{RemoveOp(alice.id)}, ""},
		{"own device", nil, bob, ops{RemoveOp(bob.id)}, ""},
		{"another's device", nil, bob, ops{RemoveOp(carol.id)}, LogSigner},
		{"member removes himself", nil, bob, ops{RemoveOp(base.bob.member)}, LogSigner},
		{"member removes an agent", nil, bob, ops{RemoveOp(base.one.id)}, LogSigner},
		{"admin removes recovery", nil, alice, ops{RemoveOp(base.recovery.id)}, LogSigner},
		{"what is not live", nil, alice, ops{RemoveOp(id(99))}, Malformed},

		// grant
		{"admin grants on a folder", nil, alice, ops{GrantOp(f, base.dave.member, Read|ApproveScript)}, ""},
		{"admin grants on zero", nil, alice, ops{GrantOp(zero, base.dave.member, AllRoles)}, ""},
		{"root grants on zero", nil, root, ops{GrantOp(zero, base.dave.member, AllRoles)}, ""},
		{"sharer grants what he has", nil, bob, ops{GrantOp(f, base.dave.member, Read|Edit|Operate|Share)}, ""},
		{"reader grants", nil, carol, ops{GrantOp(f, base.dave.member, Read)}, LogSigner},
		{"sharer grants Admin's script approval", nil, bob, ops{GrantOp(f, base.dave.member, ApproveScript)}, LogSigner},
		{"sharer who has no Edit grants Edit", func(w *world) { w.do(alice, GrantOp(f, base.carol.member, Read|Share)) }, carol, ops{GrantOp(f, base.dave.member, Edit)}, LogSigner},
		{"sharer without Edit takes Edit away", func(w *world) { w.do(alice, GrantOp(f, base.carol.member, Share)) }, carol, ops{GrantOp(f, base.bob.member, Read)}, LogSigner},
		{"Share includes Read", func(w *world) { w.do(alice, GrantOp(f, base.carol.member, Share)) }, carol, ops{GrantOp(f, base.dave.member, Read)}, ""},
		{"sharer takes back", nil, bob, ops{GrantOp(f, base.carol.member, 0)}, ""},
		{"sharer on another folder", func(w *world) { w.do(alice, GrantOp(g, base.dave.member, Read)) }, bob, ops{GrantOp(g, base.bob.member, Read)}, LogSigner},
		{"sharer grants on zero", nil, bob, ops{GrantOp(zero, base.bob.member, Read)}, LogSigner},
		{"sharer on zero grants on a folder", func(w *world) { w.do(alice, GrantOp(zero, base.dave.member, Read|Share)) }, dave, ops{GrantOp(f, base.dave.member, Read)}, ""},
		{"masked device without Share grants", func(w *world) { w.do(bob, PutOp(w.deviceEntry(masked, Read|Edit))) }, masked.device, ops{GrantOp(f, base.dave.member, Read)}, LogSigner},
		{"a new folder to himself", nil, dave, ops{GrantOp(g, base.dave.member, Read|Edit|Operate|Share)}, ""},
		{"a new folder to himself, approving scripts", nil, dave, ops{GrantOp(g, base.dave.member, Read|ApproveScript)}, LogSigner},
		{"a new folder to another", nil, dave, ops{GrantOp(g, base.bob.member, Read)}, LogSigner},
		{"a folder named before, withdrawn since", func(w *world) {
			w.do(dave, GrantOp(g, base.dave.member, Read|Share))
			w.do(alice, GrantOp(g, base.dave.member, 0))
		}, carol, ops{GrantOp(g, base.carol.member, Read)}, LogSigner},
		{"a folder that a floor named", func(w *world) { w.do(alice, FloorOp(Ref{g, id(90)}, 1)) }, carol, ops{GrantOp(g, base.carol.member, Read)}, LogSigner},
		{"Admin on a folder", nil, alice, ops{GrantOp(f, base.dave.member, Admin)}, Malformed},
		{"sharer grants to a pool", nil, bob, ops{GrantOp(f, base.q, Read)}, LogSigner},
		{"admin grants to a pool", nil, alice, ops{GrantOp(g, base.q, Read)}, ""},
		{"admin grants a pool more than Read", nil, alice, ops{GrantOp(f, base.q, Read|Edit)}, Malformed},
		{"sharer grants to an app", nil, bob, ops{GrantOp(f, base.app, Read|Edit)}, ""},
		{"an app more than Read and Edit", nil, alice, ops{GrantOp(f, base.app, Read|Operate)}, Malformed},
		{"to a device", nil, alice, ops{GrantOp(f, bob.id, Read)}, Malformed},
		{"to nobody", nil, alice, ops{GrantOp(f, id(99), Read)}, Malformed},
		{"a role that this version does not know", nil, alice, ops{GrantOp(f, base.dave.member, 1<<6)}, UnknownField},

		// folder
		{"new folder in the change that grants it", nil, dave, NewFolderOps(base.org, g, base.dave.member, seal.Key{1}), ""},
		{"new folder, granted with Read alone", nil, dave, ops{GrantOp(g, base.dave.member, Read), FolderOp(base.org, g, 1, seal.Key{1})}, ""},
		{"new folder before its grant", nil, dave, ops{FolderOp(base.org, g, 1, seal.Key{1}), GrantOp(g, base.dave.member, Read)}, LogSigner},
		{"new folder without a grant", nil, dave, ops{FolderOp(base.org, g, 1, seal.Key{1})}, LogSigner},
		{"new folder, grant of nothing", nil, dave, ops{GrantOp(g, base.dave.member, 0), FolderOp(base.org, g, 1, seal.Key{1})}, LogSigner},
		{"new key version by a sharer", nil, bob, ops{FolderOp(base.org, f, 2, seal.Key{1})}, ""},
		{"new key version by an admin", nil, alice, ops{FolderOp(base.org, f, 2, seal.Key{1})}, ""},
		{"new key version by a reader", nil, carol, ops{FolderOp(base.org, f, 2, seal.Key{1})}, LogSigner},
		{"the same key version again", nil, bob, ops{FolderOp(base.org, f, 1, seal.Key{1})}, Malformed},
		{"a key version left out", nil, bob, ops{FolderOp(base.org, f, 3, seal.Key{1})}, Malformed},

		// floor
		{"floor by an editor", nil, bob, ops{FloorOp(Ref{f, id(90)}, 5)}, ""},
		{"floor by an admin", nil, alice, ops{FloorOp(Ref{f, id(90)}, 5)}, ""},
		{"floor by a reader", nil, carol, ops{FloorOp(Ref{f, id(90)}, 5)}, LogSigner},
		{"floor in another folder", nil, bob, ops{FloorOp(Ref{g, id(90)}, 5)}, LogSigner},
		{"floor lowered", func(w *world) { w.do(bob, FloorOp(Ref{f, id(90)}, 5)) }, bob, ops{FloorOp(Ref{f, id(90)}, 4)}, Malformed},
		{"floor said again", func(w *world) { w.do(bob, FloorOp(Ref{f, id(90)}, 5)) }, bob, ops{FloorOp(Ref{f, id(90)}, 5)}, ""},
		{"floor raised by a million", nil, bob, ops{FloorOp(Ref{f, id(90)}, 1_000_000)}, ""},
		{"floor raised by more", nil, bob, ops{FloorOp(Ref{f, id(90)}, 1_000_001)}, Malformed},

		// plugin, drop_plugin, policy, root
		{"plugin by an admin", nil, alice, ops{PluginOp(plugin)}, ""},
		{"plugin by a member", nil, bob, ops{PluginOp(plugin)}, LogSigner},
		{"drop by an admin", func(w *world) { w.do(alice, PluginOp(plugin)) }, alice, ops{DropPluginOp(plugin.SHA256)}, ""},
		{"drop by a member", func(w *world) { w.do(alice, PluginOp(plugin)) }, bob, ops{DropPluginOp(plugin.SHA256)}, LogSigner},
		{"drop of what is not there", nil, alice, ops{DropPluginOp(plugin.SHA256)}, Malformed},
		{"policy by an admin", nil, alice, ops{PolicyOp(400, true)}, ""},
		{"policy by a member", nil, bob, ops{PolicyOp(30, true)}, LogSigner},
		{"policy of no days", nil, alice, ops{PolicyOp(0, true)}, Malformed},
		{"policy of 401 days", nil, alice, ops{PolicyOp(401, true)}, Malformed},
		{"root by the root", nil, root, ops{RootOp(newAgent.pub())}, ""},
		{"root by an admin", nil, alice, ops{RootOp(newAgent.pub())}, LogSigner},
		{"root, then an op of the former root", nil, root, ops{RootOp(newAgent.pub()), PutOp(member(80))}, LogSigner},
		{"root of a key that is live", nil, root, ops{RootOp(bob.pub())}, Malformed},
		{"root of a small order", nil, root, ops{RootOp(make([]byte, 32))}, Malformed},

		// The ops are judged in order, each in the state that the former left.
		{"admin withdraws his own right, then uses it", nil, alice, ops{GrantOp(zero, base.alice.member, Read), PutOp(member(80))}, LogSigner},
		{"admin removes his device, then uses it", nil, alice, ops{RemoveOp(alice.id), PutOp(member(80))}, LogSigner},
		{"admin makes a member and grants him in one change", nil, alice, ops{PutOp(member(80)), GrantOp(f, id(80), Read)}, ""},
		{"a good op before a bad one", nil, bob, ops{GrantOp(f, base.dave.member, Read), PutOp(member(80))}, LogSigner},
		{"no ops, by an admin", nil, alice, nil, ""},
		{"no ops, by a member", nil, bob, nil, LogSigner},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			if row.given != nil {
				row.given(w)
			}
			before := w.log.Clone()
			_, err := w.log.Append(w.sign(w.change(row.by, row.ops...), row.by.sign), w.now)
			wantReason(t, err, row.want)
			if same := reflect.DeepEqual(before.s, w.log.s); same != (row.want != "") {
				t.Errorf("refused is %v, the log is unchanged: %v", row.want != "", same)
			}
		})
	}
}

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

// Enrolment: its key puts its own successor, with the new key's signature, once.
func TestEnrolment(t *testing.T) {
	base := newWorld(t)
	alice := base.alice.device
	seed := seal.Key{9}
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

func TestRemovingTakesWhatItOwns(t *testing.T) {
	w := newWorld(t)
	w.do(w.bob.device, PutOp(NewEnrolment(id(71), seal.Key{9}, trustv1.EntryKind_ENTRY_KIND_DEVICE, w.bob.member, "phone", Read, w.now.Add(day))))
	w.do(w.alice.device, RemoveOp(w.bob.member), RemoveOp(w.p))
	for _, gone := range []seal.ID{w.bob.member, w.bob.device.id, id(71), w.p, w.one.id, w.two.id} {
		if _, live := w.log.Entry(gone); live || !w.log.Removed(gone) {
			t.Errorf("%s is live", gone)
		}
	}
	if _, live := w.log.Entry(w.three.id); !live {
		t.Error("an agent of another pool is gone")
	}
	if len(w.log.GrantsTo(w.bob.member)) != 0 || len(w.log.GrantsOn(w.folder)) != 3 {
		t.Errorf("grants left: %v", w.log.GrantsOn(w.folder))
	}
}

func TestRolesOf(t *testing.T) {
	w := newWorld(t)
	masked := person{w.bob.member, newParty(t, 73, false)}
	w.do(w.bob.device, PutOp(w.deviceEntry(masked, Read|Operate)))
	other := id(61)
	for _, row := range []struct {
		name          string
		entry, folder seal.ID
		want          Roles
	}{
		{"member", w.bob.member, w.folder, Read | Edit | Operate | Share},
		{"member elsewhere", w.bob.member, other, 0},
		{"device", w.bob.device.id, w.folder, Read | Edit | Operate | Share},
		{"masked device", masked.device.id, w.folder, Read | Operate},
		{"administrator anywhere", w.alice.device.id, other, AllRoles},
		{"pool", w.p, w.folder, Read},
		{"agent", w.one.id, w.folder, Read},
		{"agent elsewhere", w.one.id, other, 0},
		{"app", w.app, w.folder, Read},
		{"recovery", w.recovery.id, w.folder, 0},
		{"nobody", id(99), w.folder, 0},
	} {
		if got := w.log.Roles(row.entry, row.folder); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	var readers []seal.ID
	for _, e := range w.log.Readers(w.folder) {
		readers = append(readers, e.ID)
	}
	for _, want := range []seal.ID{w.alice.device.id, w.bob.device.id, masked.device.id, w.carol.device.id, w.one.id, w.two.id, w.three.id, w.recovery.id} {
		if !slices.Contains(readers, want) {
			t.Errorf("%s is not among the readers", want)
		}
	}
	if slices.Contains(readers, w.dave.device.id) || len(readers) != 8 {
		t.Errorf("readers: %v", readers)
	}
}

func TestFreshness(t *testing.T) {
	w := newWorld(t)
	age := DefaultAgeDays * day
	for _, row := range []struct {
		after            time.Duration
		due, warn, stale bool
	}{
		{0, false, false, false},
		{age / 3, false, false, false},
		{age/3 + time.Second, true, false, false},
		{age/2 + time.Second, true, true, false},
		{age + Skew, true, true, false},
		{age + Skew + time.Second, true, true, true},
	} {
		now := w.now.Add(row.after)
		stale := ReasonOf(w.log.CheckFresh(now)) == LogStale
		if w.log.RenewalDue(now) != row.due || w.log.Warn(now) != row.warn || stale != row.stale {
			t.Errorf("after %s: due %v, warn %v, stale %v", row.after, w.log.RenewalDue(now), w.log.Warn(now), stale)
		}
	}
	wantReason(t, NewLog(w.org).CheckFresh(w.now), LogStale)
	w.now = w.now.Add(100 * day)
	w.do(w.alice.device)
	if want := w.now.Add(age); !w.log.ValidUntil().Equal(want) {
		t.Errorf("renewed until %s, want %s", w.log.ValidUntil(), want)
	}
}

func TestHeads(t *testing.T) {
	w := newWorld(t)
	h := w.log.Head()
	older, _ := w.log.DigestAt(1)
	wantReason(t, w.log.CheckHead(h.Epoch, h.Digest[:]), "")
	wantReason(t, w.log.CheckHead(1, older[:]), "")
	wantReason(t, w.log.CheckHead(1, h.Digest[:]), LogFork)
	wantReason(t, w.log.CheckHead(h.Epoch+1, h.Digest[:]), LogGap)
	wantReason(t, w.log.CheckHead(h.Epoch, nil), Malformed)
	wantReason(t, w.log.CheckServer(h.Epoch, h.Digest), "")
	wantReason(t, w.log.CheckServer(h.Epoch+5, seal.Digest{1}), "")
	wantReason(t, w.log.CheckServer(1, older), LogRollback)
	wantReason(t, w.log.CheckServer(1, h.Digest), LogFork)
	if !w.log.ContainsDigest(older) || w.log.ContainsDigest(seal.Digest{1}) {
		t.Error("ContainsDigest")
	}
}

// A deceived party refuses the true log, and one that saw the true log refuses
// the fork.
func TestForkIsSeenOnBothSides(t *testing.T) {
	truth := newWorld(t)
	deceived := truth.fork(t)
	removal := truth.sign(truth.change(truth.alice.device, RemoveOp(truth.bob.member)), truth.alice.device.sign)
	forged := deceived.sign(deceived.change(deceived.bob.device, GrantOp(deceived.folder, deceived.dave.member, Read)), deceived.bob.device.sign)
	truth.append(removal)
	deceived.append(forged)
	_, err := truth.log.Append(forged, truth.now)
	wantReason(t, err, LogFork)
	_, err = deceived.log.Append(removal, deceived.now)
	wantReason(t, err, LogFork)
}

func TestReplayEqualsAppending(t *testing.T) {
	w := newWorld(t)
	l, err := Replay(w.org, slices.Values(w.changes), w.now)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l.s, w.log.s) {
		t.Error("the replay differs")
	}
	unpinned, err := Replay(seal.Digest{}, slices.Values(w.changes), w.now)
	if err != nil || unpinned.Org() != w.org {
		t.Errorf("%v %v", unpinned.Org(), err)
	}
	l, err = Replay(w.org, slices.Values(append(slices.Clip(w.changes[:3]), w.changes[4])), w.now)
	wantReason(t, err, LogGap)
	if l.Next() != 3 {
		t.Errorf("the replay stopped at %d", l.Next())
	}
}

func TestCloneIsIndependent(t *testing.T) {
	w := newWorld(t)
	before := w.log.Clone()
	c := w.fork(t)
	c.do(c.alice.device, PutOp(member(80)), GrantOp(c.folder, id(80), Read), RemoveOp(c.bob.member), FloorOp(Ref{c.folder, id(90)}, 3), PluginOp(Plugin{"x", "1", "linux", "amd64", seal.Digest{7}}))
	if !reflect.DeepEqual(before.s, w.log.s) {
		t.Error("an append to the clone shows in the original")
	}
}

func TestRolesText(t *testing.T) {
	for _, row := range []struct {
		text  string
		roles Roles
	}{
		{"none", 0},
		{"read", Read},
		{"read,edit,operate,share,approve_script,admin", AllRoles},
		{"operate,admin", Operate | Admin},
	} {
		if got, err := ParseRoles(row.text); err != nil || got != row.roles || got.String() != row.text {
			t.Errorf("%s: %v, %v", row.text, got, err)
		}
	}
	if got, err := ParseRoles("edit, read"); err != nil || got != Read|Edit {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseRoles("all"); err != nil || got != AllRoles {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"root", "read,,edit", "READ"} {
		if _, err := ParseRoles(bad); err == nil {
			t.Errorf("%q is taken for roles", bad)
		}
	}
}

func TestEveryReasonIsDescribed(t *testing.T) {
	seen := map[Reason]bool{}
	for _, i := range Reasons() {
		if i.Meaning == "" || i.Do == "" || seen[i.Reason] || i.Reason.Meaning() != i.Meaning || i.Reason.Hint() != i.Do {
			t.Errorf("%+v", i)
		}
		seen[i.Reason] = true
	}
	if Reason("other").Meaning() != "" {
		t.Error("an unknown code has a meaning")
	}
}

// Ten thousand changes replay in about a second: 3 MB on the wire.
func BenchmarkReplay10000(b *testing.B) {
	w := newWorld(b)
	for len(w.changes) < 10_000 {
		n := len(w.changes)
		w.do(w.bob.device, FloorOp(Ref{w.folder, seal.ID{0: 1, 1: byte(n), 2: byte(n >> 8)}}, 1))
	}
	for b.Loop() {
		if _, err := Replay(w.org, slices.Values(w.changes), w.now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClone(b *testing.B) {
	l := NewLog(seal.Digest{1})
	for n := range 100_000 {
		l.s.floors[Ref{id(1), seal.ID{1: byte(n), 2: byte(n >> 8), 3: byte(n >> 16)}}] = 1
	}
	for b.Loop() {
		l.Clone()
	}
}
