package proof

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/agent/run"
	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

func rand() string { return crand.Text() }

func newKey() (sdk.Credential, error) {
	public, private, err := password.SSHKey()
	return sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: sdk.NewSecret(private)}, err
}

// The agent is killed with SIGKILL before and after every step of a run, for every
// kind of target. After its restart the vault's secret opens the target, no
// candidate is left, no run is stuck, and the next rotation is clean. The points come
// from the table of steps: a new step is killed at by itself.
func TestKilledAtEveryStep(t *testing.T) {
	w := newWorld(t, "fault")
	cells, lost := 0, 0
	for _, k := range w.kindsOfTarget(t) {
		title := strings.ReplaceAll(k.name, " ", "-")
		if err := k.add(title); err != nil {
			t.Fatal(err)
		}
		// The honest case first: what is killed here works.
		if o, err := w.Rotate(t.Context(), title); err != nil {
			t.Fatalf("%s: %v: %+v", k.name, err, o)
		}
		for _, point := range run.FaultPoints() {
			t.Run(k.name+"/"+point, func(t *testing.T) {
				hit, err := w.killAt(t, k, title, point)
				if err != nil {
					lost++
					t.Error(err)
				}
				if hit {
					cells++
				}
			})
		}
	}
	report(t, "killed at every step: %d kills, %d lost", cells, lost)
}

// killAt arms a point, rotates, and looks at what is left. Some steps are passed
// through by some kinds (a run that is finished by its commit has no report): then
// the point is not hit and the rotation must have ended well.
func (w *world) killAt(t *testing.T, k kindOfTarget, title, point string) (hit bool, err error) {
	ctx := t.Context()
	armed := filepath.Join(w.agent.Fault, point)
	if err := os.WriteFile(armed, []byte("kill"), 0o600); err != nil {
		return false, err
	}
	defer os.Remove(armed)
	defer os.Remove(armed + ".hit")
	if o, err := w.Rotate(ctx, title, "--no-wait"); err != nil {
		return false, fmt.Errorf("%w: %+v", err, o)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.settled(ctx, title) }()
	select {
	case <-w.agent.Done():
		hit = true
		if _, err := os.Stat(armed + ".hit"); errors.Is(err, fs.ErrNotExist) {
			return true, fmt.Errorf("the agent ended by itself at %s: %s", point, w.agent.Tail())
		}
		if err := w.agent.Start(ctx); err != nil {
			return true, err
		}
		err = <-ended
	case err = <-ended:
	}
	if err != nil {
		return hit, fmt.Errorf("%s: %w: %s", point, err, w.agent.Tail())
	}
	if err := w.opens(ctx, k, title); err != nil {
		return hit, fmt.Errorf("%s: %w", point, err)
	}
	if !hit && !passedThrough(k, point) {
		return false, fmt.Errorf("%s was not reached", point)
	}
	if o, err := w.Rotate(ctx, title); err != nil {
		return hit, fmt.Errorf("the rotation after %s: %w: %+v", point, err, o)
	}
	return hit, w.opens(ctx, k, title)
}

// passedThrough names the steps that a kind of target does not need: a password's
// run is finished by its commit.
func passedThrough(k kindOfTarget, point string) bool {
	step := point[strings.Index(point, "-")+1:]
	switch step {
	case "dependents", "drain", "retire", "scripts", "report":
		return k.kind == sdk.Password
	}
	return false
}

// The shipped program, which has no fault points, is killed at random moments of a
// rotation.
func TestShippedProgramKilledAtRandom(t *testing.T) {
	w := newWorld(t)
	kinds := w.kindsOfTarget(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := mrand.New(mrand.NewPCG(seed, 1))
	kills := 0
	for _, k := range kinds {
		title := strings.ReplaceAll(k.name, " ", "-")
		if err := k.add(title); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if o, err := w.Rotate(t.Context(), title); err != nil {
			t.Fatalf("%s: %v: %+v", k.name, err, o)
		}
		usual := time.Since(began)
		for range 5 {
			if o, err := w.Rotate(t.Context(), title, "--no-wait"); err != nil {
				t.Fatalf("%s: %v: %+v", k.name, err, o)
			}
			// A random moment is what is wanted here, not a signal.
			time.Sleep(time.Duration(rnd.Int64N(int64(usual))))
			w.agent.Kill()
			kills++
			if err := w.agent.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.settled(t.Context(), title); err != nil {
				t.Fatalf("%s: %v: %s", k.name, err, w.agent.Tail())
			}
			if err := w.opens(t.Context(), k, title); err != nil {
				t.Fatal(err)
			}
		}
	}
	report(t, "shipped program killed at random: %d kills, 0 lost", kills)
}
