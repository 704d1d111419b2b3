package conformance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

func said(out sdk.ApplyResponse, err error) string {
	if err != nil {
		return fmt.Sprintf("error %v (nothing sent: %v)", err, pluginhost.NotSent(err))
	}
	return fmt.Sprintf("%s %s %s", outcomes[out.Outcome], out.Class, out.Reason)
}

// overlaps says whether old secrets of the kind live on until they are retired.
func (k *kit) overlaps() bool { return slices.Contains(k.manifest.Overlap, k.Kind) }

// A change: the target takes the new secret and refuses the old one, unless the manifest
// says that it lives on for a while, and the plugin says so of both. An account whose name
// begins alike keeps its own.
func (k *kit) firstChange(t *testing.T) {
	name := "kit" + k.nonce()
	a, first := k.accountCalled(t, name)
	other, others := k.accountCalled(t, name+"2")
	k.mustVerify(t, a, first, sdk.Accepted)
	k.mustVerify(t, other, others, sdk.Accepted)
	s := k.open(t)
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	if k.overlaps() {
		k.mustRetire(t, s, a, second, first)
	}
	k.mustVerify(t, a, second, sdk.Accepted)
	if lives := !k.comesTo(t, a, first, false); !lives {
		k.mustVerify(t, a, first, sdk.Rejected)
	} else if k.manifest.OldLives == 0 {
		t.Error("the target still takes the old secret")
	} else {
		k.mustVerify(t, a, first, sdk.Accepted)
	}
	if !k.Accepts(t, other, others) || !k.minted() && k.Accepts(t, other, second) {
		t.Fatal("the change of one account changed another")
	}
	k.mustVerify(t, other, others, sdk.Accepted)
}

func (k *kit) openIsReadOnly(t *testing.T) {
	a, first := k.account(t)
	k.open(t).Close()
	k.host.Forget("target")
	if !k.Accepts(t, a, first) || !k.acceptsAdmin(t) {
		t.Error("after opening a session the target refuses a secret that it took before")
	}
}

func (k *kit) acceptsAdmin(t *testing.T) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	s, err := k.openAs(ctx, k.AdminAs, k.Admin)
	if err != nil {
		return false
	}
	s.Close()
	return true
}

// A session that is open must not help a login.
func (k *kit) verifyIsFresh(t *testing.T) {
	if k.NoLogin {
		t.Skip("the harness says that no program can log in with such a secret")
	}
	a, first := k.account(t)
	s := k.open(t)
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	for _, one := range []struct {
		c    sdk.Credential
		want sdk.Verdict
	}{{second, sdk.Accepted}, {k.wrong(t, second), sdk.Rejected}} {
		k.line.set(damage{})
		k.mustVerify(t, a, one.c, one.want)
		if dials, _ := k.line.counts(); dials == 0 {
			t.Errorf("verify says %s without a connection of its own", verdicts[one.want])
		}
	}
}

// Whatever happens on the line, a secret that is right is never called rejected.
func (k *kit) rejectedIsProven(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	k.line.set(damage{})
	k.mustVerify(t, a, first, sdk.Accepted)
	_, writes := k.line.counts()
	cuts := []damage{{down: true}}
	t.Logf("cut before and after each of %s", ofWrites(writes))
	for _, n := range picked(writes) {
		cuts = append(cuts, damage{cutBefore: n}, damage{cutAfter: n})
	}
	for _, d := range cuts {
		k.line.set(d)
		got, err := k.verify(t, a, first)
		if err == nil && got.Verdict == sdk.Rejected {
			t.Errorf("%+v: verify says rejected, %q, of the right secret", d, got.Reason)
		}
	}
}

// A session goes alone, however often it is closed: what it shares with others in the
// process is theirs, too.
func (k *kit) closeTwice(t *testing.T) {
	a, first := k.account(t)
	one, other := k.open(t), k.open(t)
	one.Close()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	if err := one.CloseAgain(ctx); err != nil {
		t.Errorf("close of a session that is closed: %v; want a success", err)
	}
	second := k.next(t, other, a)
	k.mustApply(t, other, a, second, first)
	k.mustVerify(t, a, second, sdk.Accepted)
	k.mustApply(t, k.open(t), a, second, first)
}

func (k *kit) applyTwice(t *testing.T) {
	a, first := k.account(t)
	s := k.open(t)
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	k.mustApply(t, s, a, second, first)
	k.mustApply(t, k.open(t), a, second, first)
}

