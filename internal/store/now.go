package store

import (
	"time"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// Now is the server's clock. A build with fault points can set it off.
func Now() time.Time { return fault.Now() }
