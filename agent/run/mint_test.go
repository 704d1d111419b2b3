package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

type fakeKey struct {
	secret  string
	created time.Time
}

func (s fakeSession) List(context.Context, sdk.ListRequest) (items []sdk.Item, err error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.list != nil {
		if err := s.f.list(); err != nil {
			return nil, err
		}
	}
	for id, k := range s.f.keys {
		items = append(items, sdk.Item{ID: id, Created: k.created, Active: true})
	}
	return items, nil
}

func (s fakeSession) Mint(context.Context, sdk.MintRequest) (sdk.Credential, error) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.mints++
	id, err := fmt.Sprintf("minted-%d", s.f.mints), error(nil)
	if s.f.mint != nil {
		id, err = s.f.mint()
	} else {
		s.f.keys[id] = fakeKey{secret: "secret of " + id}
	}
	return sdk.Credential{Kind: sdk.APIKey, ID: id, Secret: sdk.NewSecret([]byte("secret of " + id))}, err
}

func (s fakeSession) Sweep(_ context.Context, r sdk.SweepRequest) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.sweepErr != nil {
		return s.f.sweepErr
	}
	for _, id := range r.IDs {
		s.f.swept = append(s.f.swept, id)
		delete(s.f.keys, id)
	}
	return nil
}

// newMintWorld is a world whose account has a key that its target made.
func newMintWorld(t *testing.T) *world {
	w := newWorld(t, false)
	key := []sdk.Kind{sdk.APIKey}
	w.target.manifest = sdk.Manifest{Kinds: append(key, sdk.Password), Overlap: key, Minted: key}
	w.target.keys = map[string]fakeKey{"first": {secret: "old", created: w.now.Add(-time.Hour)}}
	w.putKey("first", "old")
	return w
}

// putKey is a person's edit of the record.
func (w *world) putKey(id, secret string) {
	w.t.Helper()
	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(24 * time.Hour).UnixMilli()})
	s.GetAccount().SecretKind = string(sdk.APIKey)
	w.keyID = id
	w.put(w.account, "pamUser", []byte(secret), s)
	w.keyID = ""
}

// key is what the vault's record has.
func (w *world) key() (id, secret string) {
	w.t.Helper()
	x := w.row()
	key, err := seal.UnwrapKey(w.folderKey, x.RecordKey)
	must(w.t, err)
	plain, err := seal.OpenGCM(key, x.Data, nil)
	must(w.t, err)
	rec, err := record.Parse(plain)
	must(w.t, err)
	text, _ := rec.Text("password")
	return rec.Labelled(record.KeyID), string(text)
}

// hasOnly says whether the target has one key, which is the record's, and these beside it.
func (w *world) hasOnly(others ...string) bool {
	id, secret := w.key()
	return len(w.target.keys) == 1+len(others) && w.target.keys[id].secret == secret &&
		!slices.ContainsFunc(others, func(o string) bool { _, ok := w.target.keys[o]; return !ok })
}

func (w *world) intention() *journal.Mint {
	w.t.Helper()
	m, err := w.engine.Journal.Mint(w.account)
	must(w.t, err)
	return m
}

// due is a run by the schedule, a while after whatever was before.
func (w *world) due() (Outcome, error) {
	w.later(5 * time.Minute)
	return w.run(seal.NewID())
}

func TestMinted(t *testing.T) {
	w := newMintWorld(t)
	for n := range 3 {
		out, err := w.due()
		if err != nil || out.Credential != done || !w.hasOnly() || w.target.mints != n+1 || w.intention() != nil {
			t.Fatalf("%+v, %v: the target has %d keys", out, err, len(w.target.keys))
		}
		if id, secret := w.key(); id != fmt.Sprintf("minted-%d", n+1) || secret != "secret of "+id {
			t.Errorf("the record has the key %q", id)
		}
	}
	if len(w.target.applied) > 0 || len(w.target.swept) > 0 {
		t.Errorf("applied %d times, swept %q", len(w.target.applied), w.target.swept)
	}
}

