package schedule_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/schedule"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

func cronIn(text, zone string) *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_Cron{Cron: text}, TimeZone: zone}
}

func every(seconds uint32, anchor time.Time) *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: seconds}, Anchor: anchor.UnixMilli()}
}

func once(at time.Time) *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_Once{Once: at.UnixMilli()}}
}

func parse(t testing.TB, s *clientv1.Schedule) *schedule.Schedule {
	t.Helper()
	parsed, err := schedule.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04 -07", "2006-01-02 15:04"} {
		if parsed, err := time.Parse(layout, text); err == nil {
			return parsed
		}
	}
	t.Fatalf("time %q", text)
	return time.Time{}
}

// Firings with the zone's offset behind them, so that a repeated hour shows
// which of the two it is.
func TestCronFires(t *testing.T) {
	for _, c := range []struct{ what, cron, zone, after, want string }{
		{"daily", "30 2 * * *", "", "2026-05-01 00:00", "2026-05-01 02:30 +00, 2026-05-02 02:30 +00"},
		{"strictly after", "30 2 * * *", "", "2026-05-01 02:30", "2026-05-02 02:30 +00"},
		{"in a zone", "30 2 * * *", "Europe/Berlin", "2026-05-01 00:00", "2026-05-01 02:30 +02"},
		{"lists, ranges, steps", "*/30 8-9,20 * * *", "", "2026-05-01 00:00", "2026-05-01 08:00 +00, 2026-05-01 08:30 +00, 2026-05-01 09:00 +00, 2026-05-01 09:30 +00, 2026-05-01 20:00 +00"},
		{"names", "0 0 * jan mon-tue", "", "2026-05-01 00:00", "2027-01-04 00:00 +00, 2027-01-05 00:00 +00"},
		{"Sunday twice named", "0 0 * * 7", "", "2026-05-01 00:00", "2026-05-03 00:00 +00"},
		{"a range that wraps", "0 22-1 * * *", "", "2026-05-01 12:00", "2026-05-01 22:00 +00, 2026-05-01 23:00 +00, 2026-05-02 00:00 +00, 2026-05-02 01:00 +00, 2026-05-02 22:00 +00"},
		{"either day field", "0 0 13 * fri", "", "2026-05-01 12:00", "2026-05-08 00:00 +00, 2026-05-13 00:00 +00, 2026-05-15 00:00 +00"},
		{"29 February", "0 0 29 2 *", "", "2026-05-01 00:00", "2028-02-29 00:00 +00, 2032-02-29 00:00 +00"},
		{"29 February around 2100", "0 0 29 2 *", "", "2096-03-01 00:00", "2104-02-29 00:00 +00"},

		{"spring, Berlin: the jumped time fires at the gap's end", "30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 +02, 2026-03-30 02:30 +02"},
		{"spring: several jumped times fire once", "*/10 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 +02, 2026-03-30 02:00 +02"},
		{"spring: a jumped time and the gap's end are one firing", "0,30 2-3 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 +02, 2026-03-29 03:30 +02, 2026-03-30 02:00 +02"},
		{"spring: every hour does not make it up", "59 * * * *", "Europe/Berlin", "2026-03-29 00:30", "2026-03-29 01:59 +01, 2026-03-29 03:59 +02"},
		{"spring: every minute goes on", "* * * * *", "Europe/Berlin", "2026-03-29 00:58", "2026-03-29 01:59 +01, 2026-03-29 03:00 +02"},
		{"spring, New York", "30 2 * * *", "America/New_York", "2026-03-08 00:00", "2026-03-08 03:00 -04, 2026-03-09 02:30 -04"},
		{"spring without midnight, Havana", "0 0 * * *", "America/Havana", "2026-03-07 12:00", "2026-03-08 01:00 -04, 2026-03-09 00:00 -04"},
		{"spring by half an hour, Lord Howe", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-04 02:30 +11, 2026-10-05 02:15 +11"},
		{"a day that never was, Apia", "0 12 * * *", "Pacific/Apia", "2011-12-29 12:00", "2011-12-29 12:00 -10, 2011-12-31 00:00 +14, 2011-12-31 12:00 +14"},

		{"autumn, Berlin: the repeated time fires the first time only", "30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-25 02:30 +02, 2026-10-26 02:30 +01"},
		{"autumn, New York: 01:30 once", "30 1 * * *", "America/New_York", "2026-10-31 12:00", "2026-11-01 01:30 -04, 2026-11-02 01:30 -05"},
		{"autumn: asked between the two", "30 1 * * *", "America/New_York", "2026-11-01 05:45", "2026-11-02 01:30 -05"},
		{"autumn: asked in the repeated hour", "*/20 * * * *", "America/New_York", "2026-11-01 06:10", "2026-11-01 02:00 -05"},
		{"autumn: around the repeated hour", "0 0-3 * * *", "America/New_York", "2026-11-01 03:59", "2026-11-01 00:00 -04, 2026-11-01 01:00 -04, 2026-11-01 02:00 -05, 2026-11-01 03:00 -05"},
	} {
		s := parse(t, cronIn(c.cron, c.zone))
		want := strings.Split(c.want, ", ")
		zone, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range s.Preview(at(t, c.after), len(want)) {
			got = append(got, f.In(zone).Format("2006-01-02 15:04 -07"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", c.what, got, want)
		}
	}
}

func TestIntervals(t *testing.T) {
	anchor := at(t, "2026-05-01 00:10")
	s := parse(t, every(3600, anchor))
	for after, want := range map[string]string{
		"2026-04-01 00:00":     "2026-05-01 00:10",
		"2026-05-01 00:10":     "2026-05-01 01:10",
		"2026-05-01 00:09":     "2026-05-01 00:10",
		"2026-05-02 00:00":     "2026-05-02 00:10",
		"2026-05-02T00:10:01Z": "2026-05-02 01:10",
	} {
		if got := s.Next(at(t, after)); !got.Equal(at(t, want)) {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
	// An interval counts true time: 24 hours over the spring day are 24 hours.
	s = parse(t, every(86400, at(t, "2026-03-28T02:30:00+01:00")))
	if got := s.Next(at(t, "2026-03-28T02:30:00+01:00")); !got.Equal(at(t, "2026-03-29T03:30:00+02:00")) {
		t.Errorf("over the spring day: %s", got)
	}
}

func TestOnce(t *testing.T) {
	s := parse(t, once(at(t, "2026-05-01 12:00")))
	if got := s.Preview(at(t, "2026-01-01 00:00"), 10); len(got) != 1 || !got[0].Equal(at(t, "2026-05-01 12:00")) {
		t.Errorf("before: %v", got)
	}
	if got := s.Next(at(t, "2026-05-01 12:00")); !got.IsZero() {
		t.Errorf("after: %s", got)
	}
}

func TestPreviewIsBounded(t *testing.T) {
	if n := len(parse(t, cronIn("* * * * *", "")).Preview(at(t, "2026-01-01 00:00"), 1<<30)); n != schedule.MaxPreview {
		t.Errorf("%d firings", n)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		what, says string
		s          *clientv1.Schedule
	}{
		{"nothing", "give a cron text", nil},
		{"an empty one", "give a cron text", &clientv1.Schedule{}},
		{"no cron text", "has 0 fields", cronIn("", "")},
		{"four fields", "has 4 fields", cronIn("* * * *", "")},
		{"seconds", "has 6 fields", cronIn("0 0 0 * * *", "")},
		{"a descriptor", "has 1 fields", cronIn("@daily", "")},
		{"@every", "has 2 fields", cronIn("@every 1s", "")},
		{"a zone inside", `minute "TZ=UTC"`, cronIn("TZ=UTC 0 0 * *", "")},
		{"minute 60", `minute "60"`, cronIn("60 * * * *", "")},
		{"hour 24", `hour "24"`, cronIn("0 24 * * *", "")},
		{"day 0", `day "0"`, cronIn("0 0 0 * *", "")},
		{"month 13", `month "13"`, cronIn("0 0 1 13 *", "")},
		{"weekday 8", `weekday "8"`, cronIn("0 0 * * 8", "")},
		{"step 0", `minute "*/0"`, cronIn("*/0 * * * *", "")},
		{"a huge step", `minute "*/99999999999999999999"`, cronIn("*/99999999999999999999 * * * *", "")},
		{"an empty item", "item of the list is empty", cronIn("1,,2 * * * *", "")},
		{"only a comma", "item of the list is empty", cronIn(", * * * *", "")},
		{"last day", `day "L"`, cronIn("0 0 L * *", "")},
		{"nearest weekday", `day "1W"`, cronIn("0 0 1W * *", "")},
		{"hashed", `minute "H"`, cronIn("H * * * *", "")},
		{"nth weekday", "no meaning here", cronIn("0 0 * * mon#1", "")},
		{"a control character", "no meaning here", cronIn("0\x00 0 * * *", "")},
		{"30 February", "never fires", cronIn("0 0 30 2 *", "")},
		{"31 of short months", "never fires", cronIn("0 0 31 4,6,9,11 *", "")},
		{"a mebibyte", "1048576 bytes", cronIn(strings.Repeat("*", 1<<20), "")},
		{"a mebibyte of blanks", "1048576 bytes", cronIn(strings.Repeat(" ", 1<<20), "")},
		{"zone Local", "IANA name", cronIn("0 0 * * *", "Local")},
		{"no such zone", "IANA name", cronIn("0 0 * * *", "Europe/Atlantis")},
		{"a path as zone", "IANA name", cronIn("0 0 * * *", "../../etc/passwd")},
		{"a long zone", "IANA name", cronIn("0 0 * * *", strings.Repeat("x", 1<<20))},
		{"an interval below two minutes", "an interval of 1 min 59 s", every(119, time.UnixMilli(0))},
		{"an interval of no time", "an interval of 0 s", every(0, time.UnixMilli(0))},
		{"an interval of two years", "interval of", every(2*366*86400, time.UnixMilli(0))},
		{"an anchor before 1970", "anchor", every(120, time.UnixMilli(-1))},
		{"an anchor far away", "anchor", every(120, time.UnixMilli(1<<62))},
		{"once at zero", "once at 0", once(time.UnixMilli(0))},
		{"once far away", "once at", once(time.UnixMilli(1 << 62))},
	} {
		began := time.Now()
		_, err := schedule.Parse(c.s)
		if !errors.Is(err, schedule.ErrBad) {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.what, err, c.says)
		}
		if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", c.what, len(err.Error()))
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: took %s", c.what, took)
		}
	}
}

func TestShortestGapAndMinInterval(t *testing.T) {
	for _, c := range []struct {
		s   *clientv1.Schedule
		gap time.Duration
		min int // seconds
	}{
		{every(120, time.UnixMilli(0)), 2 * time.Minute, 60},
		{cronIn("0,2,3 * * * *", ""), time.Minute, 60},
		{every(3600, time.UnixMilli(0)), time.Hour, 1800},
		{once(time.UnixMilli(1)), 0, 60},
		{cronIn("* * * * *", ""), time.Minute, 60},
		{cronIn("0 0 * * *", ""), 24 * time.Hour, 12 * 3600},
		{cronIn("0 0 * * *", "Europe/Berlin"), 23 * time.Hour, 23 * 1800},
		{cronIn("0 0 1 * *", ""), 28 * 24 * time.Hour, 14 * 86400},
		{cronIn("0 0 29 2 *", ""), schedule.MaxEvery, 200 * 86400},
		{cronIn("0 0,23 1,15,16 * *", ""), time.Hour, 1800},
		{cronIn("0,59 3 * * *", ""), 59 * time.Minute, 59 * 30},
		// The jumped 02:59 fires at 03:00; 01:59 was a minute ago.
		{cronIn("59 1,2 * * *", "Europe/Berlin"), time.Minute, 60},
		{cronIn("59 * * * *", "Europe/Berlin"), time.Hour, 1800},
	} {
		s := parse(t, c.s)
		if got := s.ShortestGap(); got != c.gap {
			t.Errorf("%s: gap %s, want %s", s, got, c.gap)
		}
		if got, want := s.MinInterval(), time.Duration(c.min)*time.Second; got != want {
			t.Errorf("%s: least interval %s, want %s", s, got, want)
		}
	}
}

func TestWhatContradictsASchedule(t *testing.T) {
	const h, day = time.Hour, 24 * time.Hour
	for _, c := range []struct {
		what             string
		s                *clientv1.Schedule
		jitter, interval time.Duration
		says             string // "": it fits
	}{
		{"half the gap, and all the jitter", every(86400, time.UnixMilli(0)), 6 * h, 12 * h, ""},
		{"three quarters of the gap", every(86400, time.UnixMilli(0)), 0, 18 * h, ""},
		{"an interval that most firings meet", every(86400, time.UnixMilli(0)), 0, 2 * day, "at most 18 h "},
		{"an interval as long as the gap", every(86400, time.UnixMilli(0)), 0, day, "not 1 day"},
		{"an interval and a jitter that do not fit together", every(86400, time.UnixMilli(0)), 6 * h, 13 * h, "at most 12 h "},
		{"a jitter that is longer than the gap", every(3600, time.UnixMilli(0)), 2 * h, h / 2, "a jitter of 2 h: at most 15 min,"},
		{"a cron whose smallest gap is under the interval", cronIn("0 2,3 * * *", ""), 0, 2 * h, "between two is 1 h,"},
		{"every two minutes", every(120, time.UnixMilli(0)), 0, 91 * time.Second, "at most 1 min 30 s (three quarters of the gap, less the jitter), not 1 min 31 s"},
		{"every two minutes, with all the jitter", every(120, time.UnixMilli(0)), 30 * time.Second, time.Minute, ""},
		{"a single time", once(time.UnixMilli(1)), day, 30 * day, ""},
	} {
		err := parse(t, c.s).Fits(c.jitter, c.interval)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.says)
		}
	}
	for _, s := range []*clientv1.Schedule{every(120, time.UnixMilli(0)), cronIn("0 0 * * *", "Europe/Berlin"), cronIn("0 0,23 1,15,16 * *", "")} {
		parsed := parse(t, s)
		if err := parsed.Fits(parsed.ShortestGap()/4, parsed.MinInterval()); err != nil {
			t.Errorf("%s: what is signed unasked: %v", parsed, err)
		}
	}
}

// What agents would not act on cannot be set, and what can be set has a mandate.
func TestSpaced(t *testing.T) {
	for _, c := range []struct {
		s    *clientv1.Schedule
		says string // "": agents can follow it
	}{
		{every(120, time.UnixMilli(0)), ""},
		{once(time.UnixMilli(1)), ""},
		{cronIn("*/2 * * * *", ""), ""},
		{cronIn("* * * * *", ""), "two of its firings are 1 min apart: at least 2 min"},
		{cronIn("0,2,3 * * * *", ""), "1 min apart"},
		{cronIn("59 1,2 * * *", "Europe/Berlin"), "1 min apart"},
	} {
		s := parse(t, c.s)
		err := s.Spaced()
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, schedule.ErrBad) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", s, err, c.says)
		}
		if fits := s.Fits(0, s.MinInterval()); err == nil && fits != nil {
			t.Errorf("%s: what is signed unasked: %v", s, fits)
		}
	}
}

