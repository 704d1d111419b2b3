package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rotunda-pam/rotunda/internal/version"
)

// report is what is printed, or encoded as JSON.
type report struct {
	Date     time.Time `json:"date"`
	Version  string    `json:"version"`
	Go       string    `json:"go"`
	System   string    `json:"system"`
	CPU      string    `json:"cpu"`
	CPUs     int       `json:"cpus"`
	Postgres string    `json:"postgresql"`
	Library  string    `json:"client_library"`
	Rounds   int       `json:"rounds"`
	Rows     []*row    `json:"rows"`

	o options
}

// row is one way to verify at one number in flight.
type row struct {
	Verify   string  `json:"verify"`
	InFlight int     `json:"in_flight"`
	Floor    figures `json:"floor"`
	Product  figures `json:"product"`
	Ratio    float64 `json:"throughput_ratio"` // median of the rounds' ratios

	ServerCommits  float64            `json:"server_commits_per_run"`  // durable writes, shared by the runs under way
	ServerWrites   float64            `json:"server_writes_per_run"`   // changes in them
	JournalCommits float64            `json:"journal_commits_per_run"` // durable writes of the agent
	StepsMS        map[string]float64 `json:"steps_ms"`                // of one run

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

func newReport(ctx context.Context, o options, f *floor) (*report, error) {
	pg, err := f.version(ctx)
	if err != nil {
		return nil, err
	}
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), Version: version.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: cpuModel(), CPUs: runtime.NumCPU(), Postgres: pg, Library: "pgx", Rounds: o.rounds, o: o,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if strings.HasPrefix(d.Path, "github.com/jackc/pgx") {
				r.Library = "pgx " + d.Version
			}
		}
	}
	for _, verify := range o.verify {
		for _, n := range o.inFlight {
			r.Rows = append(r.Rows, &row{Verify: verify, InFlight: n})
		}
	}
	return r, nil
}

// cpuModel is the processor's name, where the system tells.
func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		if name, ok := strings.CutPrefix(s.Text(), "model name"); ok {
			return strings.TrimLeft(name, "\t :")
		}
	}
	return "unknown"
}

// round measures a row once. Who goes first changes from round to round.
func (r *report) round(ctx context.Context, f *floor, p *product, round int, verify string, n int) error {
	i := slices.IndexFunc(r.Rows, func(w *row) bool { return w.Verify == verify && w.InFlight == n })
	w := r.Rows[i]
	sides := []func() error{
		func() error {
			s, err := f.run(ctx, verify, n, r.o.span)
			w.floor = append(w.floor, s)
			return wrap("floor", err)
		},
		func() error {
			s, err := p.run(ctx, verify, n, r.o.runs(n))
			w.product = append(w.product, s)
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
	w.ratios = append(w.ratios, w.product[round].perSecond/w.floor[round].perSecond)
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
		w.StepsMS = medians(w.product, func(s sample) map[string]time.Duration { return s.steps })
		if w.Floor.Rotations == 0 || w.Product.Rotations == 0 || math.IsNaN(w.Ratio) {
			return fmt.Errorf("%s, %d in flight: nothing was measured", w.Verify, w.InFlight)
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
	fmt.Fprintf(out, "%s, %s, %d × %s, %s, PostgreSQL %s, %s, %d rounds, floor and product in turn\n",
		r.Date.Format(time.DateOnly), r.System, r.CPUs, r.CPU, r.Go, r.Postgres, r.Library, r.Rounds)
	fmt.Fprintf(out, "floor: a warm administrative session, ALTER ROLE, proof, by %s alone; product: lease to report\n\n", r.Library)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "verified by\tin flight\tfloor p50 / p99 ms\tper s\tproduct p50 / p99 ms\tper s\tratio\trounds' ratios\t")
	for _, w := range r.Rows {
		var each []string
		for _, x := range w.ratios {
			each = append(each, fmt.Sprintf("%.2f", x))
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f / %.0f\t%.1f\t%.0f / %.0f\t%.1f\t%.2f\t%s\t\n", w.Verify, w.InFlight,
			w.Floor.P50MS, w.Floor.P99MS, w.Floor.PerSecond, w.Product.P50MS, w.Product.P99MS, w.Product.PerSecond, w.Ratio, strings.Join(each, " "))
	}
	fmt.Fprintln(t, "\nof one run\t\tserver's changes\tdurable writes\tagent's durable writes\t")
	for _, w := range r.Rows {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.2f\t%.2f\t\n", w.Verify, w.InFlight, w.ServerWrites, w.ServerCommits, w.JournalCommits)
	}
	r.shares(t, "\nwhere the time goes, ms of one run", order, func(w *row) map[string]float64 { return w.StepsMS })
	r.shares(t, "\nprocessor ms of one run", programs, func(w *row) map[string]float64 { return w.Product.CPUMS })
	r.shares(t, "\nprocessor ms of one floor rotation", programs, func(w *row) map[string]float64 { return w.Floor.CPUMS })
	return t.Flush()
}

var (
	order    = []string{"lease", "resolve", "prepare", "stage", "apply", "verify", "commit", "end"}
	programs = []string{"postgres", "plugin", "agent", "server", "client library"}
)

// shares prints one line for each row, with the columns that any row has.
func (r *report) shares(t io.Writer, title string, columns []string, of func(*row) map[string]float64) {
	known := map[string]bool{}
	for _, w := range r.Rows {
		for name := range maps.Keys(of(w)) {
			known[name] = true
		}
	}
	columns = slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return !known[c] })
	if len(columns) == 0 {
		return
	}
	fmt.Fprintf(t, "%s\t\t%s\tsum\t\n", title, strings.Join(columns, "\t"))
	for _, w := range r.Rows {
		sum := 0.0
		fmt.Fprintf(t, "%s\t%d\t", w.Verify, w.InFlight)
		for _, c := range columns {
			sum += of(w)[c]
			fmt.Fprintf(t, "%.1f\t", of(w)[c])
		}
		fmt.Fprintf(t, "%.1f\t\n", sum)
	}
}
