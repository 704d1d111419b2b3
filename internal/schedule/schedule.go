// Package schedule says when an account's rotation is due. Server and clients
// use it alike, so that a preview shows what will happen.
//
// # Cron
//
// Five fields: minute, hour, day of month, month, day of week. Each is "*" or a
// list of numbers, ranges ("9-17", "22-2" wraps) and steps ("*/15", "8-18/2",
// "5/20" is "5-59/20"). Months and days of the week may be named by three
// letters; Sunday is 0 or 7. Where neither day field is "*", one of the two is
// enough. There are no seconds, no "@daily", no L, W or #.
//
// # Daylight saving
//
// A cron schedule lives on the wall clock of its time zone:
//   - A time that the clock jumps over in spring fires once, at the end of the
//     gap (02:30 fires at 03:00). A schedule of every hour ("30 * * * *") does
//     not make the jumped hour up.
//   - A time that the clock shows twice in autumn fires once, the first time.
//
// An interval counts true seconds from its anchor and knows no wall clock.
package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	cron "github.com/netresearch/go-cron"

	"github.com/rotunda-pam/rotunda/internal/span"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// Bounds of a schedule.
const (
	MinGap     = 2 * time.Minute      // between two firings: half of it is the least that a mandate's interval may be
	MaxEvery   = 400 * 24 * time.Hour // a mandate lives no longer
	MaxJitter  = 24 * time.Hour
	MaxPreview = 100
	maxCron    = 256 // bytes of cron text
	maxZone    = 64
)

// Reason is the stable code of every error of Parse.
const Reason = "schedule_bad"

// ErrBad is in every error of Parse (errors.Is).
var ErrBad = errors.New("not a schedule")

// Schedule is a parsed schedule. It is immutable and safe for concurrent use.
type Schedule struct {
	spec   *cron.SpecSchedule // on a wall clock that is written as UTC; nil: no cron
	hourly bool               // cron's hour field is "*"
	text   string             // cron's text
	zone   *time.Location
	every  time.Duration
	anchor time.Time
	once   time.Time

	gapOnce sync.Once // the walk is worth doing once
	gap     time.Duration
}

// Parse checks a schedule and makes it usable. Its errors are ErrBad and say
// which part is wrong.
func Parse(s *clientv1.Schedule) (*Schedule, error) {
	zone, err := location(s.GetTimeZone())
	if err != nil {
		return nil, err
	}
	switch kind := s.GetKind().(type) {
	case *clientv1.Schedule_Cron:
		return parseCron(kind.Cron, zone)
	case *clientv1.Schedule_EveryS:
		every := time.Duration(kind.EveryS) * time.Second
		if every < MinGap || every > MaxEvery {
			return nil, fmt.Errorf("%w: an interval of %s: give %s to %s", ErrBad, span.Text(every), span.Text(MinGap), span.Text(MaxEvery))
		}
		if s.GetAnchor() < 0 || s.GetAnchor() > maxMilli {
			return nil, fmt.Errorf("%w: anchor %d is no time between 1970 and 9999", ErrBad, s.GetAnchor())
		}
		return &Schedule{every: every, anchor: time.UnixMilli(s.GetAnchor()), zone: zone}, nil
	case *clientv1.Schedule_Once:
		if kind.Once <= 0 || kind.Once > maxMilli {
			return nil, fmt.Errorf("%w: once at %d is no time between 1970 and 9999", ErrBad, kind.Once)
		}
		return &Schedule{once: time.UnixMilli(kind.Once), zone: zone}, nil
	}
	return nil, fmt.Errorf("%w: give a cron text, an interval or a single time", ErrBad)
}

// maxMilli is the last millisecond of the year 9999.
const maxMilli = 253402300799999

// Next is the first firing after a time; the zero time: there is none.
func (s *Schedule) Next(after time.Time) time.Time {
	switch {
	case s.spec != nil:
		return s.nextCron(after)
	case s.every > 0:
		if after.Before(s.anchor) {
			return s.anchor
		}
		n := after.Sub(s.anchor)/s.every + 1
		return s.anchor.Add(n * s.every)
	case after.Before(s.once):
		return s.once
	}
	return time.Time{}
}

