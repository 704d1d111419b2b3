//go:build unix

package proof

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SIGTERM in the middle of a run loses nothing: what is under way is finished, or left
// for the next start.
func TestStop(t *testing.T) {
	beside(t)
	w := newBadWorld(t)
	for _, c := range []struct {
		what string
		try  func(*testing.T, *badWorld)
	}{
		{"agent drains", agentDrains},
		{"agent whose target hangs", agentOfHungTarget},
		{"server", serverStops},
	} {
		t.Run(c.what, func(t *testing.T) {
			w.rotates(t)
			c.try(t, w)
			w.rotates(t)
		})
	}
}

// ends waits for a process that was told to stop, and holds it to 0.
func ends(t *testing.T, name string, exit func() int) {
	t.Helper()
	ended := make(chan int, 1)
	go func() { ended <- exit() }()
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("%s ended with %d", name, code)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", name)
	}
}

func (w *badWorld) terminate(t *testing.T, pid int) {
	t.Helper()
	must(t, syscall.Kill(pid, syscall.SIGTERM))
}

// The run that is under way is finished, and no other is begun.
func agentDrains(t *testing.T, w *badWorld) {
	run, release := w.block(t, "before-apply")
	w.terminate(t, w.agent.Pid())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ok, body, _ := w.agent.Health(t.Context())
		if bytes.Contains(body, []byte(`"draining":true`)) {
			if ok {
				t.Error("an agent that drains is called well")
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not drain: %s", body)
		}
	}
	release()
	ends(t, "the agent", w.agent.Exit)
	w.cli(t, nil, "run", "watch", run)
	must(t, w.opens(t.Context(), w.app, "app"))
	must(t, w.agent.Start(t.Context()))
}

// When the time to drain is over, the agent ends all the same. The next start finds out
// what the target has.
func agentOfHungTarget(t *testing.T, w *badWorld) {
	config := filepath.Join(w.agent.Dir, "agent.toml")
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, fmt.Appendf(nil, "%sgrace = \"1s\"\n", text), 0o600))
	w.restartAgent(t)
	run, release := w.block(t, "before-verify")
	must(t, w.pg.Pause())
	release()
	w.terminate(t, w.agent.Pid())
	began := time.Now()
	ends(t, "the agent", w.agent.Exit)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	if log := strings.Join(w.agent.Log(), "\n"); !strings.Contains(log, "run interrupted") {
		t.Errorf("nothing was under way: %s", w.agent.Tail())
	}
	must(t, w.pg.Resume())
	must(t, os.WriteFile(config, text, 0o600))
	must(t, w.agent.Start(t.Context()))
	w.cli(t, nil, "run", "watch", run)
	must(t, w.opens(t.Context(), w.app, "app"))
}

// The server tells its agents when to come back; their runs go on then.
func serverStops(t *testing.T, w *badWorld) {
	run, release := w.block(t, "before-commit")
	w.terminate(t, w.Server.Pid())
	ends(t, "the server", w.Server.Exit)
	release()
	must(t, w.StartServer(t.Context()))
	w.cli(t, nil, "run", "watch", run)
	must(t, w.opens(t.Context(), w.app, "app"))
	if log := strings.Join(w.agent.Log(), "\n"); !strings.Contains(log, `"reason":"restarting"`) {
		t.Errorf("the agent was not told: %s", w.agent.Tail())
	}
	must(t, w.agent.WaitSeen(t.Context()))
}
