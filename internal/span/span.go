// Package span writes spans of time as people read them.
package span

import (
	"fmt"
	"strings"
	"time"
)

// Text is a span in days, hours, minutes and seconds, such as "1 h 30 min": exact to
// the second, since people sign mandates by it. What is less than a second is
// written in milliseconds.
func Text(d time.Duration) string {
	if d < 0 {
		return "-" + Text(-d)
	}
	if d < time.Second {
		if d == 0 {
			return "0 s"
		}
		return fmt.Sprintf("%d ms", (d + time.Millisecond - 1).Milliseconds())
	}
	var parts []string
	days := d / (24 * time.Hour)
	switch {
	case days == 1:
		parts = append(parts, "1 day")
	case days > 1:
		parts = append(parts, fmt.Sprintf("%d days", days))
	}
	for _, p := range []struct {
		n    time.Duration
		unit string
	}{{d / time.Hour % 24, "h"}, {d / time.Minute % 60, "min"}, {d / time.Second % 60, "s"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.unit))
		}
	}
	return strings.Join(parts, " ")
}
