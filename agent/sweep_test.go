package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// remembers has the journal know a committed value and a statement of n accounts.
func (w *world) remembers(a *Agent, n int) (accounts map[string]trust.Ref) {
	w.t.Helper()
	accounts = map[string]trust.Ref{}
	for range n {
		ref, d := w.account(), seal.Hash([]byte("data"))
		must(w.t, a.journal.RememberStatement(ref, trust.StatementSeen{Seq: 1, Digest: d, Signed: []byte("statement")}))
		must(w.t, a.journal.Keep(ref, journal.Kept{Seq: 2, Digest: d, Data: []byte("data"), KeyVersion: 1}, []byte("folder key")))
		run := seal.NewID()
		must(w.t, a.journal.EndRun(run, seal.ID{}, time.Now(), &journal.Settled{Account: ref, Digest: d, Value: &trust.ValueSeen{Seq: 2, Digest: d, Set: 2}, Result: []byte("committed")}))
		accounts[ref.Record.String()] = ref
	}
	return accounts
}

// A restored server is gone through once, page by page, and each account that is behind
// gets a run of the agent's own, until none is or it is not worth another look.
func TestSweep(t *testing.T) {
	const accounts = 2*sweepPage + 7
	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	a.sweep.jitter, a.sweep.again = time.Millisecond, time.Millisecond
	known := w.remembers(a, accounts)
	healed := map[string]bool{}
	w.vault.set(func(v *fakeVault) {
		v.records = func(uid string) (ksm.ExtRecord, bool) {
			ref, ok := known[uid]
			return ksm.ExtRecord{Ref: ksm.Ref{Folder: ref.Folder.Bytes(), Record: ref.Record.Bytes()}}, ok && !healed[uid]
		}
	})
	leased := map[string]int{}
	at := time.Now().Add(-time.Minute)
	done := make(chan error, 1)
	go func() { done <- a.sweepOnce(t.Context(), at) }()
	for range 2 * accounts { // the first time each run comes to nothing, the second it heals
		r := soon(t, "a lease", w.vault.leases)
		uid := seal.ID(r.Account.Record).String()
		if leased[uid]++; r.Cause != "recover" {
			t.Fatalf("leased: %+v", r)
		}
		if leased[uid] == 2 {
			w.vault.set(func(*fakeVault) { healed[uid] = true })
		}
	}
	must(t, <-done)
	for uid, n := range leased {
		if n != 2 || known[uid] == (trust.Ref{}) {
			t.Errorf("account %s: %d runs", uid, n)
		}
	}
	if len(leased) != accounts || a.sweep.runs.Load() != 2*accounts || a.Health().Recovering {
		t.Errorf("%d accounts, %d runs, still at it: %v", len(leased), a.sweep.runs.Load(), a.Health().Recovering)
	}
	asked := func() (n int) {
		w.vault.mu.Lock()
		defer w.vault.mu.Unlock()
		for _, f := range w.vault.fetched {
			if len(f.RequestedRecords) > sweepPage {
				t.Errorf("%d records at once", len(f.RequestedRecords))
			}
		}
		return len(w.vault.fetched)
	}
	pages := (accounts + sweepPage - 1) / sweepPage
	if n := asked(); n != 4*pages { // statements, and three looks at the values
		t.Errorf("%d pages, want %d", n, 4*pages)
	}

	// Once for each restore, also after the agent's next start; and not all the time.
	before := asked()
	must(t, a.sweepOnce(t.Context(), at))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.sweepOnce(ctx, at.Add(time.Second)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another restore right after: %v", err)
	}
	if n := asked(); n != before {
		t.Errorf("%d pages more", n-before)
	}
}

// A page that is more than one answer may hold comes in parts; a vault that is away for a
// while is asked again; one that refuses ends the sweep, which the next connection begins
// anew.
func TestSweepInParts(t *testing.T) {
	page := make([]trust.Ref, 8)
	for i := range page {
		page[i].Record = seal.NewID()
	}
	seen, away := map[trust.Ref]bool{}, true
	err := inParts(t.Context(), page, func(part []trust.Ref) error {
		if away {
			away = false
			return errors.New("no answer")
		}
		if len(part) > 2 {
			return fmt.Errorf("fetch: %w", ksm.Refuse(ksm.CodeTooLarge, "ask for fewer"))
		}
		for _, r := range part {
			seen[r] = true
		}
		return nil
	})
	if err != nil || len(seen) != len(page) {
		t.Errorf("%d of %d, %v", len(seen), len(page), err)
	}

	w := newWorld(t)
	a := w.start()
	defer w.end(a)
	a.sweep.jitter, a.sweep.again = time.Millisecond, time.Millisecond
	w.remembers(a, 1)
	at := time.Now().Add(-time.Minute)
	w.vault.set(func(v *fakeVault) { v.refuse[ksm.OpFetch] = ksm.CodeAccessDenied })
	if err := a.sweepOnce(t.Context(), at); err == nil {
		t.Error("a sweep that was refused is done")
	}
	w.vault.set(func(v *fakeVault) { clear(v.refuse) })
	must(t, a.sweepOnce(t.Context(), at))
	if s, err := a.journal.Sweep(); err != nil || !s.Done {
		t.Errorf("%+v, %v", s, err)
	}
}

// A server that has lost much of the log gets it back in requests that it takes.
func TestLogSentBackInParts(t *testing.T) {
	w := newWorld(t)
	for range 80 { // a bulk edit's floors are one change of some kilobytes
		var ops []*trustv1.Op
		for range 500 {
			ops = append(ops, trust.FloorOp(w.account(), 1))
		}
		w.change(ops...)
	}
	a := w.start()
	defer w.end(a)
	must(t, a.dir.Fetch(t.Context()))
	w.vault.set(func(v *fakeVault) {
		first, err := trust.NewLog(w.log.Org()).Append(w.signed[0], time.Now())
		must(t, err)
		v.logAnswer = func(a *ksm.LogAnswer) { a.Epoch, a.Digest, a.Changes = 0, first.Digest.Bytes(), nil }
	})
	must(t, a.dir.Fetch(t.Context()))
	var back [][]byte
	for _, r := range w.vault.appends {
		size := 0
		for _, c := range r.Changes {
			size += len(c)
		}
		if size > backBytes {
			t.Errorf("%d bytes in one request", size)
		}
		back = append(back, r.Changes...)
	}
	if len(w.vault.appends) < 2 || len(back) != len(w.signed)-1 || string(back[len(back)-1]) != string(w.signed[len(w.signed)-1]) {
		t.Errorf("%d changes in %d requests, want %d", len(back), len(w.vault.appends), len(w.signed)-1)
	}
	if a.dir.sent.Load() != uint64(len(back)) {
		t.Errorf("counted %d", a.dir.sent.Load())
	}
}
