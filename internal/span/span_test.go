package span_test

import (
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/span"
)

func TestText(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0:                                     "0 s",
		time.Nanosecond:                       "1 ms",
		999 * time.Millisecond:                "999 ms",
		time.Second:                           "1 s",
		59 * time.Second:                      "59 s",
		time.Minute:                           "1 min",
		80 * time.Second:                      "1 min 20 s",
		119 * time.Second:                     "1 min 59 s",
		time.Hour - time.Second:               "59 min 59 s",
		time.Hour:                             "1 h",
		time.Hour + time.Second:               "1 h 1 s",
		65 * time.Minute:                      "1 h 5 min",
		90 * time.Minute:                      "1 h 30 min",
		day - time.Second:                     "23 h 59 min 59 s",
		day:                                   "1 day",
		36 * time.Hour:                        "1 day 12 h",
		2 * day:                               "2 days",
		60 * time.Hour:                        "2 days 12 h",
		30 * day:                              "30 days",
		400 * day:                             "400 days",
		day + time.Hour + 61*time.Second:      "1 day 1 h 1 min 1 s",
		-90 * time.Second:                     "-1 min 30 s",
		90*time.Second + 999*time.Microsecond: "1 min 30 s",
	} {
		if got := span.Text(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}