// A dependent that refused a key goes on with the former one, until the next rotation has
// given it another; only where the target has no room for a third it is ended before.
func TestMintedDependentKeepsItsKey(t *testing.T) {
	for _, room := range []int{3, 2} {
		w := newMintWorld(t)
		w.target.manifest.Dependents = true
		w.keyID = "first"
		w.dependents(func(a *trustv1.Account) { a.SecretKind = string(sdk.APIKey) })
		w.keyID = ""
		w.target.step = func(what string) (sdk.StepResponse, error) {
			if strings.HasSuffix(what, "for a") {
				return sdk.StepResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "workload.failed"}, nil
			}
			return sdk.StepResponse{Outcome: sdk.Changed}, nil
		}
		if out, err := w.due(); err != nil || out.Dependents != failed || !w.hasOnly("first") {
			t.Fatalf("room for %d: %+v, %v: %v", room, out, err, w.target.keys)
		}
		var had []string // at each request for a key
		w.target.mint = func() (string, error) {
			if m := w.intention(); m == nil || !m.Until.After(w.now) || m.Time.Before(w.now) {
				t.Errorf("room for %d: the journal says of this request %+v; it is %s", room, m, w.now)
			}
			had = slices.Sorted(maps.Keys(w.target.keys))
			if len(had) >= room {
				w.now = w.now.Add(50 * time.Second) // it takes its time to say so
				return "", &sdk.Error{Class: sdk.ClassConflict, Reason: "keys.full"}
			}
			id := fmt.Sprintf("minted-%d", w.target.mints)
			w.target.keys[id] = fakeKey{secret: "secret of " + id}
			return id, nil
		}
		w.target.step = nil
		out, err := w.due()
		if err != nil || out.Credential != done || out.Dependents != done || !w.hasOnly() || w.intention() != nil {
			t.Errorf("room for %d: %+v, %v: %v", room, out, err, w.target.keys)
		}
		if kept := slices.Contains(had, "first"); kept != (room == 3) {
			t.Errorf("room for %d: when the next key was made, the dependent's own was still there: %v", room, kept)
		}
	}
}

// An account without a key yet gets its first one.
func TestMintedFirst(t *testing.T) {
	w := newMintWorld(t)
	w.target.keys = map[string]fakeKey{"a person's": {}}
	w.putKey("", "")
	if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly("a person's") {
		t.Errorf("%+v, %v: %v", out, err, w.target.keys)
	}
}

// The agent dies around the request for a new key, and goes on.
func TestMintBreaksOff(t *testing.T) {
	for name, c := range map[string]struct {
		made  bool           // the target did what it was asked for
		also  map[string]int // further keys, and how many minutes after the request they were made
		swept []string
		doubt bool
	}{
		"before the target was asked":                   {swept: nil},
		"after the target made one":                     {made: true, swept: []string{"minted-1"}},
		"and a person made one meanwhile":               {made: true, also: map[string]int{"hers": 0}, doubt: true},
		"and a person made one, a bit later":            {made: true, also: map[string]int{"hers": 3}, doubt: true},
		"not asked, and a person made one, a bit later": {also: map[string]int{"hers": 3}, doubt: true},
		"not asked, and one that no list had is older":  {also: map[string]int{"hers": -3}, doubt: true},
	} {
		w := newMintWorld(t)
		w.later(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		w.target.mint = func() (string, error) {
			if c.made {
				w.target.keys["minted-1"] = fakeKey{secret: "secret of minted-1", created: w.now.Truncate(time.Second)}
			}
			cancel()
			return "", errCrash
		}
		if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: the run was not interrupted: %v", name, err)
		}
		w.target.mint = nil
		m := w.intention()
		if m == nil || !slices.Equal(m.Had, []string{"first"}) || w.row().Staged != nil {
			t.Fatalf("%s: the journal has %+v", name, m)
		}
		for id, minutes := range c.also {
			w.target.keys[id] = fakeKey{created: m.Time.Add(time.Duration(minutes) * time.Minute)}
		}
		before := maps.Clone(w.target.keys)
		if !c.doubt {
			if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly() || !slices.Equal(w.target.swept, c.swept) || w.intention() != nil {
				t.Errorf("%s: %+v, %v: swept %q, the target has %v", name, out, err, w.target.swept, w.target.keys)
			}
			continue
		}
		// Nobody but a person can say whose they are: by schedule no run goes on, whatever was
		// deleted meanwhile.
		for n := range 3 {
			out, err := w.due()
			if err != nil || out.Credential != failed || out.Class != sdk.ClassConflict || out.Reason != "orphan.ambiguous" || out.Later || !strings.Contains(out.Text, "hers") {
				t.Errorf("%s: %+v, %v", name, out, err)
			}
			if !maps.Equal(w.target.keys, before) || w.target.mints != 1 {
				t.Fatalf("%s: the target was touched: %v", name, w.target.keys)
			}
			if n == 1 {
				delete(w.target.keys, "minted-1")
				before = maps.Clone(w.target.keys)
			}
		}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.hasOnly("hers") || len(w.target.swept) > 0 {
			t.Errorf("%s, by hand: %+v, %v: the target has %v", name, out, err, w.target.keys)
		}
		if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly("hers") {
			t.Errorf("%s, the next: %+v, %v: the target has %v", name, out, err, w.target.keys)
		}
	}
}

