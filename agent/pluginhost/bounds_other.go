//go:build !linux

package pluginhost

import "time"

// used is not asked for on this system.
func (*jail) used(*child) (time.Duration, bool) { return 0, false }
