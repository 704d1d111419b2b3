package proof

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

var (
	soakFor  = flag.Duration("soak", 40*time.Second, "how long the soak goes on")
	soakSeed = flag.Uint64("seed", 0, "seed of the soak's random choices (0: by the clock)")
)

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

// TestSoak strikes the shipped programs at random moments of rotations. Which faults, of
// which accounts, after how long, is drawn from a seed that is printed; the moments
// themselves are the machine's.
func TestSoak(t *testing.T) {
	t.Parallel()
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	w := newContested(t)
	w.random = true
	s := &soak{matrix: w, rnd: rand.New(rand.NewPCG(seed, 1)), struck: map[string]map[string]int{}}
	for _, k := range w.kinds {
		c := cell{kindOfTarget: k, title: strings.ReplaceAll(k.name, " ", "-")}
		must(t, k.add(c.title))
		began := time.Now()
		w.rotatesBy(t, c, w.second)
		w.rotatesBy(t, c, w.agent)
		s.cells, s.usual = append(s.cells, c), max(s.usual, time.Since(began)/2)
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
	for end := time.Now().Add(*soakFor); time.Now().Before(end) && !t.Failed(); {
		s.round(t, faults[s.rnd.IntN(len(faults))])
	}
	t.Log(s.counts(faults))
	report(t, "soak of the shipped programs: %d faults at %d runs, %d lost, %d stuck (seed %d)%s", s.faults, s.runs, s.lost, s.stuck, seed, leftOut(w.lacks))
}

// soak counts what was struck: by the step at which a run stood, and by fault.
type soak struct {
	*matrix
	rnd          *rand.Rand
	cells        []cell
	usual        time.Duration // of a rotation
	struck       map[string]map[string]int
	faults, runs int
	lost, stuck  int
}

// round rotates every kind of account at once, strikes at some moment, heals, and looks
// at what is left.
func (s *soak) round(t *testing.T, f fault) {
	ctx := t.Context()
	wait := time.Duration(s.rnd.Int64N(1 + s.rnd.Int64N(int64(s.usual)))) // more often early: the first steps are short
	lasts := f.lasts
	if s.rnd.IntN(3) > 0 { // mostly short: what ends before the lease is as much of a fault
		lasts = min(lasts, time.Duration(s.rnd.Int64N(int64(3*time.Second))))
	}
	had := former{}
	for _, c := range s.cells {
		must(t, had.note(ctx, s.world, c.kindOfTarget, c.title))
	}
	var following []*follower
	for _, c := range s.cells {
		following = append(following, s.follow(t, c))
	}
	time.Sleep(wait) // a random moment is what is wanted here, not a signal
	heal := f.strike(t, s.matrix)
	s.faults++
	var stood []string
	for _, r := range following {
		step := r.step()
		stood = append(stood, fmt.Sprintf("%s at %s", r.title, step))
		if s.struck[step] == nil {
			s.struck[step] = map[string]int{}
		}
		s.struck[step][f.name]++
		s.runs++
	}
	time.Sleep(lasts)
	what := fmt.Sprintf("%s for %s, %s after the start: %s", f.name, lasts.Round(time.Millisecond), wait.Round(time.Millisecond), strings.Join(stood, ", "))
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
		r.stop()
	}
	left := s.unsettled(ctx, s.cells, time.Now().Add(patienceToSettle))
	ask(s.opens)
	ended := func() {
		for _, c := range s.cells {
			if err := had.ended(ctx, s.world, c.kindOfTarget, c.title); err != nil {
				s.stuck++
				t.Errorf("%v\nafter %s\n%s", err, what, s.tells(ctx, c))
			}
		}
	}
	ended()
	next := map[string]error{}
	if !t.Failed() {
		for _, c := range s.cells {
			must(t, had.note(ctx, s.world, c.kindOfTarget, c.title))
		}
		began := time.Now()
		next = s.rotateAll(ctx, s.cells, s.agent)
		s.usual = time.Since(began)
		ask(s.opens)
		ended()
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

// counts is the table of what was struck.
func (s *soak) counts(faults []fault) string {
	var b strings.Builder
	b.WriteString("runs struck, by the step that they told last, and by fault\n")
	steps := []string{}
	for step := range s.struck {
		steps = append(steps, step)
	}
	slices.Sort(steps)
	for _, step := range steps {
		sum := 0
		var parts []string
		for _, f := range faults {
			if n := s.struck[step][f.name]; n > 0 {
				sum += n
				parts = append(parts, fmt.Sprintf("%s %d", f.name, n))
			}
		}
		fmt.Fprintf(&b, "%5d  %-12s %s\n", sum, step, strings.Join(parts, ", "))
	}
	return b.String()
}

// follower is a person who watches a rotation.
type follower struct {
	title string
	stop  func() // ends the watching, and not the run

	mu   sync.Mutex
	last string
}

// step is what the run's progress told last.
func (f *follower) step() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (s *soak) follow(t *testing.T, c cell) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, s.Bin+"/rotunda", "rotate", c.title, "--agent", s.agent.Name)
	cmd.Env = append(os.Environ(), s.CLIEnv()...)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	f := &follower{title: c.title, last: "start"}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if fields := bytes.Fields(lines.Bytes()); len(fields) == 3 && string(fields[1]) == "s" {
				f.mu.Lock()
				f.last = string(fields[2])
				f.mu.Unlock()
			}
		}
	})
	f.stop = sync.OnceFunc(func() {
		cancel()
		reading.Wait()
		_ = cmd.Wait() // it was killed, or says how the run ended, which is looked at otherwise
	})
	t.Cleanup(f.stop)
	return f
}
