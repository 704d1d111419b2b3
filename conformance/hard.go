package conformance

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
)

// A target whose answer comes after the deadline may have taken the candidate.
func (k *kit) lateReplyIsUnknown(t *testing.T) {
	if k.minted() {
		k.lateMint(t)
		return
	}
	defer k.line.set(damage{})
	a, first := k.account(t)
	s, second := k.open(t), k.candidate(t)
	k.line.set(damage{late: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	out, err := s.Apply(ctx, sdk.ApplyRequest{Account: a, Candidate: second, Current: first})
	k.note(err)
	k.line.set(damage{})
	k.truthful(t, a, second, out, err)
	k.mustApply(t, k.open(t), a, second, first)
}

// The plugin's process is killed when a write of a change has arrived, at each of them.
// Whoever comes next applies the same candidate, and the account has it.
func (k *kit) killEveryStep(t *testing.T) {
	if len(k.pids()) == 0 {
		t.Skip("the plugin's process cannot be found on this system")
	}
	if k.minted() {
		k.killedMint(t)
		return
	}
	defer k.line.set(damage{})
	a, current := k.account(t)
	s, next := k.open(t), k.candidate(t)
	k.line.set(damage{})
	k.mustApply(t, s, a, next, current)
	_, writes := k.line.counts()
	current = next
	steps := 0
	for _, n := range picked(writes) {
		s, next := k.open(t), k.candidate(t)
		var mu sync.Mutex // held from before the write, whose answer may end the call, until it is killed
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
		out, err := k.apply(t, s, a, next, current)
		mu.Lock()
		over = true
		steps += killed
		mu.Unlock()
		k.line.set(damage{})
		k.truthful(t, a, next, out, err)
		k.mustApply(t, k.openAfterAKill(t), a, next, current)
		current = next
	}
	if steps == 0 {
		t.Error("no process was killed")
	}
	t.Logf("killed %d times, after each of %s", steps, ofWrites(writes))
}

// openAfterAKill opens a session as an agent does: one that still had the process that is
// dead is tried again.
func (k *kit) openAfterAKill(t *testing.T) *pluginhost.Session {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		k.host.Forget("target")
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		s, err := k.openAs(ctx, k.AdminAs, k.Admin)
		cancel()
		if pluginhost.ReasonOf(err) == string(pluginhost.PluginCrashed) && time.Now().Before(end) {
			continue
		}
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(s.Close)
		return s
	}
}

// Two agents that drive the same candidate at the same time leave the account with it.
func (k *kit) twoAgents(t *testing.T) {
	a, current := k.account(t)
	for range 3 {
		one, two := k.open(t), k.open(t)
		next := k.next(t, one, a)
		var both sync.WaitGroup
		for _, s := range []*pluginhost.Session{one, two} {
			both.Go(func() {
				out, err := k.apply(t, s, a, next, current)
				if err == nil && out.Outcome == sdk.Unchanged && out.Class == sdk.ClassPolicy {
					t.Errorf("apply: %s; the candidate would be given up, and the other has set it", said(out, err))
				}
			})
		}
		both.Wait()
		k.mustApply(t, k.open(t), a, next, current)
		if k.overlaps() {
			k.mustRetire(t, k.open(t), a, next, current)
		}
		current = next
	}
}

// atOnce is how many accounts are changed at once, where the manifest allows so many.
const atOnce = 8

// Changes that run at once in one session are each of its own account.
func (k *kit) manyAtOnce(t *testing.T) {
	many := min(k.manifest.Concurrency, atOnce)
	if many < 2 {
		t.Skip("the manifest declares no Concurrency above 1")
	}
	if k.OneAtATime != "" {
		t.Skip(k.OneAtATime)
	}
	type change struct {
		a             sdk.Account
		current, next sdk.Credential
		before        []string // ids, of kinds that the target makes
		out           sdk.ApplyResponse
		err           error
	}
	all := make([]change, many)
	for i := range all {
		all[i].a, all[i].current = k.account(t)
	}
	s := k.open(t)
	for range 2 {
		var running sync.WaitGroup
		for i := range all {
			c := &all[i]
			if k.minted() {
				c.before = k.ids(t, c.a)
				running.Go(func() { c.next, c.err = k.tryMint(t, s, c.a) })
				continue
			}
			c.next = k.candidate(t)
			running.Go(func() { c.out, c.err = k.apply(t, s, c.a, c.next, c.current) })
		}
		running.Wait()
		for _, c := range all {
			if k.minted() {
				late := k.mintTruthful(t, c.a, c.before, c.next, c.err)
				k.mintAfter(t, c.a, c.current, c.before, late)
				continue
			}
			k.truthful(t, c.a, c.next, c.out, c.err)
			if c.err == nil && c.out.Outcome == sdk.Unchanged && c.out.Class == sdk.ClassPolicy {
				t.Errorf("apply: %s; the candidate would be given up, and the rules allow it", said(c.out, c.err))
			}
		}
		if t.Failed() {
			return
		}
		for i := range all {
			c := &all[i]
			if k.minted() {
				continue
			}
			if c.err != nil || c.out.Outcome != sdk.Changed {
				t.Logf("apply, while others were under way: %s", said(c.out, c.err))
				k.mustApply(t, k.open(t), c.a, c.next, c.current)
			}
			if k.overlaps() {
				k.mustRetire(t, s, c.a, c.next, c.current)
			}
			c.current = c.next
		}
	}
	t.Logf("%d at once", many)
}

// An account changes its own secret, in a session of its own. An agent that does not know what
// became of that applies the same candidate again, there or in a session that it opens with it.
func (k *kit) selfChange(t *testing.T) {
	if !k.manifest.Self {
		t.Skip("the manifest does not declare Self")
	}
	a, first := k.account(t)
	other, others := k.account(t)
	s := k.openItself(t, a, first)
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	k.mustApply(t, s, a, second, first)
	s = k.openItself(t, a, second)
	k.mustApply(t, s, a, second, second)
	if k.overlaps() {
		k.mustRetire(t, s, a, second, first)
	}
	k.mustVerify(t, a, second, sdk.Accepted)
	if k.manifest.OldLives == 0 && !k.comesTo(t, a, first, false) {
		t.Error("the target still takes the old secret")
	}
	if !k.Accepts(t, other, others) {
		t.Error("the change of one account changed another")
	}
}

// openItself opens the session of an account that changes its own secret.
func (k *kit) openItself(t *testing.T, a sdk.Account, current sdk.Credential) *pluginhost.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	s, err := k.host.Open(ctx, k.plugin, pluginhost.Job{Target: k.target(), Admin: current, AdminAs: a, Self: true})
	k.note(err)
	if err != nil {
		t.Fatalf("open, as the account itself: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// The right secret of an account that is locked is not a wrong one.
func (k *kit) lockedIsUndecided(t *testing.T) {
	if k.Lock == nil {
		t.Skip("the harness cannot lock an account")
	}
	a, first := k.account(t)
	k.open(t) // who may be asked why
	k.Lock(t, a)
	if k.Accepts(t, a, first) {
		t.Fatal("the harness's locked account is let in")
	}
	k.mustVerify(t, a, first, sdk.Undecided)
}

func (k *kit) noRightsIsPermission(t *testing.T) {
	if k.Powerless == nil {
		t.Skip("the harness names no administrator without rights")
	}
	a, first := k.account(t)
	as, secret := k.Powerless(t)
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	k.host.Forget("target")
	s, err := k.openAs(ctx, as, secret)
	var e *sdk.Error
	switch {
	case errors.As(err, &e) && e.Class == sdk.ClassPermission:
		return
	case err != nil:
		t.Fatalf("open: %v; want a session, or class permission", err)
	}
	defer s.Close()
	if k.minted() {
		k.refusedMint(t, s, a, sdk.ClassPermission)
		return
	}
	next := k.candidate(t)
	out, err := k.apply(t, s, a, next, first)
	k.truthful(t, a, next, out, err)
	if err != nil || out.Outcome != sdk.Unchanged || out.Class != sdk.ClassPermission {
		t.Errorf("apply: %s; want unchanged, permission", said(out, err))
	}
	k.isCode(t, out.Reason)
	if !k.Accepts(t, a, first) {
		t.Error("the old secret is refused, though nothing was changed")
	}
}

// With the line down there is no other way to the target, nor to an answer: what a login
// said before is none.
func (k *kit) dialsOnlyThroughDialer(t *testing.T) {
	defer k.line.set(damage{})
	a, first := k.account(t)
	s := k.open(t)
	k.mustVerify(t, a, first, sdk.Accepted)
	k.line.set(damage{down: true, cutBefore: 1})
	if got, err := k.verify(t, a, first); err == nil && got.Verdict != sdk.Undecided {
		t.Errorf("verify with the line down: %s", verdicts[got.Verdict])
	}
	if k.minted() {
		before := k.ids(t, a)
		if _, err := k.tryMint(t, s, a); err == nil || len(k.ids(t, a)) != len(before) {
			t.Errorf("mint with the line down: %v, and the account has %d of %d credentials", err, len(k.ids(t, a)), len(before))
		}
		return
	}
	second := k.candidate(t)
	out, err := k.apply(t, s, a, second, first)
	if k.Accepts(t, a, second) {
		t.Errorf("apply with the line down changed the target: %s", said(out, err))
	}
}

// One verify is one try: targets count those that fail, and lock.
func (k *kit) loginBudget(t *testing.T) {
	if k.NoLogin {
		t.Skip("the harness says that no program can log in with such a secret")
	}
	a, first := k.account(t)
	k.open(t)
	before := 0
	if k.Failures != nil {
		before = k.Failures(t, a)
	}
	k.line.set(damage{})
	k.mustVerify(t, a, k.wrong(t, first), sdk.Rejected)
	if k.Failures == nil {
		t.Skip("the harness cannot count failed logins at the target; dials are no measure where one connection serves for several tries")
	}
	if n := k.Failures(t, a) - before; n > 1 {
		t.Errorf("one verify of a wrong secret cost %d failed logins", n)
	}
}

// Secrets that people or policies may come up with are taken as they are, or refused,
// and both for certain.
func (k *kit) oddSecrets(t *testing.T) {
	if k.Kind != sdk.Password {
		t.Skip("not a password")
	}
	a, current := k.account(t)
	s := k.open(t)
	for name, secret := range map[string]string{
		"one character": "x", "128 characters": strings.Repeat("Ab3-", 32), "not ASCII": "pässwörd-Ключ-鍵-" + k.nonce(),
		"a line break": "line\nbreak-" + k.nonce(), "a tab": "tab\tstop-" + k.nonce(), "spaces around": "  spaces-" + k.nonce() + "  ",
		"quotes": `'"` + "`" + k.nonce(), "backslashes": `\n\\` + k.nonce(), "dollars": `$HOME ${x} $(id) ` + k.nonce(), "a NUL": "zero\x00byte-" + k.nonce(),
		"bytes that are no text": "\xff\xc3-" + k.nonce(), // which JSON, for one, would replace
	} {
		next := sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte(secret))}
		k.saw(next)
		out, err := k.apply(t, s, a, next, current)
		switch {
		case err != nil || out.Outcome == sdk.Unknown:
			t.Errorf("%s: apply: %s; a secret is taken as it is, or refused", name, said(out, err))
		case out.Outcome == sdk.Unchanged && out.Class != sdk.ClassPolicy && out.Class != sdk.ClassUnsupported:
			t.Errorf("%s: apply: %s; want class policy or unsupported", name, said(out, err))
		case out.Outcome == sdk.Changed:
			k.mustVerify(t, a, next, sdk.Accepted)
			current = next
		}
	}
}

func (k *kit) nonce() string { return strings.ToLower(rand.Text()[:8]) }

// What the program says of itself by hand is what it says to the agent.
func (k *kit) manifestMatches(t *testing.T) {
	if k.Script != nil {
		t.Skip("a script's manifest is in its text")
	}
	out, err := exec.CommandContext(t.Context(), k.Binary, "manifest").Output()
	if err != nil {
		t.Fatalf("%s manifest: %v", filepath.Base(k.Binary), err)
	}
	var all []sdk.Manifest
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	told, err := json.Marshal(normal(k.manifest))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Name != k.Name {
			continue
		}
		if said, err := json.Marshal(normal(m)); err != nil || !bytes.Equal(said, told) {
			t.Errorf("by hand it says %s\nto the agent %s (%v)", said, told, err)
		}
		return
	}
	t.Errorf("by hand it does not name the plugin %q", k.Name)
}

