package run

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/ksm"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

var (
	histories   = flag.Int("histories", 100, "how many random histories of one account are played")
	historyFrom = flag.Uint64("history", 1, "the number of the first; each number gives the same history again")
)

// TestHistories plays random histories of one account: runs that break off anywhere, answers
// that are lost, a vault that is put back from its backups, people who edit the record, other
// agents. After each step somebody has what opens the target: the vault, or this agent. Once
// nothing fails any more the vault has it, and the account is rotated as before.
func TestHistories(t *testing.T) {
	for n := range uint64(*histories) {
		playHistory(t, *historyFrom+n)
	}
}

// history is a world with what the test knows besides.
type history struct {
	*world
	draw    *rand.Rand
	other   party
	backups []ksm.ExtRecord
	runs    []seal.ID
	secrets int
	logins  func(int, string) (sdk.VerifyResponse, error) // how the target answers them; nil: judged
	misled  bool                                          // a person has written over what the administrator will set anew
	setsIt  bool                                          // a person knows what the target has
	told    []string                                      // the steps so far
}

func playHistory(t *testing.T, seed uint64) {
	t.Helper()
	draw := rand.New(rand.NewPCG(seed, 0))
	h := &history{world: newWorld(t, draw.IntN(2) == 0), draw: draw, other: newParty(t, true)}
	h.change(trust.PutOp(h.other.entry(trustv1.EntryKind_ENTRY_KIND_AGENT, h.pool, "gw2")))
	if draw.IntN(3) == 0 { // an owner who wants few failed logins
		s := h.accountStatement("app", &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: h.now.Add(time.Hour).UnixMilli()})
		s.GetAccount().MaxProbe = 1
		h.put2(s)
	}
	if draw.IntN(3) == 0 {
		h.target.manifest.OldLives = time.Hour
	}
	h.backups = []ksm.ExtRecord{*h.row()}
	if h.self && draw.IntN(3) > 0 { // as most plugins answer where there is no administrator to ask
		h.logins = unjudgedLogin(h.world)
		h.target.verify = h.logins
	}
	for range 3 + draw.IntN(8) {
		h.step()
		h.known = max(h.known, h.seq())
		if !h.someoneHas() && !h.misled {
			t.Errorf("history %d (self: %t): nobody has what opens the target:\n%s", seed, h.self, strings.Join(h.told, "\n"))
			return
		}
	}
	h.target.still, h.target.manifest.OldLives = nil, 0
	for n := range 10 {
		h.known = max(h.known, h.seq())
		h.sweep()
		out, err := h.rotate()
		h.told = append(h.told, fmt.Sprintf("rotated: %v %s %v %s", out.Credential, out.Reason, out.Text, err))
		if err == nil && out.Credential == done && h.opens() && h.row().Staged == nil && n > 0 {
			return
		}
		if n == 4 && h.row().Staged != nil {
			h.told = append(h.told, "a person gives the candidate up: "+h.givesUp())
			if h.row().Staged != nil { // the target has it, and the run says what to do
				h.target.secrets["app"] = h.secretOf("by hand")
				h.told = append(h.told, "and again, with another at the target: "+h.givesUp())
				h.setsIt = true
			}
			if h.row().Staged != nil { // nobody can judge a login, and the run says `run abandon --unproven`
				h.abandonedByHand()
				h.told = append(h.told, "and unproven")
			}
		}
		if n == 4 && h.row().Staged == nil {
			// The vault has lost a value that nobody can bring back: a person says which it is, as
			// docs/backup.md has it. Where the target refuses that, too, what an agent keeps comes back.
			secret := h.secretOf("a guess")
			if h.opens() || h.setsIt {
				secret = h.target.secrets["app"]
			}
			h.setByHand(secret)
			h.told = append(h.told, "a person sets "+secret)
		}
	}
	t.Errorf("history %d (self: %t): it is not rotated any more; the record opens the target: %t:\n%s", seed, h.self, h.opens(), strings.Join(h.told, "\n"))
}

