package proof

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk"
)

// What goes wrong is told in faults_test.go; here is what is done with it. A cell is one
// fault at one point of a run of one kind of account. The run is brought to the point and
// held there; the fault is struck; the run is let go, into the fault. Before the fault is
// healed, the vault must have what opens the target, be it staged beside the record. After
// it the run must settle by itself: no candidate outstanding, no run unfinished, the
// vault's secret opens the target, the next rotation is clean, and its secret opens the
// target, too; and no other key does.
//
// Kills of agent and server are done once for each point, to runs of every kind that stand
// there. Whatever takes its time is struck once for all points: at 26 runs, each of which
// stands at its own.

// patienceToSettle is how long what a fault left may take to settle: a lease that runs
// out, and the minutes after which a run that could not be decided is taken up again.
const patienceToSettle = 4 * time.Minute

// TestFaultMatrix: nothing is lost and nothing is stuck, whatever fails at whatever step.
// The points come from the table of steps: a new step is struck at by itself.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	var sum tally
	// Most of the time is spent waiting, so there are several installations at a time.
	var series sync.WaitGroup
	for name, faults := range map[string][]fault{
		"kills": kills, "absences": absences, "links": links, "hosts": hosts,
	} {
		series.Go(func() {
			t.Run(name, func(t *testing.T) {
				w := newMatrix(t)
				sum.without(w.lacks...)
				for _, f := range faults {
					t.Run(f.name, func(t *testing.T) { w.suffers(t, f, &sum) })
				}
			})
		})
	}
	series.Wait()
	switch all := cellsOf(allFaults()...); {
	case sum.cells == 0 && sum.leftOut() == "":
		t.Error("no fault was struck: -run names none, and so nothing is proven")
	case sum.cells != all && sum.leftOut() == "" && !parts():
		t.Errorf("%d cells were struck, the tables of faults, steps and accounts have %d", sum.cells, all)
	}
	report(t, "fault matrix: %d cells, %d lost, %d stuck%s", sum.cells, sum.lost, sum.stuck, sum.leftOut())
}

// cellsOf is how many cells faults have, by the tables alone.
func cellsOf(faults ...fault) (n int) {
	w := &matrix{kinds: []kindOfTarget{{name: "postgres", kind: sdk.Password}, {name: "ssh password", kind: sdk.Password}, {name: "ssh key", kind: sdk.SSHKey}}}
	for _, f := range faults {
		for _, cells := range w.incidents(f) {
			n += len(cells)
		}
	}
	return n
}

// parts says that somebody asks for parts of a test alone.
func parts() bool {
	return strings.Contains(flag.Lookup("test.run").Value.String()+flag.Lookup("test.skip").Value.String(), "/")
}

// tally counts cells by what became of them.
type tally struct {
	mu                 sync.Mutex
	cells, lost, stuck int
	missing            []string // accounts and faults that this machine cannot have
}

func (s *tally) without(what ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = append(s.missing, what...)
}

func (s *tally) leftOut() string { return leftOut(s.missing) }

// leftOut is the end of a report's line, once for each thing.
func leftOut(missing []string) string {
	if len(missing) == 0 {
		return ""
	}
	slices.Sort(missing)
	return "; left out here: " + strings.Join(slices.Compact(missing), ", ")
}

// cell is an account of the matrix, and the point at which its run is struck.
type cell struct {
	kindOfTarget
	title string
	point string
}

func (c cell) String() string { return c.name + "/" + c.point }

// matrix is an installation with an account for each step and kind, an agent behind a
// link that can fail, on disks that can be full, and another agent of its pool.
type matrix struct {
	*world
	second         *installation.Agent
	next           *installation.Agent // does the rotation after a fault
	link           *gate
	vault, journal *disk // nil: this machine cannot have them
	kinds          []kindOfTarget
	targets        []*gate
	worst          time.Duration // that a run took to settle
	random         bool          // faults come at random moments: some are not felt
	unfelt         int           // of those
}