func TestDue(t *testing.T) {
	const jitter = 10 * time.Minute
	s := parse(t, cronIn("0 3 * * *", "Europe/Berlin"))
	after := at(t, "2026-05-01 00:00")
	distinct := make(map[time.Time]bool)
	var late int
	for i := range 200 {
		account := []byte{byte(i), 1, 2, 3}
		due, nominal := s.Due(account, jitter, after)
		if d := due.Sub(nominal); d < 0 || d > jitter {
			t.Fatalf("account %d: %s late", i, d)
		} else if d > jitter/2 {
			late++
		}
		if again, _ := s.Due(account, jitter, after); !again.Equal(due) {
			t.Fatalf("account %d: %s, then %s", i, due, again)
		}
		distinct[due] = true
	}
	if len(distinct) < 190 || late < 60 || late > 140 {
		t.Errorf("200 accounts: %d moments, %d of them in the later half", len(distinct), late)
	}
	if due, nominal := s.Due([]byte{1}, 0, after); !due.Equal(nominal) {
		t.Errorf("without jitter: %s late", due.Sub(nominal))
	}
	hourly := parse(t, every(3600, after))
	for i := range 200 {
		if due, nominal := hourly.Due([]byte{byte(i)}, 20*time.Hour, after); due.Sub(nominal) > 15*time.Minute {
			t.Fatalf("%s late: more than a quarter of the gap", due.Sub(nominal))
		}
	}
	if due, nominal := parse(t, once(after)).Due([]byte{1}, jitter, after); !due.IsZero() || !nominal.IsZero() {
		t.Errorf("after the single time: %s, %s", due, nominal)
	}
}

