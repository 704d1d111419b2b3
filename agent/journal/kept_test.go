package journal_test

import (
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
)

// keeps has a journal keep candidates of an account, by their numbers and names.
func (b *book) keeps(r trust.Ref, list ...kept) {
	b.t.Helper()
	for _, k := range list {
		must(b.t, b.Keep(r, journal.Kept{Seq: k.seq, Digest: digest(k.name), Data: []byte(k.name), KeyVersion: 1}, []byte("folder key")))
	}
}

type kept struct {
	seq  uint64
	name string
}

// of is what a journal has kept, as keeps had it.
func of(k *journal.Kept) kept {
	if k == nil {
		return kept{}
	}
	return kept{k.Seq, string(k.Data)}
}

// committed is a journal's word that a candidate is the account's value.
func committed(r trust.Ref, seq uint64, name string) *journal.Settled {
	d := digest(name)
	return &journal.Settled{Account: r, Digest: d, Value: &trust.ValueSeen{Seq: seq, Digest: d, Set: seq}, Result: []byte("committed " + name)}
}

// A candidate's copy may be the only one. It goes when it is known to be over, and not
// because something is known of an older one.
func TestOnlyWhatIsOverIsDropped(t *testing.T) {
	none := kept{}
	made := func(s *journal.Settled, from string) *journal.Settled {
		s.Copy = digest(from)
		return s
	}
	for _, c := range []struct {
		name        string
		kept        []kept // newest last
		settle      func(r trust.Ref) *journal.Settled
		outstanding kept // the newest, afterwards
		committed   kept
	}{
		{"it was committed", []kept{{2, "a"}}, func(r trust.Ref) *journal.Settled { return committed(r, 2, "a") }, none, kept{2, "a"}},
		{"and there is a newer one", []kept{{2, "a"}, {3, "b"}}, func(r trust.Ref) *journal.Settled { return committed(r, 2, "a") }, kept{3, "b"}, kept{2, "a"}},
		{"one that is not kept was, and there is a newer one", []kept{{3, "b"}}, func(r trust.Ref) *journal.Settled { return committed(r, 2, "a") }, kept{3, "b"}, none},
		{"another of its number was", []kept{{2, "b"}, {2, "a"}}, func(r trust.Ref) *journal.Settled { return committed(r, 2, "a") }, none, kept{2, "a"}},
		{"one that is not kept was, of its number", []kept{{2, "b"}}, func(r trust.Ref) *journal.Settled { return committed(r, 2, "a") }, none, none},
		{"a newer one was", []kept{{2, "a"}, {3, "b"}}, func(r trust.Ref) *journal.Settled { return committed(r, 3, "b") }, none, kept{3, "b"}},
		{"what was made of it was, under a lower number", []kept{{9, "a"}, {3, "b"}}, func(r trust.Ref) *journal.Settled { return made(committed(r, 3, "b"), "a") }, none, kept{3, "b"}},
		{"it was given up", []kept{{2, "a"}, {3, "b"}}, func(r trust.Ref) *journal.Settled { return &journal.Settled{Account: r, Digest: digest("b")} }, kept{2, "a"}, none},
		{"what was made of it was given up", []kept{{2, "a"}, {3, "b"}}, func(r trust.Ref) *journal.Settled {
			return made(&journal.Settled{Account: r, Digest: digest("b")}, "a")
		}, none, none},
	} {
		b, r := newBook(t), ref()
		b.keeps(r, c.kept...)
		must(t, b.EndRun(seal.NewID(), seal.ID{}, start, c.settle(r)))
		b.again()
		o, k, err := b.Kept(r)
		if err != nil || of(o) != c.outstanding || of(k) != c.committed {
			t.Errorf("%s: outstanding %v, committed %v, %v; want %v, %v", c.name, of(o), of(k), err, c.outstanding, c.committed)
		}
	}
}

// An older value never takes a newer one's place.
func TestCommittedOnlyGrows(t *testing.T) {
	b, r := newBook(t), ref()
	b.keeps(r, kept{3, "b"}, kept{4, "c"})
	must(t, b.EndRun(seal.NewID(), seal.ID{}, start, committed(r, 3, "b")))
	must(t, b.EndRun(seal.NewID(), seal.ID{}, start, committed(r, 2, "c")))
	if o, k, err := b.Kept(r); err != nil || o != nil || of(k) != (kept{3, "b"}) || string(k.Result) != "committed b" {
		t.Errorf("outstanding %v, committed %v, %v", of(o), of(k), err)
	}
}

// A candidate that turns out to have been committed takes its place, and leaves the others:
// they may have been applied since.
func TestFoundCommitted(t *testing.T) {
	b, r := newBook(t), ref()
	b.keeps(r, kept{2, "a"}, kept{2, "b"}, kept{3, "c"})
	at := start.Add(time.Minute)
	must(t, b.FoundCommitted(*committed(r, 2, "a"), at))
	_, writes := b.Stats()
	must(t, b.FoundCommitted(*committed(r, 2, "a"), at))
	must(t, b.FoundCommitted(*committed(r, 2, "another's"), at))
	must(t, b.FoundCommitted(*committed(ref(), 2, "another's"), at))
	if _, now := b.Stats(); now != writes {
		t.Errorf("%d writes where there is nothing to write", now-writes)
	}
	b.again()
	o, k, err := b.Kept(r)
	if err != nil || of(o) != (kept{3, "c"}) || of(k) != (kept{2, "a"}) || string(k.Result) != "committed a" {
		t.Errorf("outstanding %v, committed %v, %v", of(o), of(k), err)
	}
	must(t, b.DropKept(r, digest("c")))
	if o, _, err := b.Kept(r); err != nil || of(o) != (kept{2, "b"}) {
		t.Errorf("the other of its number: %v, %v", of(o), err)
	}
	if is, err := b.Settled(r, digest("a")); err != nil || !is {
		t.Errorf("settled: %v, %v", is, err)
	}
	if a, err := b.Activity(r); err != nil || len(a.Committed) != 1 || !a.Committed[0].Equal(at) {
		t.Errorf("activity: %+v, %v", a, err)
	}
}
