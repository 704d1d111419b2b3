package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/internal/version"
)

// report is what is printed, or encoded as JSON. Memory is in bytes.
type report struct {
	Date    time.Time `json:"date"`
	Version string    `json:"version"`
	Go      string    `json:"go"`
	System  string    `json:"system"`
	CPU     string    `json:"cpu"`
	CPUs    int       `json:"cpus"`
	Agents  int       `json:"agents"`

	Floor struct {
		Crowd crowdFloor `json:"sockets"`
	} `json:"floor"`
	Enrolled  enrolled      `json:"enrolled"`
	Idle      idle          `json:"idle"`
	RealAgent memory        `json:"whole_agent"`
	Commands  []*commandRow `json:"commands"`
	Parts     parts         `json:"parts"`
	Returns   []returns     `json:"returns"`
	Left      memory        `json:"after_they_left"`
	LeftHeap  int64         `json:"after_they_left_heap"`
}

// crowdFloor is what as many bare sockets take.
type crowdFloor struct {
	Took time.Duration `json:"dialled_ns"`
	Each int64         `json:"each"`
	Peak int64         `json:"peak"`
}

// idle is the server's memory, without and with the crowd.
type idle struct {
	Before           memory `json:"before"`
	After            memory `json:"after"`
	Each             int64  `json:"each"`
	EachProportional int64  `json:"each_proportional"`
	EachHeap         int64  `json:"each_heap"`
}

// returns tells how the crowd came back. Times are seconds.
type returns struct {
	How     string  `json:"server_was"`
	Down    float64 `json:"down"`              // until the server served again
	All     float64 `json:"all"`               // from the server's end until the last is back: what the slowest waited
	Serving float64 `json:"all_since_serving"` // from when the server served again
	Half    float64 `json:"half"`
	Busiest int     `json:"busiest_second"` // agents that came in it
	Peak    int64   `json:"peak"`           // the server's memory
	Commits uint64  `json:"commits"`        // durable writes of the server meanwhile

	HealthMS spread `json:"healthz_ms"` // while they came
	CLIMS    spread `json:"cli_ms"`     // rotunda folder list, while they came
}

type spread struct {
	N      int     `json:"n"`
	Failed int     `json:"failed"`
	P50    float64 `json:"p50"`
	Most   float64 `json:"most"`
}

func (s spread) String() string {
	text := fmt.Sprintf("%.0f / %.0f", s.P50, s.Most)
	if s.Failed > 0 {
		text += fmt.Sprintf(" (%d of %d failed)", s.Failed, s.N)
	}
	return text
}

func newReport(o options) *report {
	return &report{
		Date: time.Now().UTC().Truncate(time.Second), Version: version.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: cpuModel(), CPUs: runtime.NumCPU(), Agents: o.agents,
	}
}

// cpuModel is the processor's name, where the system tells.
func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown"
}

// What is aimed at.
const (
	aimEach  = 25_000 // bytes for each idle agent
	aimMore  = 0.6    // ms that a command may take above the echo
	aimRatio = 0.5    // of the echo's throughput, at 32 in flight
)

