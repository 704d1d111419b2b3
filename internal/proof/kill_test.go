package proof

import (
	crand "crypto/rand"
	mrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/password"
	"github.com/rotunda-pam/rotunda/sdk"
)

func rand() string { return crand.Text() }

func newKey() (sdk.Credential, error) {
	public, private, err := password.SSHKey()
	return sdk.Credential{Kind: sdk.SSHKey, Public: public, Secret: sdk.NewSecret(private)}, err
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
