package schedule

import (
	"fmt"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the same zones on every machine, Windows included

	cron "github.com/netresearch/go-cron"
)

var parser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom).
	WithMaxSearchYears(searchYears)

// searchYears is how far Next looks: 29 February may be eight years away.
const searchYears = 9

// reference is where ShortestGap begins to walk and a schedule has to fire at
// all. It is fixed, so that the same schedule has the same gap for everybody.
var reference = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func parseCron(text string, zone *time.Location) (*Schedule, error) {
	if len(text) > maxCron {
		return nil, fmt.Errorf("%w: cron text of %d bytes: at most %d", ErrBad, len(text), maxCron)
	}
	fields := strings.Fields(text)
	if len(fields) != 5 {
		return nil, fmt.Errorf("%w: cron text %q has %d fields: give five (minute hour day month weekday)", ErrBad, text, len(fields))
	}
	names := [5]string{"minute", "hour", "day", "month", "weekday"}
	for i, field := range fields {
		if err := checkField(field); err != nil {
			return nil, fmt.Errorf("%w: cron %s %q: %w", ErrBad, names[i], field, err)
		}
		// Alone, with stars around it: the parser's own error names no field.
		alone := [5]string{"*", "*", "*", "*", "*"}
		alone[i] = field
		if _, err := parser.Parse(strings.Join(alone[:], " ")); err != nil {
			return nil, fmt.Errorf("%w: cron %s %q: %w", ErrBad, names[i], field, err)
		}
	}
	text = strings.Join(fields, " ")
	parsed, err := parser.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: cron text %q: %w", ErrBad, text, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("%w: cron text %q has no five fields", ErrBad, text)
	}
	spec.Location = time.UTC // the wall clock is written as UTC, see nextCron
	if spec.Next(reference).IsZero() {
		return nil, fmt.Errorf("%w: cron text %q never fires: there is no such day", ErrBad, text)
	}
	return &Schedule{spec: spec, hourly: fields[1] == "*", text: text, zone: zone}, nil
}

// checkField refuses what the parser would take and the dialect does not have.
func checkField(field string) error {
	for _, r := range field {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '*', r == ',', r == '-', r == '/':
		default:
			return fmt.Errorf("character %q has no meaning here", r)
		}
	}
	for item := range strings.SplitSeq(field, ",") {
		if item == "" {
			return fmt.Errorf("an item of the list is empty")
		}
	}
	return nil
}

// nextCron lets the parser walk the wall clock, which has no jumps when it is
// written as UTC, and turns what it finds into moments.
func (s *Schedule) nextCron(after time.Time) time.Time {
	wall := asWall(after.In(s.zone))
	for {
		wall = s.spec.Next(wall)
		if wall.IsZero() {
			return time.Time{}
		}
		at, jumped := moment(wall, s.zone)
		if jumped && s.hourly {
			continue
		}
		// In the repeated hour of autumn the wall times come again; their
		// moments have passed.
		if at.After(after) {
			return at
		}
	}
}

// asWall writes what the clock on the wall shows as if it were UTC.
func asWall(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment is when the clock of a zone first shows a wall time; where it jumps
// over it, the end of the gap.
func moment(wall time.Time, zone *time.Location) (at time.Time, jumped bool) {
	y, m, d := wall.Date()
	t := time.Date(y, m, d, wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
	start, end := t.ZoneBounds()
	if shown := asWall(t); !shown.Equal(wall) {
		// time.Date took the offset of one side of the gap.
		if shown.After(wall) {
			return start, true
		}
		return end, true
	}
	if !start.IsZero() {
		_, before := start.Add(-1).Zone()
		if first := time.Unix(wall.Unix()-int64(before), 0).In(zone); first.Before(start) {
			return first, false
		}
	}
	return t, false
}

// walked bounds the firings that ShortestGap looks at in a row. A day has at
// most 24 firings where the gap between two days is the shortest, so this is
// some hundred days.
const walked = 3000

// ShortestGap is the least time between two firings: of an interval its length,
// of a single time 0. Of cron it is what a walk over some thousand firings finds,
// the changes of the clock included, and at most MaxEvery.
func (s *Schedule) ShortestGap() time.Duration {
	if s.spec == nil {
		return s.every
	}
	s.gapOnce.Do(func() {
		s.gap = s.walk(reference, reference.AddDate(searchYears, 0, 0), MaxEvery)
		for t := reference.In(s.zone); ; {
			_, change := t.ZoneBounds()
			if change.IsZero() || change.After(reference.AddDate(1, 0, 0)) {
				return
			}
			s.gap = s.walk(change.Add(-26*time.Hour), change.Add(26*time.Hour), s.gap)
			t = change
		}
	})
	return s.gap
}

func (s *Schedule) walk(from, until time.Time, gap time.Duration) time.Duration {
	last := s.Next(from)
	for n := 0; n < walked && gap > time.Minute; n++ {
		next := s.Next(last)
		if next.IsZero() || next.After(until) {
			break
		}
		gap = min(gap, next.Sub(last))
		last = next
	}
	return gap
}

// zones keeps the time zones that were asked for: IANA has some six hundred.
var zones sync.Map

func location(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if name == "Local" || len(name) > maxZone {
		return nil, fmt.Errorf("%w: time zone %.64q: give an IANA name such as Europe/Berlin", ErrBad, name)
	}
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%w: time zone %q: give an IANA name such as Europe/Berlin: %w", ErrBad, name, err)
	}
	zones.Store(name, zone)
	return zone, nil
}
