package directory_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// node is one server: its store and its directory.
type node struct {
	t testing.TB
	store.Store
	*directory.Directory
	bus bus.Bus
}

func newNode(t testing.TB) *node {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	b := bus.New()
	return &node{t, s, directory.New(b, time.Now), b}
}

// restarted is another directory over the same store.
func (n *node) restarted() *node {
	return &node{n.t, n.Store, directory.New(n.bus, time.Now), n.bus}
}

func (n *node) write(f func(ctx context.Context, q *db.Queries) error) error {
	return n.Write(n.t.Context(), func(q *db.Queries) error { return f(n.t.Context(), q) })
}

func (n *node) create(o *orgtest.Org) int64 {
	n.t.Helper()
	var org int64
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		var err error
		org, _, err = n.Create(ctx, q, "test", o.Changes...)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return org
}

func (n *node) append(org int64, changes ...[]byte) error {
	return n.write(func(ctx context.Context, q *db.Queries) error {
		_, err := n.Append(ctx, q, org, changes...)
		return err
	})
}

func (n *node) view(org int64) *trust.Log {
	n.t.Helper()
	var log *trust.Log
	err := n.Read(n.t.Context(), func(q *db.Queries) error {
		var err error
		log, err = n.View(n.t.Context(), q, org)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return log
}

func (n *node) events(org int64) (names []string, reasons []string) {
	n.t.Helper()
	err := n.Read(n.t.Context(), func(q *db.Queries) error {
		events, err := audit.List(n.t.Context(), q, audit.Filter{Org: org, Limit: 1000})
		for _, e := range events {
			names, reasons = append(names, e.Name), append(reasons, e.Reason)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return names, reasons
}

// TestAppendOneByOne: a Write that brings many changes, each by itself, is as one that
// brings them together: all or nothing, told of once.
func TestAppendOneByOne(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	for _, name := range []string{"Bob", "Carol", "Dan"} {
		o.Member(t, name, trust.Read)
	}
	before := n.view(org)
	heads := n.bus.Subscribe(bus.Log(org))
	defer heads.Close()
	oneByOne := func(changes [][]byte, then error) error {
		return n.write(func(ctx context.Context, q *db.Queries) error {
			log, err := n.Append(ctx, q, org, changes[0])
			for _, c := range changes[1:] {
				err = errors.Join(err, n.AppendTo(ctx, q, org, log, c))
			}
			return errors.Join(err, then)
		})
	}
	failed := errors.New("failed")
	if err := oneByOne(o.Changes[2:], failed); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if got := n.view(org).Head(); got != before.Head() {
		t.Errorf("after a Write that failed: %v, want %v", got, before.Head())
	}
	// The first of them is known already: the log that is kept is no less its own.
	known := append([][]byte{o.Changes[1]}, o.Changes[2:]...)
	if err := oneByOne(known, nil); err != nil {
		t.Fatal(err)
	}
	again := n.restarted()
	if err := again.Read(t.Context(), func(q *db.Queries) error { return again.ReadAll(t.Context(), q) }); err != nil {
		t.Error(err)
	}
	for _, n := range []*node{n, again} {
		if got, want := n.view(org).Head(), o.Log.Head(); got != want {
			t.Errorf("head: got %v, want %v", got, want)
		}
	}
	if before.Next() != 2 {
		t.Errorf("who looked before sees %d changes now", before.Next())
	}
	<-heads.C()
	select {
	case <-heads.C():
		t.Error("told of twice")
	default:
	}
}

func TestLogSurvivesRestart(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	o.Member(t, "Bob", trust.Read)
	if err := n.append(org, o.Changes[2:]...); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{n, n.restarted()} {
		if got, want := n.view(org).Head(), o.Log.Head(); got != want {
			t.Errorf("head: got %v, want %v", got, want)
		}
	}
	number := int64(0)
	err := n.Read(t.Context(), func(q *db.Queries) (err error) {
		number, err = n.Number(t.Context(), q, o.ID)
		return err
	})
	if err != nil || number != org {
		t.Errorf("number: got %d, %v", number, err)
	}
}

// What is stored was held against the clock when it came. A server that starts with its
// clock behind serves it, and holds new changes to that clock.
func TestClockIsBehindAtStart(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	behind := &node{n.t, n.Store, directory.New(n.bus, func() time.Time { return time.Now().Add(-5 * time.Minute) }), n.bus}
	if got := behind.view(org).Head(); got != o.Log.Head() {
		t.Errorf("the log ends with change %d, want %d", got.Epoch, o.Log.Head().Epoch)
	}
	if err := behind.append(org, o.Sign(t, o.Admin)); trust.ReasonOf(err) != trust.ClockFuture {
		t.Errorf("a new change: %v, want %s", err, trust.ClockFuture)
	}
}

func TestOrganisationsAreApart(t *testing.T) {
	n := newNode(t)
	a, b := orgtest.New(t, time.Now), orgtest.New(t, time.Now)
	orgA, orgB := n.create(a), n.create(b)
	if orgA == orgB {
		t.Fatal("two organisations have one number")
	}
	if err := n.append(orgB, a.Change(t)); trust.ReasonOf(err) != trust.LogFork {
		t.Errorf("a change of one organisation in the other's log: %v", err)
	}
	if got := n.view(orgB).Head(); got != b.Log.Head() {
		t.Errorf("head: got %v, want %v", got, b.Log.Head())
	}
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		_, _, err := n.Create(ctx, q, "test", a.Changes[:2]...)
		return err
	})
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("the same organisation again: %v", err)
	}
}

func TestRefusedChangesLeaveNothing(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	bob := o.Member(t, "Bob", trust.Read|trust.Operate)
	folder := o.Folder(t)
	if err := n.append(org, o.Changes[2:]...); err != nil {
		t.Fatal(err)
	}
	head := n.view(org).Head()
	second := o.Sign(t, o.Admin, trust.PolicyOp(100, true))
	for _, test := range []struct {
		name    string
		changes [][]byte
		want    trust.Reason
	}{
		{"a change that its signer may not make", [][]byte{o.Sign(t, bob, trust.GrantOp(folder, bob.Owner, trust.Edit))}, trust.LogSigner},
		{"a good change before a bad one", [][]byte{o.Sign(t, o.Admin, trust.PolicyOp(90, true)), second}, trust.LogFork},
		{"rubbish", [][]byte{{0xff}}, trust.Malformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := n.append(org, test.changes...)
			if trust.ReasonOf(err) != test.want {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if got := n.view(org).Head(); got != head {
				t.Errorf("head: got %v, want %v", got, head)
			}
			if got := n.restarted().view(org).Head(); got != head {
				t.Errorf("stored head: got %v, want %v", got, head)
			}
			if err := n.NoteRefusal(t.Context(), n.Store, org, bob.ID, err); err != nil {
				t.Fatal(err)
			}
			names, reasons := n.events(org)
			last := len(names) - 1
			if names[last] != audit.AppendRefused || reasons[last] != string(test.want) {
				t.Errorf("event: got %s %s", names[last], reasons[last])
			}
		})
	}
}

func TestUndoneWriteIsForgotten(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	head := n.view(org).Head()
	undone := errors.New("undone")
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		log, err := n.Append(ctx, q, org, o.Sign(t, o.Admin, trust.PolicyOp(90, true)))
		if err != nil {
			return err
		}
		seen, err := n.View(ctx, q, org)
		if err != nil {
			return err
		}
		if seen.Head() != log.Head() {
			t.Errorf("within the transaction: got %v, want %v", seen.Head(), log.Head())
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	if got := n.view(org).Head(); got != head {
		t.Errorf("head: got %v, want %v", got, head)
	}
	if err := n.append(org, o.Sign(t, o.Admin, trust.PolicyOp(80, true))); err != nil {
		t.Errorf("another change in its place: %v", err)
	}
}

func TestAgentsCredentialsFollowTheLog(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	pool := o.Pool(t, "pool")
	agent, other := o.Agent(t, "agent", pool), o.Agent(t, "other", pool)
	client := seal.AgentClientID(o.ID, agent.ID)
	row := func() (c db.MachineClient, err error) {
		err = n.Read(t.Context(), func(q *db.Queries) error {
			c, err = q.MachineClientByID(t.Context(), client[:])
			return err
		})
		return c, err
	}
	put := func(id seal.ID, keys []byte) error {
		return n.write(func(ctx context.Context, q *db.Queries) error {
			log, err := n.View(ctx, q, org)
			if err != nil {
				return err
			}
			return n.PutKeys(ctx, q, org, log, id, keys)
		})
	}
	if err := n.append(org, o.Changes[2:]...); err != nil {
		t.Fatal(err)
	}
	if _, err := row(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before its keys are known: %v", err)
	}
	if err := put(agent.ID, other.Keys); trust.ReasonOf(err) != trust.RecipientUnverified {
		t.Errorf("another's keys: %v", err)
	}
	if err := put(agent.ID, agent.Keys); err != nil {
		t.Fatal(err)
	}
	c, err := row()
	if err != nil || c.Org != org || c.Kind != "agent" || string(c.OwnerID) != string(agent.ID[:]) || string(c.PublicKey) != string(agent.Device) || c.Revoked != 0 {
		t.Errorf("row: %+v, %v", c, err)
	}
	if err := n.append(org, o.Change(t, trust.RemoveOp(pool))); err != nil { // with its agents
		t.Fatal(err)
	}
	if c, err := row(); err != nil || c.Revoked != 1 {
		t.Errorf("after the removal of its pool: revoked %d, %v", c.Revoked, err)
	}
	if err := put(agent.ID, agent.Keys); trust.ReasonOf(err) != trust.RecipientUnverified {
		t.Errorf("keys of a removed agent: %v", err)
	}
}

func TestSessionsEndWithTheEntry(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	bob, eve := o.Member(t, "Bob", trust.Read), o.Member(t, "Eve", trust.Read)
	if err := n.append(org, o.Changes[2:]...); err != nil {
		t.Fatal(err)
	}
	sessions := map[string]seal.ID{"bob": bob.ID, "eve": eve.ID}
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		for hash, entry := range sessions {
			err := q.AddSession(ctx, db.AddSessionParams{BearerHash: []byte(hash), Org: org, EntryID: entry[:], Expires: time.Now().Add(time.Hour).UnixMilli()})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.append(org, o.Change(t, trust.RemoveOp(eve.Owner))); err != nil { // the member, with his devices
		t.Fatal(err)
	}
	err = n.Read(t.Context(), func(q *db.Queries) error {
		if _, err := q.SessionByHash(t.Context(), []byte("eve")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the removed member's session: %v", err)
		}
		_, err := q.SessionByHash(t.Context(), []byte("bob"))
		return err
	})
	if err != nil {
		t.Errorf("the other's session: %v", err)
	}
}

func TestEvents(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	pool := o.Pool(t, "pool")
	o.Agent(t, "agent", pool)
	folder := o.Folder(t)
	o.Grant(t, folder, pool, trust.Read)
	o.Grant(t, folder, pool, 0)
	o.Change(t, trust.PluginOp(trust.Plugin{Name: "p", Version: "1", OS: "linux", Arch: "amd64", SHA256: seal.Hash([]byte("p"))}))
	e := o.Enrolment(t, trustv1.EntryKind_ENTRY_KIND_AGENT, pool)
	_, joined := o.Join(t, e)
	o.Add(t, joined)
	o.Change(t, trust.RemoveOp(pool))
	if err := n.append(org, o.Changes[2:]...); err != nil {
		t.Fatal(err)
	}
	names, _ := n.events(org)
	names = slices.DeleteFunc(names, func(n string) bool { return n == audit.LogAppended })
	want := []string{
		audit.OrgCreated, audit.MemberAdded, audit.GrantSet, audit.DeviceEnrolled,
		audit.PoolAdded, audit.AgentEnrolled, audit.GrantSet, audit.FolderCreated, audit.GrantSet, audit.GrantWithdrawn,
		audit.PluginApproved, audit.EnrolmentIssued, audit.AgentEnrolled, audit.PoolRemoved,
	}
	if !slices.Equal(names, want) {
		t.Errorf("got  %v\nwant %v", names, want)
	}
}

func TestDatabaseTamperedWith(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	err := n.write(func(ctx context.Context, q *db.Queries) error {
		forged := o.Sign(t, o.Admin, trust.PolicyOp(90, true))
		forged[len(forged)-1] ^= 1
		if err := q.AddChange(ctx, db.AddChangeParams{Org: org, Epoch: 2, Digest: make([]byte, 32), Signed: forged}); err != nil {
			return err
		}
		_, err := q.SetHead(ctx, db.SetHeadParams{ID: org, Epoch: 2, Head: make([]byte, 32)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = n.Read(t.Context(), func(q *db.Queries) error {
		_, err := n.View(t.Context(), q, org)
		return err
	})
	if trust.ReasonOf(err) != trust.SignatureBad {
		t.Errorf("got %v", err)
	}
}

func TestTurns(t *testing.T) {
	n, o := newNode(t), orgtest.New(t, time.Now)
	org := n.create(o)
	first, err := n.TakeTurn(t.Context(), org, seal.NewID(), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.MayAppend(org, nil); !errors.Is(err, directory.ErrNotYourTurn) {
		t.Errorf("without a turn: %v", err)
	}
	if err := n.MayAppend(org, first[:]); err != nil {
		t.Errorf("with the turn: %v", err)
	}

	// Two ordinary ones wait, then a removal: the removal is next.
	type got struct {
		who  string
		turn directory.Turn
		err  error
	}
	order := make(chan got)
	wait := func(who string, member seal.ID, removal bool, ahead int) {
		t.Helper()
		go func() {
			turn, err := n.TakeTurn(t.Context(), org, member, removal)
			order <- got{who, turn, err}
		}()
		for n.Waiting(org) < ahead {
			if t.Context().Err() != nil {
				t.Fatal("nobody waits")
			}
		}
	}
	bob := seal.NewID()
	wait("ordinary", bob, false, 1)
	wait("ordinary", bob, false, 2)
	wait("removal", seal.NewID(), true, 3)
	wait("ordinary", bob, false, 4)
	wait("ordinary", bob, false, 5)
	if _, err := n.TakeTurn(t.Context(), org, bob, false); !errors.Is(err, directory.ErrTurns) {
		t.Errorf("one member's fifth waiting turn: %v", err)
	}
	turn := first
	for _, want := range []string{"removal", "ordinary", "ordinary", "ordinary", "ordinary"} {
		n.EndTurn(org, turn[:])
		next := <-order
		if next.err != nil || next.who != want {
			t.Errorf("got %s %v, want %s", next.who, next.err, want)
		}
		turn = next.turn
	}

	// A turn that is not given back ends by itself.
	began := time.Now()
	if _, err := n.TakeTurn(t.Context(), org, bob, false); err != nil {
		t.Error(err)
	}
	if waited := time.Since(began); waited > directory.TurnTime+10*time.Second {
		t.Errorf("waited %v", waited)
	}
	if err := n.MayAppend(org, turn[:]); !errors.Is(err, directory.ErrNotYourTurn) {
		t.Errorf("with a turn that has ended: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.TakeTurn(ctx, org, seal.NewID(), false); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter that gives up: %v", err)
	}
}

// How long the one writer is held by what an agent sends back, with 100,000
// records in the log.
func BenchmarkAppend(b *testing.B) {
	o := orgtest.New(b, time.Now)
	folder := o.Folder(b)
	for range 10 {
		var ops []*trustv1.Op
		for range 10_000 {
			ops = append(ops, trust.FloorOp(trust.Ref{Folder: folder, Record: seal.NewID()}, 1))
		}
		o.Change(b, ops...)
	}
	for range 1000 {
		o.Change(b, trust.PolicyOp(90, true))
	}
	n := newNode(b)
	var org int64
	if err := n.write(func(ctx context.Context, q *db.Queries) error {
		var err error
		org, _, err = n.Create(ctx, q, "test", o.Changes...)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	known := o.Changes[len(o.Changes)-1000:]
	undone := errors.New("undone")
	held := func(b *testing.B, changes func() [][]byte) {
		for b.Loop() {
			list := changes()
			err := n.write(func(ctx context.Context, q *db.Queries) error {
				if _, err := n.Append(ctx, q, org, list...); err != nil {
					return err
				}
				return undone
			})
			if !errors.Is(err, undone) {
				b.Fatal(err)
			}
		}
	}
	b.Run("1000 known", func(b *testing.B) { held(b, func() [][]byte { return known }) })
	var fresh [][]byte
	for range 50 {
		fresh = append(fresh, o.Change(b, trust.PolicyOp(90, true)))
	}
	b.Run("50 new", func(b *testing.B) { held(b, func() [][]byte { return fresh }) })
}