// Preview gives the next n firings after a time, at most MaxPreview, fewer
// where the schedule ends.
func (s *Schedule) Preview(after time.Time, n int) []time.Time {
	var times []time.Time
	for range min(n, MaxPreview) {
		after = s.Next(after)
		if after.IsZero() {
			break
		}
		times = append(times, after)
	}
	return times
}

// Due is the next firing after a time, and when it really happens: a fixed
// delay later for each account and firing, spread over jitter, so that a
// thousand accounts of one schedule do not start at once. The zero time: never.
//
// The delay is at most jitter and at most a quarter of the gap to the firing
// after: two runs are never nearer than three quarters of a gap, and a mandate
// whose min_interval_s is MinInterval leaves the run itself another quarter.
func (s *Schedule) Due(account []byte, jitter time.Duration, after time.Time) (due, nominal time.Time) {
	nominal = s.Next(after)
	if nominal.IsZero() {
		return nominal, nominal
	}
	return nominal.Add(s.delay(account, jitter, nominal)), nominal
}

func (s *Schedule) delay(account []byte, jitter time.Duration, nominal time.Time) time.Duration {
	jitter = min(jitter, MaxJitter)
	if jitter <= 0 {
		return 0
	}
	if next := s.Next(nominal); !next.IsZero() {
		jitter = min(jitter, next.Sub(nominal)/4)
	}
	h := fnv.New64a()
	h.Write(account)
	h.Write(strconv.AppendInt(nil, nominal.UnixMilli(), 10))
	n := h.Sum64()
	n ^= n >> 32 // FNV's low bits alone follow the last digits too closely
	return time.Duration(n%uint64(jitter.Milliseconds()+1)) * time.Millisecond
}

// Spaced refuses a schedule that fires more often than agents act: twice within MinGap.
// It is apart from Parse, since it walks over a cron schedule's firings.
func (s *Schedule) Spaced() error {
	if gap := s.ShortestGap(); gap > 0 && gap < MinGap {
		return fmt.Errorf("%w: two of its firings are %s apart: at least %s", ErrBad, span.Text(gap), span.Text(MinGap))
	}
	return nil
}

// MinInterval is what a mandate's least interval is to be for this schedule: half
// the shortest gap, at least a minute.
func (s *Schedule) MinInterval() time.Duration {
	return max(time.Minute, (s.ShortestGap() / 2).Truncate(time.Second))
}

// Fits says what of a jitter and a mandate's least interval contradicts the schedule.
// A jitter is at most a quarter of the shortest gap, since Due cuts it there, and the
// interval leaves the run itself a quarter: else agents would refuse firings.
func (s *Schedule) Fits(jitter, interval time.Duration) error {
	gap := s.ShortestGap()
	if gap == 0 {
		return nil // it fires once
	}
	if most := gap / 4; jitter > most {
		return fmt.Errorf("a jitter of %s: at most %s, a quarter of the shortest gap between two firings (%s)", span.Text(jitter), span.Text(most), span.Text(gap))
	}
	if most := gap*3/4 - jitter; interval > most {
		return fmt.Errorf("agents would refuse firings of this schedule: the shortest gap between two is %s, so that the least interval is at most %s (three quarters of the gap, less the jitter), not %s", span.Text(gap), span.Text(most), span.Text(interval))
	}
	return nil
}

// Missed counts the firings after one time and not after another, at most 1000,
// and gives the first and the last that it counted.
func (s *Schedule) Missed(after, until time.Time) (n int, first, last time.Time) {
	for n < maxMissed {
		after = s.Next(after)
		if after.IsZero() || after.After(until) {
			return n, first, last
		}
		if n == 0 {
			first = after
		}
		last = after
		n++
	}
	return n, first, last
}

const maxMissed = 1000

// String shows the schedule in words.
func (s *Schedule) String() string {
	switch {
	case s.spec != nil:
		return s.text + " " + s.zone.String()
	case s.every > 0:
		return "every " + span.Text(s.every)
	}
	return "once at " + s.once.In(s.zone).Format(time.RFC3339)
}
