package conformance

import (
	"slices"
	"testing"
)

// Up to so many writes all are cut, and beyond that the first and the last.
func TestPicked(t *testing.T) {
	for writes, want := range map[int][]int{
		0:       nil,
		3:       {1, 2, 3},
		maxCuts: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		40:      {1, 2, 3, 4, 5, 6, 7, 8, 33, 34, 35, 36, 37, 38, 39, 40},
	} {
		if got := picked(writes); !slices.Equal(got, want) {
			t.Errorf("of %d writes %v are cut, want %v", writes, got, want)
		}
	}
}