// step is one of the things that happen.
func (h *history) step() {
	steps := []struct {
		name string
		may  bool
		do   func() string
	}{
		{"a rotation", true, h.rotation},
		{"a rotation", true, h.rotation},
		{"a run is asked for again", len(h.runs) > 0, h.again},
		{"a pass over what is kept", true, func() string { n, out := h.sweep(); return fmt.Sprintf("%d: %s", n, out.Reason) }},
		{"a person gives the candidate up", true, h.givesUp},
		{"a backup is made", true, func() string { h.backups = append(h.backups, *h.row()); return "" }},
		{"a backup is put back", true, h.restored},
		{"a backup is put back", true, h.restored},
		{"a person edits the title", h.row().Staged == nil, func() string { h.editTitle(); return "" }},
		{"a person sets a wrong secret", h.row().Staged == nil && !h.opens(), func() string {
			h.misled = !h.self
			h.setByHand(h.secretOf("typo"))
			return ""
		}},
		{"a person sets a secret, and at the target", h.row().Staged == nil, func() string {
			h.target.set("app", h.secretOf("by hand"))
			h.setByHand(h.target.secrets["app"])
			h.backups = []ksm.ExtRecord{*h.row()} // older ones would lose what nobody else has
			return ""
		}},
		{"former secrets end", h.target.still != nil, func() string { h.target.still = nil; return "" }},
		{"the target is put back, and forth", h.self, h.putBackAndForth},
		{"another agent rotates it", h.row().Staged == nil && (h.opens() || !h.self), func() string {
			h.commitBy(h.other, h.secretOf("another's"))
			h.backups = []ksm.ExtRecord{*h.row()}
			return ""
		}},
	}
	s := steps[h.draw.IntN(len(steps))]
	if s.may {
		h.told = append(h.told, s.name+": "+s.do())
	}
}

// putBackAndForth is a run while the target itself is in a state of which nobody knows anything.
func (h *history) putBackAndForth() string {
	has, still := h.target.secrets["app"], h.target.still
	h.target.secrets["app"], h.target.still = h.secretOf("of an old state"), nil
	out, err := h.rotate()
	h.target.secrets["app"], h.target.still = has, still
	return fmt.Sprintf("%v %s %v", out.Credential, out.Reason, err)
}

func (h *history) secretOf(whose string) string {
	h.secrets++
	return fmt.Sprintf("%s %d", whose, h.secrets)
}

// rotation is a run in which something may fail.
func (h *history) rotation() string {
	h.later(2 * trust.StartGap)
	id := seal.NewID()
	h.runs = append(h.runs, id)
	return h.failing(func(ctx context.Context) (Outcome, error) {
		h.vault.state[id] = "queued"
		return h.engine.Do(ctx, Job{ID: id, Account: h.account})
	})
}

// again is a run that the vault asks for once more.
func (h *history) again() string {
	id := h.runs[h.draw.IntN(len(h.runs))]
	h.later(2 * trust.StartGap)
	return h.failing(func(ctx context.Context) (Outcome, error) {
		h.vault.state[id] = "queued"
		return h.engine.Do(ctx, Job{ID: id, Account: h.account})
	})
}