func TestMissed(t *testing.T) {
	s := parse(t, cronIn("0 * * * *", ""))
	n, first, last := s.Missed(at(t, "2026-05-01 00:00"), at(t, "2026-05-01 05:00"))
	if n != 5 || !first.Equal(at(t, "2026-05-01 01:00")) || !last.Equal(at(t, "2026-05-01 05:00")) {
		t.Errorf("%d from %s to %s", n, first, last)
	}
	if n, _, _ := s.Missed(at(t, "2026-05-01 00:00"), at(t, "2026-05-01 00:59")); n != 0 {
		t.Errorf("%d missed in an hour without firing", n)
	}
	if n, _, _ := s.Missed(at(t, "2000-01-01 00:00"), at(t, "2026-01-01 00:00")); n != 1000 {
		t.Errorf("%d counted: no bound", n)
	}
}

// FuzzParse: whatever the text, Parse answers soon, and what it takes has
// firings that go forward and no two on one wall time.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"30 2 * * *", "*/7 1-5,22-2 29 2 mon-fri", "0 0 30 2 *", "59 * * * *", "0-59/61 * * * 7", "1-1/99 3 31 */2 *"} {
		f.Add(text, "Europe/Berlin", int64(1_774_000_000_000))
		f.Add(text, "America/Havana", int64(1_793_500_000_000))
	}
	f.Fuzz(func(t *testing.T, text, zone string, ms int64) {
		s, err := schedule.Parse(cronIn(text, zone))
		if err != nil {
			if !errors.Is(err, schedule.ErrBad) {
				t.Fatalf("%q: %v is no ErrBad", text, err)
			}
			return
		}
		where, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		after := time.UnixMilli(ms % 4_000_000_000_000)
		last, wall := after, ""
		for _, next := range s.Preview(after, 50) {
			if !next.After(last) {
				t.Fatalf("%q in %s: %s after %s", text, zone, next, last)
			}
			if shown := next.In(where).Format("2006-01-02 15:04:05"); shown == wall {
				t.Fatalf("%q in %s: %s twice", text, zone, shown)
			} else {
				wall = shown
			}
			last = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, text := range []string{"* * * * *", "30 2 * * *", "0 0 29 2 *"} {
		s, after := parse(b, cronIn(text, "Europe/Berlin")), at(b, "2026-03-01 00:00")
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				s.Next(after)
			}
		})
	}
}

func BenchmarkShortestGap(b *testing.B) {
	for b.Loop() {
		parse(b, cronIn("*/5 1-20 * * *", "Europe/Berlin")).ShortestGap()
	}
}
