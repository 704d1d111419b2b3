package proof

import (
	"context"
	crand "crypto/rand"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

var (
	soakFor  = flag.Duration("soak", 40*time.Second, "how long the soak goes on")
	soakSeed = flag.Uint64("seed", 0, "seed of the soak's random choices (0: by the clock)")
)

// soakLink is how far the server is from the agent: far enough for a fault to come between a
// question and its answer.
const soakLink = 100 * time.Millisecond

func random() string { return crand.Text() }

func newKey() (sdk.Credential, error) {
	public, private, err := password.SSHKey()
	return sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: sdk.NewSecret(private)}, err
}

// soaked is what strikes the shipped programs, which have no fault points: whatever of the
// matrix needs none. Clocks cannot be set off there.
func soaked() (all []fault) {
	for _, f := range slices.Concat(kills, absences, links, hosts) {
		if !strings.Contains(f.name, "clock") {
			all = append(all, f)
		}
	}
	return all
}

// TestSoak strikes the shipped programs at random moments of rotations. Which faults,
// when, and for how long, is drawn from a seed that is printed; how far the runs are by
// then is the machine's.
func TestSoak(t *testing.T) {
	beside(t)
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	w := newContested(t)
	w.random = true
	w.link.lies(soakLink)
	s := &soak{matrix: w, rnd: rand.New(rand.NewPCG(seed, 1)), takes: map[string]map[string]time.Duration{}, struck: map[stretch]map[string]int{}}
	for _, k := range w.kinds {
		c := cell{kindOfTarget: k, title: strings.ReplaceAll(k.name, " ", "-")}
		must(t, k.add(c.title))
		began := time.Now()
		w.rotatesBy(t, c, w.second)
		w.rotatesBy(t, c, w.agent)
		s.cells, s.usual = append(s.cells, c), max(s.usual, time.Since(began)/2)
		s.takes[c.title] = map[string]time.Duration{}
	}
	var faults []fault
	for _, f := range soaked() {
		if why := f.needs(w); why != "" {
			t.Logf("left out: %s: %s", f.name, why)
			w.lacks = append(w.lacks, f.name)
			continue
		}
		faults = append(faults, f)
	}
	s.learns(t)
	for end := time.Now().Add(*soakFor); time.Now().Before(end) && !t.Failed(); {
		s.round(t, faults[s.rnd.IntN(len(faults))])
	}
	t.Log(s.counts(faults))
	under := 0
	for _, where := range underWay {
		under += s.runs(where)
	}
	report(t, "soak of the shipped programs: %d faults, %d of them not felt, at %d runs under way, %d not yet begun and %d already finished; %d lost, %d stuck (seed %d)%s",
		s.faults, w.unfelt, under, s.runs(notBegun), s.runs(finished), s.lost, s.stuck, seed, leftOut(w.lacks))
	if why := missed(*soakFor, s.faults, w.unfelt, under); why != "" && !t.Failed() {
		t.Errorf("the soak proved nothing: %s; soak for longer, or with another seed", why)
	}
}

// missed says why nothing was proven by a soak that was long enough to strike something.
func missed(lasted time.Duration, faults, unfelt, under int) string {
	switch {
	case lasted < time.Minute:
	case unfelt >= faults:
		return fmt.Sprintf("none of %d faults was felt", faults)
	case under == 0:
		return fmt.Sprintf("none of %d faults came to a run under way", faults)
	}
	return ""
}

func TestSoakThatMissed(t *testing.T) {
	for _, c := range []struct {
		lasted                time.Duration
		faults, unfelt, under int
		missed                bool
	}{
		{time.Minute, 5, 2, 3, false},
		{time.Minute, 5, 2, 0, true},
		{time.Minute, 5, 5, 3, true},
		{time.Minute, 0, 0, 0, true},
		{40 * time.Second, 1, 1, 0, false}, // of so few nothing is asked
	} {
		if why := missed(c.lasted, c.faults, c.unfelt, c.under); (why != "") != c.missed {
			t.Errorf("%+v: %q", c, why)
		}
	}
}

// soak counts what was struck.
type soak struct {
	*matrix
	rnd         *rand.Rand
	cells       []cell
	usual       time.Duration                       // of a rotation
	takes       map[string]map[string]time.Duration // by account: from one state of a run to the next
	faults      int
	struck      map[stretch]map[string]int // runs, by where they were, and by fault
	lost, stuck int
}

