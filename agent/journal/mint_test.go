package journal_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/seal"
)

// An intention is there after a restart, until what came of it is kept.
func TestMintIntention(t *testing.T) {
	b, r, other := newBook(t), ref(), ref()
	intention := func() *journal.Mint {
		t.Helper()
		m, err := b.Mint(r)
		must(t, err)
		return m
	}
	if intention() != nil {
		t.Error("an intention that nobody had")
	}
	m := journal.Mint{Run: seal.NewID(), Epoch: 3, Time: start, Until: start.Add(time.Minute), Had: []string{"one", "two"}}
	must(t, b.BeginMint(r, m))
	must(t, b.BeginMint(other, m))
	b.again()
	if got := intention(); got == nil || !reflect.DeepEqual(*got, m) {
		t.Errorf("%+v, want %+v", got, m)
	}

	k := journal.Kept{Seq: 2, Digest: digest("candidate"), Data: []byte("ciphertext"), RecordKey: []byte("key"), KeyVersion: 1}
	must(t, b.Keep(r, k, []byte("folder key")))
	if intention() == nil {
		t.Error("a candidate of another origin ended the intention")
	}
	must(t, b.KeepMinted(r, k, []byte("folder key")))
	b.again()
	if outstanding, _, err := b.Kept(r); intention() != nil || err != nil || outstanding == nil || outstanding.Digest != k.Digest {
		t.Errorf("kept: intention %+v, candidate %+v, %v", intention(), outstanding, err)
	}

	// The vault did not take it.
	must(t, b.DropMinted(r, k.Digest, journal.Mint{Run: m.Run, Time: start, Until: start, Made: "three"}))
	b.again()
	if outstanding, _, err := b.Kept(r); intention() == nil || intention().Made != "three" || err != nil || outstanding != nil {
		t.Errorf("dropped: intention %+v, candidate %+v, %v", intention(), outstanding, err)
	}
	must(t, b.EndMint(r))
	b.again()
	if m, err := b.Mint(other); intention() != nil || err != nil || m == nil {
		t.Errorf("ended: %+v, another account's: %+v, %v", intention(), m, err)
	}
}