// A person who is told whose the keys may be deletes what nobody uses: where nothing is in
// doubt any more the schedule goes on by itself.
func TestDoubtEnds(t *testing.T) {
	w := newMintWorld(t)
	m := journal.Mint{Run: seal.NewID(), Time: w.now, Until: w.now.Add(time.Minute), Had: []string{"first"}, Told: true}
	must(t, w.engine.Journal.BeginMint(w.account, m))
	if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly() || w.intention() != nil {
		t.Errorf("%+v, %v: the target has %v", out, err, w.target.keys)
	}
}

// The answer does not come, and the agent lives.
func TestMintWithoutAnswer(t *testing.T) {
	w := newMintWorld(t)
	w.later(time.Minute)
	w.target.mint = func() (string, error) {
		w.target.keys["minted-1"] = fakeKey{created: w.now}
		return "", &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
	}
	out, err := w.due()
	if err != nil || out.Credential != pending || out.Reason != "mint.unknown" || !out.Later || w.row().Staged != nil {
		t.Fatalf("%+v, %v", out, err)
	}
	w.target.mint = nil
	if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly() || !slices.Equal(w.target.swept, []string{"minted-1"}) {
		t.Errorf("the next: %+v, %v: the target has %v", out, err, w.target.keys)
	}
}

// What was asked for may come after the agent is back: until the request's deadline is
// over nobody believes that nothing was made.
func TestMintMayStillArrive(t *testing.T) {
	w := newMintWorld(t)
	w.engine.Limits.Apply = 7 * time.Minute
	w.target.mint = func() (string, error) { return "", errors.New("no answer") }
	for range 2 {
		out, err := w.due()
		if err != nil || out.Credential != pending || out.Reason != "mint.unknown" || !out.Later || w.target.mints != 1 {
			t.Fatalf("%+v, %v: minted %d times", out, err, w.target.mints)
		}
	}
	w.target.mint = nil
	w.target.keys["late"] = fakeKey{created: w.now}
	if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly() || !slices.Equal(w.target.swept, []string{"late"}) {
		t.Errorf("when it has come: %+v, %v: the target has %v", out, err, w.target.keys)
	}
}

// A key is made, kept by the agent, and not yet heard of by the vault.
func TestMintedIsKept(t *testing.T) {
	w := newMintWorld(t)
	w.later(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	w.target.mint = func() (string, error) {
		w.target.keys["minted-1"] = fakeKey{secret: "secret of minted-1", created: w.now}
		cancel()
		return "minted-1", nil
	}
	if _, err := w.engine.Do(ctx, Job{ID: seal.NewID(), Account: w.account}); !errors.Is(err, context.Canceled) || w.row().Staged != nil {
		t.Fatalf("the run was not interrupted: %v", err)
	}
	w.target.mint = nil
	out, err := w.due()
	if id, _ := w.key(); err != nil || out.Credential != done || id != "minted-1" || !w.hasOnly() || w.target.mints != 1 || w.intention() != nil {
		t.Errorf("%+v, %v: the target has %v", out, err, w.target.keys)
	}
}

// The vault does not take what the target made: it is deleted, now or by the next run.
func TestMintedIsNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		code  string
		sweep error
		now   bool
	}{
		"edited meanwhile":                         {ksm.CodeOutOfSync, nil, true},
		"edited meanwhile, and the target is gone": {ksm.CodeOutOfSync, errors.New("gone"), false},
		"another run has the account":              {ksm.CodeEpochOld, nil, false},
	} {
		w := newMintWorld(t)
		w.vault.fail = map[string]error{"stage": ksm.Refuse(c.code, "no")}
		w.target.sweepErr = c.sweep
		if out, err := w.due(); err == nil && out.Credential == done {
			t.Fatalf("%s: %+v", name, out)
		}
		if k, _, err := w.engine.Journal.Kept(w.account); err != nil || k != nil {
			t.Errorf("%s: the journal keeps a candidate that nobody has: %v, %v", name, k != nil, err)
		}
		if m := w.intention(); w.hasOnly() != c.now || (m == nil) != c.now || m != nil && m.Made != "minted-1" {
			t.Errorf("%s: the target has %v, the journal %+v", name, w.target.keys, m)
		}
		w.target.sweepErr = nil
		w.target.keys["a person's"] = fakeKey{created: w.now}
		if out, err := w.rotate(); err != nil || out.Credential != done || !w.hasOnly("a person's") || !slices.Equal(w.target.swept, []string{"minted-1"}) {
			t.Errorf("%s, the next: %+v, %v: swept %q, the target has %v", name, out, err, w.target.swept, w.target.keys)
		}
	}
}

