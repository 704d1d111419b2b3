package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

// Kinds of secret that the target makes. A change is then to mint one and to apply it,
// and what an agent must know of a call that went wrong is what the account has now.

func (k *kit) minted() bool { return slices.Contains(k.manifest.Minted, k.Kind) }

func (k *kit) needsMint(t *testing.T) {
	t.Helper()
	if !k.minted() {
		t.Skipf("the manifest does not list %s under Minted", k.Kind)
	}
}

// settlePoll is how often a target is asked that needs time to come to what it was told.
const settlePoll = 100 * time.Millisecond

// settle is how long that may be. Of passwords the first answer counts.
func (k *kit) settle() time.Duration {
	if !k.minted() {
		return 0
	}
	return k.manifest.Settle
}

// comesTo waits until the target lets the account in, or does not any more.
func (k *kit) comesTo(t *testing.T, a sdk.Account, c sdk.Credential, want bool) bool {
	t.Helper()
	for end := time.Now().Add(k.settle()); k.Accepts(t, a, c) != want; time.Sleep(settlePoll) {
		if !time.Now().Before(end) {
			return false
		}
	}
	return true
}

// next is the candidate of a change.
func (k *kit) next(t *testing.T, s *pluginhost.Session, a sdk.Account) sdk.Credential {
	t.Helper()
	if k.minted() {
		return k.mint(t, s, a)
	}
	return k.candidate(t)
}

// wrong is a secret that is not the account's.
func (k *kit) wrong(t *testing.T, right sdk.Credential) sdk.Credential {
	t.Helper()
	if !k.minted() {
		return k.candidate(t)
	}
	right.Secret = sdk.NewSecret([]byte(rand.Text() + rand.Text()))
	k.saw(right)
	return right
}

func (k *kit) tryMint(t *testing.T, s *pluginhost.Session, a sdk.Account) (sdk.Credential, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	return k.mintWithin(ctx, s, a)
}

func (k *kit) mintWithin(ctx context.Context, s *pluginhost.Session, a sdk.Account) (sdk.Credential, error) {
	c, err := s.Mint(ctx, sdk.MintRequest{Account: a, Kind: k.Kind})
	k.note(err)
	if err == nil {
		k.saw(c)
	}
	return c, err
}

// mint has the target make one, which works.
func (k *kit) mint(t *testing.T, s *pluginhost.Session, a sdk.Account) sdk.Credential {
	t.Helper()
	c, err := k.tryMint(t, s, a)
	if err != nil {
		t.Fatalf("mint: %v", err)
	}
	if !k.comesTo(t, a, c, true) {
		t.Fatal("the target refuses what it made")
	}
	return c
}

// ids is what the account has, by the target's own word.
func (k *kit) ids(t *testing.T, a sdk.Account) []string {
	t.Helper()
	ids := slices.Clone(k.IDs(t, a))
	slices.Sort(ids)
	return ids
}

func (k *kit) list(t *testing.T, s *pluginhost.Session, a sdk.Account) ([]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	items, err := s.List(ctx, sdk.ListRequest{Account: a, Kind: k.Kind})
	k.note(err)
	var ids []string
	for _, i := range items {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	return ids, err
}

func (k *kit) mustList(t *testing.T, s *pluginhost.Session, a sdk.Account) []string {
	t.Helper()
	want := k.ids(t, a)
	got, err := k.list(t, s, a)
	for end := time.Now().Add(k.settle()); err == nil && !slices.Equal(got, want) && time.Now().Before(end); {
		time.Sleep(settlePoll)
		got, err = k.list(t, s, a)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("list: %q, %v; the account has %q", got, err, want)
	}
	return got
}

func (k *kit) mustSweep(t *testing.T, s *pluginhost.Session, a sdk.Account, ids ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	err := s.Sweep(ctx, sdk.SweepRequest{Account: a, Kind: k.Kind, IDs: ids})
	k.note(err)
	if err != nil {
		t.Fatalf("sweep %q: %v", ids, err)
	}
}

// since are the ids that are new.
func since(before, now []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(id string) bool { return slices.Contains(before, id) })
}

// mintTruthful holds a mint's answer against what the account has, and does what an agent
// does that does not know it: it sweeps what is new. late says that the target may not have
// come to make it yet.
func (k *kit) mintTruthful(t *testing.T, a sdk.Account, before []string, c sdk.Credential, err error) (late bool) {
	t.Helper()
	made := since(before, k.ids(t, a))
	switch {
	case len(since(k.ids(t, a), before)) > 0:
		t.Errorf("mint ended a credential that the account had")
	case err == nil && (len(made) != 1 || made[0] != c.ID):
		t.Errorf("mint gave %q; the account has %q that it had not", c.ID, made)
	case err != nil && madeNothing(err) && len(made) > 0:
		t.Errorf("mint: %v (nothing sent: %v); but the target made %q: nobody would look for it", err, pluginhost.NotSent(err), made)
	case len(made) > 1:
		t.Errorf("one mint made %q: whose they are cannot be told", made)
	}
	if len(made) > 0 {
		k.mustSweep(t, k.openAfterAKill(t), a, made...)
	}
	return err != nil && !madeNothing(err) && len(made) == 0
}

