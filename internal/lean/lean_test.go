package lean

import "testing"

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		name string
		live uint64
		want int
	}{
		{"nothing is known yet", 0, 400},
		{"a small program", 4 << 20, 400},
		{"one in which 24 MiB are a quarter more", 96 << 20, 25},
		{"as much in use as garbage", 24 << 20, 100},
		{"ten thousand agents", 250 << 20, 20},
	} {
		if got := percentFor(c.live); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
