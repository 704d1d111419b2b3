package store

import "time"

// Now is the server's clock.
func Now() time.Time { return time.Now() }