// failing does a run while one thing fails, or none.
func (h *history) failing(do func(ctx context.Context) (Outcome, error)) string {
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	takes := func(r sdk.ApplyRequest) {
		if h.self && h.target.manifest.OldLives > 0 && r.Current.Secret.ExposeString() != h.target.secrets["app"] {
			return // what lives on opens the account, and changes nothing
		}
		h.target.set(r.Account.Name, r.Candidate.Secret.ExposeString())
	}
	faults := []struct {
		name string
		set  func()
	}{
		{"nothing fails", func() {}},
		{"nothing fails", func() {}},
		{"killed when it has staged", func() { h.vault.crash, h.vault.stop = "stage", cancel }},
		{"killed when it has committed", func() { h.vault.crash, h.vault.stop = "commit", cancel }},
		{"killed before it stages", func() {
			h.vault.fail = map[string]error{"stage": errCrash}
			h.target.openHook = nil
			cancelAt(h, "stage", cancel)
		}},
		{"killed before it commits", func() { cancelAt(h, "commit", cancel) }},
		{"the change arrives, and its answer does not", func() {
			h.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				takes(r)
				return sdk.ApplyResponse{}, errors.New("no answer")
			}
		}},
		{"the change does not arrive", func() {
			h.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{}, errors.New("no answer")
			}
		}},
		{"killed when the target has taken it", func() {
			h.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				takes(r)
				cancel()
				return sdk.ApplyResponse{}, ctx.Err()
			}
		}},
		{"the target refuses it", func() {
			h.target.apply = func(sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				return sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.history"}, nil
			}
		}},
		{"logins fail for want of the target", func() {
			h.target.verify = func(int, string) (sdk.VerifyResponse, error) { return sdk.VerifyResponse{}, errors.New("not there") }
		}},
		{"the target is not there", func() {
			h.target.openErr = &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial", NotSent: true}
		}},
		{"put back within it", func() {
			h.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				takes(r)
				h.told = append(h.told, "  "+h.restored())
				return sdk.ApplyResponse{Outcome: sdk.Changed}, nil
			}
		}},
	}
	// A vault that gives the account to two agents at once, and shows the other no candidate.
	for _, mine := range []bool{true, false} {
		faults = append(faults, struct {
			name string
			set  func()
		}{fmt.Sprintf("another agent's run within it, this one's change comes last: %t", mine), func() {
			h.target.apply = func(r sdk.ApplyRequest) (sdk.ApplyResponse, error) {
				h.commitBy(h.other, h.secretOf("another's"))
				h.backups = []ksm.ExtRecord{*h.row()}
				if mine {
					takes(r)
				}
				return sdk.ApplyResponse{}, errors.New("no answer")
			}
		}})
	}
	f := faults[h.draw.IntN(len(faults))]
	f.set()
	out, err := do(ctx)
	h.vault.crash, h.vault.fail = "", nil
	h.target.apply, h.target.verify, h.target.openErr = nil, h.logins, nil
	return fmt.Sprintf("%s: %v %s %v", f.name, out.Credential, out.Reason, err)
}

// cancelAt kills the agent where it asks the vault for something.
func cancelAt(h *history, op string, cancel func()) {
	h.vault.fail = map[string]error{op: killed{cancel}}
}

// killed is a vault's answer at which the agent ends: what it asked for was not done.
type killed struct{ cancel func() }

func (killed) Error() string { return errCrash.Error() }

// restored puts one of the backups back.
func (h *history) restored() string {
	n := h.draw.IntN(len(h.backups))
	h.known = max(h.known, h.seq())
	*h.row() = h.backups[n]
	return fmt.Sprintf("number %d of %d", n+1, len(h.backups))
}

func (h *history) givesUp() string {
	h.later(2 * trust.StartGap)
	c := h.command(trustv1.Action_ACTION_CANCEL, seal.NewID())
	out, err := h.engine.Do(h.t.Context(), Job{ID: seal.ID(c.RunId), Account: h.account, Command: c})
	return fmt.Sprintf("%v %s %v", out.Credential, out.Reason, err)
}

// someoneHas says whether the vault or this agent has what opens the target.
func (h *history) someoneHas() bool {
	if h.world.kept() {
		return true
	}
	var all, candidates []*journal.Kept
	for { // the newest is given, and the older ones come after it
		candidate, committed, err := h.engine.Journal.Kept(h.account)
		must(h.t, err)
		if candidate == nil {
			if all = candidates; committed != nil {
				all = append(slices.Clone(candidates), committed)
			}
			break
		}
		candidates = append(candidates, candidate)
		must(h.t, h.engine.Journal.DropKept(h.account, candidate.Digest))
	}
	for _, k := range slices.Backward(candidates) {
		must(h.t, h.engine.Journal.Keep(h.account, *k, nil)) // its folder's key is there
	}
	return slices.ContainsFunc(all, func(k *journal.Kept) bool {
		key, err := seal.UnwrapKey(h.folderKey, k.RecordKey)
		must(h.t, err)
		plain, err := seal.OpenGCM(key, k.Data, nil)
		must(h.t, err)
		c, err := credential(plain, sdk.Password)
		must(h.t, err)
		return c.Secret.ExposeString() == h.target.secrets["app"]
	})
}
