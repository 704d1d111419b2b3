package trust

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

func TestRemovingTakesWhatItOwns(t *testing.T) {
	w := newWorld(t)
	w.do(w.bob.device, PutOp(NewEnrolment(id(71), fixedKey(9), trustv1.EntryKind_ENTRY_KIND_DEVICE, w.bob.member, "phone", Read, w.now.Add(day))))
	w.do(w.alice.device, RemoveOp(w.bob.member), RemoveOp(w.p))
	for _, gone := range []seal.ID{w.bob.member, w.bob.device.id, id(71), w.p, w.one.id, w.two.id} {
		if _, live := w.log.Entry(gone); live {
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

// Whoever holds an application's key can open what was ever wrapped under it.
func TestMayHoldApp(t *testing.T) {
	base := newWorld(t)
	alice, g := base.alice.device, id(61)
	for _, row := range []struct {
		name  string
		given ops
		app   seal.ID
		holds string // alice, bob, carol, dave
	}{
		{"who may share its folder", nil, base.app, "ab"},
		{"not who reads it", ops{GrantOp(base.folder, base.carol.member, Read|Edit|Operate)}, base.app, "ab"},
		{"two who may share it", ops{GrantOp(base.folder, base.carol.member, Share)}, base.app, "abc"},
		{"not who shares one of two", ops{GrantOp(g, base.app, Read)}, base.app, "a"},
		{"who shares both", ops{GrantOp(g, base.app, Read), GrantOp(g, base.bob.member, Share), GrantOp(g, base.dave.member, Share)}, base.app, "ab"},
		{"who shares all folders", ops{GrantOp(g, base.app, Read), GrantOp(seal.ID{}, base.dave.member, Share)}, base.app, "ad"},
		{"not who shares the one that is left", ops{GrantOp(g, base.app, Read), GrantOp(g, base.app, 0)}, base.app, "a"},
		{"what may read all folders", ops{GrantOp(seal.ID{}, base.app, Read)}, base.app, "a"},
		{"without a folder", ops{PutOp(&trustv1.Entry{EntryId: id(51).Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_APP, Name: "new", AppCheck: make([]byte, 32)})}, id(51), "a"},
		{"a withdrawal of what it never had", ops{GrantOp(g, base.app, 0)}, base.app, "ab"},
		{"removed", ops{RemoveOp(base.app)}, base.app, "a"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := base.fork(t)
			if row.given != nil {
				w.do(alice, row.given...)
			}
			holds := ""
			for i, p := range []person{w.alice, w.bob, w.carol, w.dave} {
				may := w.log.MayHoldApp(p.device.id, row.app)
				if may != w.log.MayHoldApp(p.member, row.app) {
					t.Error("a device and its member differ")
				}
				if may {
					holds += string("abcd"[i])
				}
			}
			if holds != row.holds {
				t.Errorf("held by %q, want %q", holds, row.holds)
			}
		})
	}
	w := base.fork(t)
	masked := person{w.bob.member, newParty(t, 73, false)}
	w.do(w.bob.device, PutOp(w.deviceEntry(masked, Read|Edit)))
	if w.log.MayHoldApp(masked.device.id, w.app) {
		t.Error("a device whose mask leaves out share holds it")
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
	l, err := replay(w.org, slices.Values(w.changes), w.now)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l.s, w.log.s) {
		t.Error("the replay differs")
	}
	unpinned, err := replay(seal.Digest{}, slices.Values(w.changes), w.now)
	if err != nil || unpinned.Org() != w.org {
		t.Errorf("%v %v", unpinned.Org(), err)
	}
	l, err = replay(w.org, slices.Values(append(slices.Clip(w.changes[:3]), w.changes[4])), w.now)
	wantReason(t, err, LogGap)
	if l.Next() != 3 {
		t.Errorf("the replay stopped at %d", l.Next())
	}
}

func TestCloneIsIndependent(t *testing.T) {
	w := newWorld(t)
	before := w.log.Clone()
	c := w.fork(t)
	c.do(c.alice.device, PutOp(member(80)), GrantOp(c.folder, id(80), Read), RemoveOp(c.bob.member), GrantOp(id(61), c.app, Read), FloorOp(Ref{c.folder, id(90)}, 3), PluginOp(Plugin{"x", "1", "linux", "amd64", seal.Digest{7}}))
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
		if _, err := replay(w.org, slices.Values(w.changes), w.now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClone(b *testing.B) {
	l := NewLog(seal.Digest{1})
	for n := range 100_000 {
		l.s.floors.newer[Ref{id(1), seal.ID{1: byte(n), 2: byte(n >> 8), 3: byte(n >> 16)}}] = 1
		l.s.floors.settle()
	}
	for b.Loop() {
		l.Clone()
	}
}

func TestLists(t *testing.T) {
	w := newWorld(t)
	names := func(es []Entry) (out []string) {
		for _, e := range es {
			out = append(out, e.Name)
		}
		return out
	}
	if got := names(w.log.Entries(trustv1.EntryKind_ENTRY_KIND_MEMBER, trustv1.EntryKind_ENTRY_KIND_POOL)); !slices.Equal(got, []string{"Alice", "Bob", "Carol", "Dave", "P", "Q"}) {
		t.Errorf("members and pools: %v", got)
	}
	if got := names(w.log.Owned(w.p)); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("agents of P: %v", got)
	}
	if got := w.log.Owned(seal.ID{}); got != nil {
		t.Errorf("owned by nobody: %v", got)
	}
	want := FolderState{w.folder, 1, seal.FolderCheck(w.org, w.folderKey, w.folder, 1), 3}
	if got := w.log.Folders(); len(got) != 1 || got[0] != want {
		t.Errorf("folders: %v", got)
	}
	if e, ok := w.log.EntryByKey(keyID(w.one.pub())); !ok || e.ID != w.one.id {
		t.Errorf("by key: %v", e)
	}
	// An entry put again as it is stays what it is.
	for _, e := range w.log.Entries() {
		again := entryOf(e.Proto())
		again.PutBy, again.Epoch = e.PutBy, e.Epoch
		if !again.NotAfter.Equal(e.NotAfter) {
			t.Errorf("not_after of %q: %s, %s", e.Name, again.NotAfter, e.NotAfter)
		}
		again.NotAfter = e.NotAfter
		if !reflect.DeepEqual(again, e) {
			t.Errorf("%+v, %+v", again, e)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{Reason: RecordCorrupt, What: "data of record x", Err: seal.ErrOpen}
	if err.Error() != "record_corrupt: data of record x: does not open under this key" || !errors.Is(err, seal.ErrOpen) {
		t.Error(err)
	}
	if ReasonOf(fmt.Errorf("fetch: %w", err)) != RecordCorrupt || ReasonOf(errors.New("x")) != "" || ReasonOf(nil) != "" {
		t.Error("ReasonOf")
	}
}

func TestRefs(t *testing.T) {
	r := Ref{id(1), id(2)}
	if got, err := RefFrom(r.Proto()); err != nil || got != r {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []*trustv1.Ref{nil, {}, {FolderUid: r.Folder.Bytes()}, {FolderUid: r.Folder.Bytes(), RecordUid: make([]byte, 16)}, {FolderUid: make([]byte, 15), RecordUid: r.Record.Bytes()}} {
		_, err := RefFrom(bad)
		wantReason(t, err, Malformed)
	}
}

// Clones share the settled floors: what one adds no other sees, before and after
// they settle.
func TestClonesKeepTheirOwnFloors(t *testing.T) {
	w := newWorld(t)
	ref := func(n int) Ref { return Ref{w.folder, seal.ID{1, byte(n), byte(n >> 8)}} }
	raise := func(l *Log, min uint64, refs ...int) {
		t.Helper()
		var ops []*trustv1.Op
		for _, n := range refs {
			ops = append(ops, FloorOp(ref(n), min))
		}
		signed, _, err := SignChange(w.org, l.NewChange(w.bob.device.id, w.now, ops...), w.bob.device.sign)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(signed, w.now); err != nil {
			t.Fatal(err)
		}
	}
	want := func(l *Log, n int, min uint64) {
		t.Helper()
		if got := l.Floor(ref(n)); got != min {
			t.Errorf("floor %d is %d, want %d", n, got, min)
		}
	}
	many := make([]int, 1500) // more than stay unsettled
	for n := range many {
		many[n] = n
	}
	old := w.log.Clone()
	raise(w.log, 1, many...)
	a, b := w.log.Clone(), w.log.Clone()
	raise(a, 2, 7)
	raise(b, 3, 7, 2000)
	raise(b, 4, many...)
	for _, c := range []struct {
		log        *Log
		seven, new uint64
	}{{old, 0, 0}, {w.log, 1, 0}, {a, 2, 0}, {b, 4, 3}} {
		want(c.log, 7, c.seven)
		want(c.log, 2000, c.new)
	}
	want(a, 8, 1)
}

func TestHas(t *testing.T) {
	w := newWorld(t)
	for n, c := range w.changes {
		if !w.log.Has(c) {
			t.Errorf("change %d is not known", n)
		}
	}
	next, _, err := SignChange(w.org, w.log.NewChange(w.bob.device.id, w.now, FloorOp(Ref{w.folder, id(9)}, 1)), w.bob.device.sign)
	if err != nil {
		t.Fatal(err)
	}
	for name, signed := range map[string][]byte{"the next one": next, "rubbish": {0xff}, "nothing": nil} {
		if w.log.Has(signed) {
			t.Errorf("%s is known", name)
		}
	}
}