// felt fails the test where nothing of a fault was felt: then nothing was proven.
func (w *matrix) felt(t *testing.T, felt bool, what string) {
	t.Helper()
	switch {
	case felt:
	case w.random:
		w.unfelt++
	default:
		t.Errorf("the fault was not felt: %s", what)
	}
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	w := newContested(t, "fault")
	for _, k := range w.kinds {
		w.honest(t, k)
	}
	return w
}

// newContested is a matrix without accounts.
func newContested(t *testing.T, tags ...string) *matrix {
	t.Helper()
	dir, err := os.MkdirTemp("", "rotunda-proof-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &matrix{vault: newDisk(t, filepath.Join(dir, "server")), journal: newDisk(t, filepath.Join(dir, "gw1", "data"))}
	w.world = start(t, installation.Options{Bin: bin(t, tags...), Dir: dir})
	w.link = newGate(t, w.Addr)
	w.agent.Stop()
	redirect(t, w.agent, w.link.l.Addr().String())
	must(t, w.agent.Start(t.Context()))
	w.second, err = w.AddAgent(t.Context(), "gw2", installation.Pool)
	must(t, err)
	w.kinds, w.targets = w.kindsBehind(t, newGate)
	return w
}

// titleOf is the account of a kind whose run is struck before or after a step.
func titleOf(k kindOfTarget, point string) string {
	_, step, _ := strings.Cut(point, "-")
	return strings.ReplaceAll(k.name, " ", "-") + "-" + step
}

// honest makes a kind's accounts, and shows that what is struck later works: each is
// rotated, and no point is passed that the matrix takes for one of no account.
func (w *matrix) honest(t *testing.T, k kindOfTarget) {
	t.Helper()
	var cells []cell
	for _, point := range run.FaultPoints() {
		if passedThrough(k, point) {
			must(t, os.WriteFile(filepath.Join(w.agent.Fault, point), []byte("block"), 0o600))
		} else if c := (cell{k, titleOf(k, point), point}); strings.HasPrefix(point, "before-") {
			must(t, k.add(c.title))
			cells = append(cells, c)
		}
	}
	for title, err := range w.rotateAll(t.Context(), cells, w.agent) {
		if err != nil {
			t.Fatalf("the honest case: %s: %v: %s", title, err, w.agent.Tail())
		}
	}
	w.release(t)
}

// passedThrough names the points that runs of a kind do not come to: a password's run
// is finished by its commit.
func passedThrough(k kindOfTarget, point string) bool {
	_, step, _ := strings.Cut(point, "-")
	switch step {
	case "dependents", "drain", "retire", "scripts", "report":
		return k.kind == sdk.Password
	}
	return false
}

// suffers fills a row of the matrix.
func (w *matrix) suffers(t *testing.T, f fault, sum *tally) {
	if why := f.needs(w); why != "" {
		sum.without(f.name)
		t.Skipf("left out: %s", why)
	}
	began := time.Now()
	w.worst = 0
	count := 0
	for _, cells := range w.incidents(f) {
		w.strikes(t, f, cells, sum)
		count += len(cells)
	}
	t.Logf("%s: %d cells in %s; settled within %s", f.name, count, time.Since(began).Round(time.Second), w.worst.Round(100*time.Millisecond))
}

// incidents are the cells of a fault, by the times that it is struck. An account is struck
// before and after its step: what is done once for each point comes to it again when its
// runs have rested.
func (w *matrix) incidents(f fault) [][]cell {
	var before, after []cell
	var eachBefore, eachAfter [][]cell
	for _, point := range run.FaultPoints() {
		var here []cell
		for _, k := range w.kinds {
			if !passedThrough(k, point) {
				here = append(here, cell{k, titleOf(k, point), point})
			}
		}
		if strings.HasPrefix(point, "before-") {
			before, eachBefore = append(before, here...), append(eachBefore, here)
		} else {
			after, eachAfter = append(after, here...), append(eachAfter, here)
		}
	}
	switch f.at {
	case eachPoint:
		return slices.Concat(eachBefore, eachAfter)
	case allPoints:
		return [][]cell{before, after}
	}
	return [][]cell{before}
}

// strikes is one incident: the fault is struck once, at all of these cells.
func (w *matrix) strikes(t *testing.T, f fault, cells []cell, sum *tally) {
	t.Helper()
	ctx := t.Context()
	had := former{}
	for _, c := range cells {
		must(t, had.note(ctx, w.world, c.kindOfTarget, c.title))
	}
	for _, c := range cells {
		w.stands(t, c)
	}
	w.next = w.agent
	last := w.lastTakenOver(t)
	heal := f.strike(t, w)
	w.release(t)
	time.Sleep(f.lasts)
	bad := map[string][]error{}
	lost := map[string]bool{}
	ask := func(opens func(context.Context, kindOfTarget, string) error) {
		for _, c := range cells {
			if err := opens(ctx, c.kindOfTarget, c.title); err != nil {
				bad[c.title] = append(bad[c.title], err)
				lost[c.title] = true
			}
		}
	}
	if !f.mute {
		ask(w.holds) // now, and not only in the end
	}
	heal()
	healed := time.Now()
	unsettled := w.unsettled(ctx, cells, healed.Add(patienceToSettle))
	w.worst = max(w.worst, time.Since(healed))
	if f.moves {
		w.moved(t, cells, last)
	}
	// What the vault has now opens the target, and nothing else does.
	alone := func(ctx context.Context, k kindOfTarget, title string) error {
		present, err := w.opensBy(ctx, k, title)
		if err := had.ended(ctx, k, title, present); err != nil {
			bad[title] = append(bad[title], err)
		}
		had.add(k, title, present)
		return err
	}
	ask(alone)
	for title, err := range w.rotateAll(ctx, cells, w.next) {
		if err != nil {
			bad[title] = append(bad[title], fmt.Errorf("the next rotation: %w", err))
		}
	}
	ask(alone)
	for _, c := range cells {
		errs := append(bad[c.title], unsettled[c.title])
		t.Run(c.String(), func(t *testing.T) {
			if err := errors.Join(errs...); err != nil {
				t.Errorf("%v\n%s", err, w.tells(ctx, c))
			}
		})
		sum.mu.Lock()
		sum.cells++
		switch {
		case lost[c.title]:
			sum.lost++
		case errors.Join(errs...) != nil:
			sum.stuck++
		}
		sum.mu.Unlock()
	}
}

// lastTakenOver is the number of the last event of a lease that another agent took over.
func (w *matrix) lastTakenOver(t *testing.T) int64 {
	t.Helper()
	events, _, err := w.reader.Events(t.Context(), client.EventFilter{Names: []string{"lease.taken_over"}, NewestFirst: true, Limit: 1})
	must(t, err)
	if len(events) == 0 {
		return 0
	}
	return events[0].Seq
}

// moved asserts that another agent has taken over runs that had staged, and none that had
// not: the command of a person's run is sealed to its agent.
func (w *matrix) moved(t *testing.T, cells []cell, after int64) {
	t.Helper()
	events, _, err := w.reader.Events(t.Context(), client.EventFilter{Names: []string{"lease.taken_over"}, After: after, Limit: 1000})
	must(t, err)
	taken := map[client.Ref]bool{}
	for _, e := range events {
		taken[e.Record] = true
	}
	points := run.FaultPoints()
	staged := slices.Index(points, "before-apply")
	moved := 0
	for _, c := range cells {
		account, err := w.record(t.Context(), c.title)
		must(t, err)
		switch before := slices.Index(points, c.point) < staged; {
		case !taken[account.Ref]:
		case before:
			t.Errorf("%s: another agent took over a run that had not staged", c)
		default:
			moved++
		}
	}
	if moved == 0 {
		t.Error("no other agent has taken over any run")
	}
}

func (w *matrix) tells(ctx context.Context, c cell) string {
	return w.story(ctx, c.kindOfTarget, c.title, w.agent, w.second)
}

// stands starts a rotation and waits until it stands at the cell's point.
func (w *matrix) stands(t *testing.T, c cell) {
	t.Helper()
	armed := filepath.Join(w.agent.Fault, c.point)
	must(t, os.WriteFile(armed, []byte("block"), 0o600))
	account, err := w.record(t.Context(), c.title)
	must(t, err)
	must(t, w.Look(t.Context(), func(person *client.Client) error { // by the log of this moment
		entry, err := person.Find(t.Context(), w.agent.Name, client.KindAgent)
		if err != nil {
			return err
		}
		agent, err := seal.IDFrom(entry.EntryId)
		if err != nil {
			return err
		}
		begun, err := person.Rotate(t.Context(), []client.Ref{account.Ref}, client.RunOptions{Agent: agent, NoWait: true})
		if err == nil {
			err = begun[0].Err
		}
		return err
	}))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) { // a file gives no signal
		if _, err := os.Stat(armed); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s was not reached: %s", c, w.agent.Tail())
		}
	}
}

