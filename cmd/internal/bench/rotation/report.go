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

	o options
}

// row is one work at one number in flight.
type row struct {
	Work     string  `json:"work"`
	InFlight int     `json:"in_flight"`
	Floor    figures `json:"floor"`
	Product  figures `json:"product"`
	Ratio    float64 `json:"throughput_ratio"` // median of the rounds' ratios

	ServerCommits  float64            `json:"server_commits_per_run"`  // durable writes, shared by the runs under way
	ServerWrites   float64            `json:"server_writes_per_run"`   // changes in them
	JournalCommits float64            `json:"journal_commits_per_run"` // durable writes of the agent
	Requests       float64            `json:"requests_per_run"`        // round trips from agent to server
	ServerKB       float64            `json:"server_kb_per_run"`       // written to the disk
	AgentKB        float64            `json:"agent_kb_per_run"`
	StepsMS        map[string]float64 `json:"steps_ms"` // of one run

	of             work
	ratios         []float64
	floor, product []sample
}

// figures are of one side of a row.
type figures struct {
	Rotations int                `json:"rotations"`
	P50MS     float64            `json:"p50_ms"`
	P99MS     float64            `json:"p99_ms"`
	PerSecond float64            `json:"per_second"`
	CPUMS     map[string]float64 `json:"cpu_ms,omitempty"` // of one rotation, by program
}

func newReport(o options) *report {
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), Version: version.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: floor.CPUModel(), CPUs: runtime.NumCPU(), Rounds: o.rounds, o: o,
	}
	for _, w := range o.works {
		for _, n := range w.inFlight {
			r.Rows = append(r.Rows, &row{Work: w.name, InFlight: n, of: w})
		}
	}
	return r
}

// work measures the rows of one work, in rounds.
func (r *report) work(ctx context.Context, w work, t floor.Target, p *installed) error {
	most := 0
	for _, n := range w.inFlight {
		most = max(most, w.runs(n, r.o.span))
	}
	accounts, err := t.Accounts(ctx, most)
	if err != nil {
		return fmt.Errorf("prepare the floor: %w", err)
	}
	if err := p.add(ctx, w, t, most); err != nil {
		return fmt.Errorf("prepare the product: %w", err)
	}
	for round := range r.o.rounds {
		for _, n := range w.inFlight {
			if err := r.round(ctx, w, t, accounts, p, round, n); err != nil {
				return fmt.Errorf("%d in flight: %w", n, err)
			}
		}
	}
	return nil
}

