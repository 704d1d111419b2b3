package work

import (
	"slices"
	"testing"
)

// TestMoves holds the table of a run's states to its rules.
func TestMoves(t *testing.T) {
	states := []string{Queued, Leased, Staged, Committed, Finished, Failed, Alert, Dropped}
	reached := map[string]bool{Queued: true}
	for s, from := range moves {
		for before, after := range from {
			if !slices.Contains(states, before) || !slices.Contains(states, after) {
				t.Errorf("%s: %s to %s is between states that do not exist", s, before, after)
			}
			if closed[before] {
				t.Errorf("%s leaves %s, which is closed", s, before)
			}
			if before == Alert && s != lease {
				t.Errorf("%s leaves %s: only a lease may", s, Alert)
			}
			if before == Staged && (after == Finished || after == Failed || after == Dropped || after == Queued) {
				t.Errorf("%s: a run whose candidate is outstanding becomes %s", s, after)
			}
			if before == Committed && after != Committed && after != Finished && after != Alert {
				t.Errorf("%s: a committed run becomes %s", s, after)
			}
			reached[after] = true
		}
	}
	for _, s := range states {
		if !reached[s] {
			t.Errorf("no run becomes %s", s)
		}
		if closed[s] && !ended[s] {
			t.Errorf("%s is closed and has not ended", s)
		}
	}
}
