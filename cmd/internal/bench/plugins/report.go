package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/internal/version"
)

// inFlight is how many rotations go on at once, in one administrator's session.
var inFlight = []int{1, 8, most}

const most = 32

// report is what is printed, or encoded as JSON.
type report struct {
	Date    time.Time `json:"date"`
	Version string    `json:"version"`
	Go      string    `json:"go"`
	System  string    `json:"system"`
	CPU     string    `json:"cpu"`
	CPUs    int       `json:"cpus"`
	Targets []string  `json:"targets"` // and the client libraries of the floor
	Rounds  int       `json:"rounds"`
	Rows    []*row    `json:"rows"`
	Cold    []cold    `json:"cold"`
	Process process   `json:"process"`

	o options
}

// row is one plugin at one number in flight.
type row struct {
	Plugin   string  `json:"plugin"`
	InFlight int     `json:"in_flight"`
	Floor    figures `json:"floor"`
	Product  figures `json:"product"`
	Ratio    float64 `json:"ratio"` // of throughputs, median of the rounds
	Aim      string  `json:"aim"`

	ratios []float64
}

type figures struct {
	P50MS     float64 `json:"p50_ms"`
	P99MS     float64 `json:"p99_ms"`
	PerSecond float64 `json:"per_second"`
}

// cold is the first rotation of a plugin whose process does not run yet, and the second.
type cold struct {
	Plugin  string  `json:"plugin"`
	FirstMS float64 `json:"first_ms"` // process, session, change, login
	NextMS  float64 `json:"next_ms"`
	KB      float64 `json:"resident_kb"` // of the process after it
}

// process is what any plugin costs, beside go-plugin alone.
type process struct {
	BareStartMS  float64 `json:"bare_start_ms"`
	StartMS      float64 `json:"start_ms"`
	FirstStartMS float64 `json:"first_start_ms"` // with the check and the copy of the program
	BareKB       float64 `json:"bare_resident_kb"`
	KB           float64 `json:"resident_kb"`
	BareCallUS   float64 `json:"bare_call_us"`
	CallUS       float64 `json:"call_us"`

	bareStarts, starts, firstStarts, bareCalls, calls []time.Duration
}

func newReport(o options) *report {
	return &report{
		Date: time.Now().UTC().Truncate(time.Second), Version: version.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: floor.CPUModel(), CPUs: runtime.NumCPU(), Rounds: o.rounds, o: o,
	}
}

func (r *report) cold(ctx context.Context, name string, h *host, t floor.Target, a *floor.Account) error {
	start := time.Now()
	s, err := h.open(ctx, t.Endpoint())
	if err != nil {
		return err
	}
	defer s.Close()
	if err := h.rotate(ctx, s, t.Endpoint(), a); err != nil {
		return err
	}
	first := time.Since(start)
	start = time.Now()
	if err := h.rotate(ctx, s, t.Endpoint(), a); err != nil {
		return err
	}
	r.Cold = append(r.Cold, cold{name, ms(first), ms(time.Since(start)), h.resident()})
	return nil
}

// row measures floor and product in turn.
func (r *report) row(ctx context.Context, name string, n int, h *host, t floor.Target, accounts []*floor.Account) error {
	if err := t.Warm(ctx, n); err != nil {
		return err
	}
	s, err := h.open(ctx, t.Endpoint())
	if err != nil {
		return err
	}
	defer s.Close()
	x := &row{Plugin: name, InFlight: n}
	r.Rows = append(r.Rows, x)
	var all [2][]time.Duration
	var rates [2][]float64
	sides := [2]func(context.Context, int, *floor.Account) error{
		func(ctx context.Context, worker int, a *floor.Account) error { return t.Rotate(ctx, worker, a, "") },
		func(ctx context.Context, _ int, a *floor.Account) error { return h.rotate(ctx, s, t.Endpoint(), a) },
	}
	for round := range r.o.rounds {
		for i := range sides {
			side := (i + round) % 2 // whoever comes first has it neither better nor worse
			took, perSecond, err := floor.Times(ctx, n, r.o.span, accounts, sides[side])
			if err != nil {
				return fmt.Errorf("%s: %w", [2]string{"floor", "product"}[side], err)
			}
			all[side], rates[side] = append(all[side], took...), append(rates[side], perSecond)
		}
		x.ratios = append(x.ratios, rates[1][round]/rates[0][round])
	}
	x.Floor, x.Product, x.Ratio = figuresOf(all[0], rates[0]), figuresOf(all[1], rates[1]), median(x.ratios)
	x.Aim = x.aim(r.Rows[slices.IndexFunc(r.Rows, func(y *row) bool { return y.Plugin == name })].Floor.P50MS)
	return nil
}

