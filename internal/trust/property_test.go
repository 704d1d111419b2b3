package trust

import (
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// drawOp draws an op over few ids, so that ops meet.
func drawOp(t *rapid.T, w *world) *trustv1.Op {
	folders := []seal.ID{{}, w.folder, id(61), id(62)}
	parties := []seal.ID{w.alice.member, w.bob.member, w.carol.member, w.dave.member, w.p, w.q, w.app, w.one.id, id(99)}
	folder := rapid.SampledFrom(folders).Draw(t, "folder")
	party := rapid.SampledFrom(parties).Draw(t, "party")
	switch rapid.IntRange(0, 9).Draw(t, "op") {
	case 0:
		n := byte(rapid.IntRange(80, 84).Draw(t, "n"))
		return PutOp(member(n))
	case 1:
		fresh := newParty(w.t, byte(rapid.IntRange(85, 88).Draw(t, "n")), false)
		owner := rapid.SampledFrom([]person{w.alice, w.bob, w.carol, w.dave}).Draw(t, "owner")
		return PutOp(w.deviceEntry(person{owner.member, fresh}, Roles(rapid.Uint32Range(0, 63).Draw(t, "mask"))))
	case 2:
		ids := append([]seal.ID{w.bob.device.id, w.carol.device.id, w.two.id, id(80), id(85)}, parties...)
		return RemoveOp(rapid.SampledFrom(ids).Draw(t, "id"))
	case 3, 4, 5:
		return GrantOp(folder, party, Roles(rapid.Uint32Range(0, 63).Draw(t, "roles")))
	case 6:
		return FolderOp(w.org, rapid.SampledFrom(folders[1:]).Draw(t, "keyed"), rapid.Uint32Range(1, 3).Draw(t, "version"), fixedKey(1))
	case 7:
		return FloorOp(Ref{rapid.SampledFrom(folders[1:]).Draw(t, "floored"), id(90)}, rapid.Uint64Range(0, 5).Draw(t, "seq"))
	case 8:
		return PluginOp(Plugin{"x", "1", "linux", "amd64", seal.Digest{byte(rapid.IntRange(1, 2).Draw(t, "plugin"))}})
	}
	return PolicyOp(rapid.Uint32Range(0, 401).Draw(t, "days"), rapid.Bool().Draw(t, "self"))
}

func drawOps(t *rapid.T, w *world) ops {
	var o ops
	for range rapid.IntRange(0, 3).Draw(t, "ops") {
		o = append(o, drawOp(t, w))
	}
	return o
}

// Whatever is appended: a refused change leaves no trace, and the accepted ones
// replay to the same state.
func TestReplayIsDeterministic(t *testing.T) {
	base := newWorld(t)
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := base.fork(t)
		signers := []party{w.root, w.alice.device, w.bob.device, w.carol.device, w.dave.device, w.one}
		for range rapid.IntRange(1, 12).Draw(rt, "changes") {
			by := rapid.SampledFrom(signers).Draw(rt, "by")
			signed := w.sign(w.change(by, drawOps(rt, w)...), by.sign)
			before := w.log.Clone()
			if _, err := w.log.Append(signed, w.now); err != nil {
				if ReasonOf(err) == "" {
					rt.Fatalf("a refusal without a reason: %v", err)
				}
				if !reflect.DeepEqual(before.s, w.log.s) {
					rt.Fatalf("a refused change left a trace: %v", err)
				}
				continue
			}
			accepted++
			w.changes = append(w.changes, signed)
		}
		l, err := replay(w.org, slices.Values(w.changes), w.now)
		if err != nil {
			rt.Fatal(err)
		}
		if !reflect.DeepEqual(l.s, w.log.s) {
			rt.Fatal("the replay differs")
		}
	})
	if accepted == 0 {
		t.Error("no change was ever accepted")
	}
}

// Whatever members without Admin append: nobody gains Admin or script approval,
// no pool reads more, no agent, app, pool or member appears, no plugin is
// approved, no policy or root changes, and nobody gains a role in another's folder
// that its sharer does not have.
func TestMembersCannotReachBeyondTheirRoles(t *testing.T) {
	base := newWorld(t)
	base.do(base.alice.device, GrantOp(base.folder, base.carol.member, Read|Share))
	sharers := base.log.Roles(base.bob.member, base.folder)
	// The honest case: a sharer gives on what he has.
	honest := base.fork(t)
	if _, err := honest.log.Append(honest.sign(honest.change(honest.carol.device, GrantOp(honest.folder, honest.dave.member, Read)), honest.carol.device.sign), honest.now); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := base.fork(t)
		signers := []party{w.bob.device, w.carol.device, w.dave.device}
		for range rapid.IntRange(1, 12).Draw(rt, "changes") {
			by := rapid.SampledFrom(signers).Draw(rt, "by")
			_, _ = w.log.Append(w.sign(w.change(by, drawOps(rt, w)...), by.sign), w.now) // whatever comes of it
		}
		notDevices := func(l *Log) []Entry {
			return l.list(func(e *Entry) bool { return e.Kind != trustv1.EntryKind_ENTRY_KIND_DEVICE })
		}
		if !reflect.DeepEqual(notDevices(w.log), notDevices(base.log)) {
			rt.Fatal("entries changed")
		}
		if !reflect.DeepEqual(w.log.Plugins(), base.log.Plugins()) || w.log.Policy() != base.log.Policy() || !w.log.Root().Equal(base.log.Root()) {
			rt.Fatal("plugins, policy or root changed")
		}
		for _, pool := range []seal.ID{w.p, w.q} {
			if !reflect.DeepEqual(w.log.GrantsTo(pool), base.log.GrantsTo(pool)) {
				rt.Fatal("a pool's grants changed")
			}
		}
		for _, m := range []seal.ID{w.bob.member, w.carol.member, w.dave.member} {
			for _, g := range w.log.GrantsTo(m) {
				if g.Roles&(Admin|ApproveScript) != 0 || g.Folder.IsZero() {
					rt.Fatalf("%v", g)
				}
				if g.Folder == w.folder && !sharers.Has(g.Roles) {
					rt.Fatalf("%v, of sharers with %s", g, sharers)
				}
			}
		}
		if w.log.ValidUntil() != base.log.ValidUntil() {
			rt.Fatal("valid_until moved")
		}
	})
}