// What ends a run before anything is made leaves all as it was, and no intention: a key
// that a person makes afterwards is no orphan.
func TestNothingIsMinted(t *testing.T) {
	refuse := func(class sdk.Class, reason string) func(*world) {
		return func(w *world) {
			w.target.mint = func() (string, error) { return "", &sdk.Error{Class: class, Reason: reason} }
		}
	}
	for name, c := range map[string]struct {
		set    func(*world)
		class  sdk.Class
		reason string
		later  bool
		mints  int
	}{
		"no more room": {refuse(sdk.ClassConflict, "keys.full"), sdk.ClassConflict, "keys.full", false, 1},
		"no rights":    {refuse(sdk.ClassPermission, "admin.rights"), sdk.ClassPermission, "admin.rights", false, 1},
		"no account":   {refuse(sdk.ClassNotFound, "account.missing"), sdk.ClassNotFound, "account.missing", false, 1},
		"nothing was sent": {func(w *world) {
			w.target.mint = func() (string, error) {
				return "", &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
			}
		}, sdk.ClassUnreachable, "dial", true, 1},
		"no list": {func(w *world) { w.target.list = func() error { return errors.New("half of it") } }, "", "", false, 0},
		"the list is unreachable": {func(w *world) {
			w.target.list = func() error { return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"} }
		}, sdk.ClassUnreachable, "http", true, 0},
		"no right to list": {func(w *world) {
			w.target.list = func() error { return &sdk.Error{Class: sdk.ClassPermission, Reason: "admin.rights"} }
		}, sdk.ClassPermission, "admin.rights", false, 0},
		"a record that does not name its key": {func(w *world) { w.putKey("", "old") }, sdk.ClassInvalid, "key_id.missing", false, 0},
	} {
		w := newMintWorld(t)
		c.set(w)
		out, err := w.due()
		if name == "no list" { // an error of no kind: the run breaks off, and is done again
			if err == nil {
				t.Errorf("%s: %+v", name, out)
			}
		} else if err != nil || out.Credential == done || out.Class != c.class || out.Reason != c.reason || out.Later != c.later {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if w.target.mints != c.mints || len(w.target.keys) != 1 || w.row().Staged != nil || w.intention() != nil {
			t.Errorf("%s: minted %d times, the target has %v, the journal %+v", name, w.target.mints, w.target.keys, w.intention())
		}
		if name == "no more room" && !strings.Contains(out.Text, "first") {
			t.Errorf("%s: the text does not name the keys: %s", name, out.Text)
		}
		w.target.mint, w.target.list = nil, nil
		w.target.keys["a person's"] = fakeKey{created: w.now}
		if c.reason == "key_id.missing" {
			continue
		}
		if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly("a person's") {
			t.Errorf("%s, the next: %+v, %v: the target has %v", name, out, err, w.target.keys)
		}
	}
}

// A target that takes its time to come to know what it made is asked again.
func TestMintedSettles(t *testing.T) {
	w := newMintWorld(t)
	w.target.manifest.Settle = 20 * time.Millisecond
	w.target.verify = func(n int, _ string) (sdk.VerifyResponse, error) {
		if n == 1 {
			return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
		}
		return sdk.VerifyResponse{Verdict: sdk.Accepted}, nil
	}
	if out, err := w.due(); err != nil || out.Credential != done || !w.hasOnly() || w.target.logins != 2 || len(w.target.applied) > 0 {
		t.Errorf("%+v, %v: %d logins, applied %d times", out, err, w.target.logins, len(w.target.applied))
	}
}

// A key that is refused for good stays staged for a person to see; when he gives it up it
// is deleted, since it might come to work when nobody knows of it.
func TestMintedIsGivenUp(t *testing.T) {
	w := newMintWorld(t)
	w.target.verify = func(int, string) (sdk.VerifyResponse, error) {
		return sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}, nil
	}
	w.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
		return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "key.gone"}, nil
	}
	out, err := w.due()
	if err != nil || out.Credential != pending || w.row().Staged == nil || len(w.target.swept) > 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	abandon := func() (Outcome, error) {
		w.later(5 * time.Minute)
		c := w.command(trustv1.Action_ACTION_CANCEL, seal.NewID())
		return w.engine.Do(t.Context(), Job{ID: seal.ID(c.RunId), Account: w.account, Command: c})
	}
	w.target.sweepErr = errors.New("gone")
	if out, err := abandon(); err != nil || out.Reason != "orphan.pending" || w.row().Staged == nil {
		t.Errorf("where it cannot be deleted: %+v, %v", out, err)
	}
	w.target.sweepErr = nil
	if out, err := abandon(); err != nil || out.Reason != "abandoned" || w.row().Staged != nil || !slices.Equal(w.target.swept, []string{"minted-1"}) || !w.hasOnly() {
		t.Errorf("%+v, %v: swept %q, the target has %v", out, err, w.target.swept, w.target.keys)
	}
}

