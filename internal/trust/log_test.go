package trust

import (
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
	seed := fixedKey(9)
	enrol := func(target trustv1.EntryKind, owner seal.ID, roles Roles, age time.Duration) *trustv1.Entry {
		return NewEnrolment(id(71), seed, target, owner, "new", roles, base.now.Add(age))
	}
	const device, agent = trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_AGENT
	newAgent := newParty(t, 72, true)
	masked := person{base.bob.member, newParty(t, 73, false)} // Bob's second device: read and share only
	plugin := Plugin{"x", "1", "linux", "amd64", seal.Digest{7}}
	recovery, _ := base.log.Recovery()
	freshApp := &trustv1.Entry{EntryId: id(51).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_APP, Name: "new", AppCheck: make([]byte, 32)}

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
		{"enrolment that carries keys", nil, alice, ops{PutOp(edit(enrol(agent, base.p, 0, day), func(e *trustv1.Entry) { e.Unattended = true }))}, ""},
		{"agent that carries keys", nil, alice, ops{PutOp(edit(agentEntry(newAgent, base.p, "four"), func(e *trustv1.Entry) { e.Unattended = true }))}, Malformed},
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
		{"sharer of all its folders grants an app more", nil, bob, ops{GrantOp(f, base.app, Read|Edit)}, ""},
		{"sharer of all its folders grants an app a folder of his", nil, bob, slices.Concat(NewFolderOps(base.org, g, base.bob.member, fixedKey(1)), ops{GrantOp(g, base.app, Read)}), ""},
		{"who shares none of its folders grants an app one of his", nil, dave, slices.Concat(NewFolderOps(base.org, g, base.dave.member, fixedKey(1)), ops{GrantOp(g, base.app, Read)}), LogSigner},
		{"who shares one of its folders grants an app more", func(w *world) { w.do(alice, GrantOp(g, base.app, Read)) }, bob, ops{GrantOp(f, base.app, Read|Edit)}, LogSigner},
		{"who shares one of its folders grants an app less", func(w *world) { w.do(alice, GrantOp(f, base.app, Read|Edit), GrantOp(g, base.app, Read)) }, bob, ops{GrantOp(f, base.app, Read)}, ""},
		{"who shares one of its folders withdraws it from an app", func(w *world) { w.do(alice, GrantOp(g, base.app, Read)) }, bob, ops{GrantOp(f, base.app, 0)}, ""},
		{"who shares all that is left of its folders grants an app more", func(w *world) { w.do(alice, GrantOp(g, base.app, Read), GrantOp(g, base.app, 0)) }, bob, ops{GrantOp(f, base.app, Read|Edit)}, LogSigner},
		{"sharer gives an app its first folder", func(w *world) { w.do(alice, PutOp(freshApp)) }, bob, ops{GrantOp(f, id(51), Read)}, LogSigner},
		{"admin gives an app its first folder", func(w *world) { w.do(alice, PutOp(freshApp)) }, alice, ops{GrantOp(f, id(51), Read)}, ""},
		{"an app more than Read and Edit", nil, alice, ops{GrantOp(f, base.app, Read|Operate)}, Malformed},
		{"to a device", nil, alice, ops{GrantOp(f, bob.id, Read)}, Malformed},
		{"to nobody", nil, alice, ops{GrantOp(f, id(99), Read)}, Malformed},
		{"a role that this version does not know", nil, alice, ops{GrantOp(f, base.dave.member, 1<<6)}, UnknownField},

		// folder
		{"new folder in the change that grants it", nil, dave, NewFolderOps(base.org, g, base.dave.member, fixedKey(1)), ""},
		{"new folder, granted with Read alone", nil, dave, ops{GrantOp(g, base.dave.member, Read), FolderOp(base.org, g, 1, fixedKey(1))}, ""},
		{"new folder before its grant", nil, dave, ops{FolderOp(base.org, g, 1, fixedKey(1)), GrantOp(g, base.dave.member, Read)}, LogSigner},
		{"new folder without a grant", nil, dave, ops{FolderOp(base.org, g, 1, fixedKey(1))}, LogSigner},
		{"new folder, grant of nothing", nil, dave, ops{GrantOp(g, base.dave.member, 0), FolderOp(base.org, g, 1, fixedKey(1))}, LogSigner},
		{"new key version by a sharer", nil, bob, ops{FolderOp(base.org, f, 2, fixedKey(1))}, ""},
		{"new key version by an admin", nil, alice, ops{FolderOp(base.org, f, 2, fixedKey(1))}, ""},
		{"new key version by a reader", nil, carol, ops{FolderOp(base.org, f, 2, fixedKey(1))}, LogSigner},
		{"the same key version again", nil, bob, ops{FolderOp(base.org, f, 1, fixedKey(1))}, Malformed},
		{"a key version left out", nil, bob, ops{FolderOp(base.org, f, 3, fixedKey(1))}, Malformed},

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