// normal is a manifest with its defaults filled in.
func normal(m sdk.Manifest) sdk.Manifest {
	m.Config, m.Dependent, m.Concurrency, m.LoginTries = nil, nil, max(1, m.Concurrency), max(1, m.LoginTries)
	return m
}

// While a change is under way its secrets are in the memory of the process, and nowhere
// else that others may look.
func (k *kit) noSecretInProc(t *testing.T) {
	if len(k.pids()) == 0 {
		t.Skip("the plugin's process cannot be found on this system")
	}
	defer k.line.set(damage{})
	a, first := k.account(t)
	s := k.open(t)
	var looked sync.Once
	var places map[string][]byte
	k.line.set(damage{before: func(int) func() {
		looked.Do(func() { places = k.places(t) })
		return nil
	}})
	second := k.next(t, s, a)
	k.mustApply(t, s, a, second, first)
	k.line.set(damage{})
	for place, b := range k.places(t) {
		places["after: "+place] = b
	}
	if len(places) < 4 {
		t.Fatalf("looked into %d places only", len(places))
	}
	for place, b := range places {
		for _, c := range []sdk.Credential{k.Admin, first, second} {
			for _, form := range forms(c.Secret) {
				if bytes.Contains(b, []byte(form)) {
					t.Errorf("a secret is in %s", place)
				}
			}
		}
		if strings.HasSuffix(place, "limits") && !bytes.Contains(b, []byte("Max core file size        0 ")) {
			t.Error("a crash of the process would leave its memory in a file")
		}
	}
}