// fiveTimesPeers is five times what OpenBao 2 did with LDAP on a machine of this kind,
// which checks nothing after it has changed a password: 105 and 91 a second.
var fiveTimesPeers = map[int]float64{8: 525, most: 455}

// slow is how many ms a rotation takes by the bare library alone where the product is to
// reach nine tenths of it.
const slow = 10

func (x *row) aim(alone float64) string {
	text, reached := "–", true
	peers := fiveTimesPeers[x.InFlight]
	switch {
	case x.Plugin == "ldap" && peers > 0:
		text, reached = fmt.Sprintf("%.0f a second", peers), x.Product.PerSecond >= peers
	case alone >= slow:
		text, reached = "0.90", x.Ratio >= 0.9
	}
	if !reached {
		text += ": missed"
	}
	return text
}

func (p *process) finish() {
	of := func(l []time.Duration) float64 { return quantile(l, 0.5) }
	p.BareStartMS, p.StartMS, p.FirstStartMS = of(p.bareStarts), of(p.starts), of(p.firstStarts)
	p.BareCallUS, p.CallUS = 1000*of(p.bareCalls), 1000*of(p.calls)
}

func (r *report) print(out io.Writer) error {
	t := &table{out: out}
	t.text("%s, %s, %d × %s, %s; %s; %d rounds, floor and product in turn", r.Date.Format(time.DateOnly), r.System, r.CPUs, r.CPU, r.Go, strings.Join(r.Targets, "; "), r.Rounds)
	t.head("plugin", "in flight", "floor p50 / p99 ms", "per second", "product p50 / p99 ms", "per second", "ratio (rounds)", "aim")
	for _, x := range r.Rows {
		t.row("%s | %d | %.1f / %.1f | %.1f | %.1f / %.1f | %.1f | %.2f (%.2f to %.2f) | %s", x.Plugin, x.InFlight,
			x.Floor.P50MS, x.Floor.P99MS, x.Floor.PerSecond, x.Product.P50MS, x.Product.P99MS, x.Product.PerSecond,
			x.Ratio, slices.Min(x.ratios), slices.Max(x.ratios), x.Aim)
	}
	t.head("plugin", "first rotation, with the start of the process, ms", "the next, ms", "process, resident kB")
	for _, c := range r.Cold {
		t.row("%s | %.0f | %.1f | %.0f", c.Plugin, c.FirstMS, c.NextMS, c.KB)
	}
	p := r.Process
	t.head("any plugin", "go-plugin alone", "shut in", "ratio", "aim")
	for _, x := range []struct {
		name           string
		floor, product float64
		aim            float64
	}{
		{"start to ready, ms", p.BareStartMS, p.StartMS, 1.3},
		{"the same, the first since the agent's own start", p.BareStartMS, p.FirstStartMS, 0},
		{"resident memory, kB", p.BareKB, p.KB, 1.3},
		{"a call, µs", p.BareCallUS, p.CallUS, 1.3},
	} {
		text := "–"
		if x.aim > 0 {
			text = fmt.Sprintf("%.2f", x.aim)
		}
		if x.aim > 0 && x.product > x.aim*x.floor {
			text += ": missed"
		}
		t.row("%s | %.0f | %.0f | %.2f | %s", x.name, x.floor, x.product, x.product/x.floor, text)
	}
	return t.err
}

// table is printed as Markdown, for docs/performance.md.
type table struct {
	out io.Writer
	err error
}

func (t *table) text(format string, args ...any) {
	if _, err := fmt.Fprintf(t.out, format+"\n", args...); err != nil {
		t.err = err
	}
}

func (t *table) head(cells ...string) {
	t.text("")
	t.row("%s", strings.Join(cells, " | "))
	t.row("%s", strings.Join(slices.Repeat([]string{"---"}, len(cells)), " | "))
}

func (t *table) row(format string, args ...any) { t.text("| "+format+" |", args...) }

func figuresOf(took []time.Duration, rates []float64) figures {
	return figures{P50MS: quantile(took, 0.5), P99MS: quantile(took, 0.99), PerSecond: median(rates)}
}

func quantile(l []time.Duration, q float64) float64 {
	if len(l) == 0 {
		return math.NaN()
	}
	l = slices.Sorted(slices.Values(l))
	return ms(l[int(q*float64(len(l)-1))])
}

func median(l []float64) float64 {
	if len(l) == 0 {
		return math.NaN()
	}
	l = slices.Sorted(slices.Values(l))
	return (l[(len(l)-1)/2] + l[len(l)/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
