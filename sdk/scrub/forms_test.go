package scrub

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What is looked for grows with the lines of a secret and with nothing else, and nothing
// is looked for twice.
func TestForms(t *testing.T) {
	const most = 32
	for name, c := range map[string]struct {
		secret string
		most   int
	}{
		"letters":          {"correcthorse", 13},
		"of all kinds":     {`Pass w/rd+&<>"'%` + "\t\xff\u00e9", most},
		"long":             {strings.Repeat(`Pass w/rd+&<>"'%`, 100), most},
		"of several lines": {strings.Repeat(`Pass w/rd+&<>"'%`+"\n", 10), 2 * most}, // itself, and the one line
	} {
		all := forms(c.secret)
		if len(all) > c.most {
			t.Errorf("%s: %d forms, want %d at most", name, len(all), c.most)
		}
		if slices.Sort(all); len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Errorf("%s: %q", name, all)
		}
	}
}

func BenchmarkText(b *testing.B) {
	text := strings.Repeat("an innocent line of a log, as long as they are, with an id: 4f1c9a7e & more\n", 10)
	key := ""
	for n := range 40 {
		key += fmt.Sprintf("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMw+/%02d\n", n)
	}
	for name, secret := range map[string]string{"password": `k&9"Vq<z!T'r/3+W x`, "key": key} {
		b.Run(name, func(b *testing.B) {
			s := new(Set)
			s.Add([]byte(secret))
			for b.Loop() {
				s.Text(text)
			}
		})
	}
}