// The line is cut before and after each write of a change. Whatever the plugin then
// says must be true, and the same candidate can be applied afterwards.
func (k *kit) lostReplyIsUnknown(t *testing.T) {
	if k.minted() {
		k.lostMint(t)
		return
	}
	defer k.line.set(damage{})
	a, current := k.account(t)
	s := k.open(t)
	next := k.candidate(t)
	k.line.set(damage{})
	k.mustApply(t, s, a, next, current)
	writes := k.wrote(t)
	current = next
	for _, n := range picked(writes) {
		for _, d := range []damage{{cutBefore: n}, {cutAfter: n}} {
			s, next := k.open(t), k.candidate(t)
			k.line.set(d)
			out, err := k.apply(t, s, a, next, current)
			k.line.set(damage{})
			k.truthful(t, a, next, out, err)
			k.mustApply(t, k.open(t), a, next, current)
			current = next
		}
	}
	t.Logf("cut before and after each of %s", ofWrites(writes))
}

// The call is cancelled in the plugin, which has begun to write. Nothing of it has arrived, so
// nothing is changed: neither now, nor when there is a session again.
func (k *kit) cancelledHasNoEffect(t *testing.T) {
	if k.minted() {
		k.cancelledMint(t)
		return
	}
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, second := k.open(t), k.candidate(t)
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	k.line.set(damage{ends: cancel})
	out, err := s.Apply(ctx, sdk.ApplyRequest{Account: a, Candidate: second, Current: first})
	k.note(err)
	k.wrote(t)
	k.line.set(damage{})
	k.truthful(t, a, second, out, err)
	s = k.open(t)
	if k.Accepts(t, a, second) || !k.Accepts(t, a, first) {
		t.Error("a cancelled apply changed the target")
	}
	k.mustApply(t, s, a, second, first)
}

// wrote fails a change of which the line has seen nothing.
func (k *kit) wrote(t *testing.T) (writes int) {
	t.Helper()
	if _, writes = k.line.counts(); writes == 0 {
		t.Fatal("a change went by without a write on the line")
	}
	return writes
}

func (k *kit) policyIsUnchanged(t *testing.T) {
	if k.minted() {
		t.Skip("the target makes the secret")
	}
	if k.Refused == nil {
		t.Skip("the harness names no candidate that the target's rules refuse")
	}
	a, first := k.account(t)
	refused := k.Refused(t)
	k.saw(refused)
	out, err := k.apply(t, k.open(t), a, refused, first)
	if err != nil || out.Outcome != sdk.Unchanged || out.Class != sdk.ClassPolicy {
		t.Errorf("apply: %s; want unchanged, policy", said(out, err))
	}
	k.isCode(t, out.Reason)
	if !k.Accepts(t, a, first) {
		t.Error("the old secret is refused, though nothing was changed")
	}
}

func (k *kit) missingIsNotFound(t *testing.T) {
	a, _ := k.account(t)
	nobody := sdk.Account{Name: "kit-nobody", Scope: a.Scope}
	s, c := k.open(t), sdk.Credential{}
	if !k.minted() {
		c = k.candidate(t)
	}
	for range 2 { // what was made the first time is there the second
		if k.minted() {
			k.refusedMint(t, s, nobody, sdk.ClassNotFound)
			continue
		}
		out, err := k.apply(t, s, nobody, c, sdk.Credential{})
		if err != nil || out.Outcome != sdk.Unchanged || out.Class != sdk.ClassNotFound {
			t.Errorf("apply to an account that does not exist: %s; want unchanged, not_found", said(out, err))
		}
		k.isCode(t, out.Reason)
		if k.Accepts(t, nobody, c) {
			t.Error("the account that did not exist was made")
		}
	}
}

func (k *kit) wrongAdminIsAuth(t *testing.T) {
	wrong := k.wrong(t, k.Admin)
	switch {
	case k.Admin.ID != "": // who has a name of its own, and is known by it
		wrong = k.Admin
		wrong.Secret = sdk.NewSecret([]byte("not the administrator's"))
	case wrong.Kind != k.Admin.Kind:
		wrong = sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("not the administrator's"))}
	}
	k.mustFailToOpen(t, wrong, sdk.ClassAuth)
}

// A target that shows another key than the one that is pinned is told no secret: neither the
// administrator's nor the account's.
func (k *kit) wrongKeyIsAuth(t *testing.T) {
	if len(k.Pins) == 0 {
		t.Skip("the harness pins no key of the target")
	}
	a, first := k.account(t)
	before := 0
	if k.Failures != nil {
		before = k.Failures(t, a)
	}
	right := k.Pins
	defer func() { k.Pins = right }()
	k.Pins = [][32]byte{sha256.Sum256([]byte("another target's key"))}
	k.host.Forget("target")
	if e := k.mustFailToOpen(t, k.Admin, sdk.ClassAuth); e.Reason != "target_identity" {
		t.Errorf("open: reason %q; want target_identity: any other is said of the secret", e.Reason)
	}
	if len(k.Also) > 0 {
		t.Log("the harness names further addresses, where a login may go: of Verify nothing is seen")
		return
	}
	for _, c := range []sdk.Credential{first, k.wrong(t, first)} {
		if got, err := k.verify(t, a, c); err == nil && got.Verdict != sdk.Undecided {
			t.Errorf("verify: %s, by a target that showed another key", verdicts[got.Verdict])
		}
	}
	if k.Failures == nil {
		t.Log("the harness cannot count failed logins at the target: that none was tried is not seen")
	} else if n := k.Failures(t, a) - before; n > 0 {
		t.Errorf("verify tried %d logins at a target that showed another key", n)
	}
}