// madeNothing says whether an agent takes an error for the target's refusal.
func madeNothing(err error) bool {
	var e *sdk.Error
	return pluginhost.NotSent(err) || errors.As(err, &e) && e.MadeNothing()
}

// mintAfter proves that the account is as before, but for one that came late, and takes a
// new secret.
func (k *kit) mintAfter(t *testing.T, a sdk.Account, first sdk.Credential, before []string, late bool) {
	t.Helper()
	s := k.openAfterAKill(t)
	if made := since(before, k.mustList(t, s, a)); late && len(made) == 1 {
		k.mustSweep(t, s, a, made...)
	}
	if got := k.mustList(t, s, a); !slices.Equal(got, before) || !k.Accepts(t, a, first) {
		t.Fatalf("the account has %q, and had %q before what went wrong", got, before)
	}
	k.mustSweep(t, s, a, k.mint(t, s, a).ID)
}

// losing loses the target's answer to one write; what is written on another connection
// arrives.
func losing(n int) damage {
	return damage{before: func(write int) func() {
		if write == n {
			return func() {}
		}
		return nil
	}}
}

func (k *kit) lostMint(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s := k.open(t)
	k.line.set(damage{})
	c := k.mint(t, s, a)
	writes := k.wrote(t)
	k.mustSweep(t, s, a, c.ID)
	before := k.ids(t, a)
	for _, n := range picked(writes) {
		for _, d := range []damage{{cutBefore: n}, {cutAfter: n}, losing(n)} {
			s := k.open(t)
			k.line.set(d)
			c, err := k.tryMint(t, s, a)
			k.line.set(damage{})
			late := k.mintTruthful(t, a, before, c, err)
			k.mintAfter(t, a, first, before, late)
		}
	}
	t.Logf("cut before and after each of %s, and their answers lost", ofWrites(writes))
}