// Passwords of the same plugin are the agent's to make.
func TestPasswordBesideKeys(t *testing.T) {
	w := newMintWorld(t)
	w.target.keys = nil
	s := w.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: w.now.Add(time.Hour).UnixMilli()})
	w.put(w.account, "pamUser", []byte("old"), s)
	if out, err := w.due(); err != nil || out.Credential != done || !w.opens() || w.target.mints > 0 || len(w.target.applied) != 1 {
		t.Errorf("%+v, %v: minted %d, applied %d", out, err, w.target.mints, len(w.target.applied))
	}
}

// Which of an account's keys is an orphan.
func TestOrphans(t *testing.T) {
	at := time.Date(2026, 11, 26, 10, 0, 0, 700_000_000, time.UTC)
	m := journal.Mint{Time: at, Until: at.Add(time.Minute), Had: []string{"had"}}
	known, told := m, m
	known.Made, told.Told = "made", true
	item := func(id string, after time.Duration) sdk.Item {
		return sdk.Item{ID: id, Created: at.Truncate(time.Second).Add(after)}
	}
	for name, c := range map[string]struct {
		m     journal.Mint
		items []sdk.Item
		sweep string
		doubt []string
	}{
		"nothing new":                {m, []sdk.Item{item("had", 0), item("vault", 0)}, "", nil},
		"one, in the same second":    {m, []sdk.Item{item("new", 0), item("had", 0)}, "new", nil},
		"one, at the deadline":       {m, []sdk.Item{item("new", time.Minute)}, "new", nil},
		"one, before":                {m, []sdk.Item{item("new", -time.Second)}, "", []string{"new"}},
		"one, after":                 {m, []sdk.Item{item("new", 2*time.Minute)}, "", []string{"new"}},
		"one, of no time":            {m, []sdk.Item{{ID: "new"}}, "", []string{"new"}},
		"two":                        {m, []sdk.Item{item("new", 0), item("newer", time.Second)}, "", []string{"new", "newer"}},
		"one, and a person was told": {told, []sdk.Item{item("new", 0)}, "", []string{"new"}},
		"known by its id":            {known, []sdk.Item{item("other", 0), item("made", -time.Hour)}, "made", nil},
		"known by its id, and gone":  {known, []sdk.Item{item("other", 0)}, "", nil},
	} {
		sweep, doubt := orphans(c.m, c.items, []string{"vault", ""})
		if sweep != c.sweep || !slices.Equal(doubt, c.doubt) {
			t.Errorf("%s: sweep %q, doubt %q; want %q and %q", name, sweep, doubt, c.sweep, c.doubt)
		}
	}
}
