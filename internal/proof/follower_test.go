package proof

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
)

// follower is a person who watches a rotation.
type follower struct {
	title string
	stop  func()        // ends the watching, and not the run
	told  chan struct{} // has room for one
	over  chan struct{} // closed when nobody watches any more

	mu    sync.Mutex
	heard []heard
}

// heard is a state of the run that the follower was told of.
type heard struct {
	state string
	at    time.Time
}

// states are those of a run on its way, as the server tells them at once. Whatever else it
// tells is of the run's end.
var states = []string{"queued", "leased", "staged", "committed"}

// state is what the run was told to be last.
func (f *follower) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heard) == 0 {
		return "nothing"
	}
	return f.heard[len(f.heard)-1].state
}

func (f *follower) hears(state string) {
	f.mu.Lock()
	f.heard = append(f.heard, heard{state, time.Now()})
	f.mu.Unlock()
	select {
	case f.told <- struct{}{}:
	default:
	}
}

// has says whether the run was told to be in a state, or in one after it: not all that is
// told comes through.
func (f *follower) has(state string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.heard, func(h heard) bool {
		i := slices.Index(states, h.state)
		return i < 0 || i >= slices.Index(states, state)
	})
}

// reaches returns once the run is in a state. One that stands still is not waited for.
func (f *follower) reaches(state string, patience time.Duration) {
	end := time.After(patience)
	for !f.has(state) {
		select {
		case <-f.told:
		case <-f.over:
			return
		case <-end:
			return
		}
	}
}

// followAll starts a rotation of every account of the soak, all at once.
func (s *soak) followAll(t *testing.T) (all []*follower) {
	t.Helper()
	for _, c := range s.cells {
		all = append(all, s.follow(t, c))
	}
	return all
}

func (s *soak) follow(t *testing.T, c cell) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, s.Bin+"/rotunda", "rotate", c.title, "--agent", s.agent.Name)
	cmd.Env = append(os.Environ(), s.CLIEnv()...)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	f := &follower{title: c.title, told: make(chan struct{}, 1), over: make(chan struct{})}
	go func() {
		defer close(f.over)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fields := bytes.Fields(lines.Bytes())
			if len(fields) == 3 && string(fields[1]) == "s" && !slices.Contains(steps, string(fields[2])) {
				f.hears(string(fields[2]))
			}
		}
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-f.over
		_ = cmd.Wait() // it was killed, or says how the run ended, which is looked at otherwise
	})
	t.Cleanup(f.stop)
	return f
}

// steps are those of which agents tell on the way, now and then.
var steps = func() (all []string) {
	for _, point := range run.FaultPoints() {
		if step, ok := strings.CutPrefix(point, "before-"); ok {
			all = append(all, step)
		}
	}
	return all
}()
