package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// report is what was measured. Times are in milliseconds.
type report struct {
	Calls, Flight, Long int

	FirstP50, FirstP99   float64 // from the call of a script that nobody ran yet to its end, by the process that waits
	AgainP50, AgainP99   float64 // of one that its resource's process has
	BareP50              float64 // a fresh gopher-lua state in this process
	LuaP50               float64 // a start of lua5.1; 0: it is not installed
	SmallP50, SmallP99   float64 // 30 lines with one connection
	FlightP50, FlightP99 float64 // that, so many at once
	FlightPerSecond      float64
	EmptyKB, FirstKB     float64 // a process after its first runs
	LastKB               float64 // and after the last
}

func manifest(name string, modules ...string) string {
	var list strings.Builder
	for _, m := range modules {
		list.WriteString(strconv.Quote(m) + ", ")
	}
	hosts := ""
	if slices.Contains(modules, "http") {
		hosts = "hosts = [\"resource\"]\n"
	}
	return fmt.Sprintf("--[[ rotunda\nname = %q\nversion = \"1\"\nkind = \"after_rotation\"\nabout = \"Measured\"\nneeds = [\"secret\"]\nmodules = [%s]\n%s]]\n", name, list.String(), hosts)
}

// between is how many runs there are between two scripts that are new.
const between = 300

const line = "function run(job) return sdk.changed end\n"

// small is a script as people write them: thirty lines, one request.
func small() string {
	return manifest("small", "http", "json", "text") + `
local http = require "http"
local json = require "json"
local text = require "text"

local function message(job)
  local fields = {}
  for name, value in pairs(job.parameters) do
    fields[#fields + 1] = text.concat(name, "=", value)
  end
  return text.join(fields, "&")
end

local function attempt(job)
  local answer, err = http.post("/hook", {
    json = {account = job.account.login, about = message(job)},
    timeout = 5,
  })
  if not answer then
    return nil, err
  end
  if answer.status >= 300 then
    return sdk.unchanged("conflict", "refused")
  end
  return sdk.changed
end

function run(job)
  local list = json.decode('[1, 2, 3]')
  assert(#list == 3)
  return attempt(job)
end
`
}

// timed times calls one after the other.
func timed(n int, call func(int) error) ([]float64, error) {
	all := make([]float64, 0, n)
	for i := range n {
		start := time.Now()
		if err := call(i); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start).Seconds()*1e3)
	}
	slices.Sort(all)
	return all, nil
}

func at(sorted []float64, p float64) float64 {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// first times scripts that are new to the host, in the process that waits, and the same
// again; and their floors.
func (r *report) first(ctx context.Context, h *host, o options) error {
	again := func(int) error { return h.run(ctx, manifest("again")+line, "again") }
	h.ExpectScript()
	var all []float64
	for i := range min(o.calls, 50) {
		// Meanwhile the next process becomes ready.
		if _, err := timed(between, again); err != nil {
			return fmt.Errorf("a script again: %w", err)
		}
		one, err := timed(1, func(int) error { return h.run(ctx, manifest("n"+strconv.Itoa(i))+line, "first") })
		if err != nil {
			return fmt.Errorf("a new script: %w", err)
		}
		all = append(all, one...)
	}
	slices.Sort(all)
	r.FirstP50, r.FirstP99 = at(all, 0.5), at(all, 0.99)
	var err error
	if all, err = timed(o.calls, again); err != nil {
		return fmt.Errorf("a script again: %w", err)
	}
	r.AgainP50, r.AgainP99 = at(all, 0.5), at(all, 0.99)
	all, err = timed(o.calls, func(int) error {
		l := lua.NewState()
		defer l.Close()
		return l.DoString("function run(job) return true end run{}")
	})
	if err != nil {
		return err
	}
	r.BareP50 = at(all, 0.5)
	if path, err := exec.LookPath("lua5.1"); err == nil {
		all, err := timed(min(o.calls, 200), func(int) error { return exec.CommandContext(ctx, path, "-e", "x = 1").Run() })
		if err != nil {
			return err
		}
		r.LuaP50 = at(all, 0.5)
	}
	return nil
}

func (r *report) small(ctx context.Context, h *host, o options) error {
	all, err := timed(o.calls, func(int) error { return h.run(ctx, small(), "small") })
	if err != nil {
		return fmt.Errorf("thirty lines: %w", err)
	}
	r.SmallP50, r.SmallP99 = at(all, 0.5), at(all, 0.99)
	return nil
}

// inFlight runs many at once, over as many resources as an agent has processes for.
func (r *report) inFlight(ctx context.Context, h *host, o options) error {
	var mu sync.Mutex
	var all []float64
	var failed error
	var wg sync.WaitGroup
	start := time.Now()
	for n := range o.flight {
		wg.Go(func() {
			for range max(1, o.calls/o.flight) {
				start := time.Now()
				err := h.run(ctx, small(), "flight"+strconv.Itoa(n%8))
				mu.Lock()
				all = append(all, time.Since(start).Seconds()*1e3)
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return fmt.Errorf("%d in flight: %w", o.flight, failed)
	}
	r.FlightPerSecond = float64(len(all)) / time.Since(start).Seconds()
	slices.Sort(all)
	r.FlightP50, r.FlightP99 = at(all, 0.5), at(all, 0.99)
	return nil
}

// memory runs one script very often in one process.
func (r *report) memory(ctx context.Context, h *host, o options) error {
	text := manifest("again") + line
	for n := range o.long {
		if err := h.run(ctx, text, "again"); err != nil {
			return fmt.Errorf("run %d: %w", n, err)
		}
		if n == o.long/10 {
			r.FirstKB = slices.Max(h.resident())
		}
	}
	r.LastKB = slices.Max(h.resident())
	r.EmptyKB = slices.Min(h.resident())
	return nil
}

func (r *report) print(w io.Writer) error {
	lua51 := "not installed"
	if r.LuaP50 > 0 {
		lua51 = fmt.Sprintf("%.2f", r.LuaP50)
	}
	_, err := fmt.Fprintf(w, `| what | p50, ms | p99, ms | floor |
|---|---|---|---|
| a new script, in the process that waits | %.2f | %.2f | start of lua5.1: %s |
| a script that its process has | %.2f | %.2f | bare gopher-lua state: %.2f |
| 30 lines and one request | %.2f | %.2f | |
| the same, %d in flight, %.0f a second | %.1f | %.1f | |

memory of a process: %.1f MB with nothing run, %.1f MB after %d runs, %.1f MB after %d
`, r.FirstP50, r.FirstP99, lua51, r.AgainP50, r.AgainP99, r.BareP50, r.SmallP50, r.SmallP99, r.Flight, r.FlightPerSecond, r.FlightP50, r.FlightP99,
		r.EmptyKB/1e3, r.FirstKB/1e3, r.Long/10, r.LastKB/1e3, r.Long)
	return err
}