// round measures a row once. Who goes first changes from round to round.
func (r *report) round(ctx context.Context, w work, t floor.Target, accounts []*floor.Account, p *installed, round, n int) error {
	i := slices.IndexFunc(r.Rows, func(x *row) bool { return x.Work == w.name && x.InFlight == n })
	x := r.Rows[i]
	sides := []func() error{
		func() error {
			s, err := bare(ctx, t, accounts, w.verify, n, r.o.span)
			x.floor = append(x.floor, s)
			return wrap("floor", err)
		},
		func() error {
			s, err := p.run(ctx, w, t, n, w.runs(n, r.o.span))
			x.product = append(x.product, s)
			return wrap("product", err)
		},
	}
	if round%2 == 1 {
		slices.Reverse(sides)
	}
	for _, side := range sides {
		if err := side(); err != nil {
			return err
		}
	}
	x.ratios = append(x.ratios, x.product[round].perSecond/x.floor[round].perSecond)
	return nil
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// finish makes the figures of what was measured.
func (r *report) finish() error {
	for _, w := range r.Rows {
		w.Floor, w.Product, w.Ratio = figuresOf(w.floor), figuresOf(w.product), median(w.ratios)
		each := func(f func(sample) float64) float64 { return median(collect(w.product, f)) }
		w.ServerCommits = each(func(s sample) float64 { return s.commits })
		w.ServerWrites = each(func(s sample) float64 { return s.writes })
		w.JournalCommits = each(func(s sample) float64 { return s.journal })
		w.Requests = each(func(s sample) float64 { return s.requests })
		w.ServerKB = each(func(s sample) float64 { return s.written[0] / 1024 })
		w.AgentKB = each(func(s sample) float64 { return s.written[1] / 1024 })
		w.StepsMS = medians(w.product, func(s sample) map[string]time.Duration { return s.steps })
		if w.Floor.Rotations == 0 || w.Product.Rotations == 0 || math.IsNaN(w.Ratio) {
			return fmt.Errorf("%s, %d in flight: nothing was measured", w.Work, w.InFlight)
		}
	}
	return nil
}

func figuresOf(samples []sample) figures {
	var all []time.Duration
	for _, s := range samples {
		all = append(all, s.took...)
	}
	slices.Sort(all)
	f := figures{Rotations: len(all), PerSecond: median(collect(samples, func(s sample) float64 { return s.perSecond }))}
	if len(all) > 0 {
		f.P50MS, f.P99MS = ms(all[len(all)/2]), ms(all[len(all)*99/100])
	}
	f.CPUMS = medians(samples, func(s sample) map[string]time.Duration { return s.cpu })
	return f
}

func collect(samples []sample, f func(sample) float64) (out []float64) {
	for _, s := range samples {
		out = append(out, f(s))
	}
	return out
}

// medians is the median of each entry, in milliseconds.
func medians(samples []sample, f func(sample) map[string]time.Duration) map[string]float64 {
	all := map[string][]float64{}
	for _, s := range samples {
		for name, d := range f(s) {
			all[name] = append(all[name], ms(d))
		}
	}
	out := map[string]float64{}
	for name, list := range all {
		out[name] = median(list)
	}
	return out
}

func median(l []float64) float64 {
	if len(l) == 0 {
		return math.NaN()
	}
	l = slices.Sorted(slices.Values(l))
	return (l[(len(l)-1)/2] + l[len(l)/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %s, %d × %s, %s; %s; %d rounds, floor and product in turn\n",
		r.Date.Format(time.DateOnly), r.System, r.CPUs, r.CPU, r.Go, strings.Join(r.Targets, "; "), r.Rounds)
	t := &table{out: out}
	t.head("work", "in flight", "floor p50 / p99 ms", "per second", "product p50 / p99 ms", "per second", "ratio (rounds)", "aim")
	for _, w := range r.Rows {
		t.row(w.Work, w.InFlight, fmt.Sprintf("%.0f / %.0f", w.Floor.P50MS, w.Floor.P99MS), "%.1f", w.Floor.PerSecond,
			fmt.Sprintf("%.0f / %.0f", w.Product.P50MS, w.Product.P99MS), "%.1f", w.Product.PerSecond,
			fmt.Sprintf("%.2f (%.2f to %.2f)", w.Ratio, slices.Min(w.ratios), slices.Max(w.ratios)),
			w.of.aimed(w.InFlight, w.Ratio, w.Product.PerSecond))
	}
	t.head("of one run", "in flight", "requests to the server", "changes at the server", "its durable writes", "the agent's durable writes", "kB to the disk: server", "agent")
	for _, w := range r.Rows {
		t.row(w.Work, w.InFlight, "%.1f", w.Requests, "%.1f", w.ServerWrites, "%.2f", w.ServerCommits, "%.2f", w.JournalCommits, "%.0f", w.ServerKB, "%.0f", w.AgentKB)
	}
	r.shares(t, "ms of one run", order, func(w *row) map[string]float64 { return w.StepsMS })
	r.shares(t, "processor ms of one run", programs, func(w *row) map[string]float64 { return w.Product.CPUMS })
	r.shares(t, "processor ms of one floor rotation", programs, func(w *row) map[string]float64 { return w.Floor.CPUMS })
	return t.err
}

// table is printed as Markdown, for docs/performance.md.
type table struct {
	out io.Writer
	err error
}

func (t *table) line(cells []string) {
	if _, err := fmt.Fprintln(t.out, "| "+strings.Join(cells, " | ")+" |"); err != nil {
		t.err = err
	}
}

func (t *table) head(cells ...string) {
	fmt.Fprintln(t.out)
	t.line(cells)
	t.line(slices.Repeat([]string{"---"}, len(cells)))
}

// row prints cells: a text that is a format is one with the number behind it.
func (t *table) row(cells ...any) {
	var texts []string
	for i := 0; i < len(cells); i++ {
		if f, ok := cells[i].(string); ok && strings.HasPrefix(f, "%") {
			i++
			texts = append(texts, fmt.Sprintf(f, cells[i]))
			continue
		}
		texts = append(texts, fmt.Sprint(cells[i]))
	}
	t.line(texts)
}

var (
	order    = []string{"lease", "resolve", "prepare", "stage", "apply", "verify", "commit", "end"}
	programs = []string{"target", "plugin", "agent", "server", "client library"}
)

// shares prints one line for each row, with the columns that any row has.
func (r *report) shares(t *table, title string, columns []string, of func(*row) map[string]float64) {
	known := map[string]bool{}
	for _, w := range r.Rows {
		for name := range of(w) {
			known[name] = true
		}
	}
	columns = slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return !known[c] })
	if len(columns) == 0 {
		return
	}
	t.head(append(append([]string{title, "in flight"}, columns...), "sum")...)
	for _, w := range r.Rows {
		sum := 0.0
		cells := []any{w.Work, w.InFlight}
		for _, c := range columns {
			sum += of(w)[c]
			cells = append(cells, "%.1f", of(w)[c])
		}
		t.row(append(cells, "%.1f", sum)...)
	}
}