// release lets every run go on that stands at a point, and disarms the others.
func (w *matrix) release(t *testing.T) {
	t.Helper()
	for _, point := range run.FaultPoints() {
		for _, name := range []string{point, point + ".hit"} {
			if err := os.Remove(filepath.Join(w.agent.Fault, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// unsettled waits until no run of these cells is unfinished and no candidate is
// outstanding, and tells of those that are when the time is over.
func (w *matrix) unsettled(ctx context.Context, cells []cell, until time.Time) map[string]error {
	for pause := 50 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		left := map[string]error{}
		runs, _, err := w.reader.Runs(ctx, client.RunFilter{State: "unfinished", Limit: 1000})
		for _, r := range runs {
			left[w.called(r.Account)] = fmt.Errorf("STUCK: a run is unfinished: %+v", r)
		}
		var held map[string]bool // once the runs have ended
		if err == nil && len(left) == 0 {
			held, err = w.outstanding(ctx)
		}
		for _, c := range cells {
			outstanding, there := held[c.title]
			switch {
			case err != nil:
				left[c.title] = fmt.Errorf("STUCK: nobody can say: %w", err)
			case held != nil && !there:
				left[c.title] = errors.New("LOST: the record is gone")
			case outstanding:
				left[c.title] = errors.New("STUCK: a candidate is outstanding")
			}
		}
		if len(left) == 0 || time.Now().After(until) || ctx.Err() != nil {
			return left
		}
		time.Sleep(pause)
	}
}

// there waits until an agent is connected: after a fault its channel may be about to come back.
func (w *matrix) there(ctx context.Context, a *installation.Agent, until time.Time) error {
	for {
		list, err := w.reader.Agents(ctx, seal.ID{})
		if slices.ContainsFunc(list, func(l client.Agent) bool { return l.Name == a.Name && l.Connected }) {
			return nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("STUCK: the agent %s is not connected", a.Name), err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// rotateAll rotates the accounts of cells by one command, once their agent is there, and tells
// how each went.
func (w *matrix) rotateAll(ctx context.Context, cells []cell, by *installation.Agent) map[string]error {
	args := []string{"rotate", "--json", "--yes", "--agent", by.Name}
	ended := map[string]error{}
	for _, c := range cells {
		args = append(args, c.title)
		ended[c.title] = errors.New("no outcome is told")
	}
	if err := w.there(ctx, by, time.Now().Add(patienceToSettle)); err != nil {
		for title := range ended {
			ended[title] = err
		}
		return ended
	}
	out, err := w.CLI(ctx, nil, args...)
	var all struct {
		Outcomes []struct {
			Title string
			installation.Outcome
		} `json:"outcomes"`
	}
	if bad := json.Unmarshal(out, &all); bad != nil {
		for title := range ended {
			ended[title] = errors.Join(err, bad)
		}
		return ended
	}
	for _, o := range all.Outcomes {
		ended[o.Title] = nil
		if o.Credential != "done" {
			ended[o.Title] = fmt.Errorf("%+v", o.Outcome)
		}
	}
	return ended
}
