package script

import (
	"fmt"
	"strings"
)

// Error is what is wrong with a script's text.
type Error struct {
	Line int    // of the file, from 1
	Key  string // of the manifest; empty where it is not one key's
	Text string // what is wrong
	Hint string // what to do
}

func (e *Error) Error() string {
	s := fmt.Sprintf("line %d: ", e.Line)
	if e.Key != "" {
		s += e.Key + " "
	}
	s += e.Text
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// near is the word of a list that somebody may have meant, empty where there is none.
func near(word string, list []string) string {
	best, far := "", 3
	for _, w := range list {
		if d := distance(strings.ToLower(word), w); d < far {
			best, far = w, d
		}
	}
	return best
}

// distance is how many letters of two words differ, at most 3: what is further apart was
// not meant.
func distance(a, b string) int {
	if len(a) > 64 || len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		former := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := former
			if a[i] != b[j] {
				cost++
			}
			former = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], 3)
}

// or is the end of a hint that lists what there is.
func or(word string, list []string) string {
	if w := near(word, list); w != "" {
		return fmt.Sprintf("did you mean %q?", w)
	}
	return "there are " + strings.Join(list, ", ")
}
