package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
)

// The server is killed with SIGKILL while the agent stands before a step of a run, and
// started again before the agent goes on: nothing of what the server had answered is
// gone, and nothing is lost.
func TestServerKilledAtEveryStep(t *testing.T) {
	w := newWorld(t, "fault")
	k := w.kindsOfTarget(t)[0]
	const title = "postgres"
	if err := k.add(title); err != nil {
		t.Fatal(err)
	}
	if o, err := w.Rotate(t.Context(), title); err != nil {
		t.Fatalf("%v: %+v", err, o)
	}
	kills, lost := 0, 0
	for _, point := range run.FaultPoints() {
		t.Run(point, func(t *testing.T) {
			hit, err := w.killServerAt(t, k, title, point)
			if err != nil {
				lost++
				t.Errorf("%v: %s", err, w.agent.Tail())
			}
			if hit {
				kills++
			} else if !passedThrough(k, point) {
				t.Errorf("%s was not reached", point)
			}
		})
	}
	report(t, "server killed at every step: %d kills, %d lost", kills, lost)
}

func (w *world) killServerAt(t *testing.T, k kindOfTarget, title, point string) (hit bool, err error) {
	ctx := t.Context()
	armed := filepath.Join(w.agent.Fault, point)
	if err := os.WriteFile(armed, []byte("block"), 0o600); err != nil {
		return false, err
	}
	defer os.Remove(armed)
	defer os.Remove(armed + ".hit")
	if o, err := w.Rotate(ctx, title, "--no-wait"); err != nil {
		return false, fmt.Errorf("%w: %+v", err, o)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.settled(ctx, title) }()
	for !hit {
		select {
		case err := <-ended: // it came to its end without passing there
			if err == nil {
				err = w.opens(ctx, k, title)
			}
			return false, err
		case <-time.After(10 * time.Millisecond): // a file gives no signal
			_, err := os.Stat(armed + ".hit")
			hit = err == nil
		}
	}
	w.Server.Kill()
	<-ended // whatever it says: nobody answered
	if err := w.StartServer(ctx); err != nil {
		return true, err
	}
	if err := os.Remove(armed + ".hit"); err != nil {
		return true, err
	}
	if err := w.agent.WaitConnected(ctx); err != nil {
		return true, err
	}
	if err := w.settled(ctx, title); err != nil {
		return true, fmt.Errorf("%s: %w", point, err)
	}
	if err := w.opens(ctx, k, title); err != nil {
		return true, fmt.Errorf("%s: %w", point, err)
	}
	if o, err := w.Rotate(ctx, title); err != nil {
		return true, fmt.Errorf("the rotation after %s: %w: %+v", point, err, o)
	}
	return true, w.opens(ctx, k, title)
}