func (k *kit) lateMint(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, before := k.open(t), k.ids(t, a)
	k.line.set(damage{late: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := k.mintWithin(ctx, s, a)
	k.line.set(damage{})
	late := k.mintTruthful(t, a, before, c, err)
	k.mintAfter(t, a, first, before, late)
}

func (k *kit) cancelledMint(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, before := k.open(t), k.ids(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	k.line.set(damage{ends: cancel})
	c, err := k.mintWithin(ctx, s, a)
	k.wrote(t)
	k.line.set(damage{})
	if now := k.ids(t, a); err == nil || !slices.Equal(now, before) {
		t.Errorf("mint that was cancelled: %q, %v; the account has %q, and had %q", c.ID, err, now, before)
	}
	k.mintAfter(t, a, first, before, false)
}

func (k *kit) hungMint(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, before := k.open(t), k.ids(t, a)
	processes := k.pids()
	k.line.set(damage{hung: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	c, err := k.mintWithin(ctx, s, a)
	if took := time.Since(began); took > time.Second+patience {
		t.Errorf("mint came back after %v; its deadline was 1 s", took)
	}
	if !slices.Equal(k.pids(), processes) {
		t.Error("the call went on after its deadline, and the agent had to kill the process; end what waits when the context ends")
	}
	k.line.set(damage{})
	late := k.mintTruthful(t, a, before, c, err)
	k.mintAfter(t, a, first, before, late)
}

// killedMint kills the process when a write of a mint has arrived, at each of them.
func (k *kit) killedMint(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s := k.open(t)
	k.line.set(damage{})
	c := k.mint(t, s, a)
	_, writes := k.line.counts()
	k.mustSweep(t, s, a, c.ID)
	before, steps := k.ids(t, a), 0
	for _, n := range picked(writes) {
		s := k.openAfterAKill(t)
		var mu sync.Mutex // as in killEveryStep
		killed, over := 0, false
		k.line.set(damage{before: func(write int) func() {
			mu.Lock()
			if write != n || over {
				mu.Unlock()
				return nil
			}
			return func() {
				defer mu.Unlock()
				killed = k.kill()
			}
		}})
		c, err := k.tryMint(t, s, a)
		mu.Lock()
		over = true
		steps += killed
		mu.Unlock()
		k.line.set(damage{})
		late := k.mintTruthful(t, a, before, c, err)
		k.mintAfter(t, a, first, before, late)
	}
	if steps == 0 {
		t.Error("no process was killed")
	}
	t.Logf("killed %d times, after each of %s", steps, ofWrites(writes))
}

// refusedMint is a mint that the target refuses.
func (k *kit) refusedMint(t *testing.T, s *pluginhost.Session, a sdk.Account, want sdk.Class) {
	t.Helper()
	c, err := k.tryMint(t, s, a)
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != want {
		t.Fatalf("mint: %q, %v; want class %s", c.ID, err, want)
	}
	k.isCode(t, e.Reason)
}

func (k *kit) hostileMint(t *testing.T, a sdk.Account) {
	before := k.ids(t, a)
	c, err := k.tryMint(t, k.open(t), a)
	var e *sdk.Error
	if errors.As(err, &e) && e.Class == sdk.ClassNotFound {
		t.Error("mint: not_found, of an account that exists: its name was taken for another")
	}
	k.mintTruthful(t, a, before, c, err)
}

// fill mints until the target has no more room, and gives what it minted.
func (k *kit) fill(t *testing.T, s *pluginhost.Session, a sdk.Account) (made []sdk.Credential, full bool) {
	t.Helper()
	const enough = 10 // for more than one page of most
	for range enough {
		c, err := k.tryMint(t, s, a)
		var e *sdk.Error
		switch {
		case err == nil:
			made = append(made, c)
			continue
		case !errors.As(err, &e) || e.Class != sdk.ClassConflict:
			t.Fatalf("mint: %v; where there is no more room that is class conflict", err)
		}
		k.isCode(t, e.Reason)
		return made, true
	}
	return made, false
}

// What a list leaves out would be taken for an orphan later. With the line cut at any
// write it fails, or is whole.
func (k *kit) listIsComplete(t *testing.T) {
	k.needsMint(t)
	defer k.line.set(damage{})
	a, _ := k.account(t)
	s := k.open(t)
	k.mustList(t, s, a)
	k.fill(t, s, a)
	k.line.set(damage{})
	all := k.mustList(t, s, a)
	_, writes := k.line.counts()
	for _, n := range picked(writes) {
		for _, d := range []damage{{cutBefore: n}, {cutAfter: n}} {
			s := k.open(t)
			k.line.set(d)
			got, err := k.list(t, s, a)
			k.line.set(damage{})
			if err == nil && !slices.Equal(got, all) {
				t.Errorf("%+v: list: %q; the account has %q", d, got, all)
			}
		}
	}
	t.Logf("%d credentials, cut before and after each of %s", len(all), ofWrites(writes))
}

// Whatever room there is, a mint leaves what the account has.
func (k *kit) mintKeepsOthers(t *testing.T) {
	k.needsMint(t)
	a, first := k.account(t)
	other, others := k.account(t)
	before := k.ids(t, other)
	made, full := k.fill(t, k.open(t), a)
	for i, c := range append([]sdk.Credential{first}, made...) {
		if !k.comesTo(t, a, c, true) {
			t.Errorf("credential %d of %d is refused after another was minted", i+1, len(made)+1)
		}
	}
	if !k.Accepts(t, other, others) || !slices.Equal(k.ids(t, other), before) {
		t.Error("a mint changed another account")
	}
	if len(made) == 0 {
		t.Error("no credential could be minted beside the account's first one")
	}
	t.Logf("%d minted beside the first; no more room: %v", len(made), full)
}

func (k *kit) sweepOnlyNamed(t *testing.T) {
	k.needsMint(t)
	a, first := k.account(t)
	other, others := k.account(t)
	s, before := k.open(t), k.ids(t, a)
	c := k.mint(t, s, a)
	k.mustSweep(t, s, a, c.ID)
	if !slices.Equal(k.ids(t, a), before) || !k.comesTo(t, a, c, false) {
		t.Error("what was swept is there, or works")
	}
	k.mustSweep(t, s, a, c.ID)
	k.mustSweep(t, k.open(t), a, c.ID)
	// Another account's, by a mistake of the agent: it may be an error, and must not end it.
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	k.note(s.Sweep(ctx, sdk.SweepRequest{Account: a, Kind: k.Kind, IDs: k.ids(t, other)}))
	if !slices.Equal(k.ids(t, a), before) || !k.Accepts(t, a, first) || !k.Accepts(t, other, others) {
		t.Error("sweep ended a credential that it was not told of")
	}
}

// The agent dies when a secret was made, and before the vault had it. Whoever comes next
// has the list of before, and finds exactly what was lost.
func (k *kit) killBetweenMintAndStage(t *testing.T) {
	k.needsMint(t)
	if len(k.pids()) == 0 {
		t.Skip("the plugin's process cannot be found on this system")
	}
	a, first := k.account(t)
	s := k.open(t)
	before := k.mustList(t, s, a)
	lost := k.mint(t, s, a)
	k.kill()
	s = k.openAfterAKill(t)
	orphans := since(before, k.mustList(t, s, a))
	if !slices.Equal(orphans, []string{lost.ID}) {
		t.Fatalf("new are %q; want the one that was lost, %q", orphans, lost.ID)
	}
	k.mustSweep(t, s, a, orphans...)
	if !slices.Equal(k.ids(t, a), before) || !k.comesTo(t, a, lost, false) {
		t.Error("what was lost is there still")
	}
	k.mintAfter(t, a, first, before, false)
}
