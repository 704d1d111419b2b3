package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

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
	Load    string    `json:"load"` // of the machine when it began and when it ended
	Tables  []*table  `json:"tables"`
}

// table is one part's figures.
type table struct {
	Part    string     `json:"part"`
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	Notes   []string   `json:"notes"`
}

func newReport() *report {
	return &report{
		Date: time.Now().UTC().Truncate(time.Second), Version: version.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: cpuModel(), CPUs: runtime.NumCPU(), Load: load(),
	}
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

// load is how much else the machine did in the last minute.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// figures is a table of metrics, each beside its floor.
func figures(part, title string) *table {
	return &table{Part: part, Title: title, Columns: []string{"metric", "floor", "product", "ratio", "aim"}}
}

// add adds a row; what is no number is "–".
func (t *table) add(metric string, floor, product any, ratio float64, aim string) {
	r := "–"
	if ratio > 0 {
		r = fmt.Sprintf("%.2f", ratio)
	}
	t.Rows = append(t.Rows, []string{metric, cell(floor), cell(product), r, orDash(aim)})
}

func (t *table) note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "–"
	case time.Duration:
		return span(v)
	case float64:
		return number(v)
	case string:
		return orDash(v)
	}
	return fmt.Sprint(v)
}

// span is a time to three digits.
func span(d time.Duration) string {
	switch {
	case d >= 100*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", ms(d))
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", ms(d))
	}
	return fmt.Sprintf("%.0f µs", float64(d.Nanoseconds())/1000)
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// aimed is an aim, and says so where it was missed.
func aimed(aim string, reached bool) string {
	if aim != "" && !reached {
		aim += ": missed"
	}
	return aim
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// thousands writes 100000 as 100,000.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (r *report) print(out io.Writer) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "%s, %s, %d × %s, %s, load of the machine %s\n", r.Date.Format(time.DateOnly), r.System, r.CPUs, r.CPU, r.Go, r.Load)
	for _, t := range r.Tables {
		fmt.Fprintf(w, "\n**%s**\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Columns, " | "), strings.Repeat("---|", len(t.Columns)))
		for _, row := range t.Rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		}
		if len(t.Notes) > 0 {
			fmt.Fprintln(w)
		}
		for _, n := range t.Notes {
			fmt.Fprintf(w, "- %s\n", n)
		}
	}
	return w.Flush()
}

func (r *report) json(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