func (k *kit) downIsUnreachable(t *testing.T) {
	defer k.line.set(damage{})
	k.line.set(damage{down: true})
	k.host.Forget("target")
	k.mustFailToOpen(t, k.Admin, sdk.ClassUnreachable)
}

func (k *kit) mustFailToOpen(t *testing.T, admin sdk.Credential, want sdk.Class) *sdk.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	s, err := k.openAs(ctx, k.AdminAs, admin)
	if err == nil {
		s.Close()
		t.Fatalf("a session opened; want an error of class %s", want)
	}
	var e *sdk.Error
	if !errors.As(err, &e) || e.Class != want {
		t.Fatalf("open: %v; want class %s", err, want)
	}
	k.isCode(t, e.Reason)
	return e
}

// patience is how long a call may go on after its deadline: the agent kills a process
// that stays deaf for 2 s.
const patience = 5 * time.Second

func (k *kit) hungEndsAtTheDeadline(t *testing.T) {
	if k.minted() {
		k.hungMint(t)
		return
	}
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, second := k.open(t), k.candidate(t)
	processes := k.pids()
	k.line.set(damage{hung: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	out, err := s.Apply(ctx, sdk.ApplyRequest{Account: a, Candidate: second, Current: first})
	if took := time.Since(began); took > time.Second+patience {
		t.Errorf("apply came back after %v; its deadline was 1 s", took)
	}
	if !slices.Equal(k.pids(), processes) {
		t.Error("the call went on after its deadline, and the agent had to kill the process; end what waits when the context ends")
	}
	k.line.set(damage{})
	k.truthful(t, a, second, out, err)
	k.mustApply(t, k.open(t), a, second, first)
}

func (k *kit) needsOverlap(t *testing.T) {
	t.Helper()
	if !k.overlaps() {
		t.Skipf("the manifest does not list %s under Overlap", k.Kind)
	}
}

func (k *kit) retire(t *testing.T, s *pluginhost.Session, a sdk.Account, keep, old sdk.Credential) (sdk.RetireResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	return s.Retire(ctx, sdk.RetireRequest{Account: a, Keep: keep, Old: old})
}

func (k *kit) mustRetire(t *testing.T, s *pluginhost.Session, a sdk.Account, keep, old sdk.Credential) {
	t.Helper()
	out, err := k.retire(t, s, a, keep, old)
	if err != nil || out.Outcome != sdk.Changed {
		t.Fatalf("retire: %s, %v; want changed", outcomes[out.Outcome], err)
	}
}

func (k *kit) overlapKeepsCurrent(t *testing.T) {
	k.needsOverlap(t)
	a, first := k.account(t)
	s := k.open(t)
	k.mustApply(t, s, a, k.next(t, s, a), first)
	if !k.Accepts(t, a, first) {
		t.Error("the old secret ended with apply; it must work until retire")
	}
}

func (k *kit) retireTouchesOnlyOld(t *testing.T) {
	k.needsOverlap(t)
	a, first := k.account(t)
	other, others := k.account(t)
	s := k.open(t)
	keep, old, third := k.next(t, s, a), first, false
	k.mustApply(t, s, a, keep, old)
	if next, room := k.oneMore(t, s, a); room {
		k.mustApply(t, s, a, next, keep)
		keep, old, third = next, keep, k.Accepts(t, a, first)
	}
	if !third {
		t.Log("the target has no room for a third secret of an account: that it would live is not seen")
	}
	k.mustRetire(t, s, a, keep, old)
	if !k.comesTo(t, a, old, false) {
		t.Error("the old secret still works after retire")
	}
	if third && !k.Accepts(t, a, first) || !k.Accepts(t, a, keep) || !k.Accepts(t, other, others) {
		t.Error("retire ended a secret that it was not told of")
	}
}

// oneMore is next where the target may have no room for it.
func (k *kit) oneMore(t *testing.T, s *pluginhost.Session, a sdk.Account) (next sdk.Credential, room bool) {
	t.Helper()
	if !k.minted() {
		return k.candidate(t), true
	}
	next, err := k.tryMint(t, s, a)
	var e *sdk.Error
	if errors.As(err, &e) && e.Class == sdk.ClassConflict {
		return sdk.Credential{}, false
	}
	if err != nil || !k.comesTo(t, a, next, true) {
		t.Fatalf("mint: %v; or the target refuses what it made", err)
	}
	return next, true
}

func (k *kit) retireTwice(t *testing.T) {
	k.needsOverlap(t)
	a, first := k.account(t)
	s := k.open(t)
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	k.mustRetire(t, s, a, second, first)
	k.mustRetire(t, s, a, second, first)
	k.mustRetire(t, k.open(t), a, second, first)
}

func (k *kit) readbackAgrees(t *testing.T) {
	if !k.manifest.Readback {
		t.Skip("the manifest does not declare Readback")
	}
	a, first := k.account(t)
	s := k.open(t)
	for _, one := range []struct {
		c    sdk.Credential
		want sdk.Verdict
	}{{first, sdk.Accepted}, {k.wrong(t, first), sdk.Rejected}} {
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		got, err := s.Readback(ctx, sdk.ApplyRequest{Account: a, Candidate: one.c})
		cancel()
		if err != nil || got.Verdict != one.want {
			t.Errorf("readback: %s, %v; want %s", verdicts[got.Verdict], err, verdicts[one.want])
		}
	}
}

// Every printable character is sent as it is, unless the manifest forbids it. They are
// shuffled, always the same way: many a target wants characters of every class.
func (k *kit) printable(t *testing.T) {
	if k.Kind != sdk.Password {
		t.Skip("not a password")
	}
	var all []byte
	const first, count, step = 0x21, 0x7f - 0x21, 37 // which has no factor in common with the count
	for i := range count {
		c := byte(first + i*step%count)
		if !strings.ContainsRune(k.manifest.Forbid, rune(c)) {
			all = append(all, c)
		}
	}
	size := 31
	if k.manifest.MaxLen > 0 {
		size = min(size, k.manifest.MaxLen)
	}
	a, current := k.account(t)
	s := k.open(t)
	for part := range slices.Chunk(all, size) {
		for len(part) < size { // the last one
			part = append(slices.Clone(part), all[len(part)])
		}
		next := sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret(part)}
		k.saw(next)
		k.mustApply(t, s, a, next, current)
		k.mustVerify(t, a, next, sdk.Accepted)
		current = next
	}
}

// Names that would do harm where they are pasted into a command.
var hostile = []string{`kit o'brien`, `kit "quoted"`, `kit$(id)`, "kit`id`", `kit;id`, `kit--`, `kit%2e`, `kit/../x`, `kit\n`, `-kit`}

func (k *kit) hostileNames(t *testing.T) {
	left := 0
	for _, name := range hostile {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if t.Skipped() {
					left++
				}
			}()
			a, first := k.Account(t, name+strings.ToLower(rand.Text()[:4]))
			k.saw(first)
			if !k.Accepts(t, a, first) {
				t.Skip("the target lets no account of such a name in")
			}
			if k.minted() {
				k.hostileMint(t, a)
				return
			}
			next := k.candidate(t)
			out, err := k.apply(t, k.open(t), a, next, first)
			k.truthful(t, a, next, out, err)
			if err == nil && out.Outcome == sdk.Unknown {
				t.Error("apply: unknown; a name is taken as it is, or refused")
			}
			if out.Class == sdk.ClassNotFound {
				t.Error("apply: not_found, of an account that exists: its name was taken for another")
			}
		})
	}
	if left == len(hostile) {
		t.Skip("the target has no account of any such name")
	}
	t.Logf("%d names; left out are %d", len(hostile)-left, left)
}

// forms are ways to write a secret that is long enough to be in no text by chance.
func forms(s sdk.Secret) []string {
	b := s.Expose()
	defer clear(b)
	if len(b) < 8 {
		return nil
	}
	text := string(b)
	return []string{
		text, strings.Join(strings.Split(text, ""), " "), fmt.Sprintf("%x", b), fmt.Sprintf("%q", text), fmt.Sprint(b),
		base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b), url.QueryEscape(text), url.PathEscape(text),
	}
}

func (k *kit) noSecretInTheLog(t *testing.T) {
	k.log.mu.Lock()
	defer k.log.mu.Unlock()
	text := k.log.b.String()
	for _, s := range k.secrets {
		for _, form := range forms(s) {
			if strings.Contains(text, form) {
				t.Fatal("a secret is in the plugin's log, or in an error")
			}
		}
	}
	t.Logf("%d secrets, none in %d bytes of log and errors", len(k.secrets), len(text))
}