func (s *soak) runs(where stretch) (n int) {
	for _, of := range s.struck[where] {
		n += of
	}
	return n
}

// learns follows a rotation of each account, all at once, that nothing disturbs.
func (s *soak) learns(t *testing.T) {
	t.Helper()
	for _, f := range s.followAll(t) {
		<-f.over
		s.notes(f, time.Now())
	}
}

// notes keeps how long a run took from one state to the next, until it was struck.
func (s *soak) notes(f *follower, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 1; i < len(f.heard) && f.heard[i].at.Before(until); i++ {
		s.takes[f.title][f.heard[i-1].state] = f.heard[i].at.Sub(f.heard[i-1].at)
	}
}

// aim is when a round strikes: some part of the time that a run of an account usually
// takes from one state to the next after it tells of that state; or a while after the start.
type aim struct {
	of    int // of the cells
	state string
	part  float64
	after time.Duration
}

// aims are each of a stretch of a run's way. The last part of the time between two states
// is the vault's, which is asked for the next.
var aims = []struct {
	state    string
	from, to float64
}{
	{"leased", 0, 1},
	{"staged", 0, 1},
	{"staged", 0.8, 1},
	{"committed", 0, 1},
}

// draw draws an aim. Every third is at no stretch of a run's way.
func (s *soak) draw() aim {
	a := aim{after: time.Duration(s.rnd.Int64N(1 + s.rnd.Int64N(int64(s.usual))))} // more often early: the first steps are short
	at := aims[s.rnd.IntN(len(aims))]
	var of []int
	for i, c := range s.cells {
		if at.state != "committed" || !passedThrough(c.kindOfTarget, "before-retire") {
			of = append(of, i)
		}
	}
	part := at.from + s.rnd.Float64()*(at.to-at.from)
	if s.rnd.IntN(3) > 0 && len(of) > 0 {
		return aim{of: of[s.rnd.IntN(len(of))], state: at.state, part: part}
	}
	return a
}

// waits returns at the moment, and says in words which it was.
func (s *soak) waits(a aim, following []*follower) string {
	if a.state == "" {
		time.Sleep(a.after) // a random moment is what is wanted here, and below, and not a signal
		return fmt.Sprintf("%s after the start", a.after.Round(time.Millisecond))
	}
	f := following[a.of]
	f.reaches(a.state, 3*s.usual)
	after := time.Duration(a.part * float64(s.takes[f.title][a.state]))
	time.Sleep(after)
	return fmt.Sprintf("%s after %s was %s", after.Round(time.Millisecond), f.title, a.state)
}

// round rotates every kind of account at once, strikes at some moment, heals, and looks
// at what is left.
func (s *soak) round(t *testing.T, f fault) {
	ctx := t.Context()
	aim := s.draw()
	lasts := f.lasts
	if s.rnd.IntN(3) > 0 { // mostly short: what ends before the lease is as much of a fault
		lasts = min(lasts, time.Duration(s.rnd.Int64N(int64(3*time.Second))))
	}
	had := former{}
	for _, c := range s.cells {
		must(t, had.note(ctx, s.world, c.kindOfTarget, c.title))
	}
	began := time.Now()
	following := s.followAll(t)
	when := s.waits(aim, following)
	var all []string
	for _, r := range following {
		s.notes(r, time.Now())
		all = append(all, fmt.Sprintf("%s told %s", r.title, r.state()))
	}
	heal := f.strike(t, s.matrix)
	stood := time.Now()
	s.faults++
	time.Sleep(lasts)
	name := f.lasting(lasts)
	what := fmt.Sprintf("%s for %s, %s: %s", name, lasts.Round(time.Millisecond), when, strings.Join(all, ", "))
	t.Log(what)
	ask := func(opens func(context.Context, kindOfTarget, string) error) {
		for _, c := range s.cells {
			if err := opens(ctx, c.kindOfTarget, c.title); err != nil {
				s.lost++
				t.Errorf("%v\nafter %s\n%s", err, what, s.tells(ctx, c))
			}
		}
	}
	if !f.mute {
		ask(s.holds)
	}
	heal()
	for _, r := range following {
		// A person whom nobody has answered yet is waited for: his run may begin after all.
		r.reaches("queued", time.Minute)
		r.stop()
	}
	left := s.unsettled(ctx, s.cells, time.Now().Add(patienceToSettle))
	s.count(t, name, began, stood)
	alone := func(ctx context.Context, k kindOfTarget, title string) error {
		present, err := s.opensBy(ctx, k, title)
		if err := had.ended(ctx, k, title, present); err != nil {
			s.stuck++
			t.Errorf("%v\nafter %s\n%s", err, what, s.tells(ctx, cell{kindOfTarget: k, title: title}))
		}
		had.add(k, title, present)
		return err
	}
	ask(alone)
	next := map[string]error{}
	if !t.Failed() {
		began := time.Now()
		next = s.rotateAll(ctx, s.cells, s.agent)
		s.usual = time.Since(began)
		ask(alone)
	}
	for _, c := range s.cells {
		for _, err := range []error{left[c.title], next[c.title]} {
			if err != nil {
				s.stuck++
				t.Errorf("%s: %v\nafter %s\n%s", c.title, err, what, s.tells(ctx, c))
			}
		}
	}
}

