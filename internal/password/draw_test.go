package password

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// valid are all strings of a length that have enough of each class.
func valid(classes []class, length int) (all []string) {
	var letters []rune
	for _, c := range classes {
		letters = append(letters, c.letters...)
	}
	texts := []string{""}
	for range length {
		var longer []string
		for _, t := range texts {
			for _, l := range letters {
				longer = append(longer, t+string(l))
			}
		}
		texts = longer
	}
	for _, t := range texts {
		enough := !slices.ContainsFunc(classes, func(c class) bool {
			n := 0
			for _, r := range t {
				if slices.Contains(c.letters, r) {
					n++
				}
			}
			return n < c.min
		})
		if enough {
			all = append(all, t)
		}
	}
	return all
}

// Of all passwords that a policy allows each comes equally often, and none other comes. The
// sum of squares has a mean of one less than their number, and a standard deviation of the
// root of twice that: eight of these are never seen by chance.
func TestEachPasswordIsAsLikely(t *testing.T) {
	for name, c := range map[string]struct {
		classes []class
		length  int
		many    int // of them there are so many
	}{
		"two classes":                {[]class{{letters: []rune("ab"), min: 1}, {letters: []rune("1"), min: 1}}, 4, 64},
		"the larger one last":        {[]class{{letters: []rune("1"), min: 1}, {letters: []rune("ab"), min: 1}}, 4, 64},
		"one that need not be there": {[]class{{letters: []rune("ab"), min: 2}, {letters: []rune("1"), min: 1}, {letters: []rune("!?")}}, 4, 152},
		"all are asked for":          {[]class{{letters: []rune("ab"), min: 2}, {letters: []rune("123"), min: 1}, {letters: []rune("!"), min: 1}}, 4, 144},
		"none is asked for":          {[]class{{letters: []rune("ab")}, {letters: []rune("1")}}, 4, 81},
		"one class":                  {[]class{{letters: []rune("abc"), min: 2}}, 4, 81},
		"four classes":               {[]class{{letters: []rune("a"), min: 1}, {letters: []rune("A"), min: 1}, {letters: []rune("12"), min: 1}, {letters: []rune("!"), min: 0}}, 4, 144},
	} {
		t.Run(name, func(t *testing.T) {
			all := valid(c.classes, c.length)
			if n := ways(c.classes, c.length)[0][c.length]; len(all) != c.many || n.Int64() != int64(c.many) {
				t.Fatalf("there are %d, and %s are counted, want %d", len(all), n, c.many)
			}
			const each = 60
			times := map[string]int{}
			for range each * len(all) {
				times[string(draw(c.classes, c.length))]++
			}
			squares := 0.0
			for _, one := range all {
				off := float64(times[one] - each)
				squares += off * off / each
				delete(times, one)
			}
			if len(times) != 0 {
				t.Errorf("%d that are not allowed: %v", len(times), times)
			}
			free := float64(len(all) - 1)
			if bound := free + 8*math.Sqrt(2*free); squares > bound {
				t.Errorf("the sum of squares is %.0f, want at most %.0f", squares, bound)
			}
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	for _, length := range []int{32, 128, 256} {
		b.Run(fmt.Sprint(length), func(b *testing.B) {
			classes := []class{{letters: []rune(lower), min: 1}, {letters: []rune(upper), min: 1}, {letters: []rune(digit), min: 1}, {letters: []rune(DefaultSymbols), min: 1}}
			for b.Loop() {
				draw(classes, length)
			}
		})
	}
}