// places are what the system shows of the plugin's processes, and the files that they
// can write.
func (k *kit) places(t *testing.T) map[string][]byte {
	out := map[string][]byte{}
	for _, pid := range k.pids() {
		for _, name := range []string{"cmdline", "environ", "comm", "limits"} {
			if b, err := os.ReadFile(filepath.Join("/proc", pid, name)); err == nil {
				out[filepath.Join(pid, name)] = b
			}
		}
	}
	roots := []string{"/"} // a process may have mounts of its own
	for _, pid := range k.pids() {
		roots = append(roots, filepath.Join("/proc", pid, "root"))
	}
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(root, k.dir, "run"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it may be gone by now
			}
			if info, err := d.Info(); err == nil && info.Size() < 1<<20 { // not the binary
				if b, err := os.ReadFile(path); err == nil {
					out[path] = b
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	return out
}

// closePoll is how often it is looked whether something has been closed.
const closePoll = 20 * time.Millisecond

// A session that is closed and forgotten leaves no connection, and a verify none either. The
// agent closes its end of what a plugin keeps: that is seen in the plugin's process alone.
func (k *kit) noLeftover(t *testing.T) {
	a, first := k.account(t)
	s := k.open(t)
	second := k.next(t, s, a)
	use := func(s *pluginhost.Session) {
		k.mustApply(t, s, a, second, first)
		k.mustVerify(t, a, second, sdk.Accepted)
		s.Close()
		k.host.Forget("target")
	}
	use(s)
	before := k.sockets() // what it keeps once, and perhaps some that are being closed
	const times, spare = 8, 3
	for range times {
		use(k.open(t))
	}
	left := func() (n int) {
		for pid, now := range k.sockets() {
			if was, ok := before[pid]; ok {
				n += max(0, now-was-spare)
			}
		}
		return n
	}
	for end := time.Now().Add(patience); k.line.connections() > 0 || left() > 0; time.Sleep(closePoll) {
		if time.Now().After(end) {
			t.Fatalf("after %d sessions %d connections to the target are open that nobody uses; sockets in the plugin's processes: %v, before %v",
				times, k.line.connections(), k.sockets(), before)
		}
	}
	if len(before) == 0 {
		t.Log("this system does not show what the plugin's process holds")
	}
}

// calls is after how many calls the process is looked at.
const calls = 10_000

// Sessions that are opened and closed on a line that is whole: so many, or as many as there
// is time for.
const (
	opens     = 300
	opensTime = 3 * time.Second
)

// openOften fails where sessions leave descriptors in the plugin's process.
func (k *kit) openOften(t *testing.T) {
	t.Helper()
	open := func() {
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		s, err := k.host.Open(ctx, k.plugin, pluginhost.Job{Target: k.target(), Admin: k.Admin, AdminAs: k.AdminAs})
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		s.Close()
		k.host.Forget("target")
	}
	open() // what it keeps once
	before, n := k.uses(t), 0
	for end := time.Now().Add(opensTime); n < opens && time.Now().Before(end); n++ {
		open()
	}
	after := k.uses(t)
	for end := time.Now().Add(patience); after.files > before.files+8 && time.Now().Before(end); after = k.uses(t) {
		time.Sleep(closePoll)
	}
	t.Logf("after %d sessions: descriptors %d to %d", n, before.files, after.files)
	if after.files > before.files+8 {
		t.Fatalf("descriptors grew from %d to %d by %d sessions that were closed", before.files, after.files, n)
	}
}

// Calls leave nothing behind in the plugin's process.
func (k *kit) noLeak(t *testing.T) {
	if len(k.pids()) == 0 {
		t.Skip("the plugin's process cannot be found on this system")
	}
	defer k.line.set(damage{})
	a, first := k.account(t)
	k.openOften(t)
	k.line.set(damage{down: true})
	many := func(n int) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range n / 8 {
					if got, err := k.verify(t, a, first); err == nil && got.Verdict != sdk.Undecided {
						t.Errorf("verify with the line down: %s", verdicts[got.Verdict])
						return
					}
				}
			})
		}
		all.Wait()
	}
	calls := cmp.Or(k.Calls, calls)
	many(calls / 10) // what it keeps once
	before := k.uses(t)
	many(calls)
	after := k.uses(t)
	t.Logf("after %d calls: descriptors %d to %d, memory %d to %d kB", calls, before.files, after.files, before.kB, after.kB)
	if after.files > before.files+8 {
		t.Errorf("descriptors grew from %d to %d", before.files, after.files)
	}
	// A goroutine that never ends keeps at least 2 kB. Of few calls too little is seen.
	if grown := after.kB - before.kB; grown > max(2*calls, 20_000) {
		t.Errorf("memory grew by %d kB, which is %d bytes a call", grown, grown*1024/calls)
	}
}