func (r *report) print(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprintf(w, "%s, %s, %d × %s, %s, Rotunda %s; %d idle agents (simulated: the agent's channel client), one whole agent\n\n",
		r.Date.Format(time.DateOnly), r.System, r.CPUs, r.CPU, r.Go, r.Version, r.Agents)
	fmt.Fprintln(w, "| | floor | product | ratio | aim |")
	fmt.Fprintln(w, "|---|---|---|---|---|")
	row := func(what, floor, product, ratio, aim string) {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", what, floor, product, ratio, aim)
	}
	f := r.Floor.Crowd
	row("an idle agent in the server, resident kB", kb(f.Each), kb(r.Idle.Each), ratio(float64(r.Idle.Each), float64(f.Each)), reached(float64(r.Idle.Each) <= aimEach, "at most %d", aimEach/1000))
	row("– proportional kB; objects and stacks kB", "", kb(r.Idle.EachProportional)+"; "+kb(r.Idle.EachHeap), "", "")
	for _, c := range r.Commands {
		n := fmt.Sprintf("command and reply, %d in flight, ", c.InFlight)
		aim50, aim99, aimRate := "", "", ""
		if c.InFlight == 1 {
			aim50, aim99 = aimBeside(c.Product.P50MS, c.Floor.P50MS), aimBeside(c.Product.P99MS, c.Floor.P99MS)
		} else {
			aimRate = reached(c.Ratio >= aimRatio, "ratio at least %.1f", aimRatio)
		}
		row(n+"p50 ms", ms2(c.Floor.P50MS), ms2(c.Product.P50MS), ratio(c.Product.P50MS, c.Floor.P50MS), aim50)
		row(n+"p99 ms", ms2(c.Floor.P99MS), ms2(c.Product.P99MS), ratio(c.Product.P99MS, c.Floor.P99MS), aim99)
		row(n+"per second", fmt.Sprintf("%.0f", c.Floor.PerSecond), fmt.Sprintf("%.0f", c.Product.PerSecond), fmt.Sprintf("%.2f", c.Ratio), aimRate)
	}
	row("– processor ms of one at 32 in flight: client, server, agent", cpuText(r.Parts.EchoMS), cpuText(r.Parts.CPUMS), "", "")
	row("– processor ms of its cryptography alone; ms of one durable write on this disk", "", ms2(r.Parts.CryptoMS)+"; "+ms2(r.Parts.DurableMS), "", "")
	for _, b := range r.Returns {
		n := "server " + b.How + " and started, "
		row(n+"all are back after, s", fmt.Sprintf("%.1f (dials)", f.Took.Seconds()), fmt.Sprintf("%.1f (half of them %.1f; it was away for %.1f)", b.All, b.Half, b.Down), ratio(b.All, f.Took.Seconds()), "")
		row(n+"per second since it serves (busiest second)", fmt.Sprintf("%.0f", float64(r.Agents)/f.Took.Seconds()),
			fmt.Sprintf("%.0f (%d)", float64(r.Agents)/b.Serving, b.Busiest), ratio(float64(r.Agents)/b.Serving, float64(r.Agents)/f.Took.Seconds()), "")
		row(n+"peak memory MB", mb(f.Peak), mb(b.Peak), ratio(float64(b.Peak), float64(f.Peak)), "")
		row(n+"durable writes of the server meanwhile", "", fmt.Sprint(b.Commits), "", "")
		row(n+"/healthz meanwhile, p50 / slowest ms", "", b.HealthMS.String(), "", "")
		row(n+"`rotunda folder list` meanwhile, p50 / slowest ms", "", b.CLIMS.String(), "", "")
	}
	row("server with nobody / all / after they left, resident MB", "", mb(r.Idle.Before.Resident)+" / "+mb(r.Idle.After.Resident)+" / "+mb(r.Left.Resident), "", "")
	row("a whole agent's process, resident MB", "", mb(r.RealAgent.Resident), "", "")
	row("all enrolled in one administrator's session, s", "", fmt.Sprintf("%.1f", r.Enrolled.Crowd.Seconds()), "", "")
	row("one more agent: token, enrolment, start, shown as connected, s", "", fmt.Sprintf("%.1f", r.Enrolled.One.Seconds()), "", "")
	return w.Flush()
}

// aimBeside judges what a command takes by what the bare echo takes.
func aimBeside(product, echo float64) string {
	return reached(product <= echo+aimMore, "at most %.2f", echo+aimMore)
}

func reached(ok bool, format string, args ...any) string {
	word := ": missed"
	if ok {
		word = ": reached"
	}
	return fmt.Sprintf(format, args...) + word
}

func cpuText(by map[string]float64) string {
	return ms2(by["client"]) + ", " + ms2(by["server"]) + ", " + ms2(by["agent"])
}

func kb(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/1000) }

func mb(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/1e6) }

func ms2(v float64) string { return fmt.Sprintf("%.2f", v) }

func ratio(product, floor float64) string {
	if floor == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", product/floor)
}