// stretch is where on its way a run was, by what is on record of it.
type stretch string

const (
	notBegun stretch = "not yet begun" // no agent had its lease
	finished stretch = "finished"      // the server had its end
)

// underWay are the stretches between, in order.
var underWay = []stretch{"resolve, prepare", "stage", "apply, verify", "commit", "retire to report"}

// count counts the runs of a round by where they were when the fault stood.
func (s *soak) count(t *testing.T, fault string, began, stood time.Time) {
	t.Helper()
	var list struct {
		Runs []struct {
			RunID         string `json:"run_id"`
			Title, Action string
			Created       time.Time
		}
	}
	must(t, s.JSON(t.Context(), &list, nil, "run", "list", "--limit", "50"))
	var at []string
	for _, c := range s.cells {
		run := ""
		for _, r := range list.Runs { // newest first: the round's own is the oldest since it began
			if r.Title == c.title && r.Action == "rotate" && r.Created.After(began) {
				run = r.RunID
			}
		}
		where := notBegun
		if run != "" {
			where = s.where(t, run, stood)
		}
		if s.struck[where] == nil {
			s.struck[where] = map[string]int{}
		}
		s.struck[where][fault]++
		at = append(at, fmt.Sprintf("%s: %s", c.title, where))
	}
	t.Logf("%s stood at %s", fault, strings.Join(at, "; "))
}

// where is a run at some moment. The steps that ask the vault for something lie between
// the agent's signature and the server's event; what an agent that was killed had signed
// is on no record, so that of these steps too few are counted and not too many.
func (s *soak) where(t *testing.T, run string, moment time.Time) stretch {
	t.Helper()
	var view struct {
		Started, Finished time.Time
		Results           []struct {
			Phase string
			Time  time.Time
		}
	}
	must(t, s.JSON(t.Context(), &view, nil, "run", "show", run))
	var list struct {
		Events []struct {
			Time  time.Time
			RunID string `json:"run_id"`
			Name  string
		}
	}
	must(t, s.JSON(t.Context(), &list, nil, "events", "--limit", "200", "--name", "run.staged,run.committed"))
	signed, stored := map[string]bool{}, map[string]bool{} // by then
	for _, r := range view.Results {
		signed[r.Phase] = signed[r.Phase] || !r.Time.After(moment)
	}
	for _, e := range list.Events {
		if e.RunID == run {
			_, phase, _ := strings.Cut(e.Name, ".")
			stored[phase] = stored[phase] || !e.Time.After(moment)
		}
	}
	switch {
	case view.Started.IsZero() || view.Started.After(moment):
		return notBegun
	case !view.Finished.IsZero() && !view.Finished.After(moment):
		return finished
	case stored["committed"]:
		return underWay[4]
	case signed["committed"]:
		return underWay[3]
	case stored["staged"]:
		return underWay[2]
	case signed["staged"]:
		return underWay[1]
	}
	return underWay[0]
}

// counts is the table of what was struck. A fault that ended before the lease is another
// one there than the same past it.
func (s *soak) counts(faults []fault) string {
	var b strings.Builder
	b.WriteString("runs struck, by where they were by the record, and by fault\n")
	for _, where := range slices.Concat([]stretch{notBegun}, underWay, []stretch{finished}) {
		var parts []string
		for _, f := range faults {
			for _, name := range slices.Compact([]string{f.lasting(0), f.name}) {
				if n := s.struck[where][name]; n > 0 {
					parts = append(parts, fmt.Sprintf("%s %d", name, n))
				}
			}
		}
		fmt.Fprintf(&b, "%5d  %-16s %s\n", s.runs(where), where, strings.Join(parts, ", "))
	}
	return b.String()
}
