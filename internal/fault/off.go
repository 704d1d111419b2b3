//go:build !fault

package fault

import "time"

// Built says whether this build has fault points.
const Built = false

// At is a named point.
func At(string) {}

// On is a named switch.
func On(string) bool { return false }

// Now is the time.
func Now() time.Time { return time.Now() }
